"""How exact constructions are in float64, float32 and bfloat16, as they grow (`iclab precision`): what the analysis
`precision` measures (`iclab.measures.precision`), over sizes.

x ~ U(−1, 1)^d, w ~ N(0, I), noise 0.1, labels cut off at ±6 (for which Akyürek's weights are set).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from iclab.commands.terminal import table
from iclab.constructed import Construction
from iclab.constructed.start import Akyurek2022Descent, Akyurek2022Ridge, Bai2023, Fu2023, VonOswald2022
from iclab.files import write_json
from iclab.measures.precision import DTYPES, rounding_error
from iclab.predictors import Predictor
from iclab.tasks import LinearRegression, Uniform

FILE = "precision.json"
LARGEST_Y = 6.0
Made = tuple[Construction, int, int]  # with d and n


@dataclass(frozen=True)
class Ladder:
    """A construction at several sizes: what grows, and what is made of each. It is compared with its own algorithm, or
    with another `algorithm`."""

    name: str
    key: str
    sizes: Sequence[int]
    made: Callable[[int], Made]
    algorithm: Predictor | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields one row for each size and precision."""
        for size, dtype in product(self.sizes, DTYPES):
            head = {"construction": self.name, "key": self.key, "size": size, "dtype": dtype}
            yield head | self._measured(size, dtype)

    def _measured(self, size: int, dtype: str) -> dict[str, Any]:
        construction, d, n = self.made(size)
        task, rng = LinearRegression(d, n, noise=0.1, inputs=Uniform()), torch.Generator().manual_seed(0)
        drawn = task.sample(256, rng, torch.float64)
        ys = drawn.ys.clamp(-LARGEST_Y, LARGEST_Y)
        try:
            return {"error": rounding_error(construction, drawn.xs, ys, dtype, self.algorithm), "note": ""}
        except ValueError as refusal:
            return {"error": None, "note": f"refused: {refusal}"}


# ---- the ladders ---------------------------------------------------------------------------------------------------


def _descent(steps: int, d: int = 5, n: int = 11) -> Made:
    return VonOswald2022(steps=steps, lr=1 / n), d, n


def _ridge_descent(steps: int, d: int = 5, n: int = 11) -> Made:
    return Bai2023(steps=steps, lr=1.0, lam=0.1), d, n


def _newton(steps: int, d: int = 5, n: int = 11) -> Made:
    return Fu2023(steps=steps, first=0.005), d, n  # below 2/‖S‖² for ‖S‖ < 20; tr S is 16.7 on average


def _sgd(n: int, d: int = 3) -> Made:
    return Akyurek2022Descent(lr=0.1, largest_x=1.0, largest_y=LARGEST_Y), d, n


def _ridge(n: int, d: int = 2) -> Made:
    return Akyurek2022Ridge(lam=1.0, largest_x=1.0, largest_y=LARGEST_Y), d, n


LADDERS = [
    Ladder("gradient descent (von Oswald et al. 2022)", "layers", [1, 2, 4, 8, 16, 32], _descent),
    Ladder("gradient descent (von Oswald et al. 2022)", "d", [1, 2, 4, 8, 16, 32], lambda d: _descent(4, d, 2 * d + 1)),
    Ladder("ridge by descent (Bai et al. 2023)", "steps", [1, 2, 4, 8, 16, 32], _ridge_descent),
    Ladder("Newton's iteration (Fu et al. 2023)", "steps", [1, 2, 4, 8, 12], _newton),
    Ladder("SGD (Akyürek et al. 2022)", "n", [2, 3, 4, 6, 8], _sgd),
    Ladder("ridge regression (Akyürek et al. 2022)", "n", [2, 3, 4, 6], _ridge),
]


def precision(out: Path, to: Console) -> None:
    """Measures all ladders, prints a table, and writes the rows to `precision.json` in a folder."""
    rows = [row for ladder in LADDERS for row in ladder.rows()]
    columns = ["construction", "key", "size", *DTYPES]
    to.print(table("errors relative to the predictions", columns, list(_table_rows(rows)), to))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE, rows)


def _table_rows(rows: Sequence[dict[str, Any]]) -> Iterator[list[Any]]:
    """A line for each size; the precisions follow each other in the rows."""
    for same in (rows[i : i + len(DTYPES)] for i in range(0, len(rows), len(DTYPES))):
        errors = ["refused" if row["error"] is None else f"{row['error']:.1e}" for row in same]
        yield [*(same[0][key] for key in ("construction", "key", "size")), *errors]
