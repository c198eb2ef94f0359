"""Least squares of minimum norm on every prefix: w_k = X_k⁺ y_k, with X_k, y_k the first k examples.

Head, k ≤ m = min(n, d). With X_mᵀ = QR (Q has columns q_i), X_k = (R_k)ᵀ(Q_k)ᵀ for every k ≤ m, because R is upper
triangular: its leading blocks factor the leading columns. Hence

    w_k = Q_k (R_k)⁻ᵀ y_k = Σ_{i<k} q_i z_i,    z = R⁻ᵀ y_m,

where the leading entries of R⁻ᵀy are those of the smaller problem, R⁻ᵀ being lower triangular.

Tail, k > d. In the coordinates v = X_d w the first d examples say v = y_d + unit noise, and the later rows are
U = X' X_d⁻¹, so that ‖X_k w − y_k‖² = ‖v − y_d‖² + ‖U v − y'‖²: ridge with penalty 1 around y_d, whose prefixes come
from one Cholesky factor (see `ridge`),

    UUᵀ + I = LLᵀ,    v_k = y_d + Σ_{j<k} (L⁻¹U)_j (L⁻¹(y' − U y_d))_j.

The error is of order eps·κ_k in the head and at most eps·κ_k² in the tail, κ_k = ‖X_k‖ ‖X_min(k,d)⁻¹‖ (Frobenius
norms; the inverse of a leading block of R is the leading block of R⁻¹, so this is known for every prefix at once).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import solve_triangular

from iclab.predictors.predictor import Linear, exclusive_cumsum, in_double
from iclab.predictors.prefixes import solve

# Where κ_k is larger (zero rows, repeated inputs, subspaces, bad luck at k = d) a prefix is solved on its own. Normal
# inputs reach it in 1 of 100 prompts; below it the error was never seen above 2e-11.
CONDITION_LIMIT = 1e4


@dataclass(frozen=True)
class LeastSquares(Linear):
    """Ordinary least squares of minimum norm, w_i = X⁺y: interpolates while i ≤ rank, then fits.

    >>> import torch
    >>> xs = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    >>> ys = xs @ torch.tensor([2.0, -1.0])
    >>> LeastSquares().weights(xs, ys)[0]  # one row per number of examples
    tensor([[ 0.,  0.],
            [ 2.,  0.],
            [ 2., -1.]])
    >>> LeastSquares()(xs, ys)
    tensor([[0., 0., 1.]])
    """

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        m = min(xs.shape[1:])
        q, r = torch.linalg.qr(xs[:, :m].mT)
        terms = q.mT * solve_triangular(r.mT, ys[:, :m].unsqueeze(-1), upper=False)
        ws = torch.cat([exclusive_cumsum(terms), _tail(q, r, terms.sum(1), xs[:, m:], ys[:, m:])], dim=1)
        hard = ~(_condition(r, xs) <= CONDITION_LIMIT)  # also where it is not a number
        if hard.any():
            ws[hard] = solve(xs, ys, hard)
        return ws


def _tail(
    q: Float[Tensor, "batch d m"],
    r: Float[Tensor, "batch m m"],
    w_d: Float[Tensor, "batch d"],
    later: Float[Tensor, "batch rest d"],
    labels: Float[Tensor, "batch rest"],
) -> Float[Tensor, "batch rest d"]:
    """w_k = w_d + X_d⁻¹ (v_k − y_d) for k ≥ d, from X_d⁻¹ = Q R⁻ᵀ."""
    if not later.shape[1]:
        return later
    u = solve_triangular(r, (later @ q).mT, upper=True).mT
    surprise = labels.unsqueeze(-1) - later @ w_d.unsqueeze(-1)
    root, _ = torch.linalg.cholesky_ex(u @ u.mT + torch.eye(u.shape[1], dtype=u.dtype, device=u.device))
    gains = solve_triangular(root, torch.cat([u, surprise], dim=-1), upper=False)
    moved = exclusive_cumsum(gains[..., :-1] * gains[..., -1:])
    return w_d.unsqueeze(1) + solve_triangular(r.mT, moved.mT, upper=False).mT @ q.mT


def _condition(r: Float[Tensor, "batch m m"], xs: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n"]:
    """κ_k for every k < n."""
    m, n = r.shape[-1], xs.shape[1]
    inverse = solve_triangular(r, torch.eye(m, dtype=r.dtype, device=r.device).expand_as(r), upper=True)
    inverse_norm = torch.nn.functional.pad(inverse.square().sum(-2), (0, n - m))
    return (exclusive_cumsum(xs.square().sum(-1)) * exclusive_cumsum(inverse_norm)).sqrt()
