"""One experiment from start to end: make the model, train it (from its checkpoint where there is one, or in one fit),
measure it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes

from iclab.experiments.analysis import Row
from iclab.experiments.experiment import Experiment
from iclab.experiments.findings import beaten
from iclab.experiments.streams import experiment_generator, resolve
from iclab.files import atomic_write
from iclab.learning.training import GradientTraining
from iclab.measures import Workspace, measure
from iclab.measures.following import Say, follow
from iclab.measures.measurement import Point, silent
from iclab.measures.monitor import curve
from iclab.runs.store import WEIGHTS
from iclab.tasks import AnyTask, Task
from iclab.theory.posterior import bayes


@dataclass(frozen=True, eq=False)
class Learning:
    """The interface of a run to its learner (`iclab.learning.training.Place`). `say` takes a point of the training
    curve."""

    experiment: Experiment
    workspace: Workspace
    say: Say

    def generator(self, name: str) -> torch.Generator:
        """Returns the stream of that name, from its start."""
        return experiment_generator(self.experiment, name, self.workspace.device)

    def log(self, text: str) -> None:
        """Writes a line to the log."""
        self.workspace.log(text)

    @property
    def checkpoint(self) -> Path:
        """Returns the path of the checkpoint."""
        assert self.workspace.folder is not None
        return self.workspace.folder / "checkpoint.safetensors"

    def follow(self, training: GradientTraining) -> None:
        """Trains from the checkpoint on, saving as it goes."""
        follow(training, self.checkpoint, curve(self.experiment, training), self.say, self.log)


def perform(
    experiment: Experiment,
    folder: Path,
    say: Say,
    log: Callable[[str], None],
    weights: Path | None = None,
    points: Callable[[], Sequence[Point]] = tuple,
    doing: Callable[[str], None] = silent,
) -> list[Row]:
    """Trains and measures; returns the result rows. Continues from `checkpoint.safetensors` in the folder; with the
    `weights` of a finished training only measures.

    `say` takes one dict per point of the learning curve; `points` gives the whole curve in the end, including the
    points of earlier attempts; without it there are no rows of the curve. `doing` hears of each phase. Raises
    `iclab.learning.training.Diverged`.
    """
    workspace = Workspace(resolve(experiment.device), folder, log, points, doing)
    for line in [*experiment.notes, *unknown_bayes(experiment.task)]:
        log(line)
    keep_constants(experiment.task, folder)
    if weights:
        log("takes the weights that were trained before")
        model = experiment.trained(weights, workspace.device)
    else:
        model = experiment.initial(workspace.device)
        if experiment.model.trainable:
            doing("train")
            experiment.train.learn(model, experiment.task, Learning(experiment, workspace, say))
    if experiment.model.trainable and not experiment.train.frozen:
        experiment.model.save(model, folder / WEIGHTS)
    log("measures")
    rows = measure(experiment, model.eval(), workspace)
    for line in beaten(rows):
        log(line)
    return rows


def keep_constants(task: AnyTask, folder: Path) -> None:
    """Writes what was drawn once for all prompts of a task, where there is such a thing, to `constants.safetensors`."""
    if constants := task.constants():
        atomic_write(folder / "constants.safetensors", to_bytes(constants))


def unknown_bayes(task: AnyTask) -> list[str]:
    """Returns why the Bayes predictor of a task is not known; nothing where it is."""
    if not isinstance(task, Task):
        return []
    try:
        bayes(task)
    except ValueError as error:
        return [f"no Bayes predictor: {error}"]
    return []
