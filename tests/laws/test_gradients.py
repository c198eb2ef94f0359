"""Gradients of closed forms in their query: the weights of linear ones, finite differences of others, or a refusal.

Prefixes at which a factorisation has no derivative (repeated eigenvalues, zeros, dependent rows) are the rule while
i < d, and what is not a number at one position would reach the gradients at all others.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iclab.analysis import query_gradients
from iclab.predictors import Featurised, LeastSquares, Linear, Newton, Predictor, Ridge
from iclab.tasks import LinearRegression, Prompts
from iclab.tasks.features import Representation
from tests.conftest import generator
from tests.laws.test_door import singular
from tests.predictors.test_predictors import CASES, PLAIN, close

STEPS = ("greedy tree", "greedy tree of signs", "boosted trees")  # constant between jumps
LINEAR = [name for name in CASES if isinstance(CASES[name].make(4, 7), Linear)]


def prompts(xs: Tensor, ys: Tensor) -> Prompts:
    drawn = LinearRegression(xs.shape[2], xs.shape[1]).sample(len(xs), generator(), torch.float64)
    return replace(drawn, xs=xs, ys=ys)


def follows_weights(predictor: Linear, xs: Tensor, ys: Tensor) -> None:
    close(query_gradients(predictor, prompts(xs, ys)), predictor.weights(xs, ys), 1e-12)


def follows_differences(predictor: Predictor, xs: Tensor, ys: Tensor) -> None:
    """(f(x_i + ε e_c) − f(x_i − ε e_c)) / 2ε at every position i and coordinate c, from one call. The error is of
    order ε² and eps/ε."""
    (batch, n, d), eps = xs.shape, 1e-6
    moves = eps * torch.eye(n * d, dtype=xs.dtype).view(n, d, 1, n, d)
    moved = torch.stack([xs + moves, xs - moves]).flatten(0, 3)
    up, down = predictor(moved, ys.repeat(2 * n * d, 1)).view(2, n, d, batch, n)
    slopes = ((up - down) / (2 * eps)).diagonal(dim1=0, dim2=3).permute(1, 2, 0)
    close(query_gradients(predictor, prompts(xs, ys)), slopes, 1e-7)


@pytest.mark.parametrize("name", [name for name in CASES if name not in STEPS])
def test_the_gradient_in_the_query_is_that_of_the_answer(name: str):
    follows_differences(CASES[name].make(PLAIN.d, PLAIN.n), PLAIN.xs, PLAIN.ys)


@pytest.mark.parametrize("name", LINEAR)
def test_the_gradient_of_a_linear_predictor_is_its_weights_whatever_the_rank(name: str):
    for xs, ys in singular(3).values():
        follows_weights(CASES[name].make(4, 7), xs, ys)


@pytest.mark.parametrize("inner", [LeastSquares(), Newton(3), Ridge(1e-9)])
def test_the_gradient_goes_through_features_of_any_rank(inner: Linear):
    """Four features, and the first three examples are the same."""
    xs = torch.randn(2, 6, 2, generator=generator(5), dtype=torch.float64)[:, [0, 0, 0, 1, 2, 3]]
    ys = torch.randn(2, 6, generator=generator(6), dtype=torch.float64)
    follows_differences(Featurised(inner, Representation(width=4, depth=2, slope=0.1, seed=1)), xs, ys)


class Undetached(Newton):
    """Differentiates the decomposition of every prefix."""

    def __call__(self, xs, ys):
        return (self.weights(xs, ys) * xs).sum(-1)


class Steeper(LeastSquares):
    """A call that is not quite weights·x."""

    def __call__(self, xs, ys):
        return (1 + 1e-6) * super().__call__(xs, ys)


@pytest.mark.parametrize("cheat", [Undetached(3), Steeper()])
def test_gradients_that_are_weights_can_fail(cheat: Linear):
    with pytest.raises(AssertionError):
        follows_weights(cheat, PLAIN.xs, PLAIN.ys)


def pulls_itself(xs: Tensor, ys: Tensor) -> Tensor:
    """Half of the dependence on the query is hidden from autograd."""
    said = Ridge(0.3)(xs, ys)
    return said + 1e-3 * (xs * xs.detach()).sum(-1)


def test_gradients_that_are_differences_can_fail():
    with pytest.raises(AssertionError):
        follows_differences(pulls_itself, PLAIN.xs, PLAIN.ys)


@torch.no_grad()
def tells_no_gradient(xs: Tensor, ys: Tensor) -> Tensor:
    return Ridge(0.3)(xs, ys)


def learns_only_itself(xs: Tensor, ys: Tensor) -> Tensor:
    """A graph, and the inputs are not in it."""
    return ys * torch.ones((), requires_grad=True)


SILENT = [*(CASES[name].make(3, 8) for name in STEPS), tells_no_gradient, learns_only_itself]


@pytest.mark.parametrize("predictor", SILENT)
def test_without_a_derivative_to_follow_there_is_no_gradient(predictor: Predictor):
    with pytest.raises(ValueError, match="no derivative in their inputs"):
        query_gradients(predictor, prompts(PLAIN.xs, PLAIN.ys))
