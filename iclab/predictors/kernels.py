"""Kernels of attention and of a network with infinitely many frozen heads, and kernel ridge regression.

On unit tokens, with u, v standard normal of correlation r,

    κ(r)      = E[u₊ v₊] = (√(1 − r²) + r (π/2 + asin r)) / 2π = Σ_k μ_k r^k
    κ(a,b,r)  = E[(a + u)₊ (b + v)₊] = Σ_k c_k(a) c_k(b) r^k / k!,       κ(0,0,r) = κ(r)

    RFA       K(X,X') = 1/N² Σ_ij (1 + ⟨x_i,x'_j⟩) κ(r_ij),    r_ij = (1 + ⟨x_0,x'_0⟩)(1 + ⟨x_i,x'_j⟩)/4
    BRFA      K(X,X') = 1/N² Σ_ij (1 + ⟨x_i,x'_j⟩) κ(s⟨x_0,x_i⟩, s⟨x'_0,x'_j⟩, r_ij),     s the bias
    RFMLP     K(X,X') = κ((1 + Σ_{i=0..N} ⟨x_i,x'_i⟩) / (N + 2)).

With p and Φ the density and distribution function of a standard normal, and G(a) = a Φ(a) + p(a), the coefficients are
c_0 = G, c_1 = Φ and c_k = (−1)^k He_{k−2} p. From ∂²κ/∂r² = p₂(a,b;r), the bivariate normal density, and r = sin θ,

    κ(a,b,r) = G(a)G(b) + r Φ(a)Φ(b) + 1/2π ∫₀^{asin r} (r − sin θ) exp(−(a² + b² − 2ab sin θ) / 2cos²θ) dθ,

which subtracts nothing where r is near 1. At r = 1 it is (ab + 1) Φ(min(a,b)) + max(a,b) p(min(a,b)).

Sources: Fu, Guo, Bai, Mei 2023, arXiv 2307.11353 (the models); κ(r): Cho, Saul 2009, the arc-cosine kernel of order 1;
κ(a,b,r) from Plackett's identity and Mehler's formula.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isqrt, pi

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.quadrature import legendre

NODES = 48  # of the integral; with 24 its error is 1e-8 at r = 1
TERMS = 26  # of the series, whose rest is less than 1e-9 up to NEAR
NEAR = 0.6  # correlations beyond which the series gives way to the integral
BLOCK = 2**18  # pairs of keys that are worked on at once: 2 MB

# ---- pairs of normal variables -------------------------------------------------------------------------------------


def arc_cosine(r: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns κ(r) = E[u₊ v₊]; r is clipped to [−1, 1], beyond which rounding may have led it."""
    r = r.clamp(-1, 1)
    return ((1 - r * r).sqrt() + r * (pi / 2 + r.asin())) / (2 * pi)


