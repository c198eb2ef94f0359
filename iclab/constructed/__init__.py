"""Transformers whose weights are set by hand from a published proof, one paper per file.

Each is an ordinary `iclab.models.Transformer`: what a theorem says is checked on the very code that is trained.
"""
