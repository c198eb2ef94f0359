"""Things with weights, each made by its `…Config`:

Transformer           over prompts of examples, in one of the token layouts `LAYOUTS`
LinearAttention       one layer whose answer is linear in its weights
RandomAttention       weights are drawn, and only the last are learned; so are those of RandomNetwork (its rival) and
                      RandomSelfAttention
TokenTransformer      over sequences of tokens
VectorTransformer     over sequences of vectors
PointerTransformer    over tokens; its answer points at a token of its input
Pretrained            a model that is there already: from a file, a folder, or the user's code
load_pretrained       GPT-2, GPT-NeoX (Pythia) and Llama from a folder, as a TokenTransformer
iclab.models.formats  models of other people, each in its format
"""

from iclab.models.architecture import AnyModelConfig, Layered, ModelConfig, TokenModelConfig
from iclab.models.given import Given, Pretrained
from iclab.models.layouts import LAYOUTS, Layout
from iclab.models.linear import LinearAttention, LinearAttentionConfig, LinearModel, LinearModelConfig
from iclab.models.pointer import PointerTransformer, PointerTransformerConfig
from iclab.models.pretrained import load_pretrained
from iclab.models.random_features import (
    FrozenModelConfig,
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
from iclab.renamed import old_names

__all__ = [
    "LAYOUTS",
    "AnyModelConfig",
    "FrozenModelConfig",
    "Given",
    "Layered",
    "Layout",
    "LinearAttention",
    "LinearAttentionConfig",
    "LinearModel",
    "LinearModelConfig",
    "ModelConfig",
    "PointerTransformer",
    "PointerTransformerConfig",
    "Pretrained",
    "RandomAttention",
    "RandomAttentionConfig",
    "RandomFeatures",
    "RandomNetwork",
    "RandomNetworkConfig",
    "RandomSelfAttention",
    "RandomSelfAttentionConfig",
    "TokenModelConfig",
    "TokenTransformer",
    "TokenTransformerConfig",
    "Transformer",
    "TransformerConfig",
    "VectorTransformer",
    "VectorTransformerConfig",
    "load_pretrained",
]

__getattr__ = old_names(
    __name__,
    AnyArchitecture="AnyModelConfig",
    Architecture="ModelConfig",
    TokenArchitecture="TokenModelConfig",
    FrozenArchitecture="FrozenModelConfig",
    LinearArchitecture="LinearModelConfig",
)
