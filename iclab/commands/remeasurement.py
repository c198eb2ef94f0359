"""Measuring a trained model once more: a run beside another, with its training and other settings of `eval`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console

from iclab.commands.progress import shown
from iclab.errors import UsageError, refuse, unknown
from iclab.experiments import grid
from iclab.experiments.experiment import Experiment, known_keys
from iclab.experiments.identity import run_id
from iclab.experiments.mappings import Nested, flatten, put
from iclab.experiments.streams import resolve
from iclab.runs.engine import Engine
from iclab.runs.engines.local import Processes
from iclab.runs.store import Run, Status
from iclab.runs.trainings import DECISIVE, experiment_of, take, training_id

SECTION = "eval."
LISTED = ("eval.analyses",)  # whose values, behind commas, are one list


def remeasure(source: Run, texts: Iterable[str], to: Console) -> tuple[Run, Status]:
    """Returns the run with other settings of `eval` beside a given one, measured with the training of that; and how it
    ended. Raises ``ValueError`` for settings that are wrong, that need another training, or where there is none."""
    before = experiment_of(source)
    given = chosen(texts, before.mapping())
    after = _changed(before, given)
    _check_training(source, before, after, given)
    run = Run(source.folder.parent / run_id(after.mapping(), source.numerics))
    if run.checked().state == "done":
        return run, run.status()
    resolve(after.device)
    run.create(after.mapping())
    _take(run, source, after)
    with shown({run.id: " ".join(texts)}, to) as display:
        outcomes = Engine([run], Processes([{}]), display, retry=True).execute()
    return run, outcomes[run.id]


def chosen(texts: Iterable[str], settings: Nested) -> dict[str, Any]:
    """Returns the settings of the command line by dotted key, each with its only value. Raises ``ValueError``."""
    axes, problems = grid.settings(texts)
    changes: dict[str, Any] = {}
    for key, values in axes.items():
        full = key if key == "device" or key.startswith(SECTION) else SECTION + key
        problems += _problems(key, full, values, settings) + ([f"{full} is given twice"] if full in changes else [])
        changes[full] = _listed(values) if full in LISTED else values[0]
    if problems:
        raise UsageError("\n".join(f"measure: {text}" for text in problems))
    return changes


def _problems(key: str, full: str, values: list[Any], settings: Nested) -> list[str]:
    """The problems of a key, and against the number of its values."""
    name = key.partition(".")[0]
    if name in (*DECISIVE, "recipe") and full != "device":
        return [f"{key} decides what is trained, and is that of the run; `iclab sweep` trains with another"]
    # What is below a table of names, such as a shift, is read where the experiment is made.
    known = {k for k in known_keys(settings) if k.startswith(SECTION)}
    below = any(full.startswith(f"{k}.") for k in known)
    if full != "device" and full not in known and not below:
        return [unknown("setting", key, [k.removeprefix(SECTION) for k in known])]
    several = len(values) > 1 and full not in LISTED
    return [f"{key} takes one value, given {len(values)}; `iclab sweep` varies settings"] if several else []


def _listed(values: list[Any]) -> list[Any]:
    return values[0] if len(values) == 1 and isinstance(values[0], list) else values


def _changed(before: Experiment, given: Nested) -> Experiment:
    settings: dict[str, Any] = before.mapping()
    for key, value in sorted(given.items(), key=lambda one: one[0].count(".")):  # a table before its entries
        settings = put(settings, key, value)
    return Experiment.from_mapping(settings, "measure")


def _check_training(source: Run, before: Experiment, after: Experiment, given: Mapping[str, Any]) -> None:
    """Refuses a run without a finished training, and settings that need another."""
    training = training_id(before)
    refuse("measure", [] if training else [f"{source.id} has nothing trained: all its weights are frozen"])
    if training_id(after) != training:
        needed = {key: value for key, value in given.items() if _matters(before, key, value, training)} or given
        command = f"iclab sweep {source.folder.parent / 'study.toml'} {' '.join(_spelled(needed))}"
        what = f"{', '.join(needed)} would need {_missing(before, after)}"
        raise UsageError(f"measure: {what}; this trains anew: {command}")
    source.trained()


def _matters(before: Experiment, key: str, value: Any, training: str) -> bool:
    """Whether a setting alone would need another training."""
    try:
        return training_id(_changed(before, {key: value})) != training
    except UsageError:  # it is no experiment without the others
        return False


def _spelled(given: Nested) -> Iterator[str]:
    """Settings as `iclab sweep` takes them."""
    for key, value in flatten(given).items():
        yield f"'{key}={json.dumps(value)}'" if isinstance(value, list | str) else f"{key}={value}"


def _missing(before: Experiment, after: Experiment) -> str:
    """Why a training will not do."""
    if before.sizes != after.sizes:
        return f"a model of other sizes, {flatten(after.sizes)}, and that of the run has {flatten(before.sizes)}"
    followed = ["evolution" in each.eval.analyses for each in (before, after)]
    if followed == [True, False]:
        return "a curve that says less than that of the run, which follows the 'evolution': name this analysis as well"
    if followed == [False, True]:
        return "a curve that says more than that of the run: the 'evolution' is followed while a model is trained"
    return "another curve than that of the run: what it has points of is decided before the training"


def _take(run: Run, source: Run, experiment: Experiment) -> None:
    """Gives the run its training, unless it has that already."""
    with run.hold(patience=0.5) as mine:
        refuse("measure", [] if mine else [f"another process works on {run.folder}"])
        if not run.weights:
            take(run, source, experiment)
