"""Weights of another layout as those of a model of ours: which of their names holds what, and how it is converted.

Every name in the files must be known, every weight of the model must have a source or a fixed value, and all shapes
must fit; whatever is wrong is listed at once, before weights take memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from iclab.errors import refuse
from iclab.models.stored import Stored, name_problems, shape_problems


@runtime_checkable
class Loadable(Protocol):
    """A model that can be laid out without numbers, such as `iclab.models.transformer.Stack`."""

    def allocate(self, device: torch.device | str) -> None:
        """Allocates memory for weights on the meta device."""

    def to(self, dtype: torch.dtype, /) -> object:
        """Changes the type of its numbers."""

    def state_dict(self) -> dict[str, Tensor]:
        """Returns its weights by name."""
        ...


Model = TypeVar("Model", bound=Loadable)


class Source(NamedTuple):
    """The source of weights: our names, the names that a file may have for them, and the conversion."""

    own: Sequence[str]
    given: Sequence[str]
    made: Callable[[Tensor], Sequence[Tensor]] = lambda weight: [weight]


@torch.no_grad()
def filled(
    place: Path,
    make: Callable[[], Model],
    sources: Sequence[Source],
    given: Mapping[str, Stored],
    dtype: torch.dtype,
    fixed: Mapping[str, float] | None = None,
) -> Model:
    """Returns what `make` builds, with weights from files; those in `fixed` are in no file and have one value, such as
    biases that the original lacks. Raises one ``ValueError`` that lists weights that are not known, missing, given
    twice, of another type or of another shape."""
    fixed = fixed or {}
    with torch.device("meta"):
        model = make()
    names = {i: [name for name in source.given if name in given] for i, source in enumerate(sources)}
    used = [(source, names[i][0]) for i, source in enumerate(sources) if names[i]]
    problems = [*_name_problems(sources, names, given), *_kind_problems(used, given)]
    refuse(f"{place}", [*problems, *_shape_problems(model, used, given)])
    model.to(dtype)
    model.allocate("cpu")
    weights = model.state_dict()
    for source, name in used:
        for own, value in zip(source.own, source.made(given[name].read(dtype)), strict=True):
            weights[own].copy_(value)
    for own, value in fixed.items():
        weights[own].fill_(value)
    return model


def _name_problems(
    sources: Sequence[Source], names: Mapping[int, list[str]], given: Mapping[str, Stored]
) -> Iterator[str]:
    known = {name for source in sources for name in source.given}
    missing = [source.given[0] for i, source in enumerate(sources) if not names[i]]
    yield from name_problems(given.keys() - known, missing)
    for i, source in enumerate(sources):
        if len(source.own) == 1 < len(names[i]):
            yield f"{' and '.join(names[i])} are both there"


def _kind_problems(used: Sequence[tuple[Source, str]], given: Mapping[str, Stored]) -> Iterator[str]:
    for _, name in used:
        single = [] if given[name].shape else [f"{name} is a single number"]
        yield from (f"{given[name].path.name}: {problem}" for problem in given[name].problems() + single)


def _shape_problems(model: Loadable, used: Sequence[tuple[Source, str]], given: Mapping[str, Stored]) -> list[str]:
    """The weights that do not have the shape of the model's, by our names."""
    problems, outlines, wanted = [], {}, model.state_dict()
    for source, name in used:
        try:
            outlines |= zip(source.own, source.made(given[name].outline()), strict=True)
        except (RuntimeError, IndexError, ValueError):  # of a conversion that cannot take such a shape
            problems.append(f"{name} of the shape {given[name].shape} fits no {' and '.join(source.own)}")
    return problems + shape_problems({own: wanted[own] for own in outlines}, outlines)
