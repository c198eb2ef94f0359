"""Which slots of a list a channel of rank r can point at: the extreme points of its keys, and how wide their cones are.

A head that attends to the slot of largest score q·k_j, by queries q of r dimensions, can be led to slot j if and only
if k_j is an extreme point of the convex hull of the keys. The queries that lead there are its normal cone

    N_j = {q : q·(k_j − k_i) ≥ 0 for all i},        reach_j = the share of N_j of all directions in R^r.

    r = 1    the largest and the smallest key, ½ each: the ends of a list, if keys are monotone in the slot, and
             at most 2 of N slots whatever the keys, so that no more than a share 2/N of lists is answered
    r = 2    reach_j = max(0, (g_j − π)/2π), where g_j is the widest gap of angle between the differences k_j − k_i
    r > 2    by sampling directions (`sampled_reach`)

Whether there is such a query at all is exact in any dimension. The best one, of length 1, lifts slot j above all others
by its margin, and that is a distance:

    margin_j = max_{|q| ≤ 1} min_{i ≠ j} q·(k_j − k_i) = the distance of k_j from conv{k_i : i ≠ j}

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
    """Returns the share of directions that point at each slot, exactly; equal keys share theirs. Raises ``ValueError``
    beyond two dimensions, and for no keys at all.

    >>> reach(torch.tensor([[-1.0], [0.0], [2.0]]))  # with one number the slot in the middle is never the largest
    tensor([0.5000, 0.0000, 0.5000], dtype=torch.float64)
    """
    problems = [] if len(keys) else ["no keys"]
    refuse(
        "reach", problems + ([] if keys.shape[1] in (1, 2) else [f"exact for r = 1 and 2, given r = {keys.shape[1]}"])
    )
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
    """Returns the same from random directions, in any dimension; a share has a standard error of √(share (1 −
    share)/draws)."""
    q = torch.randn(draws, keys.shape[1], generator=rng, dtype=torch.float64)
    return torch.bincount((q @ keys.double().mT).argmax(1), minlength=len(keys)).double() / draws


def slot_margins(keys: Keys, tolerance: float = 1e-6, rounds: int = 20_000) -> Float[Tensor, " N"]:
    """Returns by how much the best query of length 1 lifts each slot above all others; 0 where no query does. A single
    slot has no others: ∞.

    The nearest point Σ_i w_i k_i of the hull is found by accelerated projected gradient. The query towards k_j from
    any point of the hull shows a margin that is certainly there, and its length is one that certainly is not exceeded.
    What is returned is the former, with the two within a share `tolerance` of each other, or 0 where the latter is
    below `tolerance` times the diameter of the keys; in between where `rounds` did not do.
    """
    N = len(keys)
    refuse("slot_margins", [] if N else ["no keys"])
    if N == 1:
        return torch.full((1,), torch.inf, dtype=torch.float64)
    apart = keys.double().unsqueeze(1) - keys.double()
    size = apart.norm(dim=2).max()
    if size == 0:
        return torch.zeros(N, dtype=torch.float64)
    others = ~torch.eye(N, dtype=torch.bool, device=keys.device)
    return _nearest(apart[others].view(N, N - 1, -1) / size, tolerance, rounds) * size


def _nearest(apart: Float[Tensor, "N n r"], tolerance: float, rounds: int) -> Float[Tensor, " N"]:
    """The margin that is shown by the nearest point to 0 of the hull of each slot's differences."""
    step = 1 / torch.linalg.matrix_norm(apart, 2).square().view(-1, 1)
    w = ahead = torch.full(apart.shape[:2], 1 / apart.shape[1], dtype=apart.dtype, device=apart.device)
    speed = torch.ones_like(step)
    for _ in range(rounds):
        shown, length = _bounds(w, apart)
        if ((shown >= (1 - tolerance) * length) | (length <= tolerance)).all():
            break
        slope = torch.einsum("jir,jr->ji", apart, torch.einsum("ji,jir->jr", ahead, apart))
        after = _to_simplex(ahead - step * slope)
        uphill = ((ahead - after) * (after - w)).sum(1, keepdim=True) > 0
        faster = (1 + (1 + 4 * speed.square()).sqrt()) / 2
        ahead = torch.where(uphill, after, after + (speed - 1) / faster * (after - w))
        w, speed = after, torch.where(uphill, 1, faster)
    shown, length = _bounds(w, apart)
    return torch.where(length <= tolerance, 0, shown.clamp(min=0))


def _bounds(w: Float[Tensor, "N n"], apart: Float[Tensor, "N n r"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """What the query of these weights shows of a margin, and what no query exceeds."""
    q = torch.einsum("ji,jir->jr", w, apart)
    length = q.norm(dim=1)
    return torch.einsum("jir,jr->ji", apart, q).amin(1) / length.clamp(min=1e-300), length


def _to_simplex(w: Float[Tensor, "N n"]) -> Float[Tensor, "N n"]:
    """The nearest weights that are not negative and add up to 1 (Held, Wolfe, Crowder 1974)."""
    down = w.sort(dim=1, descending=True).values
    excess = (down.cumsum(1) - 1) / torch.arange(1, w.shape[1] + 1, dtype=w.dtype, device=w.device)
    last = (down > excess).sum(1, keepdim=True) - 1
    return (w - excess.gather(1, last)).clamp(min=0)


def ceiling(reached: Float[Tensor, " N"]) -> float:
    """Returns the largest share of lists that can be answered, each slot being the answer equally often."""
    return (reached > 0).double().mean().item()


# ---- keys as curves of the slot ------------------------------------------------------------------------------------


def legendre(N: int, r: int) -> Float[Tensor, "N r"]:
    """Returns keys (P_1(t), …, P_r(t)) at N evenly spaced t from −1 to 1, minus their mean."""
    refuse("legendre", [f"{k} must be at least 1, given {v}" for k, v in {"N": N, "r": r}.items() if v < 1])
    t = torch.linspace(-1, 1, N, dtype=torch.float64)
    P = [torch.ones_like(t), t]
    for m in range(1, r):
        P.append(((2 * m + 1) * t * P[m] - m * P[m - 1]) / (m + 1))
    keys = torch.stack(P[1 : r + 1], 1)
    return keys - keys.mean(0)


def circle(N: int) -> Float[Tensor, "N 2"]:
    """Returns keys evenly spaced on the unit circle: every slot is reached equally."""
    angle = torch.arange(N, dtype=torch.float64) * (2 * pi / N)
    return torch.stack([angle.cos(), angle.sin()], 1)


def circle_attention(N: int, b: float) -> float:
    """Returns the weight of softmax on the slot that is meant, with keys on a circle and queries of length b."""
    return (1 / (b * (circle(N)[:, 0] - 1)).exp().sum()).item()


def circle_capacity(b: float, delta: float = 0.5) -> int:
    """Returns the most slots on a circle of which each can be given a weight of at least 1 − δ."""
    refuse("circle_capacity", [] if b >= 0 and 0 < delta < 1 else [f"needs b ≥ 0 and 0 < δ < 1, given {b}, {delta}"])
    N = 1
    while circle_attention(N + 1, b) >= 1 - delta:
        N += 1
    return N
