"""Analyses of the heads of a trained model over tokens, on prompts of their own. `predictor` is a head ("head_1.3":
layer, number; `layer` too), a pair of heads ("0.2-1.0": who writes, who reads), a part of the model, or "transformer"
for all of it.
"""

from abc import abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, ClassVar

import torch

from iclab.analysis.heads.patching import Head
from iclab.analysis.next_token import head_scores
from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.streams import experiment_generator
from iclab.measures.measurement import Measurement
from iclab.measures.rows import finite
from iclab.models import TokenTransformer, TokenTransformerConfig
from iclab.tasks import TokenPrompts, TokenTask

LEAST = 8  # prompts that can be halved, with an error on either side


class OfHeads(Analysis):
    """An analysis of heads: it works on the CPU, in a copy of the model."""

    tasks = TokenTask
    least = LEAST
    layers: ClassVar[int] = 2  # that it needs: with fewer no head hears another
    softmax: ClassVar[bool] = False

    def problems(self, experiment: Any) -> Iterator[str]:
        model = shape_of(experiment.model)
        if model is None:
            given = type(experiment.model).__name__
            yield f"needs a TokenTransformerConfig, or a folder of GPT-2 or GPT-NeoX, given {given}"
            return
        if self.softmax and model.attention != "softmax":
            yield f"needs softmax attention, given {model.attention}"
        if model.n_layer < self.layers:
            yield f"needs model.n_layer of {self.layers} or more, given {model.n_layer}"
        yield from self.unfit(model)

    def unfit(self, model: TokenTransformerConfig) -> Iterator[str]:
        """Yields what else stands against a model of this shape."""
        yield from ()

    def rows(self, of: Measurement) -> Iterator[Row]:
        rng = experiment_generator(of.experiment, "fit", "cpu", of.name)
        prompts = of.task.sample(of.task.balanced_batch(of.experiment.eval.prompts), rng)
        yield from finite(self.of_heads(deepcopy(of.model).cpu().eval(), of, prompts, rng))

    @abstractmethod
    def of_heads(
        self, model: TokenTransformer, of: Measurement, prompts: TokenPrompts, rng: torch.Generator
    ) -> Iterator[Row]:
        """Yields the rows, those that are not finite among them."""


def shape_of(model: Any) -> TokenTransformerConfig | None:
    """Returns the shape of a model over tokens whose heads can be taken apart; none of any other."""
    return model.blocks if type(model.blocks) is TokenTransformerConfig else None


def circuit_of(model: TokenTransformer, prompts: TokenPrompts) -> tuple[Head, Head]:
    """Returns the head of a second or later layer that matches prefixes best, behind the earlier one that most looks at
    the token before."""
    scores = head_scores(model, prompts)
    width = model.config.n_head
    layer, head = divmod(int(scores.prefix_matching[1:].argmax()), width)
    writer = divmod(int(scores.previous_token[: layer + 1].argmax()), width)
    return writer, (layer + 1, head)
