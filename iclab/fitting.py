"""The old name of `iclab.learning.fitting`."""

from iclab.renamed import moved

__getattr__ = moved(__name__, "iclab.learning.fitting")
