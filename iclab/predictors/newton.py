"""Newton's iteration for the inverse of G = XᵀX on every prefix, and the weights that it gives.

    M_0 = G/‖G‖₂²,    M ← 2M − M G M,    w_i = M_k h_i.

Every M_k is a polynomial in G, and the residual I − M_k G squares at each step, so on an eigenvalue λ of G

    1 − m_k λ = (1 − λ²/‖G‖²)^(2^k),    m_k = [1 − (1 − (λ/‖G‖)²)^(2^k)] / λ.

This closed form is what is computed. Iterated, rounding errors outside the range of G (there are such directions while
i < d) would double at every step. Eigenvalues below d·eps·‖G‖ are zero as far as G can tell, and have m = 0.

Source: Fu, Chen, Jia, Sharan 2023, arXiv 2310.17086, §4, who print M_0 = (2/‖G‖²) G. That is the boundary, where the
iteration does not converge: on the largest eigenvalue the residual is 1 − 2 = −1 at first and 1 for ever after. Hence
1/‖G‖² here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.predictor import Linear, in_double
from iclab.predictors.prefixes import in_chunks, moments


@dataclass(frozen=True)
class Newton(Linear):
    """w_i = M_k Xᵀy after k = `steps` of Newton's iteration; tends to minimum-norm least squares, quadratically."""

    steps: int

    def __post_init__(self) -> None:
        refuse("Newton", [] if self.steps >= 0 else [f"steps must be at least 0, given {self.steps}"])

    @in_double
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        n, d = xs.shape[1:]
        return in_chunks(self._iterated, xs, ys, 6 * n * d**2)

    def _iterated(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        gram, h = moments(xs, ys)
        eigenvalues, vectors = torch.linalg.eigh(gram)
        along = vectors.mT @ h.unsqueeze(-1)
        return (vectors @ (self._inverses(eigenvalues).unsqueeze(-1) * along)).squeeze(-1)

    def _inverses(self, eigenvalues: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n d"]:
        """m_k(λ)."""
        limits, largest = torch.finfo(eigenvalues.dtype), eigenvalues[..., -1:].clamp_min(0)
        found = eigenvalues > eigenvalues.shape[-1] * limits.eps * largest
        ratio = (eigenvalues / largest.clamp_min(limits.tiny)).where(found, 0.0)
        squarings = 2.0 ** min(self.steps, 1000)  # as far as float64 goes, and far beyond where anything changes
        shrunk = -torch.expm1(squarings * torch.log1p(-ratio.square()))
        return (shrunk / eigenvalues.where(found, 1.0)).where(found, 0.0)
