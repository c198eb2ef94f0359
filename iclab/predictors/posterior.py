"""Bayesian linear regression on every prefix: w ~ N(m, S) and y = w·x + σ·ε with ε ~ N(0, 1).

In the coordinates a = S^½ x and with u = S^-½(w − m) ~ N(0, I), the labels y − X m = A u + σ·ε are those of ridge
with lam = σ², so

    w_i = m + S^½ u_i,    u_i = argmin_u ‖A u − (y − X m)‖² + σ²‖u‖²    (σ = 0: the u of least norm).

With AAᵀ + σ²I = LLᵀ the label y_i has, given its past, the variance L_ii² = σ²(1 + |R⁻ᵀa_i|²), where RᵀR = AᵀA + σ²I
over the examples before it. R is found from A with σI below it, and nothing cancels: the second form holds at any
conditioning. Without noise it is |a_i − û_i|², where û_i is the fit of least norm to the labels A a_i.
Akyürek et al. 2022 (arXiv 2211.15661, §4) compare transformers with it: for S = τ²I it is ridge with lam = σ²/τ².
"""

from dataclasses import dataclass
from math import pi

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import solve_triangular

from iclab.errors import refuse
from iclab.predictors.least_squares import LeastSquares
from iclab.predictors.predictor import Bayesian, Linear, in_double, needs_noise
from iclab.predictors.prefixes import chunk, seen, solve_each
from iclab.predictors.ridge import Ridge, factor


@dataclass(frozen=True, eq=False)
class Posterior(Bayesian):
    """The posterior mean of w ~ N(mean, covariance) under label noise of standard deviation `noise`.

    No `mean` is a mean of 0. The covariance may be singular: what the prior excludes stays excluded.
    """

    covariance: Float[Tensor, "d d"]
    noise: float
    mean: Float[Tensor, " d"] | None = None

    def __post_init__(self) -> None:
        refuse("Posterior", self._problems())

    def _problems(self) -> list[str]:
        shape, problems = tuple(self.covariance.shape), []
        if len(shape) != 2 or shape[0] != shape[1]:
            problems.append(f"covariance must be d × d, given {shape}")
        elif not _positive(self.covariance):
            problems.append("covariance must be symmetric and without negative eigenvalues")
        if self.mean is not None and tuple(self.mean.shape) != shape[:1]:
            problems.append(f"mean must have as many entries as covariance, given {tuple(self.mean.shape)} and {shape}")
        if not 0 <= self.noise < float("inf"):
            problems.append(f"noise must be a standard deviation (0 or more, finite), given {self.noise}")
        return problems

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        known = self._known(xs)
        return known + self._standard()(xs @ self._root(xs), ys - known)

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        root = self._root(xs)
        us = self._standard().weights(xs @ root, ys - self._known(xs))
        return us @ root + (0.0 if self.mean is None else self.mean.to(xs))

    @in_double
    def variance(self, xs: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n"]:
        """Returns Var(y_i | x_i and the first i examples), label noise included; it does not depend on the labels."""
        standard, lam = xs @ self._root(xs), self.noise**2
        root, broken = factor(standard, lam)
        spread = root.diagonal(dim1=-2, dim2=-1).square()
        if broken.any():
            spread = spread.masked_scatter(broken, self._hard(standard, broken))
        return spread

    def _hard(self, standard: Float[Tensor, "batch n d"], chosen: Bool[Tensor, "batch n"]) -> Float[Tensor, " chosen"]:
        """The variance at the chosen positions, each by its own factor."""
        if self.noise == 0:
            fit = solve_each(standard, standard @ standard.mT, chosen, 0.0)
            return (standard[chosen] - fit).square().sum(-1)
        prompt, position = chosen.nonzero(as_tuple=True)
        size = chunk(2 * standard.shape[2] * sum(standard.shape[1:]), standard.device)
        below = self.noise * torch.eye(standard.shape[2], dtype=standard.dtype, device=standard.device)
        parts = []
        for b, i in zip(prompt.split(size), position.split(size), strict=True):
            rows = torch.cat([seen(standard[b], i), below.expand(len(b), -1, -1)], dim=1)
            R = torch.linalg.qr(rows, mode="r").R
            parts.append(solve_triangular(R.mT, standard[b, i].unsqueeze(-1), upper=False).square().sum((-1, -2)))
        return self.noise**2 * (1 + torch.cat(parts))

    @in_double(label=True)
    def log_density(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Returns log N(y_i; ŷ_i, Var(y_i | past)). Raises ``ValueError`` without noise: interpolated labels have
        none."""
        needs_noise(self.noise)
        spread = self.variance(xs)
        return -((ys - self(xs, ys)).square() / spread + (2 * pi * spread).log()) / 2

    def _standard(self) -> Linear:
        return Ridge(self.noise**2) if self.noise**2 > 0 else LeastSquares()

    def _known(self, xs: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n"]:
        """X m."""
        return torch.zeros_like(xs[..., 0]) if self.mean is None else xs @ self.mean.to(xs)

    def _root(self, xs: Tensor) -> Float[Tensor, "d d"]:
        """S^½, symmetric."""
        values, vectors = torch.linalg.eigh(self.covariance.to(xs))
        return vectors * values.clamp_min(0).sqrt() @ vectors.mT


def _positive(covariance: Float[Tensor, "d d"]) -> bool:
    """Up to the rounding of float32, in which a covariance may have been written."""
    matrix, slack = covariance.double(), 1e-6 * covariance.abs().max().item()
    symmetric = (matrix - matrix.mT).abs().max().item() <= slack
    return symmetric and torch.linalg.eigvalsh(matrix).min().item() >= -slack * len(matrix)
