"""Runs over sequences of tokens: training, and result rows of each distribution, by place and averaged,

accuracy                 how often the likeliest token is the right one
accuracy_range           of lists of one length: the largest accuracy of a slot less the smallest
accuracy_among_options   accuracy where only the options of the prompt are considered (listed items, stored values)
loss                     −log p of the right token, in nats
divergence               KL(reference ‖ model), of the predictor named
answered                 of lists of one length: the share of prompts in which slot j is the likeliest of the options

Further ones are of indirect objects, which heads are used (`iclab.experiments.movers`); of models that point
(`.pointing`); of answers that are sequences (`.orderings`); of analyses that are asked for (`.mechanisms`); and of the
training curve (`.evolution`).

"transformer" is the model, "chance" a guess among the options, and what else a task has as a reference: "bigram" and
"unigram" counts; of Gaussian classes "context", Bayes from the context alone, and "known", Bayes by heart alone.
`position` is a place (the slot that is missing, the pair that is asked, the position in a walk, the octave of a class),
or none for the mean over all asked positions. Points of the training curve carry "tokens", by quantity and predictor:
accuracy also on each part that the task wants followed (accuracy_PART); of heads, the largest score of each layer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iclab.analysis.next_token import (
    by_place,
    chances,
    continued,
    divergence,
    head_scores,
    hits,
    losses,
    mean_asked,
    mean_of_places,
)
from iclab.analysis.risk import Estimate, estimate
from iclab.experiments.learning import Say, follow, keep_weights, learning_curve, take_weights
from iclab.experiments.mechanisms import mechanisms
from iclab.experiments.movers import mover_rows
from iclab.experiments.orderings import sequences
from iclab.experiments.pointing import pointed
from iclab.experiments.rows import MODEL, Row, row, rows
from iclab.experiments.streams import resolve, stream
from iclab.experiments.token_experiment import TokenExperiment
from iclab.models import TokenTransformer
from iclab.predictors import Bigram, ContextClasses, KnownClasses, TokenPredictor, Unigram
from iclab.tasks import GaussianClasses, LaundryList, MarkovChain, RepeatedSequence, TokenPrompts, TokenTask
from iclab.token_training import TokenTraining

SURE = 1e-3  # α of the counts that answer a repeated block, in which what followed once follows again
WATCHED = 256  # prompts of the training curve


def references(task: TokenTask) -> dict[str, TokenPredictor]:
    """Closed forms that a model of this task is compared with."""
    if isinstance(task, MarkovChain):
        return {"bigram": Bigram(task.vocab, task.alpha), "unigram": Unigram(task.vocab, task.alpha)}
    if isinstance(task, GaussianClasses):
        return {
            "context": ContextClasses(task.label_vectors, task.within),
            "known": KnownClasses(task.means, task.frequencies, task.labels, task.within),
        }
    return {"bigram": Bigram(task.vocab, SURE)} if isinstance(task, RepeatedSequence) else {}


def perform(
    experiment: TokenExperiment, folder: Path, say: Say, log: Callable[[str], None], weights: Path | None = None
) -> list[Row]:
    """Trains and measures, as `iclab.experiments.run.perform` does."""
    device = resolve(experiment.device)
    for line in experiment.warnings:
        log(f"warning: {line}")
    model = experiment.build(stream(experiment, "init")).to(device)
    if weights:
        take_weights(model, weights, log)
    else:
        training = TokenTraining(model, experiment.task, experiment.train, stream(experiment, "train", device))
        follow(training, folder / "checkpoint.safetensors", curve(experiment, training), say, log)
    keep_weights(model, folder / "weights.safetensors")
    log("measures")
    return [*measure(experiment, model.eval(), device), *mechanisms(experiment, model)]


def curve(experiment: TokenExperiment, training: TokenTraining) -> Iterator[dict[str, Any]]:
    """The learning curve, with what `Watch` sees under "tokens"."""
    watch = Watch.of(experiment, training.rng.device)
    every = experiment.eval.every or max(1, min(training.recipe.steps // 20, 1000))
    return learning_curve(training, lambda step: step % every == 0, lambda step: {"tokens": watch(training.model)})


@dataclass(frozen=True, eq=False)
class Watch:
    """Measures a model in training on fixed prompts of its own task."""

    task: TokenTask
    prompts: TokenPrompts
    beside: dict[str, Tensor]
    followed: dict[str, TokenPrompts]

    @classmethod
    def of(cls, experiment: TokenExperiment, device: torch.device) -> "Watch":
        """Draws the prompts, and answers them by what the model is compared with."""
        task, rng = experiment.task, stream(experiment, "curve", device)
        prompts = task.sample(task.evenly(WATCHED), rng)
        followed = {name: part.sample(part.evenly(WATCHED), rng) for name, part in task.followed().items()}
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


def measure(experiment: TokenExperiment, model: nn.Module, device: torch.device | str = "cpu") -> list[Row]:
    """All result rows of a trained model, on its own task, on each part of it and on every shift."""
    found = []
    for name, task in experiment.distributions.items():
        prompts = task.sample(task.evenly(experiment.eval.prompts), stream(experiment, "test", device, name))
        told = list(rows_of(model, task, prompts))
        told += pointed(model, task, told, stream(experiment, "bootstrap", distribution=name))
        found += [{"distribution": name, **one} for one in told]
    return found


def rows_of(model: nn.Module, task: TokenTask, prompts: TokenPrompts) -> Iterator[Row]:
    """The rows of one distribution."""
    whole = mean_of_places if isinstance(task, LaundryList) and task.balanced else mean_asked
    logs = continued({MODEL: model, **references(task)}, prompts)
    for name, said in logs.items():
        yield from _told(name, "accuracy", hits(said, prompts), prompts, whole)
        yield from _told(name, "accuracy_among_options", hits(said, prompts, among_options=True), prompts, whole)
        yield from _told(name, "loss", losses(said, prompts), prompts, whole)
        yield from _told(name, "divergence", divergence(said, logs[MODEL]), prompts, whole) if name != MODEL else ()
    yield from _told("chance", "accuracy", chances(prompts), prompts, whole)
    yield from sequences(model, task, prompts, logs[MODEL])
    if isinstance(task, LaundryList) and task.balanced:
        yield _range(hits(logs[MODEL], prompts), prompts)
        yield from _answered(logs[MODEL], task, prompts)
    yield from mover_rows(model, task, prompts)


def _told(
    predictor: str, quantity: str, terms: Tensor, prompts: TokenPrompts, whole: Callable[..., Estimate]
) -> Iterator[Row]:
    """A quantity at each place, and averaged over all asked positions."""
    yield from rows(predictor, quantity, whole(terms, prompts))
    for place, found in by_place(terms, prompts).items():
        yield from rows(predictor, quantity, found, place)


def _range(right: Tensor, prompts: TokenPrompts) -> Row:
    """With the error of a difference of two independent means, which leaves out that they were chosen as extremes."""
    found = sorted(by_place(right, prompts).values(), key=lambda one: one.value.item())
    least, most = found[0], found[-1]
    error = (least.stderr.square() + most.stderr.square()).sqrt().item()
    return row(MODEL, "accuracy_range", None, (most.value - least.value).item(), error)


def _answered(logs: Tensor, task: LaundryList, prompts: TokenPrompts) -> Iterator[Row]:
    allowed = logs[:, -1].masked_fill(~prompts.options, -torch.inf)
    named = (prompts.tokens[:, 1 : task.longest + 1] == allowed.argmax(1, keepdim=True)).double()
    yield from rows(MODEL, "answered", estimate(named))
