"""Loopscope: build, train and examine looped transformers."""
