"""Prompts: what every learner sees, and the functions that label them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


class Functions(ABC):
    """One function per prompt, evaluated on as many inputs as wanted (fresh queries included)."""

    @abstractmethod
    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]: ...


@dataclass(frozen=True)
class LinearFunctions(Functions):
    """f(x) = w·x, with one weight vector w for each prompt."""

    ws: Float[Tensor, "batch d"]

    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]:
        return (xs @ self.ws.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class Prompts:
    """Sequences of labelled examples (x_0, y_0), ..., (x_{n-1}, y_{n-1}), one sequence per row of the batch.

    `xs` are the inputs, `ys` the labels as the learner sees them, `fs` the labels before noise and `truth` the
    functions that made them. At position i a predictor has seen i examples and answers for x_i.
    """

    xs: Float[Tensor, "batch n d"]
    ys: Float[Tensor, "batch n"]
    fs: Float[Tensor, "batch n"]
    truth: Functions

    @property
    def ws(self) -> Float[Tensor, "batch d"]:
        """The weight vectors, where the functions are linear."""
        if not isinstance(self.truth, LinearFunctions):
            raise ValueError(f"{type(self.truth).__name__} have no weight vectors: they are not linear")
        return self.truth.ws

    def to(self, dtype: torch.dtype) -> "Prompts":
        """The same prompts with inputs and labels in another precision."""
        return replace(self, xs=self.xs.to(dtype), ys=self.ys.to(dtype), fs=self.fs.to(dtype))
