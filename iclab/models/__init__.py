"""Things with weights: the transformer over prompts or tokens, one that points, token layouts, activations, and linear
models."""

from iclab.models.architecture import Architecture, TokenArchitecture
from iclab.models.layouts import LAYOUTS, Layout
from iclab.models.linear import LinearArchitecture, LinearAttention, LinearAttentionConfig, LinearModel
from iclab.models.pointer import PointerTransformer, PointerTransformerConfig
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
    "PointerTransformer",
    "PointerTransformerConfig",
    "TokenArchitecture",
    "TokenTransformer",
    "TokenTransformerConfig",
    "Transformer",
    "TransformerConfig",
]
