"""Linear functions: dense, and sparse.

dense    w ~ N(0, prior²·I)                              Akyürek et al. 2022, arXiv 2211.15661, §2
sparse   the same, then all but `sparsity` coordinates, chosen uniformly, are set to zero
                                                         Garg et al. 2022, arXiv 2208.01066, §4
"""

from dataclasses import dataclass

import torch

from iclab.tasks.prompts import LinearFunctions
from iclab.tasks.task import FunctionClass


@dataclass(frozen=True)
class LinearRegression(FunctionClass):
    """y = w·x + noise·ε with w ~ N(0, prior²·I): the task on which in-context learners are compared with ridge."""

    prior: float = 1.0

    def _problems(self) -> list[str]:
        proper = 0 < self.prior < float("inf")
        wrong = [] if proper else [f"prior must be a positive, finite standard deviation, given {self.prior}"]
        return super()._problems() + wrong

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> LinearFunctions:
        return LinearFunctions(self.prior * torch.randn(batch, self.d, generator=rng, device=rng.device, dtype=dtype))

    def weight_variance(self) -> float:
        """E w_j² of one coordinate."""
        return self.prior**2

    def label_variance(self) -> float:
        """E y² = E w_j² · tr Λ + noise²."""
        return self.weight_variance() * self.input_second_moment().trace().item() + self.noise**2


@dataclass(frozen=True)
class SparseLinearRegression(LinearRegression):
    """Linear regression whose weight vector has exactly `sparsity` nonzero coordinates."""

    sparsity: int = 3

    def _problems(self) -> list[str]:
        fits = 1 <= self.sparsity <= self.d
        return super()._problems() + ([] if fits else [f"sparsity must lie in 1..d = {self.d}, given {self.sparsity}"])

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> LinearFunctions:
        dense = super().draw_functions(batch, rng, dtype).ws
        keys = torch.rand(batch, self.d, generator=rng, device=rng.device)
        kept = keys.argsort(-1).argsort(-1) < self.sparsity
        return LinearFunctions(dense * kept)

    def weight_variance(self) -> float:
        """prior² · sparsity/d."""
        return self.prior**2 * self.sparsity / self.d
