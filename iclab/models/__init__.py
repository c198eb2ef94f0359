"""Things with weights: the transformer, its token layouts, and reading its activations."""

from iclab.models.layouts import LAYOUTS, Layout
from iclab.models.transformer import Transformer, TransformerConfig

__all__ = ["LAYOUTS", "Layout", "Transformer", "TransformerConfig"]
