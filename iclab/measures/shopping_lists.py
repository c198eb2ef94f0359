"""What is made of shopping lists as text, besides accuracy: which item is preferred, and how accuracy falls with their
length (Merullo et al. 2024, arXiv 2406.09519, Fig. 1)."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.heads.movers import named
from iclab.analysis.next_token import hits
from iclab.analysis.risk import Estimate, estimate
from iclab.experiments.analysis import Row
from iclab.experiments.claims import TRAINED
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, rows
from iclab.measures.texts import OfTexts

SHORTEST = 3  # of two items the missing one is the one that was not just said


class ShoppingLists(OfTexts):
    """Compares answers with the last item, on lists of each length."""

    name = "shopping_lists"
    quantities: ClassVar = {
        "last_excess": "of lists of N: how often the last listed item is the likeliest of these, less 1/N",
        "accuracy_fall": "accuracy on the shortest lists (of three or more) less that on the longest, between −1 and 1",
    }

    def predictors(self, experiment: Any) -> Iterable[str]:
        return [MODEL]

    def distributions(self, experiment: Any) -> Iterable[str]:
        return [*super().distributions(experiment), *experiment.task.lists]

    def rows(self, of: Measurement) -> Iterator[Row]:
        if of.name == TRAINED:
            yield from _fall(of)
        else:
            yield from rows(MODEL, "last_excess", estimate(_last(of) - 1 / of.task.length))


def _last(of: Measurement) -> Float[Tensor, " b"]:
    """Whether the likeliest of the options is the last that was listed."""
    ends, logs = of.continued
    best = logs[MODEL][:, 0].masked_fill(~ends.options, -torch.inf).argmax(1)
    return (best == of.prompts.tokens.gather(1, named(of.prompts).slots[:, -1:])[:, 0]).double()


def _fall(of: Measurement) -> Iterator[Row]:
    lists = {task.length: name for name, task in of.task.lists.items() if task.length >= SHORTEST}
    if len(lists) > 1:
        short, long = (_accuracy(of, lists[length]) for length in (min(lists), max(lists)))
        error = (short.stderr.square() + long.stderr.square()).sqrt()
        yield from rows(MODEL, "accuracy_fall", Estimate(short.value - long.value, error))


def _accuracy(of: Measurement, name: str) -> Estimate:
    """That of one length, on the prompts on which it is measured."""
    task = of.task.lists[name]
    ends, logs = Measurement(of.experiment, of.model, name, task, of.workspace).continued
    return estimate(hits(logs[MODEL], ends)[:, 0])
