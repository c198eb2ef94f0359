"""Rows of what is written in the tokens of x and of y, on tasks whose functions are linear in a representation Φ*.
`predictor` is the target (`iclab.analysis.concepts`): representation, layer_l of it, x, unrelated, bayes; for a mixture
true_ and other_representation and _ridge, judged over the component that a prompt was drawn from and over the others.
KIND is x or y, and R² is that of held-out prompts, one map for all positions.

    token_probe_KIND                by layer
    token_probe_KIND_floor          of the probe of x_i itself (in a dynamical system of the last k + 1 states)
    token_probe_KIND_above_floor    the difference, by layer
    token_probe_KIND_best           at the layer where it is largest
    token_probe_KIND_layer          that layer, with its bootstrap error
    token_probe_KIND_over_floor     how much it is above the floor there, and _over_unrelated: how much more above it
                                    than the unrelated target is above its own, at its best layer
    token_probe_KIND_rise, _fall    how much larger it is there than in the read-in, and than after the last layer
    token_probe_KIND_slip           the most that it loses from one layer to a deeper one
    token_probe_lag                 by how many layers later it is best at tokens of y than at tokens of x
    token_probe_after               of answers at tokens of x: what R² gains from the layer where the (true)
                                    representation is best to the last
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis import TokenProbe, estimate, resampled, token_probes
from iclab.analysis.concepts import UNRELATED, Concepts
from iclab.analysis.token_probes import second_half, split
from iclab.experiments.rows import Row, by_layer, finite, row, rows
from iclab.models import Transformer
from iclab.tasks import Prompts

OWN = ("representation", "true_representation")  # what the answers are linear in


def token_probe_rows(
    model: Transformer, prompts: Prompts, concepts: Concepts, rng: torch.Generator, draws: int
) -> Iterator[Row]:
    """All of them; `draws` is the number of resamples of the bootstrap."""
    of_inputs = {kind: _probes(model, prompts, concepts.of_inputs, concepts, kind) for kind in concepts.kinds}
    answers = _probes(model, prompts, concepts.answers, concepts, "x")
    weights = resampled(second_half(len(prompts.xs)).stop - second_half(len(prompts.xs)).start, draws, rng)
    layers = {kind: {k: best_layers(one, weights) for k, one in of_inputs[kind].items()} for kind in concepts.kinds}
    for kind, probes in of_inputs.items():
        for name, one in probes.items():
            yield from finite(_rows(one, layers[kind][name], probes[UNRELATED]))
    for name in of_inputs.get("y", ()):
        yield _layer_row(name, "token_probe_lag", layers["y"][name] - layers["x"][name])
    (done,) = (int(found[0]) for name, found in layers["x"].items() if name in OWN)
    for name, one in answers.items():
        yield from finite(_rows(one, best_layers(one, weights)))
        yield from rows(name, "token_probe_after", estimate(one.terms[:, -1] - one.terms[:, done]))


def _probes(
    model: Transformer, prompts: Prompts, targets: Mapping[str, Tensor], concepts: Concepts, kind: str
) -> dict[str, TokenProbe]:
    """The probes by target; those of which there is one for each component are judged over the true one and over the
    others."""
    found = {one.target: one for one in token_probes(model, prompts, targets, [kind], concepts.known)}
    for name in concepts.of_components if concepts.component is not None else ():
        members = [found.pop(k) for k in list(found) if k.startswith(f"{name}_")]
        chosen = concepts.component[second_half(len(prompts.xs))]
        found |= {one.target: one for one in (split(name, members, chosen) if members else ())}
    return found


def best_layers(probe: TokenProbe, weights: Float[Tensor, "draws half"]) -> Float[Tensor, " resamples"]:
    """The layer where R² is largest: in the prompts as they are, then in each bootstrap resample."""
    means = torch.cat([probe.terms.mean(0, keepdim=True), weights @ probe.terms])
    return means.argmax(-1).double()


def _rows(probe: TokenProbe, layers: Float[Tensor, " resamples"], unrelated: TokenProbe | None = None) -> Iterator[Row]:
    """What there is to say of one target at one kind of tokens."""
    name, terms, floor = f"token_probe_{probe.tokens}", probe.terms, probe.floor_terms
    best = terms[:, int(layers[0])]
    yield from by_layer(probe.target, name, probe.r2)
    yield from by_layer(probe.target, f"{name}_above_floor", probe.above_floor)
    yield _layer_row(probe.target, f"{name}_layer", layers)
    told = {"floor": floor, "best": best, "over_floor": best - floor, "rise": best - terms[:, 0]}
    told |= {"fall": best - terms[:, -1], "slip": _slip(terms)}
    if unrelated is not None:
        told["over_unrelated"] = best - floor - _highest(unrelated) + unrelated.floor_terms
    for quantity, each in told.items():
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


def _layer_row(target: str, quantity: str, found: Float[Tensor, " resamples"]) -> Row:
    """A layer, or a difference of layers, with its bootstrap error."""
    return row(target, quantity, None, found[0].item(), found[1:].std().item())
