"""What a head writes, set by hand along some of its directions, and what that is worth on prompts not chosen from.

A direction v that a head can write has an output y of the head, before W_O, that writes it and nothing else: y W_O = v.
For component i of W_OV it is y = u_iᵀ W_V / s_i. So a head may be made to

    scale    z → z + (c − 1)(z W_O·v) y        write c times of what it writes along v
    add      z → z + α y                       write α v on top
    replace  z → α y                           write α v and nothing else, whatever it attends to

at all tokens or at one of each prompt. α is best counted in standard deviations of what the head writes along v by
itself (`projections`). The control is a random direction of the same head: a unit vector of the span of its components.

A point is one α for each direction. `held_out` chooses points on some prompts and measures them on others:

    by index    for each index of the answer the point that was best for it. This uses the answer's index on the
                measured prompts too: it shows what a channel can address, and is not a method of prediction.
    single      the one point that was best for all: what can be had without knowing the answer
    random      the mean over all points

Source: Merullo et al. 2024 (arXiv 2406.09519), §4.1 and §5.2. The paper does not say whether its points were chosen on
the prompts on which they were measured; the controls by a single and by a random point are this project's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclab.analysis.heads.circuits import ov
from iclab.analysis.heads.patching import Head, missing
from iclab.analysis.risk import Estimate, estimate
from iclab.errors import refuse
from iclab.models import TokenTransformer
from iclab.models.activations import Replacement


@dataclass(frozen=True)
class Direction:
    """A unit vector v that a head writes when its output is y."""

    head: Head
    y: Float[Tensor, " c"]
    v: Float[Tensor, " d_model"]


@torch.no_grad()
def component(model: TokenTransformer, head: Head, index: int) -> Direction:
    """Returns the direction of a component of W_OV, in the order of singular values."""
    outputs = _outputs(model, head)
    refuse("component", [] if 0 <= index < len(outputs) else [f"no component {index} of {len(outputs)}"])
    return _direction(model, head, outputs[index])


@torch.no_grad()
def random_direction(model: TokenTransformer, head: Head, rng: torch.Generator) -> Direction:
    """Draws a direction evenly from the unit sphere of all that a head can write."""
    outputs = _outputs(model, head)
    return _direction(model, head, torch.randn(len(outputs), generator=rng).to(outputs) @ outputs)


def _outputs(model: TokenTransformer, head: Head) -> Float[Tensor, "e c"]:
    """The y of all components, without those of which the singular value is but rounding."""
    refuse("directions", missing(model, head))
    components = ov(model)[head].svd()
    kept = components.directions().any(-2)
    return components.U[:, kept].mT @ model.W_V[head].double() / components.S[kept].unsqueeze(-1)


def _direction(model: TokenTransformer, head: Head, y: Float[Tensor, " c"]) -> Direction:
    v = y @ model.W_O[head].double()
    like = model.W_O
    return Direction(head, (y / v.norm()).to(like), (v / v.norm()).to(like))


@torch.no_grad()
def projections(model: TokenTransformer, tokens: Int[Tensor, "b t"], direction: Direction) -> Float[Tensor, "b t"]:
    """Returns what the head writes along v, by itself."""
    layer, head = direction.head
    z = model.read(tokens, f"blocks.{layer}.attn.z")[f"blocks.{layer}.attn.z"]
    return z[:, head] @ model.W_O[direction.head] @ direction.v


# ---- writing -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def scale(model: TokenTransformer, direction: Direction, factor: float) -> dict[str, Replacement]:
    """Returns the edit by which a head writes a multiple of its output along v."""
    W_O = model.W_O[direction.head]
    turn = torch.eye(len(W_O)).to(W_O) + (factor - 1) * torch.outer(W_O @ direction.v, direction.y)
    return {_name(direction.head[0]): _edited(direction.head[1], lambda z: z @ turn, None)}


def write(
    directions: Sequence[Direction],
    alphas: Sequence[float],
    how: Literal["add", "replace"] = "replace",
    at: Int[Tensor, " b"] | None = None,
) -> dict[str, Replacement]:
    """Returns the edits by which heads write α v, in addition to their output or instead of it; everywhere, or at token
    `at` of each prompt. Several directions of one head are added up."""
    refuse("write", [] if len(directions) == len(alphas) else [f"{len(directions)} directions, {len(alphas)} alphas"])
    pairs = sorted(zip(directions, alphas, strict=True), key=lambda pair: pair[0].head)
    replacements: dict[str, Replacement] = {}
    for (layer, head), same in groupby(pairs, key=lambda pair: pair[0].head):
        y = torch.stack([alpha * direction.y for direction, alpha in same]).sum(0)
        edit = _edited(head, lambda z, y=y: (z + y) if how == "add" else y.expand_as(z), at)
        replacements[_name(layer)] = _after(replacements.get(_name(layer)), edit)
    return replacements


def _name(layer: int) -> str:
    return f"blocks.{layer}.attn.z"


def _edited(head: int, edit: Callable[[Tensor], Tensor], at: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The edit of one head's output, at all tokens or at one of each prompt."""

    def edited(z: Float[Tensor, "b a t c"]) -> Float[Tensor, "b a t c"]:
        new = z.clone()
        if at is None:
            new[:, head] = edit(z[:, head])
        else:
            prompts = torch.arange(len(z), device=z.device)
            new[prompts, head, at] = edit(z[prompts, head, at])
        return new

    return edited


