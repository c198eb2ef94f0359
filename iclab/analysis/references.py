"""The predictors that a learned one is compared with, by the names that tables and claims use."""

import torch

from iclab.analysis.one_layer import best_step
from iclab.posterior import bayes_where_known, same_posterior, source, weight_variance
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
from iclab.tasks import SparseLinearRegression, Task


def references(task: Task, training: Task | None = None) -> dict[str, Predictor]:
    """Every reference predictor of a task; "bayes" is among them where it is known.

    Where the training had another Bayes predictor, "trained_bayes" is that one: what the model was trained to be.
    "ridge" has the penalty that is right for normal weights (so that on a finite pool it is the predictor which ignores
    the pool), and "gradient_descent" is `one_step`.
    """
    found: dict[str, Predictor] = {
        "zero": Zero(),
        "averaging": Averaging(),
        "nearest_neighbours": NearestNeighbours(3),
        "least_squares": LeastSquares(),
        "gradient_descent": one_step(task),
    }
    if task.noise > 0:
        found["ridge"] = Ridge(right_penalty(task))
    if isinstance(source(task), SparseLinearRegression):
        found["lasso"] = Lasso(0.01)  # the best of Garg et al. 2022 (arXiv 2208.01066, App. A)
    known = {"bayes": bayes_where_known(task)}
    if training is not None and not same_posterior(task, training):
        known["trained_bayes"] = bayes_where_known(training)
    return {name: f for name, f in known.items() if f is not None} | found


def right_penalty(task: Task) -> float:
    """lam = noise² / E w_j²: for normal weights ridge with this penalty is the Bayes predictor."""
    return task.noise**2 / weight_variance(task)


def one_step(task: Task) -> GradientDescent:
    """One step of gradient descent from zero with the step size lr_i that is best after i examples."""
    examples = torch.arange(task.n, dtype=torch.float64)
    return GradientDescent(1, best_step(task, examples))
