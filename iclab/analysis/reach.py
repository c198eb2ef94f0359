"""Which slots of a list a channel of rank r can point at: the extreme points of its keys, and how wide their cones are.

A head that attends to the slot of largest score q·k_j, by queries q of r dimensions, can be led to slot j if and only
if k_j is an extreme point of the convex hull of the keys. The queries that lead there are its normal cone

    N_j = {q : q·(k_j − k_i) ≥ 0 for all i},        reach_j = the share of N_j of all directions in R^r.

    r = 1    the largest and the smallest key, ½ each: the ends of a list, if keys are monotone in the slot, and
             at most 2 of N slots whatever the keys, so that no more than a share 2/N of lists is answered
    r = 2    reach_j = max(0, (g_j − π)/2π), where g_j is the widest gap of angle between the differences k_j − k_i
    r > 2    by sampling directions (`sampled_reach`)

Softmax needs more than a largest score. With queries of length b along a unit key and all unit keys at angles of 2πi/N
(`circle`), the slot has the weight 1/Σ_i exp(b (cos(2πi/N) − 1)); its neighbours are only 2π²/N² below, so that the
largest N at a weight 1 − δ grows like √b.

Keys that are a smooth curve of the slot, such as `legendre`, let the two ends keep a share near 0.6 of all directions
however long the list is, while the cones of slots in between shrink: a preference for the first and the last, and
crowding, of a channel that nobody trained.

Source: this account of Fig. 5 of Merullo et al. 2024 (arXiv 2406.09519) is this project's, not the paper's. Normal
cones: Rockafellar 1970, Convex Analysis, §2 and §18.
"""

from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse

Keys = Float[Tensor, "N r"]


def reach(keys: Float[Tensor, "N r"]) -> Float[Tensor, " N"]:
    """The share of directions that point at each slot, exactly; equal keys share theirs. Raises ``ValueError`` beyond
    two dimensions, and for no keys at all."""
    found = [] if len(keys) else ["no keys"]
    refuse("reach", found + ([] if keys.shape[1] in (1, 2) else [f"exact for r = 1 and 2, given r = {keys.shape[1]}"]))
    different, copies = _distinct(keys.double())
    if len(different) == 1:
        shares = torch.ones(1, dtype=torch.float64)
    else:
        shares = _ends(different) if keys.shape[1] == 1 else _cones(different)
    counts = torch.bincount(copies)
    return (shares / counts)[copies]


def _distinct(keys: Float[Tensor, "N r"]) -> tuple[Float[Tensor, "n r"], Tensor]:
    different, copies = torch.unique(keys, dim=0, return_inverse=True)
    return different, copies


def _ends(keys: Float[Tensor, "n 1"]) -> Float[Tensor, " n"]:
    ends = (keys == keys.max()) | (keys == keys.min())
    return ends.squeeze(1).double() / 2


def _cones(keys: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    n = len(keys)
    apart = keys.unsqueeze(1) - keys  # [j i]
    others = ~torch.eye(n, dtype=torch.bool)
    angles = torch.atan2(apart[..., 1], apart[..., 0])[others].view(n, n - 1).sort(1).values
    gaps = torch.cat([angles.diff(dim=1), angles[:, :1] + 2 * pi - angles[:, -1:]], 1)
    return ((gaps.max(1).values - pi) / (2 * pi)).clamp(min=0)


def sampled_reach(keys: Float[Tensor, "N r"], rng: torch.Generator, draws: int = 100_000) -> Float[Tensor, " N"]:
    """The same from random directions, in any dimension; a share has a standard error of √(share (1 − share)/draws)."""
    q = torch.randn(draws, keys.shape[1], generator=rng, dtype=torch.float64)
    return torch.bincount((q @ keys.double().mT).argmax(1), minlength=len(keys)).double() / draws


def ceiling(reached: Float[Tensor, " N"]) -> float:
    """The largest share of lists that can be answered, each slot being the answer equally often."""
    return (reached > 0).double().mean().item()


# ---- keys as curves of the slot ------------------------------------------------------------------------------------


def legendre(N: int, r: int) -> Float[Tensor, "N r"]:
    """Keys (P_1(t), …, P_r(t)) at N evenly spaced t from −1 to 1, minus their mean."""
    refuse("legendre", [f"{k} must be at least 1, given {v}" for k, v in {"N": N, "r": r}.items() if v < 1])
    t = torch.linspace(-1, 1, N, dtype=torch.float64)
    P = [torch.ones_like(t), t]
    for m in range(1, r):
        P.append(((2 * m + 1) * t * P[m] - m * P[m - 1]) / (m + 1))
    keys = torch.stack(P[1 : r + 1], 1)
    return keys - keys.mean(0)


def circle(N: int) -> Float[Tensor, "N 2"]:
    """Keys evenly spaced on the unit circle: every slot is reached equally."""
    angle = torch.arange(N, dtype=torch.float64) * (2 * pi / N)
    return torch.stack([angle.cos(), angle.sin()], 1)


def circle_attention(N: int, b: float) -> float:
    """The weight of softmax on the slot that is meant, with keys on a circle and queries of length b."""
    return (1 / (b * (circle(N)[:, 0] - 1)).exp().sum()).item()


def circle_capacity(b: float, delta: float = 0.5) -> int:
    """The most slots on a circle of which each can be given a weight of at least 1 − δ."""
    refuse("circle_capacity", [] if b >= 0 and 0 < delta < 1 else [f"needs b ≥ 0 and 0 < δ < 1, given {b}, {delta}"])
    N = 1
    while circle_attention(N + 1, b) >= 1 - delta:
        N += 1
    return N
