"""The old name of `iclab.learning.training`."""

from iclab.renamed import moved

__getattr__ = moved(__name__, "iclab.learning.training")
