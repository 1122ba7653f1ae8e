"""Forecasts against outcomes, on families of loops that are not Loopscope's transformer."""
