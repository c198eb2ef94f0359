"""Analysis: what is measured of a trained model under one name, as a class. To derive one is to make it known.

What an analysis needs stands in facts of its class, and is compared with an experiment before anything is trained; what
only a closer look can tell, in `problems`. `quantities` says of each quantity among its rows what it means, its unit
and its range: claims are held against these names.

Row     distribution, predictor, quantity, layer, position, value, stderr: one number, with its place in the table.
        `stderr` is the error over prompts: none where it is unknown, and 0 only where the number is exact
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from inspect import isabstract
from typing import Any, ClassVar

from iclab.errors import refuse
from iclab.experiments.outside import place
from iclab.retired import RETIRED
from iclab.tasks import AnyTask, Task

Row = dict[str, Any]
OURS = "iclab.measures"  # where this package's own analyses are; looked at by name, since they know experiments


class Analysis(ABC):
    """A measurement of a trained model, on each evaluation distribution."""

    name: ClassVar[str]  # in eval.analyses
    quantities: ClassVar[Mapping[str, str]]  # "probe_{x,y}_*": meaning, unit and range; * stands for any letters
    always: ClassVar[bool] = False  # measured wherever it applies, without being named in the file
    tasks: ClassVar[type[AnyTask]] = Task  # the kind of task that it is about
    once: ClassVar[bool] = False  # reported for the training distribution alone: it is about the training or weights
    layered: ClassVar[bool] = False  # needs a model with layers that can be read out
    blocks: ClassVar[bool] = False  # needs the blocks of our transformer, since it takes them apart
    partnered: ClassVar[bool] = False  # needs a model that is trained, since it trains others like it
    scalar: ClassVar[bool] = False  # needs labels that are numbers
    linear: ClassVar[bool] = False  # needs linear functions, whose weights are looked for
    frozen: ClassVar[bool] = False  # is about weights that are never trained, and so about no other experiment
    least: ClassVar[int] = 2  # prompts

    def problems(self, experiment: Any) -> Iterable[str]:
        """Returns what else stands against measuring this in an experiment; the sentences begin with what is needed."""
        return ()

    def notes(self, experiment: Any) -> Iterable[str]:
        """Returns notes for the log, such as why nothing will be measured."""
        return ()

    def references(self, of: Any) -> Mapping[str, Any]:
        """Returns predictors that join those which the model is compared with, by name."""
        return {}

    def reference_names(self, experiment: Any) -> Iterable[str]:
        """Returns their names, before there is a model."""
        return ()

    def applies(self, of: Any) -> bool:
        """Returns whether there is something to measure of a model on one distribution
        (`iclab.measures.Measurement`)."""
        return isinstance(of.task, self.tasks) and (of.own or not self.once)

    @abstractmethod
    def rows(self, of: Any) -> Iterator[Row]:
        """Yields the rows of one distribution."""

    def predictors(self, experiment: Any) -> Iterable[str] | None:
        """Returns the predictors that its rows are of; none where they are unknown before the measurement."""
        return None

    def distributions(self, experiment: Any) -> Iterable[str]:
        """Returns the distributions that its rows are of."""
        own = next(iter(experiment.distributions))
        fit = [name for name, task in experiment.distributions.items() if isinstance(task, self.tasks)]
        return [name for name in fit if name == own] if self.once else fit

    def meaning(self, quantity: str) -> str | None:
        """Returns what a quantity means; none where this analysis does not yield it."""
        for pattern, text in self.quantities.items():
            if any(fnmatchcase(quantity, name) for name in expanded(pattern)):
                return text
        return None


def expanded(pattern: str) -> list[str]:
    """Returns the names that a pattern stands for: "r2{,_bare}" for "r2" and "r2_bare"."""
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    inside, _, after = rest.partition("}")
    return [f"{before}{one}{end}" for one in inside.split(",") for end in expanded(after)]


def known() -> dict[str, Analysis]:
    """Returns all analyses by name, this package's and those that anyone has derived. Raises ``ValueError`` where two
    have one name."""
    import_module(OURS)
    analyses: dict[str, type[Analysis]] = {}
    for kind in kinds():
        if (other := analyses.setdefault(kind.name, kind)) is not kind:  # to find a place is to read a file
            refuse("analysis", [f"two have the name {kind.name!r}: {place(other)} and {place(kind)}"])
    return {name: kind() for name, kind in analyses.items()}


def kinds(base: type[Analysis] = Analysis) -> Iterator[type[Analysis]]:
    """Yields the classes of analyses below one, but for those that a newer version of their file has replaced."""
    for child in base.__subclasses__():
        yield from [] if isabstract(child) or child in RETIRED else [child]
        yield from kinds(child)
