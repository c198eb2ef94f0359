"""Linear classification: y = 1 where w·x > 0, else −1, with w ~ N(0, I). The length of w plays no part.

Source: Bai, Chen, Wang, Xiong, Mei 2023, arXiv 2306.04637, §5 and App. K; its text says labels 0 and 1, its code −1 and
1, as here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.tasks.examples.prompts import Functions
from iclab.tasks.task import FunctionClass


@dataclass(frozen=True)
class SignFunctions(Functions):
    """f(x) = ±1, the side of the hyperplane w·x = 0 that x is on."""

    ws: Float[Tensor, "batch d"]

    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]:
        positive = (xs @ self.ws.unsqueeze(-1)).squeeze(-1) > 0
        return 2 * positive.to(xs.dtype) - 1


@dataclass(frozen=True)
class LinearClassification(FunctionClass):
    """Labels ±1 on the two sides of a random hyperplane; they are without noise."""

    def _problems(self) -> list[str]:
        wrong = [f"labels are classes and have no noise, given {self.noise}"] if self.noise != 0 else []
        return super()._problems() + wrong

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> SignFunctions:
        return SignFunctions(torch.randn(batch, self.d, generator=rng, device=rng.device, dtype=dtype))
