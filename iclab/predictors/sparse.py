"""Exact Bayes for sparse weights: w has `sparsity` nonzero coordinates, uniformly chosen, each N(0, τ²).

The posterior mean is the mixture of the C(d, s) supports A. With lam = σ²/τ² and the moments restricted to A,

    P_A = G_AA + lam·I,    w_A = P_A⁻¹ h_A,    r_A = Σy² − h_A·w_A,
    log p(y | A) = −½ [r_A/σ² + log det(P_A/lam) + i·log 2πσ²],

because y ~ N(0, τ²X_A X_Aᵀ + σ²I). Each P_A is eliminated by hand, s steps for all supports, prefixes and prompts at
once, which also takes r_A down from Σy²: many small matrices are what a library's batched Cholesky is slowest at.

σ = 0 is the limit, and G has squared the inputs: a small penalty has the relative error eps·tr(G)/lam and the bias
lam/tr(G). They balance at lam = √eps·tr(G)/d, below which lam is never taken: an error of order 1e-8·κ(G_AA).
Function class: Garg, Tsipras, Liang, Valiant 2022, arXiv 2208.01066, §4, who compare with the Lasso for want of it.
"""

from dataclasses import dataclass
from math import comb, log, pi

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.mixture import EvidenceWeighted, Mixed, merged
from iclab.predictors.predictor import exclusive_cumsum, needs_noise
from iclab.predictors.prefixes import chunk

MOST_SUPPORTS = 20_000


@dataclass(frozen=True)
class SparsePosterior(EvidenceWeighted):
    """The posterior mean of sparse weights: `sparsity` of the d coordinates, unknown which, are N(0, prior²)."""

    d: int
    sparsity: int
    prior: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        refuse("SparsePosterior", self._problems())

    def _problems(self) -> list[str]:
        found = []
        if not 1 <= self.sparsity <= self.d:
            found.append(f"sparsity must lie in 1..d = {self.d}, given {self.sparsity}")
        elif comb(self.d, self.sparsity) > MOST_SUPPORTS:
            found.append(f"at most {MOST_SUPPORTS} supports are enumerated, given {comb(self.d, self.sparsity)}")
        if not 0 < self.prior < float("inf"):
            found.append(f"prior must be a positive standard deviation, given {self.prior}")
        if not 0 <= self.noise < float("inf"):
            found.append(f"noise must be a standard deviation (0 or more, finite), given {self.noise}")
        return found

    def log_density(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """log p(y_i | past, x_i). Raises ``ValueError`` without noise: interpolated labels have none."""
        needs_noise(self.noise)
        return super().log_density(xs, ys)

    def mixed(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Mixed:
        joint = torch.cat([xs, ys.unsqueeze(-1)], dim=-1)
        moments = exclusive_cumsum(joint.unsqueeze(-1) * joint.unsqueeze(-2))  # G, h and Σy² (k = d + 1)
        system = moments.permute(2, 3, 0, 1).contiguous()
        lam = self._penalty(system)
        system.diagonal()[..., : self.d] += lam.unsqueeze(-1)
        supports = torch.combinations(torch.arange(self.d, device=xs.device), self.sparsity)
        blocks = supports.split(chunk(self._per_support() * xs.shape[1], xs.device))
        return merged(self._block(block, system, lam) for block in blocks)

    def numbers(self, n: int, d: int) -> int:
        return n * (3 * (d + 1) ** 2 + self._per_support() * comb(self.d, self.sparsity))

    def _per_support(self) -> int:
        return 3 * (self.sparsity + 1) ** 2

    def _penalty(self, system: Float[Tensor, "k k batch n"]) -> Float[Tensor, "batch n"]:
        """lam = max(σ²/τ², √eps·tr(G)/d), positive also where nothing but zeros was seen."""
        size = system.diagonal()[..., : self.d].mean(-1)
        limits = torch.finfo(system.dtype)
        return (limits.eps**0.5 * size).clamp_min(max((self.noise / self.prior) ** 2, limits.tiny**0.5))

    def _block(
        self, supports: Int[Tensor, "c s"], system: Float[Tensor, "k k batch n"], lam: Float[Tensor, "batch n"]
    ) -> Mixed:
        labels = torch.full_like(supports[:, :1], self.d)
        rows = torch.cat([supports, labels], dim=-1).mT
        solved, log_det = eliminated(system[rows.unsqueeze(1), rows.unsqueeze(0)], self.sparsity)
        evidence = self._log_evidence(solved[-1, -1].clamp_min(0), log_det, lam)
        total = evidence.logsumexp(0)
        shares = (evidence - total).exp()
        ws = torch.zeros_like(system[:-1, 0])
        for coordinates, w in zip(supports.mT, solved[:-1, -1], strict=True):
            ws.index_add_(0, coordinates, shares * w)
        return total, ws.permute(1, 2, 0)

    def _log_evidence(
        self, r: Float[Tensor, "c batch n"], log_det: Float[Tensor, "c batch n"], lam: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "c batch n"]:
        """log p(A) + log p(y | A)."""
        seen = torch.arange(r.shape[-1], dtype=r.dtype, device=r.device)
        variance = self.prior**2 * lam
        log_det = log_det - self.sparsity * lam.log()
        return -log(comb(self.d, self.sparsity)) - (r / variance + log_det + seen * (2 * pi * variance).log()) / 2


def eliminated(
    system: Float[Tensor, "m m c batch n"], s: int
) -> tuple[Float[Tensor, "m m c batch n"], Float[Tensor, "c batch n"]]:
    """Gauss–Jordan on [[P, h], [hᵀ, Σy²]] (m = s + 1); the last column becomes [w, r]. Also log det P."""
    log_det = torch.zeros_like(system[0, 0])
    for a in range(s):
        pivot = system[a, a].clone()
        row = system[a] / pivot
        system = system - system[:, a].unsqueeze(1) * row
        system[a] = row
        log_det += pivot.log()
    return system, log_det
