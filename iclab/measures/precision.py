"""How exact the construction that an experiment starts from is in float64, float32 and bfloat16.

    error = √(E(ŷ − f)² / E f²)        at the query,

f being its algorithm, computed in float64 from the same rounded prompts: what is left is the error of the weights and
of the arithmetic. A construction may refuse a precision: its approximations would not reach a first digit. Then there
is no row, and the log says why.
"""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.constructed import Construction
from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.streams import experiment_generator
from iclab.measures.measurement import Measurement
from iclab.measures.rows import row
from iclab.predictors import Predictor
from iclab.tasks import Task

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


class Precision(Analysis):
    """Compares a construction with its own algorithm; a predictor is a precision. What was trained has no part."""

    name = "precision"
    tasks = Task
    once = True
    scalar = True
    quantities: ClassVar = {
        "precision_error": "√(E(ŷ − f)² / E f²) at the query, of the construction in that precision and its algorithm f"
    }

    def problems(self, experiment: Any) -> Iterator[str]:
        if experiment.start is None:
            yield "needs start.construction"
        elif experiment.start.construction.algorithm(experiment.task.n) is None:
            yield f"needs a construction with an algorithm, given {type(experiment.start.construction).__name__}"

    def predictors(self, experiment: Any) -> Iterable[str]:
        return DTYPES

    def rows(self, of: Measurement) -> Iterator[Row]:
        start, count = of.experiment.start, of.experiment.eval.prompts
        assert start is not None
        prompts = of.task.sample(count, experiment_generator(of.experiment, "test", "cpu", of.name), torch.float64)
        for name in DTYPES:
            try:
                error = rounding_error(start.construction, prompts.xs, prompts.ys, name)
            except ValueError as refusal:
                of.workspace.log(f"{name} is refused: {refusal}")
                continue
            yield row(name, "precision_error", None, error)


@torch.no_grad()
def rounding_error(
    construction: Construction,
    xs: Float[Tensor, "batch n d"],
    ys: Float[Tensor, "batch n"],
    dtype: str,
    algorithm: Predictor | None = None,
) -> float:
    """Returns the error of a construction in a precision, from its own algorithm or another one. Raises ``ValueError``
    where it refuses that precision."""
    algorithm = algorithm or construction.algorithm(xs.shape[1])
    assert algorithm is not None
    model = construction.model(xs.shape[2], xs.shape[1], DTYPES[dtype])
    xs, ys = xs.to(DTYPES[dtype]), ys.to(DTYPES[dtype])
    answers, exact = model(xs, ys)[:, -1].double(), algorithm(xs.double(), ys.double())[:, -1]
    return ((answers - exact).square().mean() / exact.square().mean()).sqrt().item()
