"""Word sensitivity: how far features move when a single token of an input does.

    S_φ(X) = sup_Δ ‖φ(X + e_i Δᵀ) − φ(X)‖ / ‖φ(X)‖,      ‖Δ‖ ≤ ‖x_i‖

for inputs whose tokens all have one length. Features of a network that sees n tokens at once have S = O(1/√n), whatever
the word; softmax attention over tokens of many dimensions has S = Ω(1), because one word can draw all attention.

The supremum is searched, so that what is found is a lower bound: from several random directions and from the gradient,
Δ is moved along the normalised gradient and put back on the sphere. Δ is as long as allowed: the difference is nearly
convex in it.

Source: Bombari, Mondelli 2024, arXiv 2402.02969, Def. 3.1 and Theorems 1 and 2; the search is this project's (there:
projected gradient ascent).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.scale import unit
from iclab.errors import refuse
from iclab.models import RandomFeatures

STARTS, STEPS, MOVE = 4, 30, 0.5  # directions to start from, steps of each, and the share of the gradient in a step


def word_sensitivity(
    model: RandomFeatures, xs: Float[Tensor, "batch tokens d"], rng: torch.Generator, word: int = 0
) -> Float[Tensor, " batch"]:
    """Returns the largest S found for each input, where token number `word` is changed."""
    refuse("word_sensitivity", [] if 0 <= word < xs.shape[1] else [f"word must lie in 0..{xs.shape[1] - 1}"])
    length = xs[:, word].norm(dim=-1, keepdim=True)
    best = torch.zeros(len(xs), dtype=xs.dtype, device=xs.device)
    for _ in range(STARTS):
        start = torch.randn(xs[:, word].shape, generator=rng, device=rng.device, dtype=xs.dtype)
        best = torch.maximum(best, _climbed(model, xs, word, length * unit(start)))
    return best


def sensitivity(
    model: RandomFeatures, xs: Float[Tensor, "batch tokens d"], delta: Float[Tensor, "batch d"], word: int = 0
) -> Float[Tensor, " batch"]:
    """Returns ‖φ(X + e_i Δᵀ) − φ(X)‖ / ‖φ(X)‖ of one Δ for each input."""
    changed = torch.cat([xs[:, :word], (xs[:, word] + delta).unsqueeze(1), xs[:, word + 1 :]], dim=1)
    before = model.features(xs)
    return (model.features(changed) - before).norm(dim=-1) / before.norm(dim=-1)


def _climbed(
    model: RandomFeatures, xs: Float[Tensor, "batch tokens d"], word: int, delta: Float[Tensor, "batch d"]
) -> Float[Tensor, " batch"]:
    """The largest S on the way up from Δ."""
    length, best = delta.norm(dim=-1, keepdim=True), torch.zeros(len(xs), dtype=xs.dtype, device=xs.device)
    for _ in range(STEPS):
        delta = delta.detach().requires_grad_()
        reached = sensitivity(model, xs, delta, word)
        (slope,) = torch.autograd.grad(reached.sum(), delta)
        best = torch.maximum(best, reached.detach())
        delta = length * unit(unit(delta.detach()) + MOVE * unit(slope))
    return best
