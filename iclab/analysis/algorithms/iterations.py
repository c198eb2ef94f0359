"""Layers as iterations: layers read out as predictors, matched with numbers of steps of an iterative algorithm.

For an iteration with answers g_k after k steps, and a layer that answers f,

    k*(f) = argmax_k SimE(f, g_k)        SimE(f, g) = E cos(f − y, g − y)

k* is chosen on the first half of the prompts and SimE(f, g_k*) measured on the second. Newton's residual squares with
each step, so that layers which make steps of Newton show a k* that grows linearly with depth beside Newton, and
exponentially beside gradient descent. The growth is the least-squares slope of k* for Newton, and of log₂ k* for
gradient descent, over the middle half of the layers (from a quarter to three quarters of the depth).

A shallow model has fewer layers for the steps that its task needs, so that k* of the last layer, and not the growth, is
what models of different depth have in common. With κ = k* for Newton and κ = log₂ k* for gradient descent,

    total = κ_L − κ_0        working layers: those with κ_l > κ_{l−1}        rate = total / working layers

One step of Newton does to the residual what a doubling of the steps of gradient descent does. For a fair comparison
both have one member for each doubling: numbers of steps of gradient descent are the powers of two.

Where k* is defined. All iterations agree before the first example, and after one (a single eigenvalue is found in one
step). With many more examples than dimensions the eigenvalues are alike and few steps find all of them: there the
layers' own errors soon exceed what the iteration leaves, and k* means nothing. What distinguishes numbers of steps are
the positions around i = d, where small eigenvalues are. SimE over all positions is governed by these, as errors are
largest there, and is the default of `part`.

Errors are those of the bootstrap over prompts, with k* chosen anew in each resample and for all layers together. A k*
at the end of what was tried is marked, for more steps may be more alike.

Source: Fu, Chen, Jia, Sharan 2023, arXiv 2310.17086, §3–4: of 12 layers the middle ones, 3 to 9, make about three steps
of Newton each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.algorithms.agreement import error_cosines
from iclab.analysis.algorithms.identify import AlgorithmPanel, Family
from iclab.analysis.risk import Estimate, answer, bootstrap_weights, estimate, not_finite
from iclab.errors import refuse, unknown
from iclab.predictors import Predictor

DOUBLES = ("landweber",)  # iterations whose steps are counted in doublings


@dataclass(frozen=True)
class Matched:
    """The numbers of steps of one iteration that layers are most like: k* and SimE [layers], and the growth of k* (or
    of log₂ k*) with each of the middle layers. `total` is what it comes to over all layers, `working` the number of
    layers in which it grows, and `rate` the one by the other. `cosines` are those that SimE is the mean of; `edges`
    holds "≥" for each layer whose k* is the largest number that was tried, and "" for the others."""

    family: str
    steps: Estimate
    similarity: Estimate
    growth: Estimate
    total: Estimate
    working: Estimate
    rate: Estimate
    cosines: Float[Tensor, "layers half"]
    edges: tuple[str, ...]


def match_iterations(
    panel: AlgorithmPanel,
    layers: Sequence[Predictor],
    rng: torch.Generator,
    draws: int = 500,
    part: slice | None = None,
    names: Sequence[str] = ("newton", "landweber"),
) -> list[Matched]:
    """Finds for each named family of a panel the members that layers (the input projection first) are most like.
    Raises ``ValueError`` for a layer whose answers are not finite, and for a family that the panel has not."""
    part = part or panel.part
    predictions = answer({f"layer {i}": layer for i, layer in enumerate(layers)}, panel.prompts)
    by_name = {family.name: (family, answers) for family, answers in zip(panel.families, panel.answers, strict=True)}
    missing = [unknown("family", name, by_name) for name in names if name not in by_name]
    bad = [
        problem for layer, answers in predictions.items() for problem in not_finite(f"the answer of {layer}", answers)
    ]
    refuse("match_iterations", missing + bad)
    learned, ys = torch.stack(list(predictions.values()))[..., part], panel.prompts.ys[:, part]
    half = len(ys) // 2
    weights = bootstrap_weights(half, draws, rng)
    return [
        _matched(family, error_cosines(learned, answers[..., part], ys), weights)
        for family, answers in (_one_to_a_doubling(*by_name[name]) for name in names)
    ]


def _one_to_a_doubling(family: Family, answers: Tensor) -> tuple[Family, Tensor]:
    """A family and its answers, with powers of two alone where steps are counted in doublings."""
    if family.name not in DOUBLES:
        return family, answers
    whole = (family.grid.log2() % 1 == 0).nonzero().squeeze(-1)
    members = [family.members[k] for k in whole.tolist()]
    return replace(family, grid=family.grid[whole], members=members), answers[whole.to(answers.device)]


def _matched(family: Family, cosines: Float[Tensor, "layers k batch"], weights: Float[Tensor, "draws half"]) -> Matched:
    name, half, grid = family.name, weights.shape[1], family.grid.to(weights)
    chosen = cosines[..., :half].mean(-1).argmax(-1)
    again = torch.einsum("rb,lkb->rlk", weights, cosines[..., :half]).argmax(-1)
    here = cosines[torch.arange(len(cosines)), chosen, half:]
    scale = grid.log2() if name in DOUBLES else grid

    def measured(summary: Callable[[Tensor], Tensor]) -> Estimate:
        return Estimate(summary(scale[chosen]), summary(scale[again]).std(0))

    return Matched(
        name,
        Estimate(grid[chosen], grid[again].std(0)),
        estimate(here.mT),
        measured(slope),
        measured(total),
        measured(working),
        measured(lambda values: total(values) / working(values).clamp(min=1)),
        here,
        tuple(family.grid_bound_mark(steps) for steps in grid[chosen].tolist()),
    )


def total(values: Float[Tensor, "*draws layers"]) -> Float[Tensor, "*draws"]:
    """Returns what all layers add: the value of the last less that of layer 0, the input projection."""
    return values[..., -1] - values[..., 0]


def working(values: Float[Tensor, "*draws layers"]) -> Float[Tensor, "*draws"]:
    """Returns the number of layers that add to the value of the layer before."""
    return (values.diff(dim=-1) > 0).sum(-1).to(values)


def slope(values: Float[Tensor, "*draws layers"]) -> Float[Tensor, "*draws"]:
    """Returns the least-squares slope over the middle layers; layer 0 is the input projection."""
    depth = values.shape[-1] - 1
    layers = torch.arange(-(-depth // 4), 3 * depth // 4 + 1)
    away = layers.to(values) - layers.double().mean().to(values)
    return (values[..., layers] * away).sum(-1) / away.square().sum()
