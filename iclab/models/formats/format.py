"""Formats: how others lay out the files of a model, and which one a path has.

Each is a class that says whether it recognises a path, and opens it. To derive one is to make it known: a file that is
imported, or an entry point `iclab.kinds`, adds a format without a line changed here.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from inspect import isabstract
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from iclab.errors import UsageError, refuse
from iclab.retired import RETIRED


class Format(ABC):
    """A layout of files that hold a model.

    Law (equality): `open(place)` computes what the original does with these weights, but for rounding. It runs no code
    from the files.
    """

    name: ClassVar[str]
    about: ClassVar[str]  # what its files look like, for the list of known formats

    @abstractmethod
    def recognises(self, place: Path) -> bool:
        """Returns whether a path looks like this format, a file or a folder that exists. May raise ``ValueError`` for
        files that cannot be read."""

    @abstractmethod
    def files(self, place: Path) -> list[Path]:
        """Returns the files that decide the model, in an order that does not change."""

    @abstractmethod
    def open(self, place: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Returns the model, on the CPU. Raises ``ValueError`` that lists what is wrong with its settings or
        weights."""

    def outline(self, place: Path) -> nn.Module:
        """Returns a model of the same class, shape and sizes, to be looked at and not called; its weights may lack
        numbers."""
        return self.open(place)

    def task(self, place: Path) -> Mapping[str, Any]:
        """Returns what the files say of the prompts that the model was trained on, as fields of a LinearRegression
        (d, n, noise, prior); nothing where they do not."""
        return {}


def formats() -> list[Format]:
    """Returns all known formats. Raises ``ValueError`` where two have one name."""
    known: dict[str, type[Format]] = {}
    for kind in format_kinds():
        other = known.get(kind.name, kind)
        again = (other.__module__, other.__qualname__) == (kind.__module__, kind.__qualname__)  # as in a notebook
        refuse("format", [] if again else [f"two have the name {kind.name!r}: {_place(other)}, {_place(kind)}"])
        known[kind.name] = kind
    return [kind() for kind in known.values()]


def format_of(place: Path) -> Format:
    """Returns the format of a path. Raises ``ValueError`` where it has none, or several."""
    refuse("path", [] if place.exists() else [f"there is no {place}"])
    fit, problems = [], []
    for each in formats():
        try:
            fit += [each] if each.recognises(place) else []
        except UsageError as error:
            problems.append(error)
    if not fit and problems:
        raise problems[0]
    known = "; ".join(f"{each.name} ({each.about})" for each in formats())
    refuse(f"{place}", [] if fit else [f"no format of models that is known. Known: {known}"])
    names = " and ".join(each.name for each in fit)
    refuse(f"{place}", [f"looks like {names}; the path of one file may tell them apart"] if len(fit) > 1 else [])
    return fit[0]


def open_model(path: Path | str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Opens the model at a path, in whichever known format it is. Raises ``ValueError``."""
    place = Path(path).expanduser()
    return format_of(place).open(place, dtype).eval()


def format_kinds(base: type[Format] = Format) -> Iterator[type[Format]]:
    """Yields the classes of formats below one, but for those that a newer version of their file has replaced."""
    for child in base.__subclasses__():
        yield from [] if isabstract(child) or child in RETIRED else [child]
        yield from format_kinds(child)


def _place(kind: type) -> str:
    return str(getattr(sys.modules.get(kind.__module__), "__file__", None) or kind.__module__)
