"""Training as an experiment follows it: from its checkpoint on, a point of the learning curve at a time."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from iclab.experiments.experiment import Experiment
from iclab.learning.training import BrokenCheckpoint, GradientTraining
from iclab.stops import Stopped, whole

Say = Callable[[dict], str | None]  # takes a point of the curve, and may answer with a mark of the curve so far


def learning_curve(
    training: GradientTraining, due: Callable[[int], bool], watch: Callable[[int], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Trains to the end and yields a point after each step that is `due`, and after the last: step, mean loss since the
    last point, rate, seconds of training in this process, and what `watch` sees.

    A training that was stopped goes on between two points, or with the point that it was stopped at."""
    recipe, seconds = training.recipe, 0.0
    while True:
        if training.losses and (due(training.step) or training.step == recipe.steps):
            seen, losses = watch(training.step), training.losses
            training.losses = []
            yield {
                "step": training.step,
                "steps": recipe.steps,
                "loss": sum(losses) / len(losses),
                "lr": recipe.rate(training.step - 1),
                "seconds": round(seconds, 3),
                **seen,
            }
        if training.step >= recipe.steps:
            return
        start = perf_counter()
        with whole():
            training.losses.append(training.advance())
        seconds += perf_counter() - start


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
    """Resumes from the checkpoint, if there is one; reports and saves at every point of the curve, and where it is
    stopped. A checkpoint that is broken, or of another training, is reported and removed, and the training starts
    anew."""
    if os.path.lexists(checkpoint):
        try:
            training.resume(checkpoint)
            log(f"continues at step {training.step} of {training.recipe.steps}")
        except BrokenCheckpoint as error:
            log(f"starts anew: {error}")
            checkpoint.unlink()
    try:
        for point in points:
            with whole():
                training.save(checkpoint, say(point))
    except Stopped:
        if training.step:
            training.save(checkpoint, training.mark)
        raise
