"""Things with weights: the transformer, its token layouts, reading its activations, and models linear in theirs."""

from iclab.models.architecture import Architecture
from iclab.models.layouts import LAYOUTS, Layout
from iclab.models.linear import LinearArchitecture, LinearAttention, LinearAttentionConfig, LinearModel
from iclab.models.transformer import Transformer, TransformerConfig

__all__ = [
    "LAYOUTS",
    "Architecture",
    "Layout",
    "LinearArchitecture",
    "LinearAttention",
    "LinearAttentionConfig",
    "LinearModel",
    "Transformer",
    "TransformerConfig",
]
