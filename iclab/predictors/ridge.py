"""Ridge regression on every prefix from one n × n Cholesky factor per prompt.

    K = XXᵀ + lam·I = LLᵀ,    z = L⁻¹y,    ŷ_i = Σ_{j<i} L_ij z_j,    w_i = Σ_{j<i} (L⁻¹X)_j z_j.

Proof. Write X_i, y_i for the first i rows and K_i, L_i for the leading i × i blocks. L is lower triangular, so
K_i = L_i L_iᵀ: the factor of a prefix is the leading block of L. The leading i × i block of L⁻¹ is L_i⁻¹ for the same
reason, so the first i rows of z and of L⁻¹X depend on the first i examples only and are L_i⁻¹y_i and L_i⁻¹X_i. Hence

    w_i = X_iᵀ K_i⁻¹ y_i = (L_i⁻¹X_i)ᵀ (L_i⁻¹y_i) = Σ_{j<i} (L⁻¹X)_j z_j.

Row i of K = LLᵀ reads X_i x_i = L_i ℓ with ℓ_j = L_ij (j < i), so w_i·x_i = (K_i⁻¹y_i)·(L_i ℓ) = z·ℓ.  ∎
The published shortcut ŷ = y − diag(L) z is the same number, but y_i enters it and cancels only up to rounding.

If w ~ N(0, I) and y = w·x + √lam·ε, z is white noise, the innovations, and L_ii² is the variance of y_i given its past.
The form of ridge with XXᵀ in place of XᵀX: Saunders, Gammerman, Vovk 1998 (Ridge regression in dual variables).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import solve_triangular

from iclab.errors import refuse
from iclab.predictors.predictor import Linear, exclusive_cumsum, in_double
from iclab.predictors.prefixes import solve

# The error is of order eps·κ(K_i). A prefix of larger κ than this (its penalty is far below its data) is solved alone.
CONDITION_LIMIT = 1e7


@dataclass(frozen=True)
class Ridge(Linear):
    """w_i = argmin_w ½‖Xw − y‖² + ½·lam·‖w‖² over the first i examples; the penalty is that of the sum objective.

    >>> import torch
    >>> xs, ys = torch.ones(1, 3, 1), torch.tensor([[2.0, 2.0, 2.0]])
    >>> Ridge(lam=1.0)(xs, ys)  # after 0, 1 and 2 examples: 0, 2/(1 + 1), 4/(2 + 1)
    tensor([[0.0000, 1.0000, 1.3333]])
    >>> Ridge(lam=1.0).weights(xs, ys).shape  # [batch n d]
    torch.Size([1, 3, 1])
    """

    lam: float

    def __post_init__(self) -> None:
        sound = 0 < self.lam < float("inf")
        refuse("Ridge", [] if sound else [f"lam must be positive and finite (0 is LeastSquares), given {self.lam}"])

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        if xs.requires_grad or ys.requires_grad:
            return super().__call__(xs, ys)
        root, broken = factor(xs, self.lam)
        innovations = _innovations(root, ys).unsqueeze(-1)
        answers = (_strict(root) @ innovations).squeeze(-1)
        if broken.any():
            answers[broken] = (solve(xs, ys, broken, self.lam) * xs[broken]).sum(-1)
        return answers

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        root, broken = factor(xs, self.lam)
        ws = exclusive_cumsum(solve_triangular(root, xs, upper=False) * _innovations(root, ys).unsqueeze(-1))
        hard = torch.nn.functional.pad(broken[:, :-1], (1, 0))
        if hard.any():
            ws[hard] = solve(xs, ys, hard, self.lam)
        return ws


def factor(xs: Float[Tensor, "batch n d"], lam: float) -> tuple[Float[Tensor, "batch n n"], Bool[Tensor, "batch n"]]:
    """Returns L, and the rows from which on K is too ill-conditioned for it."""
    kernel = xs @ xs.mT
    kernel.diagonal(dim1=-2, dim2=-1).add_(lam)
    root, _ = torch.linalg.cholesky_ex(kernel)
    broken = _broken(root, kernel, lam)
    if not broken.any():
        return root, broken
    # Rows of the identity in their place cannot reach the earlier positions, as 0 · nan would.
    return root.where(~broken.unsqueeze(-1), torch.eye(xs.shape[1], dtype=xs.dtype, device=xs.device)), broken


def _broken(
    root: Float[Tensor, "batch n n"], kernel: Float[Tensor, "batch n n"], lam: float
) -> Bool[Tensor, "batch n"]:
    """Where κ is too large with the row included. κ ≤ tr K / lam, which is nearly always enough to know;
    otherwise κ ≤ tr K · tr K⁻¹ = tr K · ‖L⁻¹‖², as every prefix has the leading block of L⁻¹."""
    trace = kernel.diagonal(dim1=-2, dim2=-1).cumsum(-1)
    broken = ~(trace <= CONDITION_LIMIT * lam)
    if broken.any():
        eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device).expand_as(root)
        inverse_trace = solve_triangular(root, eye, upper=False).square().sum(-1).cumsum(-1)
        broken &= ~(trace * inverse_trace <= CONDITION_LIMIT)  # also where the factor broke off
    return broken


def _strict(root: Float[Tensor, "batch n n"]) -> Float[Tensor, "batch n n"]:
    """The entries j < i, in place: most of the time goes into memory."""
    root.diagonal(dim1=-2, dim2=-1).zero_()
    return root


def _innovations(root: Float[Tensor, "batch n n"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """z = L⁻¹y."""
    return solve_triangular(root, ys.unsqueeze(-1), upper=False).squeeze(-1)
