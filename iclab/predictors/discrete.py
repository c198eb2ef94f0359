"""dMMSE: the posterior mean when the weights are one of a finite pool w_1, ..., w_M, each as likely.

    w_i = Σ_m p_im w_m,    p_im ∝ exp(−r_im / 2σ²),    r_im = Σ_{j<i} (y_j − w_m·x_j)²

Everything stays in the log domain; r is an exclusive prefix sum, so no label is read twice and y_i is not read at i.
The pool is worked off in blocks that are merged by their evidence, so memory does not grow with M.

σ = 0 is the limit: the mean of the members with the least r. A sum r is known up to eps·s², s² = Σ_{j<i} (y_j² +
|x_j|² max_m|w_m|²), so two members whose r differ by less cannot be distinguished, and σ² = eps·s² stands for 0: there
such members share the weight and a member that is worse by 1e-6·s² has a weight of exp(−2e9). Noise has no floor,
however slight: r is a sum of squares, and of a member that fits it is known as well as the labels are.

Source: Raventós, Paul, Chen, Ganguli 2023, arXiv 2306.15063, §2.2.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.limits import unsquarable
from iclab.predictors.mixture import EvidenceWeighted, Mixed, merged, pooled
from iclab.predictors.predictor import exclusive_cumsum, needs_noise
from iclab.predictors.prefixes import chunk

COPIES = 6  # of r, on the way to the shares


@dataclass(frozen=True, eq=False)
class DiscreteMMSE(EvidenceWeighted):
    """The posterior mean for w uniform on the rows of `pool` and label noise of standard deviation `noise`.

    >>> import torch
    >>> pool = torch.tensor([[1.0], [-1.0]])
    >>> xs, ys = torch.ones(1, 3, 1), torch.ones(1, 3)
    >>> DiscreteMMSE(pool, noise=1.0)(xs, ys).round(decimals=3)  # the first member becomes likelier with each example
    tensor([[0.0000, 0.7620, 0.9640]])
    """

    pool: Float[Tensor, "size d"]
    noise: float

    def __post_init__(self) -> None:
        problems = [] if self.pool.ndim == 2 and len(self.pool) else ["pool must be size × d with a size of 1 or more"]
        if not 0 <= self.noise < float("inf"):
            problems.append(f"noise must be a standard deviation (0 or more, finite), given {self.noise}")
        refuse("DiscreteMMSE", problems + unsquarable("noise", self.noise))

    def log_density(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Returns log p(y_i | past, x_i). Raises ``ValueError`` without noise: such labels have no density."""
        needs_noise(self.noise)
        return super().log_density(xs, ys)

    def mixed(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Mixed:
        pool, variance = self.pool.to(xs), self._variance(xs, ys)
        seen = torch.arange(xs.shape[1], dtype=xs.dtype, device=xs.device)
        normaliser = -log(len(pool)) - seen * (2 * pi * variance).log() / 2
        blocks = pool.split(chunk(COPIES * xs.shape[1], xs.device))
        return merged(self._block(block, xs, ys, variance, normaliser) for block in blocks)

    def numbers(self, n: int, d: int) -> int:
        return COPIES * n * len(self.pool)

    def _block(
        self,
        pool: Float[Tensor, "block d"],
        xs: Float[Tensor, "batch n d"],
        ys: Float[Tensor, "batch n"],
        variance: Float[Tensor, "batch n"],
        normaliser: Float[Tensor, "batch n"],
    ) -> Mixed:
        r = exclusive_cumsum((ys.unsqueeze(-1) - xs @ pool.mT).square())
        return pooled(normaliser.unsqueeze(-1) - r / (2 * variance.unsqueeze(-1)), pool)

    def _variance(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """σ²; where that is 0 eps·s², positive also where nothing but zeros was seen."""
        if self.noise > 0:
            return torch.full_like(ys, self.noise**2)
        largest = self.pool.to(xs).square().sum(-1).max()
        scale = exclusive_cumsum(ys.square() + xs.square().sum(-1) * largest)
        limits = torch.finfo(xs.dtype)
        return (limits.eps * scale).clamp_min(limits.tiny)
