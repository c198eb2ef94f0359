"""Models of other people: each file is a format, which says whether it recognises a path, and opens it.

open_model(path)      the model at a path, whatever its format
format_of, formats    the format of a path; all that are known
Format                what to derive from, to add one
"""

from iclab.models.formats.bai import Bai2023, PostNormEncoder
from iclab.models.formats.format import Format, format_kinds, format_of, formats, open_model
from iclab.models.formats.garg import Garg2022
from iclab.models.formats.hugging_face import HuggingFace
from iclab.models.formats.own import Own
from iclab.models.formats.raventos import Raventos2023
from iclab.models.formats.transformer_lens import TransformerLens

__all__ = [
    "Bai2023",
    "Format",
    "Garg2022",
    "HuggingFace",
    "Own",
    "PostNormEncoder",
    "Raventos2023",
    "TransformerLens",
    "format_kinds",
    "format_of",
    "formats",
    "open_model",
]
