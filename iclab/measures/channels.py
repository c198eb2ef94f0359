"""Which heads read which, by their weights after folding (`iclab.analysis.heads.composition`): W is Q, K or V."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor

from iclab.analysis.heads.composition import Compositions, Way, compositions, earlier
from iclab.analysis.heads.folding import folded
from iclab.analysis.heads.patching import Head
from iclab.experiments.analysis import Row
from iclab.experiments.streams import experiment_generator
from iclab.measures.heads import OfHeads, circuit_of
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, row
from iclab.models import TokenTransformer
from iclab.tasks import RepeatedSequence, TokenPrompts

OUTLIER = 4.0  # standard deviations of chance
DRAWS = 99  # permutations of a writer: one pair in a hundred is above all of them by chance


class Channels(OfHeads):
    """Scores every pair of heads; "transformer" are pairs of which the reader comes later, "unreachable" all others,
    "untrained" the former before training, and "permuted" the pair that edits are of where the coordinates that its
    writer writes to are permuted, 99 times."""

    name = "channels"
    once = True
    quantities: ClassVar = {
        "composition_z_{Q,K,V}": "of a pair: how far its score is above chance, in standard deviations",
        "composition_{Q,K,V}": 'the score of a pair, or the mean of several, between 0 and 1; of "chance" 1/√D',
        "component_top_{Q,K,V}": "the number of the writer's component with the largest z",
        "component_z_{Q,K,V}": "that component's z, in standard deviations",
        "largest_z_{Q,K,V}": "the largest z of a pair",
        "outliers_{Q,K,V}": "the share of components with z above 4, between 0 and 1",
        "circuit_rank_{Q,K,V}": "of repeated sequences: the rank of the pair that edits are of; 1 is first",
        "circuit_z_{Q,K,V}": "of repeated sequences: the z of that pair",
        "circuit_lead_{Q,K,V}": "how much higher that z is than the largest of a control: of pairs that are "
        '"unreachable" or "untrained", or of the pair "permuted"; above 0 where it stands out',
    }

    def of_heads(
        self, model: TokenTransformer, of: Measurement, prompts: TokenPrompts, rng: torch.Generator
    ) -> Iterator[Row]:
        untrained: Any = of.experiment.build(experiment_generator(of.experiment, "init"))
        circuit = circuit_of(model, prompts) if isinstance(of.task, RepeatedSequence) else None
        yield from channel_rows(model, untrained, circuit, rng)


def channel_rows(
    model: TokenTransformer, untrained: TokenTransformer, circuit: tuple[Head, Head] | None, rng: torch.Generator
) -> Iterator[Row]:
    """Yields the rows of a model's weights; `circuit` is a pair whose rank among all is reported, and whose lead over
    controls."""
    compositions, before = weights_of(model), weights_of(untrained)
    ahead = earlier(model.config.n_layer)[:, None, :, None].expand_as(next(iter(compositions.scores.values()))[:, :, 0])
    for way in compositions.scores:
        yield from _pair_rows(compositions, way, ahead)
        groups = {MODEL: (compositions, ahead), "unreachable": (compositions, ~ahead), "untrained": (before, ahead)}
        for name, (each, which) in groups.items():
            z, parts = each.heads_z(way)[which], _component_z(each, way)[which]
            yield row(name, f"largest_z_{way}", None, z.max().item())
            yield row(name, f"composition_{way}", None, each.heads(way)[which].mean().item())
            yield row(name, f"outliers_{way}", None, (parts > OUTLIER).double().mean().item())
        yield row("chance", f"composition_{way}", None, compositions.D**-0.5)
        if circuit is not None:
            z = compositions.heads_z(way)
            permuted = compositions.permuted_z(way, *circuit, rng, DRAWS).max()
            controls = {"unreachable": z[~ahead].max(), "untrained": before.heads_z(way)[ahead].max()}
            yield from _circuit_rows(way, z[circuit[0]][circuit[1]], z[ahead], {**controls, "permuted": permuted})


def _circuit_rows(way: Way, own: Tensor, ahead: Tensor, controls: Mapping[str, Tensor]) -> Iterator[Row]:
    """Of the pair with this z, among those of which the reader comes later, beside the largest z of each control."""
    yield row(MODEL, f"circuit_z_{way}", None, own.item())
    yield row(MODEL, f"circuit_rank_{way}", None, 1 + int((ahead > own).sum()))
    yield row("permuted", f"largest_z_{way}", None, controls["permuted"].item())
    for name, largest in controls.items():
        yield row(name, f"circuit_lead_{way}", None, (own - largest).item())


def weights_of(model: TokenTransformer) -> Compositions:
    """Returns the compositions after folding, in float64; the model stays as it is."""
    centred = model.config.centred
    return compositions(folded(deepcopy(model).double()), centred=centred)


def _component_z(compositions: Compositions, way: Way) -> Tensor:
    """Of every pair [l a m h e]."""
    return compositions.chance(way).z(compositions.scores[way]).movedim(2, -1)


def _pair_rows(compositions: Compositions, way: Way, ahead: Tensor) -> Iterator[Row]:
    scores, z, parts = compositions.heads(way), compositions.heads_z(way), _component_z(compositions, way)
    for at in ahead.nonzero().tolist():
        name, place = "{}.{}-{}.{}".format(*at), tuple(at)
        yield row(name, f"composition_{way}", None, scores[place].item())
        yield row(name, f"composition_z_{way}", None, z[place].item())
        yield row(name, f"component_top_{way}", None, int(parts[place].argmax()))
        yield row(name, f"component_z_{way}", None, parts[place].max().item())
