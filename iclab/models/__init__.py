"""Things with weights: the transformer, its token layouts, reading its activations, models linear in theirs, and models
whose weights are drawn and never learned but for the last."""

from iclab.models.architecture import Architecture
from iclab.models.layouts import LAYOUTS, Layout
from iclab.models.linear import LinearArchitecture, LinearAttention, LinearAttentionConfig, LinearModel
from iclab.models.random_features import RandomAttention, RandomFeatures, RandomNetwork
from iclab.models.transformer import Transformer, TransformerConfig

__all__ = [
    "LAYOUTS",
    "Architecture",
    "Layout",
    "LinearArchitecture",
    "LinearAttention",
    "LinearAttentionConfig",
    "LinearModel",
    "RandomAttention",
    "RandomFeatures",
    "RandomNetwork",
    "Transformer",
    "TransformerConfig",
]
