"""The old name of `iclab.algorithm_names`."""

from iclab.renamed import moved

__getattr__ = moved(__name__, "iclab.algorithm_names")
