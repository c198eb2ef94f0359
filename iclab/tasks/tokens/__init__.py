"""Tasks whose prompts are sequences of tokens."""

from iclab.renamed import moved

__getattr__ = moved(__name__, "iclab.tasks.tokens.prompts")
