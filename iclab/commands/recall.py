"""The study `tasks/given/recall.toml` of a language model on this disk (`iclab recall`): what it does with a list and
with two names, and which heads do it. It is a sweep of one run, of which rows and heads are printed in addition."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from iclab.commands.sweep import sweep
from iclab.commands.terminal import table
from iclab.errors import refuse
from iclab.experiments.study import Study, given_study
from iclab.files import write_json
from iclab.models.pretrained import outline_of
from iclab.runs.engines import Site
from iclab.runs.store import Run
from iclab.tasks import RecallText

COLUMNS = ("distribution", "predictor", "quantity", "layer", "position", "value", "stderr")
BY_PLACE = ("accuracy", "accuracy_among_options", "loss")  # which have rows by missing item too


def study_of(folder: Path, prompts: int, heads: int) -> Study:
    """Returns the study of the model in a folder. Raises ``ValueError`` with all that stands against it."""
    refuse(f"{folder}", [] if folder.is_dir() else ["no such folder"])
    settings = {
        "model.path": str(folder),
        "task.path": str(folder / "tokenizer.json"),
        "task.vocab": outline_of(folder).vocab,
        "eval.prompts": prompts,
        "eval.dissection.heads": heads,
    }
    given = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items())
    return Study.read(given_study("recall"), given)


def recall(folder: Path, prompts: int, heads: int, out: Path, to: Console, file: Path | None = None) -> bool:
    """Measures a model and judges the claims; prints both, and writes them to a file where one is named. Returns
    whether the run is done."""
    study = study_of(folder, prompts, heads)
    (experiment,) = (cell.experiment for cell in study.cells)
    assert isinstance(experiment.task, RecallText)
    for kind, words in experiment.task.left_out.items():
        if words:
            to.print(Text(f"{kind} left out, as they are no token of their own: {', '.join(words)}"), soft_wrap=True)
    outcomes, verdicts = sweep(study, out, Site(jobs=1), True, to)
    if outcomes[experiment.id].state != "done":
        return False
    rows = Run(out / experiment.id).rows()
    to.print(table(f"{folder}: on this project's reconstruction of the texts", COLUMNS, _body(rows), to))
    named_heads = heads_of(rows)
    listed = {name: ", ".join(".".join(map(str, head)) for head in each) for name, each in named_heads.items()}
    to.print("; ".join(f"{name}: {heads}" for name, heads in listed.items()))
    if "s_inhibition" not in named_heads:
        to.print("With rotary positions queries read by distance: what needs their composition is not measured.")
    if file is not None:
        write_json(file, {"rows": rows, "heads": named_heads, "verdicts": [verdict.record() for verdict in verdicts]})
    return True


def _body(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Any]]:
    """The rows to print: of each list, all places together."""
    for row in rows:
        if row["quantity"] not in BY_PLACE or row["position"] is None:
            yield [row.get(column) for column in COLUMNS]


def heads_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    """Returns the heads that were found, each as layer and number, by what they do; of a component its number last."""
    found: dict[str, list[list[int]]] = {}
    for row in rows:
        if row["quantity"].endswith("_head"):
            found.setdefault(row["quantity"].removesuffix("_head"), []).append([row["layer"], int(row["value"])])
        if row["quantity"] == "top_component":
            found.setdefault("top components", []).append([*found["s_inhibition"][-1], int(row["value"])])
    return found
