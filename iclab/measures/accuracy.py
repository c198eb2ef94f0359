"""Accuracy of models over tokens, at each place and averaged. `position` is a place (the slot that is missing, the pair
of the target, the position in a walk, the octave of a class), or none for the mean over all target positions.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from iclab.analysis.next_token import by_place, chances, divergence, hits, losses, mean_asked, mean_of_places
from iclab.analysis.risk import Estimate, estimate
from iclab.experiments.analysis import Analysis, Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, row, rows
from iclab.tasks import LaundryList, TokenPrompts, TokenTask
from iclab.theory.references import references


class Accuracy(Analysis):
    """Compares the model with the references of its task: "chance" is a guess among the options, "bigram" and "unigram"
    are counts; of Gaussian classes "context" is Bayes from the context alone, "known" Bayes in weights alone."""

    name = "accuracy"
    always = True
    tasks = TokenTask
    quantities: ClassVar = {
        "accuracy": "how often the likeliest token is the right one, between 0 and 1",
        "accuracy_range": "of lists of one length: the largest accuracy of a slot less the smallest",
        "accuracy_among_options": "accuracy where only the options of the prompt are considered (listed items, stored "
        "values), between 0 and 1",
        "loss": "−log p of the right token, in nats",
        "divergence": "KL(reference ‖ model), of the predictor named, in nats",
        "answered": "of lists of one length: the share of prompts in which slot j is the likeliest of the options",
    }

    def predictors(self, experiment: Any) -> set[str]:
        tasks = experiment.distributions.values()
        return {MODEL, "chance", *(name for task in tasks for name in references(task))}

    def rows(self, of: Measurement) -> Iterator[Row]:
        """Yields the rows of the model and of every reference."""
        task, (prompts, logs) = of.task, of.continued
        whole = mean_of_places if isinstance(task, LaundryList) and task.balanced else mean_asked
        for name, logits in logs.items():
            yield from _place_rows(name, "accuracy", hits(logits, prompts), prompts, whole)
            yield from _place_rows(
                name, "accuracy_among_options", hits(logits, prompts, among_options=True), prompts, whole
            )
            yield from _place_rows(name, "loss", losses(logits, prompts), prompts, whole)
            if name != MODEL:
                yield from _place_rows(name, "divergence", divergence(logits, logs[MODEL]), prompts, whole)
        yield from _place_rows("chance", "accuracy", chances(prompts), prompts, whole)
        if isinstance(task, LaundryList) and task.balanced:
            yield _range(hits(logs[MODEL], prompts), prompts)
            yield from _answered(logs[MODEL], task, prompts)


def _place_rows(
    predictor: str, quantity: str, terms: Tensor, prompts: TokenPrompts, whole: Callable[..., Estimate]
) -> Iterator[Row]:
    """A quantity at each place, and averaged over all target positions."""
    yield from rows(predictor, quantity, whole(terms, prompts))
    for place, estimate_there in by_place(terms, prompts).items():
        yield from rows(predictor, quantity, estimate_there, place)


def _range(right: Tensor, prompts: TokenPrompts) -> Row:
    """With the error of a difference of two independent means, which leaves out that they were chosen as extremes."""
    accuracies = sorted(by_place(right, prompts).values(), key=lambda one: one.value.item())
    least, most = accuracies[0], accuracies[-1]
    error = (least.stderr.square() + most.stderr.square()).sqrt().item()
    return row(MODEL, "accuracy_range", None, (most.value - least.value).item(), error)


def _answered(logs: Tensor, task: LaundryList, prompts: TokenPrompts) -> Iterator[Row]:
    allowed = logs[:, -1].masked_fill(~prompts.options, -torch.inf)
    named = (prompts.tokens[:, 1 : task.longest + 1] == allowed.argmax(1, keepdim=True)).double()
    yield from rows(MODEL, "answered", estimate(named))
