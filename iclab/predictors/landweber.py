"""Landweber's iteration: gradient descent whose step is the largest that is safe for the prefix at hand.

    w ← w + 1/λ_max · Xᵀ(y − X w),    w = 0 at first,    λ_max = ‖XᵀX‖₂

On an eigenvalue λ of G = XᵀX the residual is 1 − λ/λ_max at each step, so that k steps learn the share

    s = 1 − (1 − λ/λ_max)^k

of least squares. Nothing but the number of steps is free: it can be held beside the number of Newton's, whose residual
is (1 − (λ/λ_max)²)^(2^k). Newton from M_0 = I/λ_max would after k steps be Landweber after 2^k, exactly; from
M_0 = G/λ_max², the start that is used, it is Landweber after 2^k steps with (λ/λ_max)² in the place of λ/λ_max. Either
way steps of Newton are worth a number of steps of gradient descent that doubles with each.

Source: Landweber 1951 (American Journal of Mathematics 73). Fu, Chen, Jia, Sharan 2023, arXiv 2310.17086, compare
layers with numbers of steps of gradient descent; a size of step that suits every prefix is this project's choice.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.spectral import Spectral


@dataclass(frozen=True)
class Landweber(Spectral):
    """w_i after `steps` of gradient descent of size 1/λ_max on the first i examples; tends to minimum-norm least
    squares, linearly."""

    steps: int

    def __post_init__(self) -> None:
        refuse("Landweber", [] if self.steps >= 0 else [f"steps must be at least 0, given {self.steps}"])

    def share(self, ratio: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n d"]:
        """Returns 1 − (1 − ρ)^k."""
        return -torch.expm1(torch.special.xlog1py(torch.full_like(ratio, self.steps), -ratio))
