"""Analyses of what a language model does with texts: with a folder of GPT-2 or GPT-NeoX, or a model trained on such."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch

from iclab.analysis.heads.folding import folded
from iclab.analysis.heads.movers import Named, named
from iclab.analysis.heads.s_inhibition import Dissection
from iclab.experiments.analysis import Analysis
from iclab.experiments.claims import TRAINED
from iclab.experiments.streams import experiment_generator
from iclab.measures.heads import LEAST, shape_of
from iclab.measures.measurement import Measurement
from iclab.models import TokenTransformer
from iclab.tasks import RecallText, TokenPrompts


class OfTexts(Analysis):
    """Holds what analyses of texts have in common: they work on the CPU, in a copy of the model with LayerNorms folded,
    and find heads on prompts of their own. Measured is on texts with an indirect object, unless an analysis says
    otherwise."""

    tasks = RecallText
    least = LEAST
    composing: ClassVar[bool] = False  # needs queries that have composition scores

    def problems(self, experiment: Any) -> Iterator[str]:
        shape = shape_of(experiment.model)
        if shape is None:
            yield f"needs a TokenTransformerConfig, or a folder of GPT-2 or GPT-NeoX, given {experiment.model!r:.80}"
        elif shape.attention != "softmax" or shape.null_slot:
            yield "needs softmax attention without a null slot"
        elif shape.n_layer < 2:
            yield "needs 2 layers or more: in a model of one layer no head hears another"

    def distributions(self, experiment: Any) -> Iterable[str]:
        return [TRAINED] if isinstance(experiment.task, RecallText) else []

    def notes(self, experiment: Any) -> Iterator[str]:
        if self._silent(experiment):
            yield f"the analysis {self.name!r} measures nothing: with rotary positions queries read by distance"

    def applies(self, of: Any) -> bool:
        return of.name in self.distributions(of.experiment) and not self._silent(of.experiment)

    def _silent(self, experiment: Any) -> bool:
        """Whether it needs what a model with rotary positions has not."""
        shape = shape_of(experiment.model)
        return self.composing and shape is not None and bool(shape.rotary)


def folded_model(of: Measurement) -> TokenTransformer:
    """Returns a copy of the model, folded, on the CPU."""
    return folded(of.model).cpu().eval()


def dissection_of(of: Measurement) -> Dissection:
    """Returns how much of the heads that feed a mover is taken apart."""
    return of.experiment.eval.dissection or Dissection()


def measured_on(of: Measurement) -> TokenPrompts:
    """Returns the prompts of a distribution, on the CPU."""
    rng = experiment_generator(of.experiment, "test", "cpu", of.name)
    return of.task.sample(of.task.balanced_batch(of.experiment.eval.prompts), rng)


def found_on(of: Measurement) -> tuple[Named, torch.Generator]:
    """Returns other texts with an indirect object, on which heads are found, and the stream that they were drawn
    from."""
    rng = experiment_generator(of.experiment, "fit", "cpu", TRAINED)
    task = of.trained_on
    return named(task.sample(task.balanced_batch(of.experiment.eval.prompts), rng)), rng
