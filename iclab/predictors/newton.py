"""Newton's iteration for the inverse of G = XᵀX on every prefix, and the weights that it gives.

    M_0 = G/‖G‖₂²,    M ← 2M − M G M,    w_i = M_k h_i.

Every M_k is a polynomial in G, and the residual I − M_k G squares at each step, so on an eigenvalue λ of G

    1 − m_k λ = (1 − λ²/‖G‖²)^(2^k),    m_k = [1 − (1 − (λ/‖G‖)²)^(2^k)] / λ.

Iterated, rounding errors outside the range of G would double at every step, hence the closed form (see `spectral`).

Source: Fu, Chen, Jia, Sharan 2023, arXiv 2310.17086, §4, who print M_0 = (2/‖G‖²) G. That is the boundary, where the
iteration does not converge: on the largest eigenvalue the residual is 1 − 2 = −1 at first and 1 for ever after. Hence
1/‖G‖² here. Their code starts at M_0 = G/‖G²‖_F (`start = "frobenius"`), whose residual on λ is 1 − ρ²/c, with

    ρ = λ/λ_max,    c = ‖G²‖_F/‖G²‖₂ = √Σρ⁴,    1 ≤ c ≤ √d.

As (1 − ρ²/c)^(2^(k + log₂ c)) → (1 − ρ²)^(2^k) for small ρ, where all the steps are spent, it comes log₂ c ≤ ½·log₂ d
steps later to the same place. On the largest eigenvalue, which is right at once otherwise, a residual of δ takes it
log₂(c ln(1/δ)) steps.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse, unknown_choices
from iclab.predictors.spectral import Spectral


@dataclass(frozen=True)
class Newton(Spectral):
    """w_i = M_k Xᵀy after k = `steps` of Newton's iteration; tends to minimum-norm least squares, quadratically.
    `start` names the norm by which M_0 is scaled.

    >>> import torch
    >>> xs, ys = torch.ones(1, 3, 1), torch.full((1, 3), 2.0)
    >>> Newton(steps=8)(xs, ys).round(decimals=3)
    tensor([[0., 2., 2.]])
    """

    steps: int
    start: Literal["spectral", "frobenius"] = field(default="spectral", metadata={"since": "0.1"})

    def __post_init__(self) -> None:
        problems = [] if self.steps >= 0 else [f"steps must be at least 0, given {self.steps}"]
        refuse("Newton", problems + unknown_choices(self))

    def share(self, ratio: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n d"]:
        """Returns 1 − (1 − ρ²)^(2^k), or 1 − (1 − ρ²/c)^(2^k) from the Frobenius norm."""
        squarings = 2.0 ** min(self.steps, 1000)  # as far as float64 goes, and far beyond where anything changes
        squares = ratio.square()
        if self.start == "frobenius":
            squares = squares / squares.norm(dim=-1, keepdim=True).clamp_min(1.0)  # 1 at least, unless all are 0
        return -torch.expm1(squarings * torch.log1p(-squares))
