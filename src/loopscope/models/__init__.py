"""Looped transformers whose recall and normalization are switches, and the fixed-depth baseline."""

from loopscope.models.config import LoopedTransformerConfig
from loopscope.models.transformer import FixedDepthTransformer, LoopedTransformer, build_model, load_model

__all__ = ["FixedDepthTransformer", "LoopedTransformer", "LoopedTransformerConfig", "build_model", "load_model"]
