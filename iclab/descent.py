"""The old name of `iclab.learning.attention_training`."""

from iclab.renamed import moved

__getattr__ = moved(__name__, "iclab.learning.attention_training")
