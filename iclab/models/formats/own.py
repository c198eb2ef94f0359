"""Transformers that iclab saved: one file of safetensors, whose header holds the shape."""

from pathlib import Path

import torch
from torch import nn

from iclab.models.formats.format import Format
from iclab.models.pointer import PointerTransformer
from iclab.models.stored import open_weights
from iclab.models.tokens import TokenTransformer
from iclab.models.transformer import Stack, Transformer
from iclab.models.vectors import VectorTransformer

SAVED: dict[str, type[Stack]] = {
    kind.kind: kind for kind in (Transformer, TokenTransformer, VectorTransformer, PointerTransformer)
}


class Own(Format):
    """Weights that `Stack.save` wrote, or the folder of a run that holds them."""

    name = "iclab"
    about = "weights.safetensors as iclab saves a transformer, or a folder with it, such as a run"

    def recognises(self, place: Path) -> bool:
        file = _file(place)
        return file.suffix == ".safetensors" and file.is_file() and _kind(file) is not None

    def files(self, place: Path) -> list[Path]:
        return [_file(place)]

    def open(self, place: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
        kind = _kind(_file(place))
        assert kind is not None
        return kind.load(_file(place))  # in the precision in which it was saved


def _file(place: Path) -> Path:
    return place / "weights.safetensors" if place.is_dir() else place


def _kind(file: Path) -> type[Stack] | None:
    with open_weights(file) as opened:
        names = opened.metadata() or {}
    return next((kind for name, kind in SAVED.items() if name in names), None)
