"""A finished run in the hand: its model, its task, the very prompts that it was measured on, its settings and its rows.

    run = iclab.open_run("runs/linear_regression/3c144fa1c0c8")
    run.model(run.prompts.xs, run.prompts.ys)      predictions for the test prompts [batch n]
    run.model(run.prompts.tokens)                  logits, where prompts are sequences of tokens
    run.rows                                       what was measured, as `iclab.load` has it

Prompts are drawn anew from the seed of the run, on the kind of device that it was measured on: these are the same
numbers. Nothing is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from iclab.errors import UsageError, refuse, unknown
from iclab.experiments.claims import TRAINED
from iclab.experiments.experiment import Experiment
from iclab.experiments.mappings import flatten
from iclab.experiments.streams import resolve
from iclab.measures import Measurement, Workspace
from iclab.runs.results import load
from iclab.runs.store import Run, is_run, runs, sweeps
from iclab.runs.tables import distinguishing_keys
from iclab.runs.trainings import load_model
from iclab.tasks import AnyTask

if TYPE_CHECKING:
    import pandas

LISTED = 8  # runs or sweeps that are named in a refusal


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A finished run; see `iclab.open_run`. `experiment` holds its settings as objects (task, model, start, train,
    eval), `settings` as the nested tables of its file."""

    folder: Path
    experiment: Experiment
    settings: dict[str, Any]
    _run: Run = field(repr=False)

    @property
    def id(self) -> str:
        """Returns the id of the run."""
        return self._run.id

    @property
    def task(self) -> AnyTask:
        """Returns the task that it was trained on."""
        return self.experiment.task

    @cached_property
    def model(self) -> nn.Module:
        """Returns the model with its trained weights, on the device of `prompts` where there is one, else on the CPU.
        Of frozen random features these are the weights as they were drawn: what is learned on them is not kept."""
        model = load_model(self.folder)
        try:
            return model.to(resolve(self._device))
        except UsageError:
            return model

    @property
    def prompts(self) -> Any:
        """Returns the test prompts on which it was measured, of its own task: `measurement` has those of others.
        Raises ``ValueError`` where they were drawn on a kind of device that is not here."""
        return self.measurement().prompts

    def measurement(self, distribution: str = TRAINED) -> Measurement:
        """Returns what the analyses of the run were given: the model and the test prompts of one distribution, with
        `references`, the predictors that it was compared with, and `answers`, what all of them answer.

        Args:
            distribution: The name of a shift or of a part of the task, as in the rows; "own" is the task itself.

        Raises ``ValueError`` for a name that is not known, and as `prompts` does.
        """
        known = self.experiment.distributions
        refuse("run", [] if distribution in known else [unknown("distribution", distribution, known)])
        if distribution not in self._measurements:
            device = self._drawing_device()
            task, place = known[distribution], Workspace(device)
            self._measurements[distribution] = Measurement(self.experiment, self.model, distribution, task, place)
        return self._measurements[distribution]

    @cached_property
    def _measurements(self) -> dict[str, Measurement]:
        return {}

    @cached_property
    def _device(self) -> str:
        """The device that it was measured on, as far as that is recorded."""
        return str(self._run.environment().get("device", self.experiment.device))

    def _drawing_device(self) -> Any:
        try:
            return resolve(self._device)
        except UsageError:
            reason = "the same seeds draw other prompts on another device; the model and the rows are there"
            raise UsageError(f"{self.folder}: its prompts were drawn on {self._device}, and {reason}") from None

    @cached_property
    def rows(self) -> "pandas.DataFrame":
        """Returns what was measured, one number a row, as `iclab.load` does."""
        return load(self.folder)

    @cached_property
    def curve(self) -> "pandas.DataFrame":
        """Returns the points of the training curve, one a row."""
        import pandas

        return pandas.DataFrame([point for point in self._run.curve()])


def open_run(folder: Path | str) -> OpenRun:
    """Opens a finished run: its trained model, its task, the very prompts that it was measured on, its settings and its
    rows.

    Runs of packs, of sequences of tokens, of closed-form learners and of frozen random features are opened alike.
    Raises ``ValueError`` where there is no run, where it is not finished, and for a folder of runs, which it lists.

    >>> run = open_run("runs/linear_regression/3c144fa1c0c8")  # doctest: +SKIP
    >>> predictions = run.model(run.prompts.xs, run.prompts.ys)  # doctest: +SKIP
    >>> iclab.analysis.risk(predictions, run.prompts.ys)  # what `run.rows` says # doctest: +SKIP
    >>> run.task.noise, run.settings["model"]["n_layer"]  # doctest: +SKIP
    (0.5, 1)
    """
    run = Run(Path(folder))
    refuse("open_run", [] if is_run(run.folder) else [_no_run(run.folder)])
    status = run.status()
    refuse("open_run", [] if status.state == "done" else [_unfinished(run, status.state, status.error)])
    return OpenRun(run.folder, Experiment.read(run.folder / "config.toml"), run.settings(), run)


def _no_run(folder: Path) -> str:
    """What a folder is that is no run: nothing, a sweep with runs, or a folder of sweeps."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if known := runs(folder):
        return f"{folder} is a sweep; give one of its runs: {_listed(_told(known))}"
    if known := sweeps(folder):
        return f"{folder} holds sweeps; give a run of one of them: {_listed([str(path) for path in known])}"
    return f"{folder} holds no run; expected a folder below that of a sweep"


def _told(known: Sequence[Run]) -> list[str]:
    """Runs by id, each with the settings that set it apart and the state where that is not done."""
    looks = {run.id: run.look() for run in known}
    flat = {id: flatten(settings) for id, (_, settings, _) in looks.items()}
    keys = distinguishing_keys([each for each in flat.values() if each])
    words = {id: [f"{key}={flat[id].get(key)}" for key in keys] for id in looks}
    states = {id: [] if look[0].state == "done" else [look[0].state] for id, look in looks.items()}
    return [f"{id} ({', '.join([*words[id], *states[id]])})" if words[id] or states[id] else id for id in looks]


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - LISTED} more"] if len(names) > LISTED else []
    return ", ".join([*names[:LISTED], *more])


def _unfinished(run: Run, state: str, error: str) -> str:
    """The state of a run without results, why, and what brings them."""
    if state in ("failed", "diverged"):
        return f"{run.folder} has no results: it {state}: {error}"
    if state == "damaged":
        return error
    step = run.latest().get("step")
    return f"{run.folder} is not finished: {state}" + (f" at step {step}" if step is not None else "")
