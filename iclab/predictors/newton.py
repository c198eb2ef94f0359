"""Newton's iteration for the inverse of G = XᵀX on every prefix, and the weights that it gives.

    M_0 = G/‖G‖₂²,    M ← 2M − M G M,    w_i = M_k h_i.

Every M_k is a polynomial in G, and the residual I − M_k G squares at each step, so on an eigenvalue λ of G

    1 − m_k λ = (1 − λ²/‖G‖²)^(2^k),    m_k = [1 − (1 − (λ/‖G‖)²)^(2^k)] / λ.

Iterated, rounding errors outside the range of G would double at every step, hence the closed form (see `spectral`).

Source: Fu, Chen, Jia, Sharan 2023, arXiv 2310.17086, §4, who print M_0 = (2/‖G‖²) G. That is the boundary, where the
iteration does not converge: on the largest eigenvalue the residual is 1 − 2 = −1 at first and 1 for ever after. Hence
1/‖G‖² here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.spectral import Spectral


@dataclass(frozen=True)
class Newton(Spectral):
    """w_i = M_k Xᵀy after k = `steps` of Newton's iteration; tends to minimum-norm least squares, quadratically."""

    steps: int

    def __post_init__(self) -> None:
        refuse("Newton", [] if self.steps >= 0 else [f"steps must be at least 0, given {self.steps}"])

    def share(self, ratio: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n d"]:
        """1 − (1 − ρ²)^(2^k)."""
        squarings = 2.0 ** min(self.steps, 1000)  # as far as float64 goes, and far beyond where anything changes
        return -torch.expm1(squarings * torch.log1p(-ratio.square()))
