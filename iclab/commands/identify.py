"""The study `tasks/given/identify.toml` of a model that somebody else trained (`iclab identify`): a sweep of one run,
or of several where a setting is varied, and the report of each."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.text import Text

from iclab.commands.sweep import sweep
from iclab.commands.terminal import of_run
from iclab.errors import refuse
from iclab.experiments.plugins import bring, load_entry_points
from iclab.experiments.study import Study, given_study
from iclab.models import Pretrained, TokenTransformer
from iclab.models.formats import format_of
from iclab.runs.engines import HERE
from iclab.runs.store import Run


@dataclass(frozen=True)
class Checkpoint:
    """A model to be identified: files, or a module of the user's, or a module with weights from a file; `layers` of a
    module are read out, and `imports` are the files and modules with the code that it or its format needs."""

    path: Path | None = None
    module: str | None = None
    layers: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse("identify", [] if self.path or self.module else ["give a CHECKPOINT, or --module package.module:make"])

    @property
    def code(self) -> list[str]:
        """Returns what a task file has to import, files by their whole path: that of the module, too."""
        names = [*self.imports]
        own = (self.module or "").partition(":")[0]
        if own and own not in {Path(name).stem if name.endswith(".py") else name for name in names}:
            names.append(f"{own}.py" if Path(f"{own}.py").is_file() else own)
        return [str(Path(name).expanduser().resolve()) if name.endswith(".py") else name for name in names]

    def settings(self) -> dict[str, Any]:
        """Returns the settings of the study that the files tell: the model, and the prompts that it was trained on.
        Raises ``ValueError`` for files of no known format, and for a model over tokens."""
        path = None if self.path is None else str(self.path.expanduser().resolve())
        given = {"model.path": path, "model.module": self.module, "model.layers": [*self.layers] or None}
        known = {key: value for key, value in given.items() if value is not None}
        if path is None or self.module:
            return known | ({} if self.layers else {"eval.analyses": []})
        model = Pretrained(path=path)
        tokens = isinstance(model.outline, TokenTransformer)
        told = "a model over tokens answers no examples; see `iclab recall` and `iclab channels`"
        refuse(path, [told] if tokens else [])
        sizes = {name: getattr(model.outline, name) for name in ("d", "n") if hasattr(model.outline, name)}
        task = sizes | dict(format_of(Path(path)).task(Path(path)))
        return known | {f"task.{k}": v for k, v in task.items()} | ({} if model.layered else {"eval.analyses": []})


def study_of(checkpoint: Checkpoint, settings: Sequence[str]) -> Study:
    """Returns the study of a model; `settings` stand before those that its files tell. Raises ``ValueError`` with all
    that stands against it."""
    load_entry_points()
    text = given_study("identify").read_text()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "identify.toml"
        file.write_text((f"imports = {json.dumps(checkpoint.code)}\n" if checkpoint.code else "") + text)
        bring(checkpoint.code, file)  # a format of the user's is known from here on
        given = {text.partition("=")[0] for text in settings}
        told = {key: value for key, value in checkpoint.settings().items() if key not in given}
        return Study.read(file, [*_written(told), *settings])


def _written(settings: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items())


def identify(checkpoint: Checkpoint, settings: Sequence[str], out: Path, to: Console) -> list[Run]:
    """Measures a model, once for each setting that is varied, and prints what it turned out to be. Returns the runs
    that are done."""
    study = study_of(checkpoint, settings)
    for experiment in (cell.experiment for cell in study.cells):
        path = f"{checkpoint.path or checkpoint.module}"
        to.print(Text(f"{path}: a {_kind(experiment.model)}, on {experiment.task}"), soft_wrap=True)
    outcomes, _ = sweep(study, out, HERE, True, to)
    runs = [Run(out / id) for id, status in outcomes.items() if status.state == "done"]
    for run in runs:
        for part in of_run(run, to):
            to.print(part)
    return runs if len(runs) == len(outcomes) else []


def _kind(model: Any) -> str:
    return f"module of {model.module}" if model.module else type(model.outline).__name__
