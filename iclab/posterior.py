"""bayes(task): the predictor of least risk on a task, where it is known.

Under squared loss it is the posterior mean E[y_i | x_0, y_0, ..., x_i]. Since functions are drawn independently of
inputs, the law of the inputs plays no part in it: a shift of the inputs keeps the predictor of its base.
"""

from functools import singledispatch

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.predictors import DiscreteMMSE, LeastSquares, Posterior, Predictor, Ridge, SparsePosterior
from iclab.tasks import (
    Derived,
    FinitePool,
    LinearRegression,
    NormalisedLabels,
    ScaledWeights,
    SparseLinearRegression,
    Task,
    TruePrior,
    WhitenedLinearRegression,
)


def bayes(task: Task) -> Predictor:
    """The predictor of least risk. Raises ``ValueError`` where no closed form is known."""
    return _posterior(*_ingredients(task))


def bayes_where_known(task: Task) -> Predictor | None:
    """The Bayes predictor, or none where `bayes` knows no closed form."""
    try:
        return bayes(task)
    except ValueError:
        return None


def same_posterior(one: Task, other: Task) -> bool:
    """Whether two tasks have the same Bayes predictor: they differ in their inputs at most, or both have the same ridge
    (or least squares). Where no closed form is known, only the first counts."""
    if _ingredients(one) == _ingredients(other):
        return True
    best = bayes_where_known(one)
    return isinstance(best, Ridge | LeastSquares) and best == bayes_where_known(other)


def _ingredients(task: Task) -> tuple[Task, float, float]:
    return source(task), scale(task), task.noise


def weight_variance(task: Task) -> float:
    """E w_j² of the linear functions of a task, as its labels show them; 1 where the functions are not linear."""
    functions = source(task)
    functions = functions.base if isinstance(functions, FinitePool) else functions
    return scale(task) ** 2 * functions.weight_variance() if isinstance(functions, LinearRegression) else 1.0


def weight_covariance(task: Task) -> Float[Tensor, "d d"]:
    """E w wᵀ of the linear functions of a task, as its labels show them; the identity where they are not linear."""
    functions = source(task)
    functions = functions.base if isinstance(functions, FinitePool) else functions
    if not isinstance(functions, LinearRegression):
        return torch.eye(task.d, dtype=torch.float64)
    return scale(task) ** 2 * functions.weight_covariance()


def source(task: Task) -> Task:
    """The task whose functions are drawn: derived tasks other than a pool only scale them or change the rest."""
    if isinstance(task, TruePrior):
        return source(task.prior)
    return source(task.base) if isinstance(task, Derived) and not isinstance(task, FinitePool) else task


def scale(task: Task) -> float:
    """What the functions of the source are multiplied by."""
    if not isinstance(task, Derived) or isinstance(task, FinitePool):
        return 1.0
    own = task.scale if isinstance(task, ScaledWeights | NormalisedLabels) else 1.0
    return own * scale(task.base)


@singledispatch  # labels y = scale·f(x) + noise·ε, with f drawn from the source
def _posterior(functions: Task, scale: float, noise: float) -> Predictor:
    raise ValueError(f"no closed form of the Bayes predictor is known for {type(functions).__name__}")


@_posterior.register
def _(functions: LinearRegression, scale: float, noise: float) -> Predictor:
    prior = abs(scale) * functions.prior
    return Ridge((noise / prior) ** 2) if noise > 0 else LeastSquares()


@_posterior.register
def _(functions: WhitenedLinearRegression, scale: float, noise: float) -> Predictor:
    return Posterior(scale**2 * functions.weight_covariance(), noise)


@_posterior.register
def _(functions: SparseLinearRegression, scale: float, noise: float) -> Predictor:
    return SparsePosterior(functions.d, functions.sparsity, abs(scale) * functions.prior, noise)


@_posterior.register
def _(functions: FinitePool, scale: float, noise: float) -> Predictor:
    return DiscreteMMSE(scale * functions.pool(), noise)
