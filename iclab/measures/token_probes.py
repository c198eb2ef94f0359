"""Probes of tokens of x and of y, on tasks whose functions are linear in a representation Φ*. `predictor` is the target
(`iclab.analysis.layers.concepts`): representation, layer_l of it, x, unrelated ones, bayes; for a mixture true_ and
other_representation and _ridge, judged over the component that a prompt was drawn from and over the others. R² is that
of held-out prompts, one map for all positions.
"""

from collections.abc import Iterator, Mapping
from math import ceil, floor
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis import TokenProbe, bootstrap_weights, estimate, token_probes
from iclab.analysis.layers.concepts import UNRELATED, Concepts, concept_problems, concepts
from iclab.analysis.layers.probing import LEAST
from iclab.analysis.layers.token_probes import second_half, split
from iclab.experiments.analysis import Analysis, Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import by_layer, finite, row, rows
from iclab.models import Transformer
from iclab.tasks import Prompts

OWN = ("representation", "true_representation")  # what the answers are linear in


class TokenProbes(Analysis):
    """Finds where a representation that functions are linear in is written, and the answers made of it (Guo et al.
    2023, arXiv 2310.10616, §5), at tokens of x and of y."""

    name = "token_probes"
    layered = True
    blocks = True
    least = LEAST
    quantities: ClassVar = {
        "token_probe_half_lag": "by how many layers later it is half-way at tokens of y than at tokens of x; for an "
        "answer, than the (true) representation at tokens of y (of x where those have none)",
        "token_probe_after_half": "of answers at tokens of x: what R² gains from where the (true) representation is "
        "half-way at tokens of y (of x where those have none), between two layers, to the last layer",
        "token_probe_{x,y}_floor": "R² of the probe of x_i itself (in a dynamical system of the last k + 1 states)",
        "token_probe_{x,y}_above_floor": "R² of a layer less that floor",
        "token_probe_{x,y}_best": "R² at the layer where it is largest, at most 1",
        "token_probe_{x,y}_layer": "the layer where R² is largest, with its bootstrap error",
        "token_probe_{x,y}_over_floor": "how much R² is above the floor there",
        "token_probe_{x,y}_over_unrelated": "how much more above its floor it is there than its unrelated control is "
        "above its own, at its best layer",
        "token_probe_{x,y}_rise": "how much larger it is there than in the read-in",
        "token_probe_{x,y}_fall": "how much larger it is there than after the last layer",
        "token_probe_{x,y}_slip": "the most that it loses from one layer to a deeper one; 0 or more but for chance",
        "token_probe_{x,y}_half": "the layer, between two of them, at which R² is half-way from the read-in to its "
        "best",
        "token_probe_{x,y}_half_behind": "by how many layers later it is half-way than what is made first: than the "
        "layer of the representation below; in a dynamical system a representation than the last state that it takes, "
        "or than the one of a state later, and the state before its window than the last in it",
        "token_probe_{x,y}": "R² by layer, at most 1",
    }

    def problems(self, experiment: Any) -> Iterator[str]:
        problems = [text for task in experiment.distributions.values() for text in concept_problems(task)]
        yield from (f"cannot be made: {each}" for each in dict.fromkeys(problems))

    def rows(self, of: Measurement) -> Iterator[Row]:
        written = concepts(of.task, of.prompts)
        yield from token_probe_rows(of.model, of.prompts, written, of.rng("bootstrap"), of.draws)


def token_probe_rows(
    model: Transformer, prompts: Prompts, concepts: Concepts, rng: torch.Generator, draws: int
) -> Iterator[Row]:
    """Yields all of them; `draws` is the number of resamples of the bootstrap."""
    of_inputs = {kind: _probes(model, prompts, concepts.of_inputs, concepts, kind) for kind in concepts.kinds}
    answers = _probes(model, prompts, concepts.answers, concepts, "x")
    weights = bootstrap_weights(second_half(len(prompts.xs)).stop - second_half(len(prompts.xs)).start, draws, rng)
    means = {kind: {k: resampled_r2(one, weights) for k, one in of_inputs[kind].items()} for kind in concepts.kinds}
    for kind, probes in of_inputs.items():
        for name, one in probes.items():
            yield from finite(_rows(one, means[kind][name], probes[concepts.controls.get(name, UNRELATED)]))
        for name, first in concepts.predecessors.items():
            behind = half_way(means[kind][name]) - half_way(means[kind][first])
            yield _layer_row(name, f"token_probe_{kind}_half_behind", behind)
    for name in of_inputs.get("y", ()):
        yield _layer_row(name, "token_probe_half_lag", half_way(means["y"][name]) - half_way(means["x"][name]))
    (own,) = (name for name in means["x"] if name in OWN)
    copied = half_way(means[concepts.kinds[-1]][own])
    for name, one in answers.items():
        r2 = resampled_r2(one, weights)
        yield from finite(_rows(one, r2))
        yield _layer_row(name, "token_probe_half_lag", half_way(r2) - copied)
        gained = one.terms[:, -1] - between(one.terms, copied[0].item())
        yield from rows(name, "token_probe_after_half", estimate(gained))


