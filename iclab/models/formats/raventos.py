"""Raventós et al. 2023 (arXiv 2306.15063): GPT-2 between linear maps without biases, in the msgpack files of flax.

    token of x_i   (0, x_i)            token of y_i   (y_i, 0, …, 0)

This is our transformer in the layout `interleaved`. Parameters are a tree, whose names are joined by dots here; beside
them a file may hold the state of the optimizer, which is left out. The position of the last y is never read.

flax writes an array as an extension of msgpack: type 1 holds, packed once more, its shape, the name of its type and its
numbers in the order of C, type 3 the same for a single number. Nothing in such a file is code.
"""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iclab.errors import UsageError, out_of_bounds, refuse, wrong_kinds
from iclab.files import read_bytes, read_json
from iclab.models.architecture import LARGEST
from iclab.models.formats.format import Format
from iclab.models.formats.gpt2_blocks import blocks, gpt2, turned
from iclab.models.mapping import Source, filled
from iclab.models.stored import in_memory, listed
from iclab.models.transformer import Transformer

SIZES = {"n_points": "n", "n_layer": "n_layer", "n_embd": "d_model", "n_head": "n_head"}
ARRAY, NUMBER = 1, 3  # extensions
CONFIG = "config.json"


class Raventos2023(Format):
    """A training of the code of Raventós et al.: config.json and a checkpoint."""

    name = "Raventós et al. 2023"
    about = "a folder with config.json and a checkpoint of flax: *.msgpack, or checkpoint_STEP, a file or a folder"

    def recognises(self, place: Path) -> bool:
        found = _checkpoints(place)
        return len(found) > 0 and _config(found[0]).is_file()

    def files(self, place: Path) -> list[Path]:
        return [_config(_weights(place)), _weights(place)]

    def open(self, place: Path, dtype: torch.dtype = torch.float32) -> Transformer:
        file = _weights(place)
        settings = _settings(_config(file))
        model = settings["model"]
        sources = [
            Source(["read_in.weight"], ["_in.kernel"], turned),
            Source(["read_out.weight"], ["_out.kernel"], turned),
            Source(["position"], ["_h.wpe.embedding"], lambda W: [W[:-1]]),
            *blocks(model["n_layer"], "_h.", "hs_{}", "kernel", "scale"),
        ]
        given = in_memory(file, _parameters(file))
        fixed = {"read_in.bias": 0.0, "read_out.bias": 0.0}
        return filled(place, lambda: _shape(settings), sources, given, dtype, fixed)

    def outline(self, place: Path) -> Transformer:
        with torch.device("meta"):
            return _shape(_settings(_config(_weights(place))))

    def task(self, place: Path) -> Mapping[str, Any]:
        task = _settings(_config(_weights(place)))["task"]
        told = {"noise": task.get("noise_scale"), "prior": task.get("task_scale")}
        known = {name: float(value) for name, value in told.items() if isinstance(value, int | float)}
        return {"d": task["n_dims"], "n": task.get("n_points")} | known


def _shape(settings: Mapping[str, Any]) -> Transformer:
    model = settings["model"]
    return gpt2(settings["task"]["n_dims"], model["n_points"], model, "interleaved")


# ---- files ---------------------------------------------------------------------------------------------------------


def _checkpoints(place: Path) -> list[Path]:
    """The files that may hold parameters: the path itself, or those in a folder of a training."""
    if not place.is_dir():
        named = place.suffix == ".msgpack" or place.name.startswith("checkpoint")
        return [place] if named and place.is_file() else []
    found = [*place.glob("*.msgpack"), *place.glob("checkpoint*"), *place.glob("checkpoint_*/checkpoint")]
    return sorted({file for file in found if file.is_file() and file.suffix in ("", ".msgpack")})


def _weights(place: Path) -> Path:
    found = _checkpoints(place)
    several = [f"several checkpoints, name one of them: {listed([f'{each}' for each in found])}"]
    refuse(f"{place}", [] if len(found) == 1 else several)
    return found[0]


def _config(file: Path) -> Path:
    """The settings beside a checkpoint, or beside its folder."""
    beside = file.parent / CONFIG
    return beside if beside.is_file() or not file.parent.name.startswith("checkpoint") else file.parents[1] / CONFIG


def _settings(file: Path) -> dict[str, Any]:
    content = read_json(file)
    tables: dict[str, Any] = {}
    if isinstance(content, dict):
        tables = {name: content.get(name) for name in ("model", "task")}
    refuse(f"{file}", [] if tables else ["not a table of settings"])
    refuse(f"{file}", [f"no table {name}" for name, table in tables.items() if not isinstance(table, dict)])
    sizes = {f"model.{name}": tables["model"].get(name) for name in SIZES}
    sizes |= {"task.n_dims": tables["task"].get("n_dims")}
    refuse(f"{file}", wrong_kinds(sizes, dict.fromkeys(sizes, int)))
    bounds = {f"model.{name}": LARGEST[own] for name, own in SIZES.items()} | {"task.n_dims": LARGEST["d"]}
    refuse(f"{file}", out_of_bounds(sizes, bounds))
    return tables


def _parameters(file: Path) -> dict[str, Tensor]:
    """The arrays below `params`, or in a file that holds nothing else all, by names joined with dots."""
    content = _unpacked(file)
    refuse(f"{file}", [] if isinstance(content, dict) else ["not a tree of parameters"])
    tree = content
    while isinstance(tree, dict) and isinstance(tree.get("params"), dict):
        tree = tree["params"]
    found = dict(_leaves(tree))
    refuse(f"{file}", [f"{name} is no array" for name, value in found.items() if not isinstance(value, Tensor)][:8])
    return found


def _leaves(tree: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _unpacked(file: Path) -> Any:
    try:
        import msgpack
    except ImportError:
        raise UsageError(f"{file}: needs the package msgpack: pip install 'iclab[models]'") from None

    def array(kind: int, data: bytes) -> Any:
        if kind not in (ARRAY, NUMBER):
            raise ValueError(f"an extension of type {kind}, which no array is")
        shape, name, numbers = msgpack.unpackb(data, raw=False)
        dtype = getattr(torch, str(name), None)
        if not isinstance(dtype, torch.dtype) or len(numbers) != prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of type {name} and shape {tuple(shape)} in {len(numbers)} bytes")
        whole = torch.frombuffer(bytearray(numbers), dtype=dtype) if numbers else torch.empty(0, dtype=dtype)
        return whole.reshape(tuple(shape))

    try:
        return msgpack.unpackb(read_bytes(file, file.stat().st_size), ext_hook=array, raw=False, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, RuntimeError, msgpack.exceptions.UnpackException) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{file}: no msgpack file of flax: {str(error)[:120] or type(error).__name__}") from None
