"""Forecasts: whether a loop keeps its answers for far more iterations than it was trained with."""

from loopscope.forecasts.forecast import forecast
from loopscope.forecasts.leaps import Landing, leaps
from loopscope.forecasts.result import Forecast, Outlook, Point, Round

__all__ = ["Forecast", "Landing", "Outlook", "Point", "Round", "forecast", "leaps"]
