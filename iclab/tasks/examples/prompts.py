"""Prompts: what every learner sees, and the functions that label them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Functions(ABC):
    """The functions of a batch, one per prompt, which can be evaluated at any inputs.

    Its values are numbers [batch m], or vectors [batch m c] where the labels of the task are.
    """

    @abstractmethod
    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m *labels"]: ...

    def __getitem__(self, chosen: slice) -> "Functions":
        """The functions of some of the prompts."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: v[chosen] for k, v in held.items() if isinstance(v, Tensor | Functions)})


@dataclass(frozen=True)
class LinearFunctions(Functions):
    """f(x) = w·x, with one weight vector w for each prompt."""

    ws: Float[Tensor, "batch d"]

    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]:
        return (xs @ self.ws.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class MixedFunctions(Functions):
    """For each prompt one of several functions: that of the part that was `chosen` for it."""

    parts: tuple[Functions, ...]
    chosen: Int[Tensor, " batch"]

    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]:
        return self.pick(torch.stack([part(xs) for part in self.parts]))

    def __getitem__(self, chosen: slice) -> "MixedFunctions":
        return MixedFunctions(tuple(part[chosen] for part in self.parts), self.chosen[chosen])

    def pick(self, answers: Float[Tensor, "parts batch m"]) -> Float[Tensor, "batch m"]:
        """Returns, of one answer for each part, that of the chosen part."""
        return answers.take_along_dim(self.chosen[None, :, None], 0).squeeze(0)


@dataclass(frozen=True)
class Prompts:
    """Sequences of labelled examples (x_0, y_0), ..., (x_{n-1}, y_{n-1}), one sequence per row of the batch.

    `xs` are the inputs, `ys` the labels as the learner sees them, `fs` the labels before noise and `truth` the
    functions that made them. At position i a predictor has seen i examples and answers for x_i. A label is a number, or
    a vector of c coordinates: see `Task.label_dim`.

    >>> import torch
    >>> from iclab.tasks import LinearRegression
    >>> prompts = LinearRegression(d=2, n=4, noise=0.1).sample(3, torch.Generator().manual_seed(0))
    >>> torch.allclose(prompts.fs, (prompts.xs @ prompts.ws.unsqueeze(-1)).squeeze(-1))
    True
    >>> prompts[:2].ys.shape
    torch.Size([2, 4])
    """

    xs: Float[Tensor, "batch n d"]
    ys: Float[Tensor, "batch n *labels"]
    fs: Float[Tensor, "batch n *labels"]
    truth: Functions

    @property
    def ws(self) -> Float[Tensor, "batch d"]:
        """Returns the weight vectors, where the functions are linear."""
        if not isinstance(self.truth, LinearFunctions):
            raise ValueError(f"{type(self.truth).__name__} have no weight vectors: they are not linear")
        return self.truth.ws

    def __getitem__(self, chosen: slice) -> "Prompts":
        """Some of the prompts."""
        return Prompts(self.xs[chosen], self.ys[chosen], self.fs[chosen], self.truth[chosen])
