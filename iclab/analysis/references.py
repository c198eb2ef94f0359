"""The predictors that a learned one is compared with, by the names that tables and claims use."""

import torch

from iclab.posterior import bayes, scale
from iclab.predictors import (
    Averaging,
    GradientDescent,
    Lasso,
    LeastSquares,
    NearestNeighbours,
    Predictor,
    Ridge,
    Zero,
)
from iclab.tasks import Derived, FunctionClass, LinearRegression, SparseLinearRegression, Task


def references(task: Task) -> dict[str, Predictor]:
    """Every reference predictor of a task; "bayes" is among them where it is known.

    "ridge" has the penalty that is right for a normal prior (so that on a finite pool it is the predictor which
    ignores the pool), and "gradient_descent" is one step of the best size for normal inputs.
    """
    found: dict[str, Predictor] = {
        "zero": Zero(),
        "averaging": Averaging(),
        "nearest_neighbours": NearestNeighbours(3),
        "least_squares": LeastSquares(),
        "gradient_descent": one_step(task),
    }
    if task.noise > 0:
        found["ridge"] = Ridge(_noise_to_prior(task))
    if isinstance(function_class(task), SparseLinearRegression):
        found["lasso"] = Lasso(0.01)  # the best of Garg et al. 2022 (arXiv 2208.01066, App. A)
    try:
        return {"bayes": bayes(task), **found}
    except ValueError:  # no closed form is known
        return found


def function_class(task: Task) -> FunctionClass:
    """The class of functions below all derivations."""
    while isinstance(task, Derived):
        task = task.base
    assert isinstance(task, FunctionClass)
    return task


def one_step(task: Task) -> GradientDescent:
    """One step of gradient descent from zero, of the size that has least risk for inputs N(0, v·I).

    lr_i = 1 / (v (i + d + 1) + (noise/prior)²) on the gradient of ½‖Xw − y‖², after i examples.
    """
    source = function_class(task)
    v = source.input_second_moment().trace().item() / source.d
    steps = torch.arange(task.n, dtype=torch.float64)
    return GradientDescent(1, 1 / (v * (steps + task.d + 1) + _noise_to_prior(task)))


def _noise_to_prior(task: Task) -> float:
    source = function_class(task)
    prior = source.prior if isinstance(source, LinearRegression) else 1.0
    return (task.noise / (scale(task) * prior)) ** 2
