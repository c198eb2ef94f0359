"""Nonlinear function classes of Garg et al. 2022 (arXiv 2208.01066, §4).

network   f(x) = Σ_j a_j relu(w_j·x),  a_j ~ N(0, 2/width),  w_j ~ N(0, I)      (E f² = d for normal inputs)
tree      a full binary tree: each inner node looks at the sign of one coordinate, each leaf holds N(0, 1)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.tasks.examples.prompts import Functions
from iclab.tasks.task import FunctionClass


@dataclass(frozen=True)
class NetworkFunctions(Functions):
    """Two-layer ReLU networks without biases, one per prompt."""

    hidden: Float[Tensor, "batch d width"]
    readout: Float[Tensor, "batch width"]

    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]:
        return (torch.relu(xs @ self.hidden) @ self.readout.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class ReLUNetwork(FunctionClass):
    """Labels from a random two-layer ReLU network with `width` hidden units."""

    width: int = 100

    def _problems(self) -> list[str]:
        return super()._problems() + ([] if self.width >= 1 else [f"width must be at least 1, given {self.width}"])

    def held(self) -> dict[str, int]:
        return super().held() | {"a network": (self.d + self.n + 1) * self.width}

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> NetworkFunctions:
        where = {"generator": rng, "device": rng.device, "dtype": dtype}
        hidden = torch.randn(batch, self.d, self.width, **where)
        return NetworkFunctions(hidden, (2 / self.width) ** 0.5 * torch.randn(batch, self.width, **where))


@dataclass(frozen=True)
class TreeFunctions(Functions):
    """Full binary trees in heap order (children of node j: 2j+1 where the coordinate is ≤ 0, else 2j+2)."""

    coordinates: Int[Tensor, "batch nodes"]
    leaves: Float[Tensor, "batch leaves"]

    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]:
        inner = self.coordinates.shape[-1]
        node = torch.zeros(xs.shape[:-1], dtype=torch.long, device=xs.device)
        for _ in range((inner + 1).bit_length() - 1):
            read = self.coordinates.gather(-1, node).unsqueeze(-1)
            node = 2 * node + 1 + (xs.gather(-1, read).squeeze(-1) > 0).long()
        return self.leaves.gather(-1, node - inner)


@dataclass(frozen=True)
class DecisionTree(FunctionClass):
    """Labels from a random decision tree of the given depth."""

    depth: int = 4

    def _problems(self) -> list[str]:
        return super()._problems() + ([] if 1 <= self.depth <= 20 else [f"depth must lie in 1..20, given {self.depth}"])

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> TreeFunctions:
        coordinates = torch.randint(self.d, (batch, 2**self.depth - 1), generator=rng, device=rng.device)
        leaves = torch.randn(batch, 2**self.depth, generator=rng, device=rng.device, dtype=dtype)
        return TreeFunctions(coordinates, leaves)
