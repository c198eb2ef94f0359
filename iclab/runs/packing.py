"""Runs of a sweep that train as a pack: which of them do, and how.

    auto    seeds, rates, noises of one shape, where that pays: up to 8 of a small model on a CPU, up to 256 on a GPU
    N       whatever can, at most N together (but the last three of an odd number where N is 2)
    off     every training alone

A training goes on as it began, in a pack or alone, so that its numbers are the same whatever was stopped or killed in
between. One that began in a pack and is alone when it goes on is stepped with a copy of itself, since from two replicas
on the bits of a replica do not depend on their number. One that begins when nobody is left to train with trains alone,
and one whose pack failed goes on alone: `environment.json` says which it was.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil

import torch

from iclab.experiments.experiment import Experiment
from iclab.experiments.streams import device_kind, resolve
from iclab.learning.pack import pack_key, pack_trainings
from iclab.learning.training import GradientTraining, TrainingConfig
from iclab.measures import Workspace
from iclab.measures.following import follow_together, learning_curves, resume
from iclab.measures.monitor import observed
from iclab.models import LAYOUTS, TransformerConfig
from iclab.runs.perform import Learning
from iclab.runs.store import CURVE, Curve, Run
from iclab.tasks import Task

AUTO, OFF = "auto", "off"
MOST = {"cpu": 8, "cuda": 256}  # replicas of a pack
SMALL = 2**15  # numbers of the hidden states of a batch up to which packs pay on a CPU: `iclab bench`, part "packs"


def problems(pack: str) -> list[str]:
    """Returns what is wrong with a choice of packs."""
    fits = pack in (AUTO, OFF) or (pack.isdigit() and int(pack) >= 2)
    return [] if fits else [f"--pack must be auto, off or a number of at least 2, given {pack}"]


def pays(experiment: Experiment) -> bool:
    """Returns whether a training in a pack takes less time than alone: always on a GPU, which waits for the next
    command most of the time; on a CPU where the tensors are so small that calls take longer than what they compute."""
    if device_kind(experiment.device) != "cpu":
        return True
    if not isinstance(task := experiment.task, Task):
        return False
    recipe, model = experiment.train, experiment.model
    if not isinstance(recipe, TrainingConfig) or not isinstance(model, TransformerConfig):
        return False
    tokens = len(LAYOUTS[model.layout].positions(task.n, torch.device("cpu")))
    return recipe.batch * tokens * model.d_model <= SMALL


@dataclass(eq=False)
class Packs:
    """The packs of a sweep: its `experiments` by the ids of their runs, and what was said of `pack`."""

    experiments: Mapping[str, Experiment] = field(default_factory=dict)
    pack: str = OFF

    def key(self, id: str) -> str:
        """Returns what a run has in common with those that it can train with; nothing where it trains alone."""
        return self._keys.get(id, "")

    def size(self, run: Run, waiting: int, alike: int, undone: int, workers: int | None) -> int:
        """Returns how many runs to train with this one, itself included.

        Of the `undone` runs `alike` can train with it, of which so many are `waiting`. A sweep of several shapes has
        about two packs for each worker, and one of a single shape has one:

            packs = max(alike / most, min(workers, 2 workers · alike / undone))        rounded up

        Those that wait are shared out to packs of that size or less, none of them of a single run.
        """
        if not self.key(run.id) or waiting < 2:
            return 1
        most = int(self.pack) if self.pack.isdigit() else MOST[device_kind(self.experiments[run.id].device)]
        busy = 1 if workers is None else min(workers, ceil(2 * workers * alike / undone))
        usual = ceil(alike / max(ceil(alike / most), busy))
        return ceil(waiting / min(waiting // 2, ceil(waiting / usual)))

    def planned(self, runs: Sequence[Run], workers: int | None) -> list[list[Run]]:
        """Returns runs as they would be worked on from the start, in lists of those that train together."""
        left, units = list(runs), []
        counts = Counter(self.key(run.id) for run in runs)
        while left:
            key = self.key(left[0].id)
            alike = [run for run in left[1:] if key and self.key(run.id) == key]
            size = self.size(left[0], len(alike) + 1, counts[key], len(runs), workers)
            units.append([left[0], *alike[: size - 1]])
            left = [run for run in left if run not in units[-1]]
        return units

    @cached_property
    def _keys(self) -> dict[str, str]:
        """The keys that several runs have."""
        if self.pack == OFF:
            return {}
        packed = {id: one for id, one in self.experiments.items() if self.pack != AUTO or pays(one)}
        keys = {id: pack_key(one) for id, one in packed.items()}
        counts = Counter(keys.values())
        return {id: key for id, key in keys.items() if key and counts[key] > 1}


@dataclass(frozen=True, eq=False)
class Replica(Learning):
    """The interface of a run to its learner, which keeps the training for a pack."""

    trainings: list[GradientTraining] = field(default_factory=list)

    def follow(self, training: GradientTraining) -> None:
        """Takes note of a training, resumed from its checkpoint."""
        resume(training, self.checkpoint, self.log)
        self.trainings.append(training)

    @classmethod
    def of(cls, run: Run, experiment: Experiment) -> "Replica":
        """Makes a run ready to train."""
        workspace = Workspace(resolve(experiment.device), run.folder, run.note, run.curve)
        return cls(experiment, workspace, Curve(run.folder / CURVE, run.checkpoint))._ready()

    def _ready(self) -> "Replica":
        model = self.experiment.initial(self.workspace.device)
        self.experiment.train.learn(model, self.experiment.task, self)
        return self

    def copied(self) -> "Replica":
        """Returns another training of the run, at the same step."""
        silent = replace(self.workspace, log=lambda text: None)
        return replace(self, workspace=silent, trainings=[])._ready()

    @property
    def training(self) -> GradientTraining:
        """Returns the training."""
        return self.trainings[0]

    @property
    def packed(self) -> bool:
        """Returns whether it has steps to take in a pack: it began in one, or begins."""
        return self.training.step < self.training.recipe.steps and (self.training.pack > 1 or not self.training.step)


def train_together(runs: Mapping[Run, Experiment]) -> None:
    """Trains runs, which the caller holds, as a pack to the ends of their trainings: each has its curve and its
    checkpoint then, from which it goes on alone. One that began alone, or diverges, is left as it is. A pack that the
    memory of a device does not hold is halved. Raises `UsageError` for runs that are no pack."""
    replicas = [made for run, each in runs.items() if (made := Replica.of(run, each)).packed]
    if len(replicas) < 2 and not any(each.training.pack > 1 for each in replicas):
        return
    for each in replicas:
        each.log(f"trains in a pack of {max(2, len(replicas))}")
    try:
        _follow(replicas)
    except torch.OutOfMemoryError:
        if len(runs) < 3:
            raise
        both = list(runs.items())
        for half in (both[: len(both) // 2], both[len(both) // 2 :]):
            train_together(dict(half))


def _follow(replicas: Sequence[Replica]) -> None:
    """Follows the trainings of replicas; that of one alone beside a copy, which leaves no trace."""
    own = len(replicas)
    copies = [each.copied() for each in replicas[: 2 - own]] if own < 2 else []
    looks = [observed(each.experiment, each.training) for each in replicas]
    looks += [(lambda step: False, lambda step: {}) for _ in copies]
    pack = pack_trainings([each.training for each in (*replicas, *copies)])
    curves = learning_curves(pack, [due for due, _ in looks], [watch for _, watch in looks])
    points = ((replica, point) for replica, point in curves if replica < own)
    follow_together(pack, [each.checkpoint for each in replicas], points, [each.say for each in replicas])
