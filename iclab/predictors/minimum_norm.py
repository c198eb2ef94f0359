"""Least squares of minimum norm, of any rank: the one way in which it is solved here where a rank may be deficient.

    w = argmin ‖A w − b‖² + lam‖w‖²  =  Σ_k s_k/(s_k² + lam) (u_k·b) v_k,      A = Σ_k s_k u_k v_kᵀ

over the singular values s_k > tolerance·s_1; at lam = 0 that is A⁺b. A is never squared, and a slight penalty does not
make singular values of rounding count. Every system is decomposed on its own, so that neither its neighbours in a batch
nor what memory held before can change a bit; pivoted factorisations of LAPACK, called in a batch, do not ensure that.
"""

import torch
from jaxtyping import Float
from torch import Tensor

RANK_TOLERANCE = 1e-12  # relative to the largest singular value; float64 loses 1e-14 in rotating a subspace of 100 dims


def minimum_norm(
    A: Float[Tensor, "*systems m d"], b: Float[Tensor, "*systems m k"], lam: float = 0.0
) -> Float[Tensor, "*systems d k"]:
    """Returns the w of least norm among those of least ‖A w − b‖² + lam‖w‖², for each of k right-hand sides."""
    u, s, vh = torch.linalg.svd(A, full_matrices=False)
    counts = s > RANK_TOLERANCE * s[..., :1]
    gains = (1 / (s + lam / s.where(counts, 1.0))).where(counts, 0.0)  # no s², which would overflow or vanish
    return vh.mT @ (gains.unsqueeze(-1) * (u.mT @ b))
