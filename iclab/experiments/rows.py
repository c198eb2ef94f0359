"""Result rows: one tidy table for everything that is measured.

predictor, quantity, layer, position, value, stderr

`position` is a number of examples, the name of a region, or none for an average over positions; `layer` is none for
what belongs to a whole model.
"""

from collections.abc import Iterator
from typing import Any

from iclab.analysis import Estimate

Row = dict[str, Any]


def rows(predictor: str, quantity: str, found: Estimate, region: int | str | None = None) -> Iterator[Row]:
    """One row per position, or a single row for an average over a region."""
    if found.value.ndim == 0:
        yield row(predictor, quantity, region, found.value.item(), found.stderr.item())
        return
    for position, (value, stderr) in enumerate(zip(found.value.tolist(), found.stderr.tolist(), strict=True)):
        yield row(predictor, quantity, position, value, stderr)


def row(predictor: str, quantity: str, position: int | str | None, value: float, stderr: float | None = None) -> Row:
    """A row of a whole model."""
    return {
        "predictor": predictor,
        "quantity": quantity,
        "layer": None,
        "position": position,
        "value": value,
        "stderr": stderr,
    }
