"""Gradient descent on the first i examples, for every i at once: batch, GD++ and one pass of SGD. All start at w = 0.

GD. The sum objective ½‖Xw − y‖² + ½·lam·‖w‖² has the gradient Σ_{j<i} (w·x_j − y_j) x_j + lam·w, so

    w_i ← w_i − lr_i·P(Σ_{j<i} (w_i·x_j − y_j) x_j + lam·w_i)

which is causal linear attention: scores w_i·x_j − y_j, masked to j < i, summed over the values x_j. No d × d matrix is
formed. One step from 0 is lr·Σ y_j x_j. A paper's step η of the mean objective is lr = η/i.
Von Oswald et al. 2022 (arXiv 2212.07677, Prop. 1); with a preconditioner P: Ahn et al. 2023 (2306.00297, Lemma 1).

GD++. Every token, the query included, is also moved: x_j ← x_j − γ XXᵀx_j while y_j ← y_j − Δ·x_j, both from the old x,
where Δ = lr·Σ y_j x_j over the context as it stands (X has the x_j as columns). The moved inputs are M x_j, and in the
original inputs the prediction is w·x with

    w ← w + lr·Mᵀ M (h − G w),    M ← M − γ M G Mᵀ M,    M = I at first,

as Δ·(M x) = lr·(Σ_j (y_j − w·x_j) M x_j)·(M x). Eigenvalues of the moved G: λ ← λ(1 − γλ)². Ibid., §3.

SGD. In the order of the prompt, one example a step, predicting before the label is seen:

    w ← w − lr·(x_i (x_i·w − y_i) + lam·w) = γ w + lr·e_i x_i,    e_i = y_i − x_i·w_i,    γ = 1 − lr·lam.

Unrolled, e_i = y_i − lr·Σ_{j<i} γ^(i−1−j) (x_i·x_j) e_j: the errors solve the unit lower triangular system
(I + lr·T)e = y, and w_i = lr·Σ_{j<i} γ^(i−1−j) e_j x_j. Akyürek et al. 2022 (arXiv 2211.15661) write 2α for lr.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.predictor import Linear, in_double
from iclab.predictors.prefixes import in_chunks, moments


def _at_least(name: str, value: float, least: float) -> list[str]:
    return [] if value >= least else [f"{name} must be at least {least}, given {value}"]


@dataclass(frozen=True)
class GradientDescent(Linear):
    """w_i after `steps` full-batch steps of size `lr` on the sum objective over the first i examples.

    `lr` may be a tensor with one step size for each position. `preconditioner` is P, the same at every step or one for
    each; none is the identity.

    >>> import torch
    >>> xs, ys = torch.ones(1, 4, 1), torch.full((1, 4), 2.0)
    >>> GradientDescent(steps=1, lr=0.25)(xs, ys)  # lr Σ y_j x_j grows with the number of examples
    tensor([[0.0000, 0.5000, 1.0000, 1.5000]])
    >>> GradientDescent(steps=50, lr=0.25)(xs, ys).round(decimals=3)  # converges to least squares
    tensor([[0., 2., 2., 2.]])
    """

    steps: int
    lr: float | Float[Tensor, " n"]
    preconditioner: Float[Tensor, "*steps d d"] | None = None
    lam: float = 0.0

    def __post_init__(self) -> None:
        refuse("GradientDescent", _at_least("steps", self.steps, 0) + _at_least("lam", self.lam, 0))

    def __eq__(self, other: object) -> bool:
        """Equal settings; a tensor is equal to itself alone, as it is for its hash."""
        if not isinstance(other, GradientDescent):
            return NotImplemented
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return all(a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b) for a, b in pairs)

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        n, d = xs.shape[1:]
        return in_chunks(self._descended, xs, ys, 3 * n * (n + d))

    def _descended(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        lr = torch.as_tensor(self.lr, dtype=xs.dtype, device=xs.device).unsqueeze(-1)
        ws = torch.zeros_like(xs)
        eye = torch.eye(xs.shape[-1])
        for P in (eye if self.preconditioner is None else self.preconditioner).to(xs).expand(self.steps, *eye.shape):
            residuals = (ws @ xs.mT - ys.unsqueeze(1)).tril(-1)
            ws = ws - lr * (residuals @ xs + self.lam * ws) @ P.mT
        return ws


@dataclass(frozen=True)
class GradientDescentPlusPlus(Linear):
    """w_i after `steps` steps of GD++ on the first i examples: descent with `lr`, inputs contracted with `gamma`."""

    steps: int
    lr: float
    gamma: float

    def __post_init__(self) -> None:
        refuse("GradientDescentPlusPlus", _at_least("steps", self.steps, 0))

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        n, d = xs.shape[1:]
        return in_chunks(self._descended, xs, ys, 6 * n * d**2)

    def _descended(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        return descended(*moments(xs, ys), self.steps, self.lr, self.gamma)


def descended(
    gram: Float[Tensor, "*prefixes d d"],
    h: Float[Tensor, "*prefixes d"],
    steps: int,
    lr: float | Float[Tensor, ""],
    gamma: float | Float[Tensor, ""],
) -> Float[Tensor, "*prefixes d"]:
    """Returns the weights of GD++ from the moments G and h of the examples; with γ = 0 those of plain gradient
    descent."""
    h = h.unsqueeze(-1)
    moved, ws = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device), torch.zeros_like(h)
    for _ in range(steps):
        ws = ws + lr * moved.mT @ (moved @ (h - gram @ ws))
        moved = moved - gamma * (moved @ gram @ moved.mT) @ moved
    return ws.squeeze(-1)


@dataclass(frozen=True)
class StochasticGradientDescent(Linear):
    """w_i after one pass over the first i examples in their order, one step of size `lr` each, with decay lr·lam."""

    lr: float
    lam: float = 0.0

    def __post_init__(self) -> None:
        refuse("StochasticGradientDescent", _at_least("lam", self.lam, 0))

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        forgetting = self.lr * self._forgetting(xs)
        errors = torch.linalg.solve_triangular(
            forgetting * (xs @ xs.mT), ys.unsqueeze(-1), upper=False, unitriangular=True
        )
        return forgetting @ (errors * xs)

    def _forgetting(self, xs: Float[Tensor, "batch n d"]) -> Float[Tensor, "n n"]:
        """γ^(i−1−j) for j < i, else 0."""
        i = torch.arange(xs.shape[1], dtype=xs.dtype, device=xs.device)
        age = (i.unsqueeze(-1) - 1 - i).clamp_min(0)
        return torch.pow(1 - self.lr * self.lam, age).tril(-1)