def _probes(
    model: Transformer, prompts: Prompts, targets: Mapping[str, Tensor], concepts: Concepts, kind: str
) -> dict[str, TokenProbe]:
    """The probes by target; those of which there is one for each component are judged over the true one and over the
    others."""
    probes = {one.target: one for one in token_probes(model, prompts, targets, [kind], concepts.known)}
    if concepts.component is None:
        return probes
    chosen = concepts.component[second_half(len(prompts.xs))]
    for name in concepts.of_components:
        members = [probes.pop(k) for k in list(probes) if k.startswith(f"{name}_")]
        probes |= {one.target: one for one in (split(name, members, chosen) if members else ())}
    return probes


def resampled_r2(probe: TokenProbe, weights: Float[Tensor, "draws half"]) -> Float[Tensor, "resamples layers"]:
    """Returns R² of every layer: in the prompts as they are, then in each bootstrap resample."""
    return torch.cat([probe.terms.mean(0, keepdim=True), weights @ probe.terms])


def best_layers(means: Float[Tensor, "resamples layers"]) -> Float[Tensor, " resamples"]:
    """Returns the layer where R² is largest."""
    return means.argmax(-1).double()


def half_way(means: Float[Tensor, "resamples layers"]) -> Float[Tensor, " resamples"]:
    """Returns the (interpolated) layer at which R² is first half-way from the input projection to its best."""
    middle = (means[:, :1] + means.amax(-1, keepdim=True)) / 2
    after = (means >= middle).double().argmax(-1, keepdim=True)
    before = (after - 1).clamp(min=0)
    low, high = means.gather(-1, before), means.gather(-1, after)
    share = torch.where(high > low, (middle - low) / (high - low), 1.0)
    return (before + share * (after - before)).squeeze(-1)


def between(terms: Float[Tensor, "half layers"], layer: float) -> Float[Tensor, " half"]:
    """Returns the terms at a layer between two of them, on the line from the one to the other."""
    below, above = terms[:, floor(layer)], terms[:, ceil(layer)]
    return below + (layer - floor(layer)) * (above - below)


def _rows(
    probe: TokenProbe, means: Float[Tensor, "resamples layers"], unrelated: TokenProbe | None = None
) -> Iterator[Row]:
    """The rows of one target at one kind of token."""
    name, terms, known = f"token_probe_{probe.tokens}", probe.terms, probe.floor_terms
    best = terms[:, int(best_layers(means)[0])]
    yield from by_layer(probe.target, name, probe.r2)
    yield from by_layer(probe.target, f"{name}_above_floor", probe.above_floor)
    yield _layer_row(probe.target, f"{name}_layer", best_layers(means))
    yield _layer_row(probe.target, f"{name}_half", half_way(means))
    values = {"floor": known, "best": best, "over_floor": best - known, "rise": best - terms[:, 0]}
    values |= {"fall": best - terms[:, -1], "slip": _slip(terms)}
    if unrelated is not None:
        values["over_unrelated"] = best - known - _highest(unrelated) + unrelated.floor_terms
    for quantity, each in values.items():
        yield from rows(probe.target, f"{name}_{quantity}", estimate(each))


def _highest(probe: TokenProbe) -> Float[Tensor, " half"]:
    """The terms of the layer where R² is largest."""
    return probe.terms[:, probe.terms.mean(0).argmax()]


def _slip(terms: Float[Tensor, "half layers"]) -> Float[Tensor, " half"]:
    """The terms of the most that R² loses from a layer to a deeper one, or none."""
    means = terms.mean(0)
    highest = means.cummax(0).indices
    worst = (means[highest] - means).argmax()
    return terms[:, highest[worst]] - terms[:, worst]


def _layer_row(target: str, quantity: str, layers: Float[Tensor, " resamples"]) -> Row:
    """A layer, or a difference of layers, with its bootstrap error."""
    return row(target, quantity, None, layers[0].item(), layers[1:].std().item())
