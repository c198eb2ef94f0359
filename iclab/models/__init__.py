"""Things with weights: the transformer over prompts, tokens or vectors, one that points, layouts, activations, linear
models, models whose weights are drawn and never learned but for the last, and GPT-2 and Pythia from files."""

from iclab.models.architecture import Architecture, TokenArchitecture
from iclab.models.layouts import LAYOUTS, Layout
from iclab.models.linear import LinearArchitecture, LinearAttention, LinearAttentionConfig, LinearModel
from iclab.models.pointer import PointerTransformer, PointerTransformerConfig
from iclab.models.pretrained import load_pretrained
from iclab.models.random_features import (
    FrozenArchitecture,
    RandomAttention,
    RandomAttentionConfig,
    RandomFeatures,
    RandomNetwork,
    RandomNetworkConfig,
    RandomSelfAttention,
    RandomSelfAttentionConfig,
)
from iclab.models.tokens import TokenTransformer, TokenTransformerConfig
from iclab.models.transformer import Transformer, TransformerConfig
from iclab.models.vectors import VectorTransformer, VectorTransformerConfig

__all__ = [
    "LAYOUTS",
    "Architecture",
    "FrozenArchitecture",
    "Layout",
    "LinearArchitecture",
    "LinearAttention",
    "LinearAttentionConfig",
    "LinearModel",
    "PointerTransformer",
    "PointerTransformerConfig",
    "RandomAttention",
    "RandomAttentionConfig",
    "RandomFeatures",
    "RandomNetwork",
    "RandomNetworkConfig",
    "RandomSelfAttention",
    "RandomSelfAttentionConfig",
    "TokenArchitecture",
    "TokenTransformer",
    "TokenTransformerConfig",
    "Transformer",
    "TransformerConfig",
    "VectorTransformer",
    "VectorTransformerConfig",
    "load_pretrained",
]
