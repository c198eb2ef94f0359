"""What analyses train beside the model of a run, such as input projections and bridges. Each has a checkpoint of its
own in the run's folder, so that a run which is stopped resumes from there, and the weights are kept."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iclab.experiments.experiment import Experiment
from iclab.experiments.streams import experiment_generator
from iclab.learning.training import Diverged, Training, TrainingConfig
from iclab.measures.following import Say, due, follow, learning_curve
from iclab.measures.measurement import Measurement
from iclab.renamed import old_names
from iclab.tasks import Task

USUAL = TrainingConfig(steps=1500, lr=4e-3)  # of parts: ours
EVERY = 250  # steps between two checkpoints


@dataclass(frozen=True, eq=False)
class AuxiliaryTrainer:
    """Trains auxiliary parts for the model of an experiment; `log` takes lines of text."""

    experiment: Experiment
    folder: Path
    device: torch.device | str
    log: Callable[[str], None]

    @classmethod
    def of(cls, of: Measurement) -> "AuxiliaryTrainer":
        """Makes one beside the model that is measured; its workspace must have a folder."""
        assert of.workspace.folder is not None
        return cls(of.experiment, of.workspace.folder, of.workspace.device, of.workspace.log)

    @property
    def trained_on(self) -> Any:
        """Returns the task of the model."""
        return self.experiment.task

    def trained(self, name: str, other: Experiment) -> Any:
        """Returns the trained model of another experiment, or None where its training diverged."""
        model, recipe, task = other.initial(self.device), other.train, other.task
        assert isinstance(recipe, TrainingConfig) and isinstance(task, Task)  # as those of every model with blocks
        training = Training(model, task, recipe, experiment_generator(other, "train", self.device))
        self.log(f"trains the partner {name}")
        points = learning_curve(training, lambda step: due(other, step, training.recipe.steps), lambda step: {})
        return model if self._followed(name, training, points, lambda point: None) else None

    def train(self, name: str, model: nn.Module, task: Task) -> bool:
        """Trains the learnable part of a model on a task; returns whether it converged. All parts see the same
        prompts."""
        training = Training(model, task, self.experiment.eval.surgery or USUAL, self.rng("train"))
        points = learning_curve(training, lambda step: step % EVERY == 0, lambda step: {})
        self.log(f"trains {name}")
        return self._followed(name, training, points, self._log_point)

    def _followed(self, name: str, training: Training, points: Iterator[dict[str, Any]], say: Say) -> bool:
        """Whether a training went well."""
        try:
            follow(training, self.folder / f"checkpoint_{name}.safetensors", points, say, self.log)
        except Diverged as error:
            self.log(f"{name} has no result: {error}")
            return False
        return True

    def _log_point(self, point: dict[str, Any]) -> None:
        self.log(f"step {point['step']} of {point['steps']}, loss {point['loss']:.4g}")

    def rng(self, name: str) -> torch.Generator:
        """Returns a stream of the experiment for surgery; weights are drawn on the CPU."""
        return experiment_generator(self.experiment, name, "cpu" if name == "init" else self.device, "surgery")


__getattr__ = old_names(__name__, Beside="AuxiliaryTrainer")
