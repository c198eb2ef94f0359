"""Scale-free statistics: normalised lengths, and whether a value exceeds rounding.

Law: multiplying all numbers by the same s > 0 changes neither. A bound on how small a number may be is therefore a
share of the size of the others, and never a number by itself.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ROUNDING = 1e-10  # of the size: less is rounding, that of float64 after the sums and solutions that lead to a target


def unit(v: Float[Tensor, "*batch d"], dim: int = -1) -> Float[Tensor, "*batch d"]:
    """Returns v / ‖v‖; zero where v is."""
    largest = v.detach().abs().amax(dim, keepdim=True)
    v = v / torch.where(largest > 0, largest, 1.0)  # so that squares neither vanish nor overflow
    return v / torch.where(largest > 0, v.norm(dim=dim, keepdim=True), 1.0)


def varies(target: Float[Tensor, "batch places m"]) -> Bool[Tensor, " places"]:
    """Returns where vectors vary by more than rounding, of numbers as large as they are over all places (root mean
    square)."""
    size = target.square().sum(-1).nanmean()
    return target.var(0, correction=0).sum(-1) > ROUNDING**2 * size


def mean_variance(
    features: Float[Tensor, "layers batch *places D"],
) -> Float[Tensor, "layers *places"]:
    """Returns the mean variance of a channel, and no less than that of rounding: by this much features may be shifted
    where they do not vary at all. It is 1 where all are zero."""
    features = features.double()
    size = features.square().mean((1, -1))
    variance = torch.maximum(features.var(1).mean(-1), ROUNDING**2 * size)
    return torch.where(size > 0, variance, 1.0)
