"""How exact constructions are in float64, float32 and bfloat16, as they grow (`iclab precision`).

    error = √(E(ŷ − f)² / E f²)        at the query,

f being the algorithm, computed in float64 from the same rounded prompts: what is left is the error of the weights and
of the arithmetic. x ~ U(−1, 1)^d, w ~ N(0, I), noise 0.1, labels cut off at ±6 (for which Akyürek's weights are set). A
construction may refuse a precision: its approximations would not reach a first digit. Then there is no error, and a
note says why.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from iclab.commands.report import table
from iclab.constructed import Construction
from iclab.constructed.start import Akyurek2022Descent, Akyurek2022Ridge, Bai2023, Fu2023, VonOswald2022
from iclab.files import write_json
from iclab.predictors import GradientDescent, Predictor, Ridge, StochasticGradientDescent
from iclab.predictors.prefixes import moments
from iclab.tasks import LinearRegression, Uniform

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
FILE = "precision.json"
LARGEST_Y = 6.0
Made = tuple[Construction, Predictor, int, int]  # with the algorithm, d and n


@dataclass(frozen=True)
class Ladder:
    """A construction at several sizes: what grows, and what is made of each."""

    name: str
    key: str
    sizes: Sequence[int]
    made: Callable[[int], Made]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields one row for each size and precision."""
        for size, dtype in product(self.sizes, DTYPES):
            head = {"construction": self.name, "key": self.key, "size": size, "dtype": dtype}
            yield head | self._measured(size, dtype)

    def _measured(self, size: int, dtype: str) -> dict[str, Any]:
        construction, algorithm, d, n = self.made(size)
        try:
            model = construction.model(d, n, DTYPES[dtype])
        except ValueError as refusal:
            return {"error": None, "note": f"refused: {refusal}"}
        return {"error": _error(model, algorithm, d, n, DTYPES[dtype]), "note": ""}


@torch.no_grad()
def _error(model: Predictor, algorithm: Predictor, d: int, n: int, dtype: torch.dtype) -> float:
    task, rng = LinearRegression(d, n, noise=0.1, inputs=Uniform()), torch.Generator().manual_seed(0)
    drawn = task.sample(256, rng, torch.float64)
    xs, ys = drawn.xs.to(dtype), drawn.ys.clamp(-LARGEST_Y, LARGEST_Y).to(dtype)
    said, exact = model(xs, ys)[:, -1].double(), algorithm(xs.double(), ys.double())[:, -1]
    return ((said - exact).square().mean() / exact.square().mean()).sqrt().item()


# ---- the ladders ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedNewton:
    """k steps of Newton's iteration from M_0 = a·S, on every prefix: the algorithm of Fu et al. 2023 with a given a."""

    steps: int
    first: float

    def __call__(self, xs: Tensor, ys: Tensor) -> Tensor:
        S, h = moments(xs, ys)
        M = self.first * S
        for _ in range(self.steps):
            M = 2 * M - M @ S @ M
        return ((M @ h.unsqueeze(-1)).squeeze(-1) * xs).sum(-1)


def _descent(steps: int, d: int = 5, n: int = 11) -> Made:
    lr = 1 / n
    return VonOswald2022(steps=steps, lr=lr), GradientDescent(steps, lr), d, n


def _ridge_descent(steps: int, d: int = 5, n: int = 11) -> Made:
    examples, lr, lam = n - 1, 1.0, 0.1
    algorithm = GradientDescent(steps, lr / examples, lam=examples * lam)
    return Bai2023(steps=steps, lr=lr, lam=lam), algorithm, d, n


def _newton(steps: int, d: int = 5, n: int = 11) -> Made:
    first = 0.005  # below 2/‖S‖² for ‖S‖ < 20; tr S is 16.7 on average
    return Fu2023(steps=steps, first=first), FixedNewton(steps, first), d, n


def _sgd(n: int, d: int = 3) -> Made:
    construction = Akyurek2022Descent(lr=0.1, largest_x=1.0, largest_y=LARGEST_Y)
    return construction, StochasticGradientDescent(0.1), d, n


def _ridge(n: int, d: int = 2) -> Made:
    return Akyurek2022Ridge(lam=1.0, largest_x=1.0, largest_y=LARGEST_Y), Ridge(1.0), d, n


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
    to.print(table("errors relative to the answers", columns, list(_told(rows)), to))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE, rows)


def _told(rows: Sequence[dict[str, Any]]) -> Iterator[list[Any]]:
    """A line for each size; the precisions follow each other in the rows."""
    for same in (rows[i : i + len(DTYPES)] for i in range(0, len(rows), len(DTYPES))):
        errors = ["refused" if row["error"] is None else f"{row['error']:.1e}" for row in same]
        yield [*(same[0][key] for key in ("construction", "key", "size")), *errors]
