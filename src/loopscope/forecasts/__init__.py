"""Forecasts: does a loop keep its answers for far more iterations than it was trained with?"""