def arc_cosine_coefficients(count: int) -> Float[Tensor, " count"]:
    """Returns μ_0, ..., μ_{count−1}: 1/2π, 1/4, and C(2j, j) 4^{−j} / (2π (2j+1)(2j+2)) at k = 2j + 2, 0 at odd
    k ≥ 3."""
    j = torch.arange((max(count, 2) - 1) // 2, dtype=torch.float64)
    central = torch.nn.functional.pad(((2 * j + 1) / (2 * j + 2)).cumprod(0), (1, 0), value=1.0)[:-1]
    coefficients = torch.zeros(max(count, 2), dtype=torch.float64)
    coefficients[0], coefficients[1] = 1 / (2 * pi), 1 / 4
    coefficients[2 : 2 * len(j) + 1 : 2] = central / (2 * pi * (2 * j + 1) * (2 * j + 2))
    return coefficients[:count]


def density(a: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns p(a) of a standard normal."""
    return (-a * a / 2).exp() / (2 * pi) ** 0.5


def mean_relu(a: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns G(a) = E[(a + u)₊] = a Φ(a) + p(a)."""
    return a * torch.special.ndtr(a) + density(a)


def mehler(a: Float[Tensor, "*shape"], count: int) -> Float[Tensor, "count *shape"]:
    """Returns c_k(a) / √k!, k < count: the coefficients of (a + u)₊ in normalised Hermite polynomials of u."""
    earlier, hermite, coefficients = torch.zeros_like(a), density(a), [mean_relu(a), torch.special.ndtr(a)]
    for k in range(2, count):  # hermite = (−1)^k He_{k−2}(a) p(a) / √(k−2)!
        coefficients.append(hermite / (k * (k - 1)) ** 0.5)
        earlier, hermite = hermite, -(a * hermite + (k - 2) ** 0.5 * earlier) / (k - 1) ** 0.5
    return torch.stack(coefficients[:count])


def biased_arc_cosine(
    a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], r: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Returns κ(a,b,r) = E[(a + u)₊ (b + v)₊], by the integral; exact at r = 1."""
    r = r.clamp(-1, 1)
    nodes, weights = (tensor.to(r) for tensor in legendre(NODES))
    sine = (r.asin().unsqueeze(-1) * (1 + nodes) / 2).sin()
    cosine2 = (1 - sine * sine).clamp(min=torch.finfo(r.dtype).tiny)
    exponent = (a * a + b * b).unsqueeze(-1) - 2 * (a * b).unsqueeze(-1) * sine
    terms = (r.unsqueeze(-1) - sine) * (-exponent / (2 * cosine2)).exp()
    integral = r.asin() * (terms @ weights) / (2 * pi)
    inside = mean_relu(a) * mean_relu(b) + r * torch.special.ndtr(a) * torch.special.ndtr(b) + integral
    least, most = torch.minimum(a, b), torch.maximum(a, b)
    end = (a * b + 1) * torch.special.ndtr(least) + most * density(least)
    return torch.where(r < 1, inside, end)


# ---- kernels -------------------------------------------------------------------------------------------------------


class Kernel(ABC):
    """K(X, X') of inputs with a query and N keys, all of them unit vectors, in float64.

    Law (positivity): K(X, X') is symmetric, and its Gram matrices have no eigenvalue below 0 but for rounding.
    """

    def __call__(
        self, xs: Float[Tensor, "n tokens d"], others: Float[Tensor, "m tokens d"] | None = None
    ) -> Float[Tensor, "n m"]:
        """Between inputs, or of inputs with themselves. Raises ``ValueError`` where tokens are no unit vectors."""
        xs = self._unit(xs)
        return self.between(xs, xs if others is None else self._unit(others), others is None)

    def _unit(self, xs: Float[Tensor, "n tokens d"]) -> Float[Tensor, "n tokens d"]:
        """The tokens in float64, and of length 1 there too: correlations of 1 must be 1 to the last digit."""
        length = xs.double().norm(dim=-1, keepdim=True)
        off = (length - 1).abs().max().item()
        refuse(type(self).__name__, [] if off < 1e-4 else [f"tokens must be unit vectors, and one is {off:.2g} off"])
        return xs.double() / length

    @abstractmethod
    def between(
        self, xs: Float[Tensor, "n tokens d"], others: Float[Tensor, "m tokens d"], symmetric: bool
    ) -> Float[Tensor, "n m"]:
        """Returns K between unit tokens; where `symmetric`, both are the same."""


@dataclass(frozen=True)
class NetworkKernel(Kernel):
    """RFMLP: that of infinitely many frozen neurons which see all tokens at once."""

    def between(
        self, xs: Float[Tensor, "n tokens d"], others: Float[Tensor, "m tokens d"], symmetric: bool
    ) -> Float[Tensor, "n m"]:
        return arc_cosine((1 + xs.flatten(1) @ others.flatten(1).mT) / (xs.shape[1] + 1))


@dataclass(frozen=True)
class AttentionKernel(Kernel):
    """RFA, and BRFA where `bias` is not 0: that of infinitely many frozen attention heads. Law (key order): permuting
    the keys of an input leaves it as it is.

    It is a mean over n² N² pairs of keys, taken a block at a time, above the diagonal only where it is symmetric.
    """

    bias: float = 0.0

    def between(
        self, xs: Float[Tensor, "n tokens d"], others: Float[Tensor, "m tokens d"], symmetric: bool
    ) -> Float[Tensor, "n m"]:
        step = max(1, isqrt(BLOCK) // (xs.shape[1] - 1))
        left, right = self._blocks(xs, step), self._blocks(others, step)
        kernel = torch.zeros(len(xs), len(others), dtype=xs.dtype, device=xs.device)
        for i, one in enumerate(left):
            for j, other in enumerate(right[i:] if symmetric else right, i if symmetric else 0):
                block = self._mean(one, other)
                kernel[i * step :, j * step :][: block.shape[0], : block.shape[1]] = block
        return kernel.triu() + kernel.triu(1).mT if symmetric else kernel

    def _blocks(self, xs: Float[Tensor, "n tokens d"], step: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Queries [b d], keys [b·N d] and the means of their scores [b·N], some inputs at a time."""
        queries, keys = xs[:, 0], xs[:, 1:]
        means = self.bias * (queries.unsqueeze(1) * keys).sum(-1)
        pieces = zip(queries.split(step), keys.split(step), means.split(step), strict=True)
        return [(q, k.flatten(0, 1), m.flatten()) for q, k, m in pieces]

    def _mean(self, one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]) -> Float[Tensor, "n m"]:
        """K between two blocks of inputs."""
        n, m = len(one[0]), len(other[0])
        pairs = (1 + one[1] @ other[1].mT).unflatten(1, (m, -1)).unflatten(0, (n, -1))  # [n N m N]
        r = pairs * ((1 + one[0] @ other[0].mT) / 4).view(n, 1, m, 1)
        moments = self._moments(one[2], other[2], r.flatten(2).flatten(0, 1)).view_as(pairs)
        return moments.mul_(pairs).mean((1, 3))

    def _moments(self, a: Float[Tensor, " n"], b: Float[Tensor, " m"], r: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """κ(a_i, b_j, r_ij): by the series, and by the integral where r is near 1."""
        if self.bias == 0:
            return arc_cosine(r)
        total = torch.zeros_like(r)
        for left, right in zip(mehler(a, TERMS).flip(0), mehler(b, TERMS).flip(0), strict=True):
            total.mul_(r).addcmul_(left.unsqueeze(1), right.unsqueeze(0))
        i, j = (r > NEAR).nonzero(as_tuple=True)
        total[i, j] = biased_arc_cosine(a[i], b[j], r[i, j])
        return total
