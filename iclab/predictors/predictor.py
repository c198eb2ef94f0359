"""Predictor: whatever answers prompts. Linear: predictors that are linear in the query.

The trained transformer, the transformer with weights set by hand and ridge regression are the same kind of thing:
a map from the inputs and labels of a prompt to a prediction at every position at once.
"""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Predictor(Protocol):
    """Predicts y_i from (x_0, y_0, ..., x_{i-1}, y_{i-1}, x_i), for every i at once.

    Law (causality): prediction i does not change when x_j (j > i) or y_j (j ≥ i) change.
    """

    def __call__(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n"]: ...


class Linear(ABC):
    """A predictor that answers w_i·x_i, where w_i are the weights learned from the first i examples.

    Finals implement `weights`; the weights are also what probes look for. Work is done in float64 and the answer
    returned in the precision of the inputs, because prefixes of length near d are ill-conditioned.
    """

    @abstractmethod
    def weights(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n d"]:
        """w_i at every position i."""

    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        return (self.weights(xs, ys) * xs).sum(-1)


class Zero(Linear):
    """Answers 0: the floor against which every risk is read."""

    def weights(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n d"]:
        return torch.zeros_like(xs)


def exclusive_cumsum(terms: Float[Tensor, "batch n ..."]) -> Float[Tensor, "batch n ..."]:
    """S_i = Σ_{j<i} terms_j. The cumulative sum is shifted: subtracting the last term would let y_i leak back in
    at the level of rounding."""
    return torch.cat([torch.zeros_like(terms[:, :1]), terms[:, :-1].cumsum(1)], dim=1)
