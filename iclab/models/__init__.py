"""Things with weights: the transformer over prompts or tokens, token layouts, activations, linear models, and GPT-2 and
Pythia from files."""

from iclab.models.architecture import Architecture
from iclab.models.layouts import LAYOUTS, Layout
from iclab.models.linear import LinearArchitecture, LinearAttention, LinearAttentionConfig, LinearModel
from iclab.models.pretrained import load_pretrained
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
    "load_pretrained",
]
