"""What analyses train beside the model of a run, such as read-ins and bridges. Each has a checkpoint of its own in the
run's folder, so that a run which is stopped goes on from there, and the weights are kept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iclab.experiments.experiment import Experiment
from iclab.experiments.learning import follow, learning_curve
from iclab.experiments.streams import stream
from iclab.tasks import Task
from iclab.training import Diverged, Recipe, Training

USUAL = Recipe(steps=1500, lr=4e-3)  # of parts: ours
EVERY = 250  # steps between two checkpoints


@dataclass(frozen=True, eq=False)
class Beside:
    """Trains parts beside the model of an experiment. `log` takes what there is to say."""

    experiment: Experiment
    folder: Path
    device: torch.device | str
    log: Callable[[str], None]

    def train(self, name: str, model: nn.Module, task: Task) -> bool:
        """Trains what learns in a model on a task; whether that went well. All parts see the same prompts."""
        training = Training(model, task, self.experiment.eval.surgery or USUAL, self.rng("train"))
        points = learning_curve(training, lambda step: step % EVERY == 0, lambda step: {})
        self.log(f"trains {name}")
        try:
            follow(training, self.folder / f"checkpoint_{name}.safetensors", points, self._told, self.log)
        except Diverged as error:
            self.log(f"{name} has no result: {error}")
            return False
        return True

    def _told(self, point: dict[str, Any]) -> None:
        self.log(f"step {point['step']} of {point['steps']}, loss {point['loss']:.4g}")

    def rng(self, name: str) -> torch.Generator:
        """A stream of the experiment for surgery; weights are drawn on the CPU."""
        return stream(self.experiment, name, "cpu" if name == "init" else self.device, "surgery")
