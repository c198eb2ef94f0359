"""Models that are linear in their parameters, and linear attention as one of them.

    ŷ_i = φ_i · θ,      φ_i a function of (x_0, y_0, …, x_{i−1}, y_{i−1}, x_i) that is not learned

so that θ is found by one ridge regression (`iclab.learning.fitting`) as well as by gradient descent. For linear
attention with a single layer, whose query and key matrices act on x and whose value matrix reads y,

    ŷ_i = ⟨Γ, H_i⟩,     H_i = x_i [ d/i Σ_{j<i} y_j x_jᵀ,  1/i Σ_{j<i} y_j² ]      (d × (d+1)),      H_0 = 0

with inputs of E|x|² = 1 (`UnitNormal`).      Lu, Letey, Zavatone-Veth, Maiti, Pehlevan 2024, arXiv 2405.11751, eq. 9–10
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from iclab.files import atomic_write
from iclab.models.architecture import ModelConfig, refuse_sizes, refuse_weights
from iclab.models.door import examples_in

EVERYWHERE = slice(None)


class LinearModel(nn.Module, ABC):
    """A predictor ŷ = φ·θ. Its one parameter is `theta`, in float64 and zero before it has learned; a final class
    implements `features`, for which it may hold weights that are drawn and never learned (buffers).

    Law (linearity): predictions are linear in `theta`.
    """

    def __init__(self, d: int, n: int, size: int) -> None:
        super().__init__()
        refuse_sizes(type(self).__name__, {"d": d, "n": n})
        refuse_weights(type(self).__name__, size)
        self.d, self.n = d, n
        self.theta = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    @abstractmethod
    def features(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"], at: slice = EVERYWHERE
    ) -> Float[Tensor, "batch m p"]:
        """Returns φ in float64, at the positions `at`; φ_i does not depend on y_i or on what comes after i."""

    @examples_in
    def forward(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Returns the predictions at every position."""
        return (self.features(xs, ys) @ self.theta).to(xs.dtype)

    def save(self, path: Path | str) -> None:
        """Writes weights and shape to one safetensors file, whole or not at all."""
        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        shape = json.dumps({"d": self.d, "n": self.n})
        atomic_write(Path(path), to_bytes(weights, metadata={type(self).__name__: shape}))


@dataclass(frozen=True, kw_only=True)
class LinearModelConfig(ModelConfig):
    """The shape of a model that is linear in its parameters."""

    def save(self, model: LinearModel, path: Path) -> None:
        model.save(path)

    @abstractmethod
    def build(self, d: int, n: int, rng: torch.Generator | None = None) -> LinearModel: ...


@dataclass(frozen=True, kw_only=True)
class LinearAttentionConfig(LinearModelConfig):
    """Linear attention of one layer, reduced to what decides its answers: the matrix Γ."""

    def build(self, d: int, n: int, rng: torch.Generator | None = None) -> "LinearAttention":
        return LinearAttention(d, n)


class LinearAttention(LinearModel):
    """ŷ_i = x_iᵀ Γ g_i with g_i = [d/i Σ_{j<i} y_j x_j, 1/i Σ_{j<i} y_j²]; `theta` holds the rows of Γ.

    Source: Lu et al. 2024, arXiv 2405.11751, eq. 9–10.
    """

    def __init__(self, d: int, n: int) -> None:
        super().__init__(d, n, d * (d + 1))

    @property
    def gamma(self) -> Float[Tensor, "d d_plus_1"]:
        """Returns Γ."""
        return self.theta.unflatten(0, (self.d, self.d + 1))

    @examples_in
    def context(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n d_plus_1"]:
        """Returns g, float64; zero before the first example."""
        xs, ys = xs.double(), ys.double().unsqueeze(-1)
        sums = torch.cat([self.d * ys * xs, ys.square()], dim=-1).cumsum(1)
        before = torch.nn.functional.pad(sums[:, :-1], (0, 0, 1, 0))  # shifted: y_i itself must not be seen
        return before / torch.arange(xs.shape[1], device=xs.device).clamp(min=1).unsqueeze(-1)

    @examples_in
    def features(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"], at: slice = EVERYWHERE
    ) -> Float[Tensor, "batch m p"]:
        g = self.context(xs, ys)[:, at]
        return (xs.double()[:, at].unsqueeze(-1) * g.unsqueeze(-2)).flatten(-2)

    @examples_in
    def forward(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Returns φ·θ without forming the d (d+1) features of each position."""
        return ((xs.double() @ self.gamma) * self.context(xs, ys)).sum(-1).to(xs.dtype)
