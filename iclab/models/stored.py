"""Weights as a file holds them: names, shapes and types from its header alone, and numbers on access.

A model from a file is first laid out without numbers (torch's meta device) and compared with the header, so that no
memory is taken for what the file does not hold. Files are of safetensors, or of torch.save, of which only tensors and
plain containers are read: a pickle that asks for more would run code of whoever wrote it, and is refused.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from iclab.errors import UsageError, refuse, shown
from iclab.files import readable, regular

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
KINDS = {dtype: kind for kind, dtype in FLOATS.items()}
LISTED = 8  # names of weights in a refusal
PICKLED = (".pt", ".pth", ".bin", ".ckpt")  # how files of torch.save are called


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
class Stored(ABC):
    """A tensor in a file."""

    path: Path
    name: str

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Returns its shape."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """Returns the type of its numbers, as safetensors call it."""

    @abstractmethod
    def tensor(self) -> Tensor:
        """Reads it as it is."""

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
        value = self.tensor().to(dtype)
        problem = f"{listed([self.name])} holds numbers that are not finite in {dtype}"
        refuse(f"{self.path}", [] if value.isfinite().all() else [problem])
        return value


@dataclass(frozen=True)
class InFile(Stored):
    """A tensor in an open file of safetensors, read on access."""

    file: safe_open

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.file.get_slice(self.name).get_shape())

    @property
    def kind(self) -> str:
        return self.file.get_slice(self.name).get_dtype()

    def tensor(self) -> Tensor:
        return self.file.get_tensor(self.name)


@dataclass(frozen=True, eq=False)
class InMemory(Stored):
    """A tensor that was read with all others of its file."""

    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def kind(self) -> str:
        return KINDS.get(self.value.dtype, f"{self.value.dtype}".removeprefix("torch."))

    def tensor(self) -> Tensor:
        return self.value


def stored(path: Path, file: safe_open) -> dict[str, Stored]:
    """Returns what an open file holds, by name."""
    return {name: InFile(path, name, file) for name in list(file.keys())}


@contextmanager
def weights_in(path: Path | str) -> Iterator[dict[str, Stored]]:
    """Opens a file of weights, of safetensors or of torch.save as its name ends, and yields what it holds, by name.
    Raises ``ValueError``."""
    path = Path(path)
    known = [".safetensors", *PICKLED]
    refuse(f"{path}", [] if path.suffix in known else [f"weights are in files that end in {', '.join(known)}"])
    if path.suffix in PICKLED:
        yield in_memory(path, state_dict(path, unpickled(path)))
        return
    with open_weights(path) as file:
        yield stored(path, file)


def unpickled(path: Path | str) -> Any:
    """Reads a file of torch.save: tensors and plain containers. Raises ``ValueError`` where it is none, and where it
    asks for anything else."""
    path = regular(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever a damaged pickle leads to
        raise UsageError(f"{path}: {_unpickling(error)}") from None


def _unpickling(error: Exception) -> str:
    """Why a pickle was not read, in one line: torch names what it would have called after the word GLOBAL."""
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return f"refused: it holds more than weights, it asks for {asked[1]}, which could run any code"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"no file of weights (torch.save): {type(error).__name__} {first[:120]}".strip()


def state_dict(path: Path, content: Any) -> Mapping[str, Tensor]:
    """Returns the weights by name in what a file of torch.save holds: themselves, or the one entry that is such a table
    beside others that are none, as in checkpoints of trainings. Raises ``ValueError``."""
    tables = [content, *content.values()] if isinstance(content, Mapping) else []
    found = [each for each in tables if _is_table(each)]
    refuse(f"{path}", [] if len(found) == 1 else [f"one table of tensors by name is needed, {len(found)} were found"])
    return found[0]


def _is_table(value: Any) -> bool:
    named = isinstance(value, Mapping) and len(value) > 0 and all(isinstance(name, str) for name in value)
    return named and all(isinstance(each, Tensor) for each in value.values())


def in_memory(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Returns tensors that were read from a file, by name."""
    return {name: InMemory(path, name, value) for name, value in tensors.items()}


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
