"""Weights as a file holds them: names, shapes and types from its header alone, and numbers on access.

A model from a file is first laid out without numbers (torch's meta device) and compared with the header, so that no
memory is taken for what the file does not hold.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from iclab.errors import UsageError, refuse, shown
from iclab.files import readable, regular

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LISTED = 8  # names of weights in a refusal


@contextmanager
def open_weights(path: Path | str, device: str = "cpu") -> Iterator[safe_open]:
    """Opens a safetensors file: names, shapes and types stand in its header, and a tensor is read on access.
    Raises ``ValueError`` for a file that is none, when it is opened or while it is read."""
    path = regular(path)
    try:
        with readable(path):
            opened = safe_open(path, framework="pt", device=device)
        with opened as file:
            yield file
    except SafetensorError as error:
        raise UsageError(f"{path}: no file of weights (safetensors): {error}") from None


@dataclass(frozen=True)
class Stored:
    """A tensor in an open file."""

    path: Path
    name: str
    file: safe_open

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.file.get_slice(self.name).get_shape())

    @property
    def kind(self) -> str:
        """Returns the type of its numbers, as the format calls it."""
        return self.file.get_slice(self.name).get_dtype()

    def problems(self, floating: bool = True) -> list[str]:
        """Returns the problems of this as weights, or as a tensor of the model's that is not `floating`."""
        wanted = ", ".join(FLOATS) if floating else "whole numbers or truth values"
        fits = (self.kind in FLOATS) == floating
        problems = [] if fits else [f"{listed([self.name])} is of {self.kind}, not of {wanted}"]
        return problems + ([f"{listed([self.name])} is empty, of shape {self.shape}"] if 0 in self.shape else [])

    def outline(self) -> Tensor:
        """Returns its shape, without numbers."""
        return torch.empty(self.shape, device="meta")

    def read(self, dtype: torch.dtype) -> Tensor:
        """Reads its numbers. Raises ``ValueError`` where some are none, or are beyond such a type."""
        value = self.file.get_tensor(self.name).to(dtype)
        problem = f"{listed([self.name])} holds numbers that are not finite in {dtype}"
        refuse(f"{self.path}", [] if value.isfinite().all() else [problem])
        return value


def stored(path: Path, file: safe_open) -> dict[str, Stored]:
    """Returns what an open file holds, by name."""
    return {name: Stored(path, name, file) for name in list(file.keys())}


def name_problems(unknown: Iterable[str], missing: Iterable[str]) -> list[str]:
    """Returns the problems of unknown weights and of missing ones."""
    lists = {"unknown weights": sorted(unknown), "missing weights": list(missing)}
    return [f"{what}: {listed(names)}" for what, names in lists.items() if names]


def shape_problems(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Returns the problems of weights that are not of the shapes of the model's."""
    shapes = {name: (tuple(value.shape), tuple(given[name].shape)) for name, value in wanted.items()}
    problems = [
        f"{name} must be of shape {own}, given {other}" for name, (own, other) in shapes.items() if own != other
    ]
    return problems[:LISTED] + ([f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else [])


def listed(names: list[str]) -> str:
    """Returns names in one line, quoted where they are not printable; of many, the first."""
    shown_names = [name if name.isprintable() and len(name) < 100 else shown(name) for name in names[:LISTED]]
    return ", ".join(shown_names) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def compare(path: Path, model: nn.Module, given: Mapping[str, Stored]) -> None:
    """Refuses a file whose names, shapes and types are not those of a model's weights, which are of one type."""
    compare_each(path, model, given)
    kinds = sorted({one.kind for one in given.values()})
    refuse(f"{path}", [] if len(kinds) == 1 else [f"weights of several types: {', '.join(kinds)}"])


def compare_each(path: Path, model: nn.Module, given: Mapping[str, Stored]) -> None:
    """Refuses a file whose names, shapes and types are not those of a model's tensors."""
    wanted = model.state_dict()
    refuse(f"{path}", name_problems(given.keys() - wanted.keys(), [name for name in wanted if name not in given]))
    problems = [
        problem for name, value in wanted.items() for problem in given[name].problems(value.is_floating_point())
    ]
    refuse(f"{path}", problems)
    refuse(f"{path}", shape_problems(wanted, {name: one.outline() for name, one in given.items()}))


@torch.no_grad()
def fill(model: nn.Module, given: Mapping[str, Stored]) -> None:
    """Reads all weights of a model. Raises ``ValueError`` where two that are one in the model are not in the file."""
    own = dict(model.named_parameters())  # one that has two names stands here once, by the first
    for name, weights in model.state_dict().items():
        value = given[name].read(weights.dtype)
        if name in own:
            own[name].copy_(value)
        else:
            same = torch.equal(weights.cpu(), value)
            refuse(f"{given[name].path}", [] if same else [f"{name} is tied to other weights, and differs from them"])
