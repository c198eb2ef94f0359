"""Predicted sequences, taken as a whole.

Vinyals et al. 2015, arXiv 1506.03134, §4, measure hulls by whole answers and by the area of simple polygons.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclab.analysis.next_token import decoded, mean_asked, whole
from iclab.analysis.polygons import area, simple
from iclab.analysis.risk import estimate
from iclab.experiments.analysis import Analysis, Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, rows
from iclab.tasks import ConvexHull, TokenPrompts, TokenTask
from iclab.tasks.tokens.ordering import Ordering


class WholeAnswers(Analysis):
    """Measures the answers of a sorting, or the corners of a hull, one after the other."""

    name = "orderings"
    always = True
    tasks = Ordering
    quantities: ClassVar = {
        "whole_answer": "how often every token of the answer is the likeliest, its end included: so often a model that "
        "reads back its own likeliest tokens gives the right answer; between 0 and 1",
        "unlisted": "how often the likeliest token at a target position is neither an item of the prompt nor the end",
        "simple_polygons": "of hulls of one number of points: how often the answer that is read back so ends, and is a "
        "polygon whose edges do not cross; two corners, the hull of points on a line, are none",
        "area_covered": "the area of those over that of the hull, where this is not 0; above 1 if points are made up",
    }

    def rows(self, of: Measurement) -> Iterator[Row]:
        yield from sequences(of.model, of.task, of.prompts, of.logs[MODEL])


def sequences(
    model: nn.Module, task: TokenTask, prompts: TokenPrompts, logs: Float[Tensor, "batch n vocab"]
) -> Iterator[Row]:
    """Yields the rows of a distribution; none of a task whose answers are single tokens."""
    if isinstance(task, Ordering):
        yield from rows(MODEL, "whole_answer", estimate(whole(logs, prompts)))
        listed = prompts.options.gather(1, logs.argmax(-1))
        yield from rows(MODEL, "unlisted", mean_asked((~listed).double(), prompts))
    if isinstance(task, ConvexHull) and task.shortest == task.longest:
        m = task.longest
        proper, share = coverage(task, decoded(model, prompts.tokens[:, : m + 2], m + 1), _asked(prompts, m))
        yield from rows(MODEL, "simple_polygons", estimate(proper.double()))
        yield from rows(MODEL, "area_covered", estimate(share)) if len(share) > 1 else ()


def _asked(prompts: TokenPrompts, m: int) -> Int[Tensor, "batch m_1"]:
    """The right answers, from the separator on."""
    return prompts.targets[:, m + 1 : 2 * m + 2]


def coverage(
    task: ConvexHull, answers: Int[Tensor, "batch m"], right: Int[Tensor, "batch m"]
) -> tuple[Bool[Tensor, " batch"], Float[Tensor, " some"]]:
    """Returns which answers are simple polygons, and the share of the true area that these cover; points up to the
    first token that is none."""
    corners = (answers < task.items).long().cumprod(1).sum(1)
    closed = torch.cat([answers, answers[:, -1:]], dim=1).gather(1, corners.unsqueeze(1)).squeeze(1) == task.vocab - 1
    proper = closed & simple(*_plane(task, answers), corners)
    whole = area(*_plane(task, right), (right < task.items).long().cumprod(1).sum(1))
    covered = area(*_plane(task, answers), corners)
    counts = proper & (whole > 0)
    return proper, covered[counts] / whole[counts]


def _plane(task: ConvexHull, tokens: Int[Tensor, "batch m"]) -> tuple[Int[Tensor, "batch m"], Int[Tensor, "batch m"]]:
    return tokens % task.grid, tokens // task.grid
