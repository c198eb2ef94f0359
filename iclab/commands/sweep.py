"""One command from a task file to its verdicts: prepare the store, let the engine work, judge the claims."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from iclab.commands import terminal, verdicts
from iclab.commands.progress import shown
from iclab.errors import refuse
from iclab.experiments import plugins
from iclab.experiments.experiment import Experiment
from iclab.experiments.outside import of_users
from iclab.experiments.streams import resolve
from iclab.experiments.study import Cell as StudyCell
from iclab.experiments.study import Study
from iclab.experiments.verdicts import Cell, Verdict, judge
from iclab.files import atomic_write
from iclab.learning.training import OptimizerConfig
from iclab.models import AnyModelConfig
from iclab.runs.disk import told
from iclab.runs.engine import Engine
from iclab.runs.engines import HERE, Site, opened, slurm
from iclab.runs.engines.local import slots
from iclab.runs.environment import usable_cores
from iclab.runs.forecast import Forecast, forecast
from iclab.runs.packing import Packs
from iclab.runs.store import VERDICTS, Run, Status, tidy
from iclab.runs.tables import distinguishing_keys
from iclab.runs.trainings import Trainings

MOST = 60  # runs that the table at the end of a sweep lists


def plan(study: Study, folder: Path, to: Console, reused: Sequence[Path] = (), place: Site = HERE) -> None:
    """Prints every cell with its id, what is varied, its state, the size of its model and where its training will come
    from, and the script of a Slurm array; starts nothing. Raises ``ValueError`` for a device that is absent here, as
    the sweep itself would."""
    _check_devices(_undone(study, folder), place)
    states = {id: Run(folder / id).checked().state for id in (cell.experiment.id for cell in study.cells)}
    undone = [Run(folder / id) for id, state in states.items() if state != "done"]
    made, packs = trainings(study, folder, reused).plan(undone), _packs(study, place)
    new = [run for run in undone if made.get(run.id) == "new"]
    devices = [experiment.device for experiment in _undone(study, folder)]
    workers = _workers(place, devices)
    units = packs.planned(new, workers)
    several = [unit for unit in units if len(unit) > 1]
    packed = {run.id: f"new, pack {number}" for number, unit in enumerate(several, 1) for run in unit}
    rows = [
        _planned(cell, varied, states, {**made, **packed})
        for cell, varied in zip(study.cells, _varied(study), strict=True)
    ]
    _print_heading(study, to)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row.get(column) for column in columns] for row in rows]
    count = f"{len(rows)} run{'' if len(rows) == 1 else 's'}"
    to.print(terminal.table(f"{count} would be in {folder}; nothing was started", columns, cells, to))
    _print_estimate(expected(study, folder, reused), workers, to)
    for line in dict.fromkeys(line for cell in study.cells for line in cell.experiment.warnings):
        to.print(Text(f"warning: {line}"), soft_wrap=True)
    if place.engine == "slurm":
        to.print(Text(slurm.planned(folder, place, len(units) + len(undone) - len(new))), soft_wrap=True)


def _planned(
    cell: StudyCell, varied: Mapping[str, Any], states: Mapping[str, str], made: Mapping[str, str]
) -> dict[str, Any]:
    """One row of the plan."""
    chosen = {key: value for key, value in varied.items() if key not in terminal.LABELS.values()}
    labels = {name: cell.flat.get(key) for name, key in terminal.LABELS.items()}
    size, id = f"{_parameters(cell.experiment):,}", cell.experiment.id
    return {"run": id, **chosen, **labels, "training": made.get(id), "parameters": size, "state": states[id]}


def trainings(study: Study, folder: Path, reused: Sequence[Path] = ()) -> Trainings:
    """Returns the trainings that the cells of a study share, and the folders whose finished trainings they may
    reuse."""
    return Trainings({cell.experiment.id: cell.experiment for cell in study.cells}, [folder, *reused])


def expected(study: Study, folder: Path, reused: Sequence[Path] = ()) -> Forecast:
    """Returns what is known of how long the cells will take that are not done."""
    undone = [cell for cell in study.cells if Run(folder / cell.experiment.id).recorded().state != "done"]
    return forecast({cell.experiment.id: cell.settings for cell in undone}, [folder, *reused])


def _workers(place: Site, devices: Sequence[str]) -> int | None:
    """How many runs are worked on at a time; none where that is not known."""
    return place.jobs if place.engine != "local" else len(slots(place.jobs, devices, usable_cores()))


def _print_estimate(known: Forecast, width: int | None, to: Console) -> None:
    """Says before a sweep how long it takes."""
    if known.shapes:
        to.print(Text(known.estimate(width or 1)), soft_wrap=True)


def _packs(study: Study, place: Site) -> Packs:
    return Packs({cell.experiment.id: cell.experiment for cell in study.cells}, place.pack)


def sweep(
    study: Study, folder: Path, place: Site, retry: bool, to: Console, reused: Sequence[Path] = ()
) -> tuple[dict[str, Status], list[Verdict]]:
    """Runs every cell and judges the claims; trainings are taken from runs in the folder, and in those
    that are `reused`. Raises ``OSError`` where the folder cannot be written; one that is finished is judged again
    without that."""
    runs = prepare(study, folder, to, place)
    labels = {run.id: _label(varied) for run, varied in zip(runs, _varied(study), strict=True)}
    _print_heading(study, to)
    devices = [experiment.device for experiment in _undone(study, folder)]
    made, known = trainings(study, folder, reused), expected(study, folder, reused)
    width = _workers(place, devices)
    _print_estimate(known, width, to)
    queue = runs if place.engine == "slurm" else longest_first(runs, study)  # tasks of an array share runs out
    with shown(labels, to, known, width) as display, opened(place, folder, devices) as workplace:
        engine = Engine(queue, workplace, display, retry, made, _packs(study, place))
        outcomes = engine.handed_in() if place.detach else engine.execute()
    to.print(terminal.of_runs(*_runs_to_list(folder, runs, outcomes), to))
    judged = verdict(study, folder, to, outcomes)
    if judged:
        to.print(verdicts.of_verdicts(judged, to))
    return outcomes, judged


def _runs_to_list(folder: Path, runs: list[Run], outcomes: Mapping[str, Status]) -> tuple[str, list[Run]]:
    """The runs to list at the end: all, or those that are not done where all would fill many screens."""
    if len(runs) <= MOST:
        return str(folder), runs
    undone = [run for run in runs if outcomes[run.id].state != "done"]
    return f"{folder}: {len(runs) - len(undone)} runs done, {len(undone)} not", undone


def prepare(study: Study, folder: Path, to: Console, place: Site = HERE) -> list[Run]:
    """Makes the folder of each cell, once all that is still to be run can be run on this machine."""
    refuse("sweep", [f"{folder} is a file, not a folder"] if folder.is_file() else [])
    undone = _undone(study, folder)
    _check_devices(undone, place)
    folder.mkdir(parents=True, exist_ok=True)
    tidy(folder)
    plugins.keep(folder, study.cells[0].experiment.imports)
    _keep(folder / "study.toml", study.as_used(), to, needed=bool(undone))
    runs = [Run(folder / cell.experiment.id) for cell in study.cells]
    for run, cell in zip(runs, study.cells, strict=True):
        plugins.keep(run.folder, cell.experiment.imports)
        run.create(cell.settings)
    return runs


def _check_devices(undone: Sequence[Experiment], place: Site) -> None:
    """Refuses a device that is absent here, where runs that are not done need it here."""
    for device in dict.fromkeys(experiment.device for experiment in undone):
        _ = place.engine == "local" and resolve(device)


def _undone(study: Study, folder: Path) -> list[Experiment]:
    """The experiments that are still to be run, as their statuses say."""
    made = [cell.experiment for cell in study.cells]
    return [experiment for experiment in made if Run(folder / experiment.id).recorded().state != "done"]


def _keep(path: Path, text: str, to: Console, needed: bool = False) -> None:
    """Writes a file of the sweep, unless it holds the text already. A disk that takes nothing stops no judgement: what
    is not kept is reported, unless it is `needed`."""
    content = text.encode()
    try:
        if not path.is_file() or path.read_bytes() != content:
            atomic_write(path, content)
    except OSError as error:
        if needed:
            raise
        to.print(Text(f"not kept: {told(error)}"), soft_wrap=True)


def verdict(study: Study, folder: Path, to: Console, outcomes: Mapping[str, Status] | None = None) -> list[Verdict]:
    """Judges the claims by what is in the store, and keeps the verdicts there."""
    cells = [_measured(Run(folder / cell.experiment.id), cell.flat, outcomes or {}) for cell in study.cells]
    judged = judge(study.heading.claims, cells)
    _keep(folder / VERDICTS, json.dumps([v.record() for v in judged], indent=1), to)
    return judged


def _measured(run: Run, settings: Mapping[str, Any], outcomes: Mapping[str, Status]) -> Cell:
    state = outcomes[run.id].state if run.id in outcomes else run.status().state
    return Cell(run.id, settings, state, run.rows() if state == "done" else ())


def _varied(study: Study) -> list[dict[str, Any]]:
    """What sets each cell apart from the others."""
    settings = [cell.flat for cell in study.cells]
    keys = distinguishing_keys(settings)
    return [{key: chosen.get(key) for key in keys} for chosen in settings]


def _label(varied: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in varied.items())


def longest_first(runs: Sequence[Run], study: Study) -> list[Run]:
    """Returns the runs of the cells of a study, those before whose trainings take long: a worker that begins such a one
    when the others are done keeps the rest of the machine idle."""
    works = {cell.experiment.id: _work(cell.experiment) for cell in study.cells}
    return sorted(runs, key=lambda run: -works[run.id])


def _work(experiment: Experiment) -> float:
    """What a training computes, up to a factor that the cells of a study share: steps × batch × length × weights. Of
    other learners that is not known, and they are begun first."""
    recipe = experiment.train
    if not isinstance(recipe, OptimizerConfig):
        return inf
    return recipe.steps * recipe.batch * experiment.sizes.get("n", 1) * _parameters(experiment)


def _parameters(experiment: Experiment) -> int:
    """The number of weights of a model, which is not made for it: that of its shape, whatever trains it."""
    return _parameters_of(experiment.model, **experiment.sizes)


@cache
def _parameters_of(model: AnyModelConfig, **sizes: Any) -> int:
    with torch.device("cpu" if of_users(model) else "meta"):  # foreign code may read numbers
        return sum(weights.numel() for weights in model.start(**sizes).parameters())


def _print_heading(study: Study, to: Console) -> None:
    heading = study.heading
    to.print(Text(f"{heading.title}\n{heading.question}\n({heading.paper})"), soft_wrap=True)
