"""Training as an experiment follows it: from its checkpoint on, a point of the learning curve at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from iclab.experiments.experiment import Experiment
from iclab.learning.graphs import Due
from iclab.learning.pack import PackTraining
from iclab.learning.training import BrokenCheckpoint, GradientTraining
from iclab.stops import Stopped, whole

Say = Callable[[dict], str | None]  # takes a point of the curve, and may answer with a mark of the curve so far
Look = Callable[[int], dict[str, Any]]  # what is seen of the model there


def learning_curve(training: GradientTraining, due: Due, watch: Look) -> Iterator[dict[str, Any]]:
    """Trains to the end and yields a point after each step that is `due`, and after the last: step, mean loss since the
    last point, rate, seconds of training in this process, and what `watch` sees.

    A training that was stopped goes on between two points, or with the point that it was stopped at."""
    seconds = 0.0
    while True:
        if _pending(training, due):
            yield _point(training, seconds, watch)
        if training.step >= training.recipe.steps:
            return
        start = perf_counter()
        with whole():
            training.advance_until(due)
        seconds += perf_counter() - start


def learning_curves(
    pack: PackTraining, due: Sequence[Due], watch: Sequence[Look]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Trains a pack until every replica is done or has diverged, and yields the points of each as `learning_curve`
    does, with the number of the replica. Of the seconds of a step each replica that takes it has its share."""
    seconds = [0.0] * len(pack.trainings)
    while True:
        for replica, training in enumerate(pack.trainings):
            if _pending(training, due[replica]):
                yield replica, _point(training, seconds[replica], watch[replica])
        if not (moving := pack.active):
            return
        start = perf_counter()
        with whole():
            pack.advance_until(due)
        for replica in moving:
            seconds[replica] += (perf_counter() - start) / len(moving)


def _pending(training: GradientTraining, due: Due) -> bool:
    return bool(training.losses) and (due(training.step) or training.step == training.recipe.steps)


def _point(training: GradientTraining, seconds: float, watch: Look) -> dict[str, Any]:
    """The point of a curve after the steps so far; the next one begins here."""
    seen, losses = watch(training.step), training.losses
    training.losses = []
    return {
        "step": training.step,
        "steps": training.recipe.steps,
        "loss": sum(losses) / len(losses),
        "lr": training.recipe.rate(training.step - 1),
        "seconds": round(seconds, 3),
        **seen,
    }


def due(experiment: Experiment, step: int, steps: int) -> bool:
    """Returns whether the curve is measured at a step: every so often, and where the evolution of the algorithm is
    followed also at every power of two, since most of it happens early."""
    every = experiment.eval.every or max(1, min(steps // 20, 1000))
    return step % every == 0 or early(experiment, step)


def early(experiment: Experiment, step: int) -> bool:
    """Returns whether the evolution is followed and the step is a power of two."""
    return "evolution" in experiment.eval.analyses and step & (step - 1) == 0


def resume(training: GradientTraining, checkpoint: Path, log: Callable[[str], None]) -> None:
    """Resumes a training from its checkpoint, if there is one. A checkpoint that is broken, or of another training, is
    reported and removed, and the training starts anew."""
    if os.path.lexists(checkpoint):
        try:
            training.resume(checkpoint)
            log(f"continues at step {training.step} of {training.recipe.steps}")
        except BrokenCheckpoint as error:
            log(f"starts anew: {error}")
            checkpoint.unlink()


def follow(
    training: GradientTraining,
    checkpoint: Path,
    points: Iterator[dict[str, Any]],
    say: Say,
    log: Callable[[str], None],
) -> None:
    """Resumes a training, and reports and saves at every point of the curve, and where it is stopped."""
    resume(training, checkpoint, log)
    try:
        for point in points:
            with whole():
                training.save(checkpoint, say(point))
    except Stopped:
        if training.step:
            training.save(checkpoint, training.mark)
        raise


def follow_together(
    pack: PackTraining, checkpoints: Sequence[Path], points: Iterator[tuple[int, dict[str, Any]]], say: Sequence[Say]
) -> None:
    """Reports and saves each replica of a pack as `follow` does, from where it is. One that diverges keeps the
    checkpoint of its last point."""
    try:
        for replica, point in points:
            with whole():
                pack.trainings[replica].save(checkpoints[replica], say[replica](point))
    except Stopped:
        for replica, checkpoint in enumerate(checkpoints):
            training = pack.trainings[replica]
            if training.step and replica not in pack.diverged:
                training.save(checkpoint, training.mark)
        raise
