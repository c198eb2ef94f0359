"""Exact Bayes for sparse weights: w has `sparsity` nonzero coordinates, uniformly chosen, each N(0, τ²).

The posterior mean is the mixture of the C(d, s) supports A. With lam = σ²/τ² and the moments restricted to A,

    P_A = G_AA + lam·I,    w_A = P_A⁻¹ h_A,    r_A = |y − X_A w_A|² + lam·|w_A|²,
    log p(y | A) = −½ [r_A/σ² + log det(P_A/lam) + i·log 2πσ²],

because y ~ N(0, τ²X_A X_Aᵀ + σ²I). Each P_A is eliminated by hand, s steps for all supports, prefixes and prompts at
once: many small matrices are what a library's batched Cholesky is slowest at. Moments have squared the inputs, so that
the elimination alone knows r_A up to eps·Σy² only, which is more than σ² where there is little noise. Hence r_A is
formed from the residuals y − X_A w_A, and a second elimination, of P_A with g = X_Aᵀ(y − X_A w_A) − lam·w_A, the
gradient that is left, takes away the error of the first: w_A += P_A⁻¹g, r_A −= g·P_A⁻¹g. Where P_A is ill-conditioned
(fewer examples than coordinates, inputs that repeat), X_A itself is factored, with √lam·I below it.

σ = 0 is the limit in which a support that leaves a residual has no weight, and the others have it ∝ exp(−|w_A|²/2τ²) /
√det(P_A/lam). Residuals are known up to eps·|y| and singular values of X_A up to eps·√tr(G); so σ² = eps^1.25·Σy² and,
apart from it, lam = eps·tr(G)/d stand for 0. With noise nothing has a floor but the penalty, which is not taken below
eps^1.5·tr(G)/d: noise of less than 1e-12 of τ·√(tr(G)/d) is taken for as much.
Function class: Garg, Tsipras, Liang, Valiant 2022, arXiv 2208.01066, §4, who compare with the Lasso for want of it.
"""

from dataclasses import dataclass
from math import comb, log, pi

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclab.errors import refuse
from iclab.limits import unsquarable
from iclab.predictors.mixture import EvidenceWeighted, Mixed, merged, weighed
from iclab.predictors.predictor import exclusive_cumsum, needs_noise
from iclab.predictors.prefixes import chunk