def _after(first: Replacement | None, then: Callable[[Tensor], Tensor]) -> Replacement:
    return (lambda z: then(first(z))) if callable(first) else then


# ---- traversing ----------------------------------------------------------------------------------------------------


def grid(spreads: Sequence[float], points: int = 9, widest: float = 4.0) -> Float[Tensor, "p k"]:
    """Returns all combinations of evenly spaced α, from −widest to widest times the spread of each direction."""
    steps = torch.linspace(-widest, widest, points)
    return torch.cartesian_prod(*(spread * steps for spread in spreads)).reshape(-1, len(spreads))


def traverse(
    watch: Callable[[Mapping[str, Replacement]], Tensor],
    directions: Sequence[Direction],
    points: Float[Tensor, "p k"],
    how: Literal["add", "replace"] = "replace",
    at: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "p *watched"] | Int[Tensor, "p *watched"] | Bool[Tensor, "p *watched"]:
    """Returns what `watch` sees at every point: a function of replacements, such as which slot a mover attends to, or
    whether the answer is right: ``lambda replace: model.replaced(tokens, replace)[:, -1].argmax(-1) == answers``."""
    return torch.stack([watch(write(directions, point, how, at)) for point in points.tolist()])


def held_out(
    chosen_on: Float[Tensor, "p b"],
    index: Int[Tensor, " b"],
    measured: Float[Tensor, "p c"],
    measured_index: Int[Tensor, " c"],
) -> dict[str, Estimate]:
    """Measures success with points chosen on some prompts, on others: "by_index", "single" and "random", each with its
    error.

    `chosen_on` and `measured` are the success at every point on every prompt (1: right), `index` and `measured_index`
    the index of the answers. Raises ``ValueError`` for an index on which no point was chosen.
    """
    new = sorted(set(measured_index.tolist()) - set(index.tolist()))
    refuse("held_out", [f"no point was chosen for index {k}" for k in new])
    belongs = F.one_hot(index, int(index.max()) + 1).to(chosen_on)  # [b k]
    best = (chosen_on @ belongs / belongs.sum(0).clamp(min=1)).argmax(0)
    own = measured[best[measured_index], torch.arange(len(measured_index))]
    one = measured[chosen_on.mean(1).argmax()]
    return {"by_index": estimate(own), "single": estimate(one), "random": estimate(measured.mean(0))}
