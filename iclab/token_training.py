"""The old name of `iclab.learning.token_training`."""

from iclab.renamed import moved

__getattr__ = moved(__name__, "iclab.learning.token_training")
