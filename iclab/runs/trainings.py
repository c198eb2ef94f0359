"""Trainings that several runs share: the settings that decide the weights and the curve, and the runs that have them.

A training is known by a hash of its task, model, start, recipe and seed, and of those settings of `eval` that change
the model or the curve which is kept:

    every                    at which steps the curve has points
    "evolution" in analyses  more points, and at each the distances to algorithms, on every shift as well
    "probes" beside it       and what is written in the layers
    shifts of tokens         the model is made for the longest sequences that it is measured on

All else of `eval` is measured at the end. Runs that differ in that alone are trained once: the others take weights,
curve and constants from it, as long as these are what was recorded, and only measure. A curve that says more will not
do, for it has rows of its own; nor will a training from another kind of device, where the same seeds draw other
prompts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from iclab.errors import UsageError, refuse
from iclab.experiments.experiment import Experiment
from iclab.experiments.identity import NUMERICS, run_id
from iclab.experiments.plugins import load_entry_points
from iclab.experiments.streams import device_kind
from iclab.models import Pretrained
from iclab.runs.store import WEIGHTS, Run, is_run, runs, sweeps
from iclab.tasks import TokenTask

DECISIVE = ("task", "model", "start", "train", "seed")
BESIDE = ("pasting", "stitching")  # analyses that train parts beside the model

Key = tuple[str, str]  # the training and the kind of device


def training_id(experiment: Experiment, numerics: int = NUMERICS) -> str:
    """Returns twelve digits that stand for everything that can change the trained weights and the curve, by a version
    of the numerics; empty where nothing is trained, since all weights are frozen."""
    if experiment.train.frozen or not experiment.model.trainable:
        return ""
    settings = experiment.mapping()
    decisive = {name: settings[name] for name in DECISIVE if name in settings}
    return run_id({**decisive, "curve": _followed(experiment, settings["eval"])}, numerics)


def _followed(experiment: Experiment, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What of an evaluation the model and its curve depend on."""
    followed = {"every": evaluation.get("every")}
    if isinstance(experiment.task, TokenTask):
        return {**followed, "sizes": experiment.sizes}
    if "evolution" not in experiment.eval.analyses:
        return followed
    # A list, for the rows of a curve are in the order of the shifts.
    return {**followed, "shifts": [*evaluation["shifts"].items()], "probes": "probes" in experiment.eval.analyses}


def experiment_of(run: Run) -> Experiment:
    """Returns the experiment that a run's settings describe. Raises `UsageError`."""
    return Experiment.from_mapping(run.settings(), run.folder / "config.toml")


def load_model(path: Path | str | None = None, module: str | None = None) -> nn.Module:
    """Returns the model at a path, on the CPU: the trained one of a run, or one that somebody else trained.

    Args:
        path: The folder of a run, whose architecture loads it, those of the user's files with the code that the run
            holds; or files in any format that is known (`iclab.models.formats`). Frozen weights are those that were
            drawn.
        module: "package.module:make", whose make() returns the model; the file at `path`, of safetensors or of
            torch.save, then holds its weights.

    Raises ``ValueError`` where a run has no trained weights, where files are of no known format, where weights are
    missing, not known or of another shape, and where a pickle asks for more than weights. `iclab.open_run` returns the
    prompts and rows of a run as well.

    >>> model = load_model("runs/linear_regression/1f0c2a9b77aa")  # doctest: +SKIP
    >>> model = load_model("models/linear_regression/pretrained")  # doctest: +SKIP
    >>> model = load_model("weights.pt", module="my_models:Network")  # doctest: +SKIP
    """
    if path is None or module is not None or not is_run(Path(path)):
        load_entry_points()
        return Pretrained(path=None if path is None else str(path), module=module).loaded()
    run = Run(Path(path))
    experiment = Experiment.read(run.folder / "config.toml")
    if experiment.train.frozen or not experiment.model.trainable:
        return experiment.initial()
    run.trained()
    return experiment.trained(run.folder / WEIGHTS).eval()


def training_of(run: Run) -> str:
    """Returns which training a run has finished, as its status says, or its settings where they are older than that;
    empty where it has none that can be known again."""
    status = run.recorded()
    if status.training or WEIGHTS not in status.digests:
        return status.training
    try:
        return training_id(experiment_of(run), run.numerics)
    except UsageError:
        return ""


