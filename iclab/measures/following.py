"""Training as an experiment follows it: from its checkpoint on, a point of the learning curve at a time."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from iclab.experiments.experiment import Experiment
from iclab.learning.training import BrokenCheckpoint, GradientTraining

Say = Callable[[dict], str | None]  # takes a point of the curve, and may answer with a mark of the curve so far


def learning_curve(
    training: GradientTraining, due: Callable[[int], bool], watch: Callable[[int], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Trains to the end and yields a point after each step that is `due`, and after the last: step, mean loss since the
    last point, rate, seconds of training in this process, and what `watch` sees."""
    recipe, seconds, losses = training.recipe, 0.0, []
    while training.step < recipe.steps:
        start = perf_counter()
        losses.append(training.advance())
        seconds += perf_counter() - start
        if due(training.step) or training.step == recipe.steps:
            yield {
                "step": training.step,
                "steps": recipe.steps,
                "loss": sum(losses) / len(losses),
                "lr": recipe.rate(training.step - 1),
                "seconds": round(seconds, 3),
                **watch(training.step),
            }
            losses = []


def due(experiment: Experiment, step: int, steps: int) -> bool:
    """Returns whether the curve is measured at a step: every so often, and where the evolution of the algorithm is
    followed also at every power of two, since most of it happens early."""
    every = experiment.eval.every or max(1, min(steps // 20, 1000))
    return step % every == 0 or early(experiment, step)


def early(experiment: Experiment, step: int) -> bool:
    """Returns whether the evolution is followed and the step is a power of two."""
    return "evolution" in experiment.eval.analyses and step & (step - 1) == 0


def follow(
    training: GradientTraining,
    checkpoint: Path,
    points: Iterator[dict[str, Any]],
    say: Say,
    log: Callable[[str], None],
) -> None:
    """Resumes from the checkpoint, if there is one, and reports and saves at every point of the curve. A checkpoint
    that is broken, or of another training, is reported and removed, and the training starts anew."""
    if os.path.lexists(checkpoint):
        try:
            training.resume(checkpoint)
            log(f"continues at step {training.step} of {training.recipe.steps}")
        except BrokenCheckpoint as error:
            log(f"starts anew: {error}")
            checkpoint.unlink()
    for point in points:
        training.save(checkpoint, say(point))
