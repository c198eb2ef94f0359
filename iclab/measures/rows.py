"""Result rows: one tidy table for everything that is measured.

predictor, quantity, layer, position, value, stderr

`position` is a number of examples, the name of a region, or none for an average over positions; `layer` is none for
what belongs to a whole model.
"""

from collections.abc import Iterable, Iterator
from math import isfinite

import torch

from iclab.analysis import Estimate, estimate, ratio
from iclab.experiments.analysis import Row
from iclab.tasks import Task

Parts = dict[int | str | None, slice]
MODEL = "transformer"  # the predictor that is the model itself, whatever its kind


def rows(predictor: str, quantity: str, result: Estimate, region: int | str | None = None) -> Iterator[Row]:
    """Yields one row per position, or a single row for an average over a region."""
    if result.value.ndim == 0:
        yield row(predictor, quantity, region, result.value.item(), result.stderr.item())
        return
    for position, (value, stderr) in enumerate(zip(result.value.tolist(), result.stderr.tolist(), strict=True)):
        yield row(predictor, quantity, position, value, stderr)


def row(predictor: str, quantity: str, position: int | str | None, value: float, stderr: float | None = None) -> Row:
    """Returns a row of a whole model."""
    return {
        "predictor": predictor,
        "quantity": quantity,
        "layer": None,
        "position": position,
        "value": value,
        "stderr": stderr,
    }


def by_layer(predictor: str, quantity: str, result: Estimate, region: int | str | None = None) -> Iterator[Row]:
    """Yields one row per layer, of a region."""
    for layer, (value, stderr) in enumerate(zip(result.value.tolist(), result.stderr.tolist(), strict=True)):
        yield {**row(predictor, quantity, region, value, stderr), "layer": layer}


def finite(rows: Iterable[Row]) -> Iterator[Row]:
    """Yields those where there is something to measure."""
    return (one for one in rows if isfinite(one["value"]))


def regions(task: Task, query_only: bool = False) -> Parts:
    """Returns the positions that are averaged over: all of them (None), and apart from each other those around the
    number r of dimensions that inputs have. The risk of noisy least squares is infinite at r−1..r+1 examples, and its
    squared error has no variance, so that no error bar can be trusted, at r−3..r+3: the *threshold*. *under* and *over*
    are the positions with fewer and with more examples. What is about the query is averaged over the last position
    alone.
    """
    n, r = task.n, task.rank
    if task.query_only or query_only:
        return {None: slice(n - 1, n)}
    cut, end = max(0, r - 3), min(n, r + 4)
    parts = {None: slice(n), "under": slice(cut), "threshold": slice(cut, end), "over": slice(end, n)}
    return {name: part for name, part in parts.items() if len(range(n)[part])}


def fewer(task: Task, query_only: bool = False) -> Parts:
    """Returns the region *fewer*, from one example to one less than the number r of dimensions that inputs have: the
    average of Akyürek et al. 2022, arXiv 2211.15661, Fig. 3 and 8. It overlaps with others, and compares predictors
    alone: none of them has the error of least squares at r examples."""
    part = slice(1, min(task.rank, task.n))
    return {} if task.query_only or query_only or not range(task.n)[part] else {"fewer": part}


def averaged(name: str, quantity: str, terms: torch.Tensor, parts: Parts) -> Iterator[Row]:
    """Yields a quantity at each position, and averaged over each region."""
    yield from rows(name, quantity, estimate(terms))
    for region, part in parts.items():
        yield from rows(name, quantity, estimate(terms[:, part].mean(-1)), region)


def relative(name: str, quantity: str, terms: torch.Tensor, unit: torch.Tensor, parts: Parts) -> Iterator[Row]:
    """Yields a quantity averaged over each region, relative to another one averaged over the same: the Bayes risk, the
    model's, or the mean square label. A region has no rows where the unit is zero up to rounding (the Bayes risk
    of noiseless labels, with as many examples as dimensions: the condition of a square matrix magnifies what float32
    leaves out of a label)."""
    for region, part in parts.items():
        if unit[:, part].mean() > 1e-8 * unit.mean():
            yield from rows(name, quantity, ratio(terms[:, part].mean(-1), unit[:, part].mean(-1)), region)