MOST_SUPPORTS = 20_000
CONDITION_LIMIT = 1e7  # of P_A, whose log-determinant is known up to eps times its condition
Solved = tuple[Float[Tensor, "s *shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]  # w_A, r_A and log det P_A


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
        problems = []
        if not 1 <= self.sparsity <= self.d:
            problems.append(f"sparsity must lie in 1..d = {self.d}, given {self.sparsity}")
        elif comb(self.d, self.sparsity) > MOST_SUPPORTS:
            problems.append(f"at most {MOST_SUPPORTS} supports are enumerated, given {comb(self.d, self.sparsity)}")
        if not 0 < self.prior < float("inf"):
            problems.append(f"prior must be a positive standard deviation, given {self.prior}")
        if not 0 <= self.noise < float("inf"):
            problems.append(f"noise must be a standard deviation (0 or more, finite), given {self.noise}")
        problems += unsquarable("prior", self.prior) + unsquarable("noise", self.noise)
        return problems or unsquarable("noise / prior", self.noise / self.prior)

    def log_density(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Returns log p(y_i | past, x_i). Raises ``ValueError`` without noise: interpolated labels have none."""
        needs_noise(self.noise)
        return super().log_density(xs, ys)

    def mixed(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Mixed:
        joint = torch.cat([xs, ys.unsqueeze(-1)], dim=-1)
        moments = exclusive_cumsum(joint.unsqueeze(-1) * joint.unsqueeze(-2))  # G, h and Σy² (k = d + 1)
        system = moments.permute(2, 3, 0, 1).contiguous()
        variance, lam = self._floored(system)
        system.diagonal()[..., : self.d] += lam.unsqueeze(-1)
        supports = torch.combinations(torch.arange(self.d, device=xs.device), self.sparsity)
        blocks = supports.split(chunk(self._per_support(xs.shape[1]) * xs.shape[1], xs.device))
        return merged(self._block(block, joint, system, variance, lam) for block in blocks)

    def numbers(self, n: int, d: int) -> int:
        return n * (3 * (d + 1) ** 2 + self._per_support(n) * comb(self.d, self.sparsity))

    def _per_support(self, n: int) -> int:
        return 3 * (self.sparsity + 1) ** 2 + 2 * n

    def _floored(self, system: Float[Tensor, "k k batch n"]) -> tuple[Tensor, Tensor]:
        """σ² and lam, both positive: what stands for 0 where there is no noise or next to none."""
        squares, limits = system.diagonal(), torch.finfo(system.dtype)
        size = squares[..., : self.d].mean(-1)
        if self.noise > 0:
            variance = torch.full_like(size, self.noise**2)
            return variance, (limits.eps**1.5 * size).clamp_min((self.noise / self.prior) ** 2)
        labels = limits.eps**1.25 * squares[..., self.d]
        return labels.clamp_min(limits.tiny), (limits.eps * size).clamp_min(limits.tiny)

    def _block(
        self,
        supports: Int[Tensor, "c s"],
        joint: Float[Tensor, "batch n k"],
        system: Float[Tensor, "k k batch n"],
        variance: Float[Tensor, "batch n"],
        lam: Float[Tensor, "batch n"],
    ) -> Mixed:
        w, r, log_det = self._solved(supports, joint, system, lam)
        evidence = self._log_evidence(w.square().sum(0), r, log_det, variance, lam)
        peak, rest, shares = weighed(evidence, 0)
        ws = torch.zeros_like(system[:-1, 0])
        for coordinates, each in zip(supports.mT, w, strict=True):
            ws.index_add_(0, coordinates, shares * each)
        return Mixed(peak, rest, ws.permute(1, 2, 0))

    def _solved(
        self,
        supports: Int[Tensor, "c s"],
        joint: Float[Tensor, "batch n k"],
        system: Float[Tensor, "k k batch n"],
        lam: Float[Tensor, "batch n"],
    ) -> Solved:
        """By elimination and refinement, or by orthogonal factors where P_A is ill-conditioned."""
        labels = torch.full_like(supports[:, :1], self.d)
        rows = torch.cat([supports, labels], dim=-1).mT
        small = system[rows.unsqueeze(1), rows.unsqueeze(0)]
        first, log_det = eliminated(small, self.sparsity)
        gradient, r = left(joint, supports, first[:-1, -1], lam)
        small[:-1, -1], small[-1, :-1], small[-1, -1] = gradient, gradient, r
        second, _ = eliminated(small, self.sparsity)
        w, r = first[:-1, -1] + second[:-1, -1], second[-1, -1]
        hard = ~(condition(small[:-1, :-1], log_det) <= CONDITION_LIMIT)  # also where it is not a number
        if hard.any():
            w[:, hard], r[hard], log_det[hard] = factored(joint, supports, hard, lam)
        return w, r, log_det

    def _log_evidence(
        self,
        length: Float[Tensor, "c batch n"],
        r: Float[Tensor, "c batch n"],
        log_det: Float[Tensor, "c batch n"],
        variance: Float[Tensor, "batch n"],
        lam: Float[Tensor, "batch n"],
    ) -> Float[Tensor, "c batch n"]:
        """log p(A) + log p(y | A), the residuals and |w_A|² each with their own variance."""
        seen = torch.arange(r.shape[-1], dtype=r.dtype, device=r.device)
        misfit = (r - lam * length).clamp_min(0) / variance + length / self.prior**2
        log_det = log_det - self.sparsity * lam.log()
        return -log(comb(self.d, self.sparsity)) - (misfit + log_det + seen * (2 * pi * variance).log()) / 2


def left(
    joint: Float[Tensor, "batch n k"],
    supports: Int[Tensor, "c s"],
    w: Float[Tensor, "s c batch n"],
    lam: Float[Tensor, "batch n"],
) -> tuple[Float[Tensor, "s c batch n"], Float[Tensor, "c batch n"]]:
    """Returns g = X_Aᵀ(y − X_A w) − lam·w and r = |y − X_A w|² + lam·|w|² of every prefix."""
    n = joint.shape[1]
    seen = torch.ones(n, n, dtype=torch.bool, device=joint.device).tril(-1)  # [i, j]: example j is seen at i
    chosen = joint[..., supports.mT].permute(2, 3, 0, 1)  # [s c batch n]
    residual = joint[..., -1].unsqueeze(1) - torch.einsum("acbi,acbj->cbij", w, chosen)
    residual = residual.where(seen, 0.0)
    gradient = torch.einsum("acbj,cbij->acbi", chosen, residual) - lam * w
    return gradient, residual.square().sum(-1) + lam * w.square().sum(0)


def condition(
    penalised: Float[Tensor, "s s c batch n"], log_det: Float[Tensor, "c batch n"]
) -> Float[Tensor, "c batch n"]:
    """Returns a bound of the condition of P: 4 (tr P/s)^s / det P."""
    s = len(penalised)
    return 4 * (s * penalised.diagonal().mean(-1).log() - log_det).exp()


def factored(
    joint: Float[Tensor, "batch n k"],
    supports: Int[Tensor, "c s"],
    hard: Bool[Tensor, "c batch n"],
    lam: Float[Tensor, "batch n"],
) -> tuple[Float[Tensor, "s hard"], Float[Tensor, " hard"], Float[Tensor, " hard"]]:
    """Returns w_A, r_A and log det P_A at the chosen places."""
    chosen, prompt, position = hard.nonzero(as_tuple=True)
    rows = int(position.max())  # no more are seen
    size = chunk(6 * (rows + supports.shape[1]) * (supports.shape[1] + 1), joint.device)
    parts = [
        least_squares(joint[b, :rows].take_along_dim(_columns(supports[c], joint), 2), i, lam[b, i])
        for c, b, i in zip(chosen.split(size), prompt.split(size), position.split(size), strict=True)
    ]
    w, r, log_det = (torch.cat(each) for each in zip(*parts, strict=True))
    return w.mT, r, log_det


def _columns(supports: Int[Tensor, "hard s"], joint: Float[Tensor, "batch n k"]) -> Int[Tensor, "hard 1 s_1"]:
    """Those of X_A and of y."""
    return torch.nn.functional.pad(supports, (0, 1), value=joint.shape[-1] - 1).unsqueeze(1)


def least_squares(
    rows: Float[Tensor, "hard n m"], position: Int[Tensor, " hard"], lam: Float[Tensor, " hard"]
) -> tuple[Float[Tensor, "hard s"], Float[Tensor, " hard"], Float[Tensor, " hard"]]:
    """Returns w, r and log det P of the rows seen, from R of [X y; √lam·I 0] = QR, which squares nothing. Slight rows
    are last: Householder's error is then small relative to each. A refinement with RᵀR for P takes away the error that
    residuals cause, which the condition magnifies twice."""
    s = rows.shape[2] - 1
    seen = torch.arange(rows.shape[1], device=rows.device) < position.unsqueeze(-1)
    rows = rows.where(seen.unsqueeze(-1), 0.0)
    below = lam.sqrt().view(-1, 1, 1) * torch.eye(s, s + 1, dtype=rows.dtype, device=rows.device)
    root = torch.linalg.qr(torch.cat([rows, below], dim=1), mode="r").R
    triangle, xs, w = root[:, :s, :s], rows[..., :s], root[:, :s, s:]
    w = torch.linalg.solve_triangular(triangle, w, upper=True)
    gradient = xs.mT @ (rows[..., s:] - xs @ w) - lam.view(-1, 1, 1) * w
    step = torch.linalg.solve_triangular(triangle.mT, gradient, upper=False)
    w = (w + torch.linalg.solve_triangular(triangle, step, upper=True)).squeeze(-1)
    log_det = 2 * triangle.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return w, root[:, s, s].square(), log_det


def eliminated(
    system: Float[Tensor, "m m c batch n"], s: int
) -> tuple[Float[Tensor, "m m c batch n"], Float[Tensor, "c batch n"]]:
    """Runs Gauss–Jordan elimination on [[P, h], [hᵀ, Σy²]] (m = s + 1); the last column becomes [w, r]. Also returns
    log det P."""
    log_det = torch.zeros_like(system[0, 0])
    for a in range(s):
        pivot = system[a, a].clone()
        row = system[a] / pivot
        system = system - system[:, a].unsqueeze(1) * row
        system[a] = row
        log_det += pivot.log()
    return system, log_det
