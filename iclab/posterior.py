"""The old name of `iclab.theory.posterior`."""

from iclab.renamed import moved

__getattr__ = moved(__name__, "iclab.theory.posterior")
