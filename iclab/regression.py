"""The old name of `iclab.learning.random_feature_ridge`."""

from iclab.renamed import moved

__getattr__ = moved(__name__, "iclab.learning.random_feature_ridge")
