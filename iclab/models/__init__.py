"""Things with weights: the transformer over prompts or tokens, token layouts, activations, and linear models."""

from iclab.models.architecture import Architecture
from iclab.models.layouts import LAYOUTS, Layout
from iclab.models.linear import LinearArchitecture, LinearAttention, LinearAttentionConfig, LinearModel
from iclab.models.tokens import TokenTransformer, TokenTransformerConfig
from iclab.models.transformer import Transformer, TransformerConfig

__all__ = [
    "LAYOUTS",
    "Architecture",
    "Layout",
    "LinearArchitecture",
    "LinearAttention",
    "LinearAttentionConfig",
    "LinearModel",
    "TokenTransformer",
    "TokenTransformerConfig",
    "Transformer",
    "TransformerConfig",
]
