"""Prefixes: what the first i examples amount to, for every i at once. X and y are their inputs and labels:

G_i = XᵀX = Σ_{j<i} x_j x_jᵀ        h_i = Xᵀy = Σ_{j<i} y_j x_j        w_i = argmin_w ‖Xw − y‖² + lam‖w‖²
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclab.predictors.minimum_norm import minimum_norm
from iclab.predictors.predictor import exclusive_cumsum

BUDGET = 2**20  # float64 numbers that work in chunks holds at once: 8 MB, beyond which a CPU is up to 5 times slower


def moments(
    xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]
) -> tuple[Float[Tensor, "batch n d d"], Float[Tensor, "batch n d"]]:
    """Returns G_i and h_i."""
    return exclusive_cumsum(xs.unsqueeze(-1) * xs.unsqueeze(-2)), exclusive_cumsum(xs * ys.unsqueeze(-1))


def chunk(numbers: int, device: torch.device) -> int:
    """Returns how many things fit into the budget that need that many numbers each: one at least. Devices other than a
    CPU take 32 times as many (256 MB), as small chunks would leave them idle."""
    return max(1, BUDGET * (1 if device.type == "cpu" else 32) // max(1, numbers))


def in_chunks(
    answer: Callable[[Tensor, Tensor], Tensor], xs: Tensor, ys: Tensor, numbers: int
) -> Float[Tensor, "batch ..."]:
    """Computes answer(xs, ys) a few prompts at a time, where one prompt needs that many float64 numbers."""
    size = chunk(numbers, xs.device)
    return torch.cat([answer(x, y) for x, y in zip(xs.split(size), ys.split(size), strict=True)])


def solve(
    xs: Float[Tensor, "batch n d"],
    ys: Float[Tensor, "batch n"],
    chosen: Bool[Tensor, "batch n"],
    lam: float = 0.0,
) -> Float[Tensor, "chosen d"]:
    """Returns w_i at the chosen positions, each by its own singular values: slow and right whatever the rank."""
    return solve_each(xs, ys.unsqueeze(1).expand(-1, ys.shape[1], -1), chosen, lam)


def solve_each(
    xs: Float[Tensor, "batch n d"],
    labels: Float[Tensor, "batch n n"],
    chosen: Bool[Tensor, "batch n"],
    lam: float,
) -> Float[Tensor, "chosen d"]:
    """Returns the same where position i has labels of its own, labels[:, i].

    Rows that the prefix has not seen are zeroed, which leaves the minimum-norm solution as it is.
    """
    prompt, position = chosen.nonzero(as_tuple=True)
    size = chunk(3 * xs.shape[2] * sum(xs.shape[1:]), xs.device)
    parts = [
        minimum_norm(seen(xs[b], i), seen(labels[b, i], i).unsqueeze(-1), lam).squeeze(-1)
        for b, i in zip(prompt.split(size), position.split(size), strict=True)
    ]
    return torch.cat(parts)


def seen(terms: Float[Tensor, "chosen n ..."], position: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen n ..."]:
    """Sets later positions to zero, by selection and not by multiplication, as 0 · ∞ is NaN."""
    held = torch.arange(terms.shape[1], device=terms.device) < position.unsqueeze(-1)
    return terms.where(held.view(*held.shape, *[1] * (terms.ndim - 2)), 0.0)
