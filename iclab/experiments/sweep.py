"""One command from a task file to its verdicts: prepare the store, let the engine work, judge the claims."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from iclab.errors import refuse
from iclab.experiments import report
from iclab.experiments.claims import Cell, Verdict, judge
from iclab.experiments.engine import Engine
from iclab.experiments.experiment import Experiment
from iclab.experiments.mappings import flatten
from iclab.experiments.progress import shown
from iclab.experiments.store import Run, Status, telling
from iclab.experiments.streams import resolve
from iclab.experiments.study import Study
from iclab.experiments.token_experiment import TokenExperiment
from iclab.files import write_whole

MOST = 60  # runs that the table at the end of a sweep lists


def plan(study: Study, folder: Path, to: Console) -> None:
    """Prints every cell with its id, what is varied, its state and the size of its model; starts nothing. Raises
    ``ValueError`` for a device that is absent here, as the sweep itself would."""
    _check_devices(study, folder)
    rows = [_planned(cell.experiment, varied, folder) for cell, varied in zip(study.cells, _varied(study), strict=True)]
    _print_heading(study, to)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row.get(column) for column in columns] for row in rows]
    count = f"{len(rows)} run{'' if len(rows) == 1 else 's'}"
    to.print(report.table(f"{count} would be in {folder}; nothing was started", columns, cells, to))
    for line in dict.fromkeys(line for cell in study.cells for line in cell.experiment.warnings):
        to.print(Text(f"warning: {line}"), soft_wrap=True)


def _planned(experiment: Experiment | TokenExperiment, varied: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One row of the plan."""
    chosen = {key: value for key, value in varied.items() if key not in report.LABELS.values()}
    settings = flatten(experiment.mapping())
    labels = {name: settings.get(key) for name, key in report.LABELS.items()}
    size = f"{_parameters(experiment):,}"
    state = Run(folder / experiment.id).status().state
    return {"run": experiment.id, **chosen, **labels, "parameters": size, "state": state}


def sweep(study: Study, folder: Path, jobs: int, retry: bool, to: Console) -> tuple[dict[str, Status], list[Verdict]]:
    """Brings every cell to its end and judges the claims. Raises ``OSError`` where the folder cannot be written."""
    runs = prepare(study, folder)
    labels = {run.id: _label(varied) for run, varied in zip(runs, _varied(study), strict=True)}
    _print_heading(study, to)
    with shown(labels, len(runs), to) as display:
        outcomes = Engine(runs, jobs, display, retry).execute()
    to.print(report.of_runs(*_worth_telling(folder, runs, outcomes), to))
    verdicts = verdict(study, folder, outcomes)
    if verdicts:
        to.print(report.of_verdicts(verdicts, to))
    return outcomes, verdicts


def _worth_telling(folder: Path, runs: list[Run], outcomes: Mapping[str, Status]) -> tuple[str, list[Run]]:
    """The runs to list at the end: all, or those that are not done where all would fill many screens."""
    if len(runs) <= MOST:
        return str(folder), runs
    undone = [run for run in runs if outcomes[run.id].state != "done"]
    return f"{folder}: {len(runs) - len(undone)} runs done, {len(undone)} not", undone


def prepare(study: Study, folder: Path) -> list[Run]:
    """Makes the folder of each cell, once all that is still to be run can be run on this machine."""
    refuse("sweep", [f"{folder} is a file, not a folder"] if folder.is_file() else [])
    _check_devices(study, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "study.toml", study.as_used().encode())
    runs = [Run(folder / cell.experiment.id) for cell in study.cells]
    for run, cell in zip(runs, study.cells, strict=True):
        run.create(cell.experiment.mapping())
    return runs


def _check_devices(study: Study, folder: Path) -> None:
    """Refuses a device that is absent here, unless every run that asks for it is done."""
    undone = [cell.experiment for cell in study.cells if Run(folder / cell.experiment.id).recorded().state != "done"]
    for device in dict.fromkeys(experiment.device for experiment in undone):
        resolve(device)


def verdict(study: Study, folder: Path, outcomes: Mapping[str, Status] | None = None) -> list[Verdict]:
    """Judges the claims by what is in the store, and keeps the verdicts there."""
    made = [cell.experiment for cell in study.cells]
    cells = [_measured(Run(folder / each.id), each.mapping(), outcomes or {}) for each in made]
    verdicts = judge(study.heading.claims, cells)
    write_whole(folder / "verdicts.json", json.dumps([v.record() for v in verdicts], indent=1).encode())
    return verdicts


def _measured(run: Run, settings: Mapping[str, Any], outcomes: Mapping[str, Status]) -> Cell:
    state = outcomes[run.id].state if run.id in outcomes else run.status().state
    return Cell(run.id, flatten(settings), state, run.rows() if state == "done" else ())


def _varied(study: Study) -> list[dict[str, Any]]:
    """What sets each cell apart from the others."""
    settings = [flatten(cell.experiment.mapping()) for cell in study.cells]
    keys = telling(settings)
    return [{key: chosen.get(key) for key in keys} for chosen in settings]


def _label(varied: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in varied.items())


@cache
def _parameters(experiment: Experiment | TokenExperiment) -> int:
    """The number of weights of a model, which is not made for it."""
    with torch.device("meta"):
        return sum(weights.numel() for weights in experiment.build().parameters())


def _print_heading(study: Study, to: Console) -> None:
    told = study.heading
    to.print(Text(f"{told.title}\n{told.question}\n({told.paper})"), soft_wrap=True)