def take(run: Run, source: Run, experiment: Experiment) -> None:
    """Copies a finished training into a run that the caller holds, with where it comes from. Raises `UsageError` where
    it is not whole, or not that of the experiment."""
    other, files, training = experiment_of(source), source.trained(), training_id(experiment, run.numerics)
    if not training or training_id(other, source.numerics) != training:
        raise UsageError(f"{source.folder} has another training")
    run.take(files, _parts(source, other, experiment), training=training, origin=source.origin())
    run.note(f"takes the training of {source.folder}")


def _parts(source: Run, other: Experiment, experiment: Experiment) -> dict[str, bytes]:
    """The checkpoints of what analyses trained beside the model, where both would train it in the same way."""
    applies = any(name in experiment.eval.analyses for name in BESIDE)
    same = other.eval.surgery == experiment.eval.surgery
    same = same and all(partner in experiment.eval.partners for partner in other.eval.partners)
    return source.parts() if applies and same else {}


def stores(folder: Path) -> list[Path]:
    """Returns the sweeps in a folder whose trainings may be used: itself, those in it, or a single run. Raises
    `UsageError`."""
    folders = [folder] if is_run(folder) else sweeps(folder)
    refuse("--reuse", [] if folders else [f"{folder} holds no runs; expected a sweep's folder or a folder of sweeps"])
    return folders


@dataclass(eq=False)
class Trainings:
    """The trainings of a sweep: its `experiments` by the ids of their runs, and the `folders` with finished runs that
    they may take their training from."""

    experiments: Mapping[str, Experiment] = field(default_factory=dict)
    folders: Sequence[Path] = ()

    def key(self, id: str) -> Key | None:
        """Returns the training of a run of the sweep; none where it has none that could be shared."""
        return self._keys.get(id)

    def sources(self, run: Run) -> list[Run]:
        """Returns the other runs that have finished the training of a run."""
        key = self.key(run.id)
        return [other for other in self._finished.get(key, []) if other.folder != run.folder] if key else []

    def waits(self, run: Run, busy: Iterable[str]) -> bool:
        """Returns whether a run that is worked on now makes the training of this one, which nobody has yet."""
        key = self.key(run.id)
        shared = key is not None and any(self.key(id) == key for id in busy)
        return shared and not self.sources(run)

    def give(self, run: Run) -> None:
        """Copies a finished training into a run that has none; the log reports what did not fit.
        Raises ``OSError``."""
        sources = self.sources(run)
        if not sources or run.weights:
            return
        with run.hold(patience=0.5) as mine:
            for source in sources if mine else ():
                try:
                    return take(run, source, self.experiments[run.id])
                except UsageError as error:
                    run.note(f"does not take the training of {source.folder}: {str(error).splitlines()[0]}")

    def ended(self, run: Run) -> None:
        """Records that a run may have finished its training."""
        key = self.key(run.id)
        if key and key == _key_of(run):
            self._finished.setdefault(key, []).append(run)

    def plan(self, runs: Sequence[Run]) -> dict[str, str]:
        """Returns the source of the training of each of these unfinished runs."""
        makers: dict[Key, str] = {}
        return {run.id: self._planned(run, key, makers) for run in runs if (key := self.key(run.id))}

    def _planned(self, run: Run, key: Key, makers: dict[Key, str]) -> str:
        if run.weights:
            return "its own"
        for source in self.sources(run):
            return f"from {source.id if source.folder.parent == run.folder.parent else source.folder}"
        maker = makers.setdefault(key, run.id)
        return "new" if maker == run.id else f"from {maker}"

    @cached_property
    def _keys(self) -> dict[str, Key]:
        named = [(id, training_id(each), each.device) for id, each in self.experiments.items()]
        return {id: (training, device_kind(device)) for id, training, device in named if training}

    @cached_property
    def _finished(self) -> dict[Key, list[Run]]:
        """The complete trainings in the folders that runs of this sweep need."""
        wanted, finished = set(self._keys.values()), {}
        for run in (run for folder in self.folders for run in runs(folder)) if wanted else ():
            if (key := _key_of(run)) in wanted and run.weights:
                finished.setdefault(key, []).append(run)
        return finished


def _key_of(run: Run) -> Key | None:
    """The training that a run has finished, and where; none where one of the two is not known."""
    training = training_of(run)
    device = run.origin().get("device", "") if training else ""
    return (training, device.partition(":")[0]) if device else None
