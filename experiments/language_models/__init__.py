"""Forecasts against outcomes of small looped language models, trained on generated text whose answers can be checked."""
