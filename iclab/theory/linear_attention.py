"""The risk of linear attention for given Γ, exactly and at finite dimension.

Inputs x ~ N(0, I/d), labels y = w·x + ε with ε ~ N(0, ρ), contexts of ℓ examples, ŷ = x_qᵀ Γ g, g = [a, b] with

    a = d/ℓ Σ y_j x_j,      b = 1/ℓ Σ y_j²

Averaged over the query, the risk is

    ρ + 1/d E|w − Γ g|² = ρ + 1/d (E|w|² − 2 tr Γ E[g wᵀ] + tr Γ E[g gᵀ] Γᵀ)

Given w, and with v = |w|²/d + ρ the variance of a label,

    E a = w,      E b = v,      E[a b] = v (1 + 2/ℓ) w,      E b² = v² (1 + 2/ℓ)
    E[a aᵀ] = (1 + 1/ℓ) w wᵀ + v d/ℓ · I

which is averaged over the w of a pool, or over w ~ N(0, I):  E v² = (1 + ρ)² + 2/d,  and all odd moments vanish.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """E|w|², E[g wᵀ] and E[g gᵀ], float64."""

    power: float
    cross: Float[Tensor, "d_plus_1 d"]
    second: Float[Tensor, "d_plus_1 d_plus_1"]


def pool_moments(ws: Float[Tensor, "k d"], context: int, rho: float) -> Moments:
    """Returns the moments for w uniform among the rows of `ws`."""
    (k, d), more = ws.shape, 1 + 2 / context
    v = ws.square().sum(-1) / d + rho
    tilted, eye = (v @ ws / k).unsqueeze(-1), torch.eye(d).to(ws)
    inner = (1 + 1 / context) * ws.mT @ ws / k + v.mean() * d / context * eye
    square = more * v.square().mean().reshape(1, 1)
    second = torch.cat([torch.cat([inner, more * tilted], 1), torch.cat([more * tilted.mT, square], 1)])
    return Moments(ws.square().sum().item() / k, torch.cat([ws.mT @ ws / k, tilted.mT]), second)


def normal_moments(d: int, context: int, rho: float) -> Moments:
    """Returns the moments for w ~ N(0, I)."""
    eye = torch.eye(d, dtype=torch.float64)
    inner = torch.full((d,), 1 + 1 / context + (1 + rho) * d / context, dtype=torch.float64)
    square = torch.tensor([(1 + 2 / context) * ((1 + rho) ** 2 + 2 / d)], dtype=torch.float64)
    return Moments(float(d), torch.cat([eye, torch.zeros(1, d).double()]), torch.cat([inner, square]).diag())


def exact_risk(gamma: Float[Tensor, "d d_plus_1"], moments: Moments, rho: float) -> float:
    """Returns E(ŷ − y)² at the last position against noisy labels, `rho` = noise²."""
    fit = (gamma @ moments.second * gamma).sum() - 2 * (gamma * moments.cross.mT).sum()
    return rho + (moments.power + fit.item()) / len(gamma)
