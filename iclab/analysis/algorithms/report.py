"""Identification reports in sentences: for the whole predictor, by number of examples, and for each layer of a model.

    output: ridge (λ ≈ 0.24), 1.2 % of the Bayes risk away; probability 1
        after 1 to 3 examples: gradient descent, 2 steps (η ≈ 0.9)
    after layer 1: gradient descent, 1 step (η ≈ 0.87), 21 % of the Bayes risk away; probability 1

The algorithm of a number of examples is the nearest there, with the parameter fitted there; consecutive ones are
reported with their median parameter. Where none is the nearest in 95 % of bootstrap resamples, the report leaves it
open.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from iclab.algorithm_names import CERTAIN
from iclab.analysis.algorithms.identify import AlgorithmPanel, Family, Match
from iclab.analysis.layers.readout import layer_readouts
from iclab.models import Transformer
from iclab.predictors import Predictor
from iclab.tasks import Prompts, Task


@dataclass(frozen=True)
class Report:
    """The families by distance to a predictor and to each of its layers, nearest first; printed, it speaks."""

    families: Mapping[str, Family]
    whole: Sequence[Match]
    layers: Mapping[int, Sequence[Match]]

    def __str__(self) -> str:
        by_layer = [matches[0].sentence(f"after layer {layer}") for layer, matches in self.layers.items()]
        return "\n".join([self.whole[0].sentence("output"), *self._by_examples(), *by_layer])

    def _by_examples(self) -> Iterator[str]:
        for name, run in groupby(self.at_each(), key=lambda match: match[1]):
            places = [(i, value) for i, _, value in run]
            first, last = places[0][0], places[-1][0]
            median = sorted(value for _, value in places)[len(places) // 2]
            words = self.families[name].words(median) if name else "no algorithm is the nearest beyond doubt"
            yield f"    after {first if first == last else f'{first} to {last}'} examples: {words}"

    def at_each(self) -> Iterator[tuple[int, str, float]]:
        """Yields for each number of examples the nearest family, or "" where that is open, and its fitted parameter."""
        for i in range(len(self.whole[0].fitted)):
            nearest = min(self.whole, key=lambda match: match.distance[i].item())
            sure = nearest.shares[i].item() >= CERTAIN
            yield i, nearest.family if sure else "", nearest.fitted[i].item()


def report(
    predictor: Predictor,
    task: Task,
    prompts: Prompts,
    rng: torch.Generator,
    among: Sequence[Family] | None = None,
    draws: int = 500,
) -> Report:
    """Returns the families nearest to a predictor and, where it is a transformer, to each of its layers, read out by a
    linear map that is fitted on as many other prompts. Raises ``ValueError`` for fewer than 20 prompts."""
    panel = AlgorithmPanel(task, prompts, among)
    whole = panel.identify(predictor, rng, draws)
    layers: dict[int, list[Match]] = {}
    if isinstance(predictor, Transformer):
        others = task.sample(len(prompts.xs), rng, prompts.xs.dtype)
        layers = {f.layer: panel.identify(f, rng, draws) for f in layer_readouts(predictor, others)}
    return Report({family.name: family for family in panel.families}, whole, layers)
