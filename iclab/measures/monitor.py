"""Monitors: what a point of the training curve says of a model on the way, by fixed prompts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from iclab.analysis import AlgorithmPanel, answer, excess, families, risk
from iclab.analysis.next_token import continued, divergence, head_scores, hits, losses, mean_asked
from iclab.analysis.risk import squared, vanishes
from iclab.experiments.experiment import Experiment
from iclab.experiments.streams import experiment_generator
from iclab.learning.losses import mean_labels
from iclab.learning.training import GradientTraining
from iclab.measures.following import Due, Look, due, early, learning_curve
from iclab.measures.probes import r2_by_layer
from iclab.measures.rows import MODEL, regions
from iclab.models import TokenTransformer
from iclab.predictors import Predictor
from iclab.tasks import AnyTask, Prompts, RepeatedSequence, TokenPrompts, TokenTask
from iclab.theory.references import bayes_penalty, references

WATCHED = 512  # prompts of the learning curve
PROBED = 1024  # the same, where probes are fitted to half of them
OF_TOKENS = 256  # the same, of sequences of tokens

See = Callable[[Any, bool], dict[str, Any]]


def curve(experiment: Experiment, training: GradientTraining) -> Iterator[dict[str, Any]]:
    """Yields the learning curve with what is seen at each of its points."""
    return learning_curve(training, *observed(experiment, training))


def observed(experiment: Experiment, training: GradientTraining) -> tuple[Due, Look]:
    """Returns when the learning curve has a point, and what is seen there."""
    see = watched(experiment, training.rng.device)
    return (
        lambda step: due(experiment, step, training.recipe.steps),
        lambda step: see(training.model, early(experiment, step)),
    )


def watched(experiment: Experiment, device: torch.device) -> See:
    """Returns what a point of the curve says of a model: of examples on its own task and, where the evolution is
    followed, under "shifts" on each shift; of tokens under "tokens". With the second argument true it looks into the
    layers too, where probes are asked for."""
    return _watched(experiment.task, experiment, device)


@singledispatch
def _watched(task: AnyTask, experiment: Experiment, device: torch.device) -> See:
    own = ExampleMonitor.of(experiment, device)
    followed = experiment.eval.shifts if "evolution" in experiment.eval.analyses else ()
    shifted = {name: ExampleMonitor.of(experiment, device, name) for name, _ in followed}

    loss: Any = getattr(experiment.train, "loss", "squared")

    def see(model: Predictor, inside: bool) -> dict[str, Any]:
        labels = mean_labels(model, loss)
        found = own(labels) | (own.probed(model) if inside else {})
        return found | ({"shifts": {name: one(labels) for name, one in shifted.items()}} if shifted else {})

    return see


@_watched.register
def _(task: TokenTask, experiment: Experiment, device: torch.device) -> See:
    monitor = TokenMonitor.of(experiment, device)
    return lambda model, inside: {"tokens": monitor(model)}


@dataclass(frozen=True, eq=False)
class ExampleMonitor:
    """Measures a model in training on fixed prompts: its risk, the excess over Bayes where that is known, and where the
    evolution is followed its distance to each family of algorithms; at powers of two also what is written in it.

    `probed_with` is the penalty of ridge among the targets of probes, None where no probes are asked for.
    """

    answers: dict[str, torch.Tensor]
    panel: AlgorithmPanel | None
    prompts: Prompts
    part: slice
    probed_with: float | None

    @classmethod
    def of(cls, experiment: Experiment, device: torch.device, shift: str = "") -> "ExampleMonitor":
        """Draws the prompts of the training distribution, or of a shift, and answers them by what a model is compared
        with."""
        own: Any = experiment.task
        task: Any = dict(experiment.eval.shifts).get(shift, own)
        follows = "evolution" in experiment.eval.analyses
        lam = bayes_penalty(task) if follows and not shift and "probes" in experiment.eval.analyses else None
        prompts = task.sample(
            WATCHED if lam is None else PROBED, experiment_generator(experiment, "curve", device, shift)
        )
        best = {name: f for name, f in references(task).items() if name == "bayes"}
        panel = AlgorithmPanel(task, prompts, families(task, own)) if follows else None
        return cls(answer(best, prompts), panel, prompts, regions(task, experiment.query_only)[None], lam)

    def __call__(self, model: Predictor) -> dict[str, Any]:
        learned = answer({"model": model}, self.prompts)["model"]
        ys, part = self.prompts.ys[:, self.part], self.part
        found: dict[str, Any] = {"risk": risk(learned[:, part], ys).value.mean().item()}
        best = self.answers["bayes"][:, part] if "bayes" in self.answers else None
        if best is not None and not vanishes(squared(best, ys), ys):
            found["excess"] = excess(learned[:, part], best, ys).value.item()
        if self.panel:
            found["distances"] = self.panel.distances(model, self.part)
        return found

    def probed(self, model: Any) -> dict[str, Any]:
        """Returns R² of each target by layer, averaged over positions."""
        return {} if self.probed_with is None else {"probes": r2_by_layer(model, self.prompts, self.probed_with)}


@dataclass(frozen=True, eq=False)
class TokenMonitor:
    """Measures a model in training on fixed prompts of its own task."""

    task: TokenTask
    prompts: TokenPrompts
    beside: dict[str, Tensor]
    followed: dict[str, TokenPrompts]

    @classmethod
    def of(cls, experiment: Experiment, device: torch.device) -> "TokenMonitor":
        """Draws the prompts, and answers them by what the model is compared with."""
        task: Any = experiment.task
        rng = experiment_generator(experiment, "curve", device)
        prompts = task.sample(task.balanced_batch(OF_TOKENS), rng)
        followed = {
            name: part.sample(part.balanced_batch(OF_TOKENS), rng) for name, part in task.monitored_parts().items()
        }
        return cls(task, prompts, continued(references(task), prompts), followed)

    def __call__(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        logs = continued({MODEL: model}, self.prompts)[MODEL]
        found: dict[str, dict[str, Any]] = {
            "accuracy": {MODEL: self._mean(hits(logs, self.prompts))},
            "loss": {MODEL: self._mean(losses(logs, self.prompts))},
            "divergence": {name: self._mean(divergence(other, logs)) for name, other in self.beside.items()},
        }
        for name, prompts in self.followed.items():
            right = hits(continued({MODEL: model}, prompts)[MODEL], prompts)
            found[f"accuracy_{name}"] = {MODEL: mean_asked(right, prompts).value.item()}
        if isinstance(self.task, RepeatedSequence) and isinstance(model, TokenTransformer) and model.config.n_layer:
            scores = head_scores(model, self.prompts)
            found["prefix_matching"] = {MODEL: scores.prefix_matching.amax(1).tolist()}
            found["previous_token"] = {MODEL: scores.previous_token.amax(1).tolist()}
        return found

    def _mean(self, terms: Tensor) -> float:
        return mean_asked(terms, self.prompts).value.item()
