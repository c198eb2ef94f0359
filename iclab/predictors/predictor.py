"""Predictor: a map from prompts to predictions. Linear: predictors that are linear in the query.

The trained transformer, the transformer with weights set by hand and ridge regression are the same kind of thing:
a map from the inputs and labels of a prompt to a prediction at every position at once.

Closed forms are written for labels that are numbers. To vectors they answer coordinate by coordinate, as if each were
the label of a prompt of its own with the same inputs: where functions and noises of the coordinates are independent,
the posterior of one has nothing to learn from the others, and the Bayes predictor of all is that of each.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.door import in_double


@runtime_checkable
class Predictor(Protocol):
    """Predicts y_i from (x_0, y_0, ..., x_{i-1}, y_{i-1}, x_i), for every i at once.

    Law (causality): prediction i does not change when x_j (j > i) or y_j (j ≥ i) change.

    An answer is what a label is, a number or a vector. The closed forms derive from
    this; a model need not.
    """

    @abstractmethod
    def __call__(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"]
    ) -> Float[Tensor, "batch n *labels"]: ...


class Linear(Predictor, ABC):
    """A predictor that answers w_i·x_i, where w_i are the weights learned from the first i examples.

    Subclasses implement `weights`; the weights are also what probes look for, [batch n d c] where labels are vectors.
    Work is done in float64 and the answer returned in the precision of the inputs, because prefixes of length near d
    are ill-conditioned.

    To autograd the examples are constants, so that the gradient of an answer in its query is w_i, and nothing else is
    asked of a factorisation: the derivative of one that repeats an eigenvalue or a zero is 0/0 even where it counts 0
    times. Who differentiates in the examples differentiates `weights`.
    """

    @abstractmethod
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        """Returns w_i at every position i."""

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        return (self.weights(xs.detach(), ys.detach()) * xs).sum(-1)


class Bayesian(Linear):
    """The posterior mean under a model of the labels, which therefore also knows how likely each label was.

    Law (chain rule): Σ_i log_density_i is the log density of all labels together, in whatever order they come.
    """

    @abstractmethod
    def log_density(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Returns log p(y_i | x_i and the first i examples) at every position i."""


def needs_noise(noise: float) -> None:
    """Raises ``ValueError`` where labels are without noise: once determined they have no density."""
    refuse("log_density", [] if noise > 0 else [f"labels without noise have no density, and noise is {noise}"])


@dataclass(frozen=True)
class Zero(Linear):
    """Answers 0: the floor against which every risk is read."""

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        return torch.zeros_like(xs)


def exclusive_cumsum(terms: Float[Tensor, "batch n ..."]) -> Float[Tensor, "batch n ..."]:
    """Returns S_i = Σ_{j<i} terms_j. The cumulative sum is shifted: subtracting the last term would let y_i leak back
    in at the level of rounding.

    >>> import torch
    >>> exclusive_cumsum(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[0., 1., 3.]])
    """
    return torch.cat([torch.zeros_like(terms[:, :1]), terms[:, :-1].cumsum(1)], dim=1)
