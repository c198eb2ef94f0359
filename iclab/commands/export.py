"""Mirrors of runs for other tools (`iclab export`): learning curves, final rows and settings. The store is not changed.

    csv, parquet   three tables: runs (settings, state), curves (a number of a training curve a row), rows (the table of
                   `iclab.load`)
    tensorboard    a folder of event files for each run, its settings as text and as hyper-parameters
    wandb          an offline run for each run, its settings as config; `wandb sync` uploads it

In TensorBoard and W&B a series is named by what its horizontal axis is:

    curve/QUANTITY                                    step of training
    training/QUANTITY/DISTRIBUTION/PREDICTOR          step of training, for what was measured on the way
    by_position/… and by_layer/…                      number of examples; layer
    final/QUANTITY/DISTRIBUTION/PREDICTOR[/REGION]    a single number, at the last step

and its standard errors are the series of that name with /stderr behind it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

import pandas
from rich.console import Console
from rich.text import Text

from iclab.errors import UsageError, refuse, unknown
from iclab.experiments.claims import MEAN, TRAINED
from iclab.experiments.config import dump
from iclab.experiments.mappings import flatten
from iclab.files import atomic_write
from iclab.measures.rows import MODEL
from iclab.runs.store import Run, is_run, runs, sweeps
from iclab.runs.tables import Look, by_position, table_of

Number = tuple[str, int, float]  # a series, the place on its horizontal axis, the value


@dataclass(frozen=True, eq=False)
class Mirrored:
    """A run of a sweep, as it is mirrored."""

    sweep: str
    run: Run

    @cached_property
    def look(self) -> Look:
        """Returns status, settings and rows."""
        return self.run.look()

    @property
    def settings(self) -> dict[str, Any]:
        """Returns the settings by dotted key."""
        return flatten(self.look[1])

    def curve(self) -> Iterator[Number]:
        """Yields the numbers of the training curve."""
        for point in self.run.curve():
            step = int(point.get("step", 0))
            numbers = {key: value for key, value in flatten(point).items() if key != "step"}
            yield from ((f"curve/{key}", step, float(v)) for key, v in numbers.items() if _is_number(v))

    def rows(self) -> Iterator[Number]:
        """Yields the rows, and their standard errors."""
        last = int(self.run.latest().get("step", 0))
        for row in self.look[2]:
            series, at = _series(row, last)
            for name, value in ((series, row.get("value")), (f"{series}/stderr", row.get("stderr"))):
                if value is not None:
                    yield name, at, float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _series(row: Mapping[str, Any], last: int) -> tuple[str, int]:
    """The series that a row belongs to, and its place there."""
    at = by_position(row.get("position"))
    region, position = at["region"], at["position"]
    place = "" if region == MEAN else f"/{region or format(position, 'g')}"
    name = f"{row['quantity']}/{row.get('distribution', TRAINED)}/{row['predictor']}"
    if row.get("step") is not None:
        return f"training/{name}{place}", int(row["step"])
    if row.get("layer") is not None:
        return f"by_layer/{name}{place}", int(row["layer"])
    if position is not None and float(position).is_integer():
        return f"by_position/{name}", int(position)
    return f"final/{name}{place}", last


# ---- tables --------------------------------------------------------------------------------------------------------


def tables(mirrored: Sequence[Mirrored]) -> dict[str, pandas.DataFrame]:
    """Returns the tables of runs, of their curves and of their rows."""
    listed = [_listed(one) for one in mirrored]
    points = [
        (one.sweep, one.run.id, series.removeprefix("curve/"), step, value)
        for one in mirrored
        for series, step, value in one.curve()
    ]
    return {
        "runs": pandas.DataFrame(listed),
        "curves": pandas.DataFrame(points, columns=["sweep", "run", "quantity", "step", "value"]),
        "rows": pandas.concat([_rows(name, mirrored) for name in dict.fromkeys(one.sweep for one in mirrored)]),
    }


def _listed(one: Mirrored) -> dict[str, Any]:
    status = one.look[0]
    told = {"state": status.state, "error": status.error, "seconds": status.seconds}
    return {"sweep": one.sweep, "run": one.run.id, **told, **one.settings}


def _rows(sweep: str, mirrored: Sequence[Mirrored]) -> pandas.DataFrame:
    """The rows of a sweep, with the settings that differ within it."""
    table = table_of({one.run.id: one.look for one in mirrored if one.sweep == sweep})
    table.insert(0, "sweep", sweep)
    return table.loc[table["quantity"].notna()].drop(columns=["state", "error"])


def _plain(table: pandas.DataFrame) -> pandas.DataFrame:
    """The table with columns of one kind each, as files of columns have them: texts, where a setting is of several."""
    return table.assign(**{name: _one_kind(table[name]) for name in table})


def _one_kind(column: Any) -> Any:
    kinds = {bool if isinstance(v, bool) else float if isinstance(v, Real) else type(v) for v in column.dropna()}
    if column.dtype != object or kinds <= {str}:
        return column
    if kinds in ({bool}, {float}):
        return column.convert_dtypes()
    return column.map(str, na_action="ignore")


def _csv(mirrored: Sequence[Mirrored], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables(mirrored).items():
        atomic_write(out / f"{name}.csv", table.to_csv(index=False).encode())


def _parquet(mirrored: Sequence[Mirrored], out: Path) -> None:
    needed("pyarrow", "parquet", "pyarrow")
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables(mirrored).items():
        atomic_write(out / f"{name}.parquet", _plain(table).to_parquet(index=False, engine="pyarrow"))


# ---- other tools ---------------------------------------------------------------------------------------------------


def needed(module: str, target: str, package: str, install: str = "pip install 'iclab[export]'") -> Any:
    """Returns a module of a package that may not be installed. Raises ``ValueError`` that says what to install."""
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(f"export: --to {target} needs the package {package}: {install}") from None


def _own_folders(mirrored: Sequence[Mirrored], out: Path, pattern: str) -> None:
    """Refuses folders that hold such a mirror already: these tools add to what is there."""
    taken = [path for one in mirrored for path in sorted(out.glob(pattern.format(sweep=one.sweep, run=one.run.id)))]
    refuse("export", [f"{taken[0]} is there already; remove it, or give another --out"] if taken else [])


def _tensorboard(mirrored: Sequence[Mirrored], out: Path) -> None:
    writers = needed("torch.utils.tensorboard", "tensorboard", "tensorboard")
    _own_folders(mirrored, out, "{sweep}/{run}/events.out.tfevents.*")
    for one in mirrored:
        with writers.SummaryWriter(str(out / one.sweep / one.run.id)) as writer:
            writer.add_text("settings", "\n".join(f"    {line}" for line in dump(one.look[1]).splitlines()))
            for series, at, value in (*one.curve(), *one.rows()):
                writer.add_scalar(series, value, at)
            finals = {series: value for series, _, value in one.rows() if _headline(series)}
            writer.add_hparams(_hyper_parameters(one.settings), finals, run_name=".")


def _headline(series: str) -> bool:
    """Whether a series is a final number of the model on its own distribution, averaged over positions."""
    parts = series.split("/")
    return parts[0] == "final" and parts[2:] == [TRAINED, MODEL]


def _hyper_parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()}


def _wandb(mirrored: Sequence[Mirrored], out: Path) -> None:
    wandb = needed("wandb", "wandb", "wandb", "pip install wandb")
    _own_folders(mirrored, out, "wandb/offline-run-*-{run}")
    out.mkdir(parents=True, exist_ok=True)
    for one in mirrored:
        quiet = wandb.Settings(silent=True, console="off", disable_git=True)
        named = {"project": one.sweep, "id": one.run.id, "name": one.run.id, "config": one.look[1]}
        with wandb.init(mode="offline", dir=str(out), settings=quiet, **named) as run:
            points: dict[int, dict[str, float]] = {}
            for series, at, value in (*one.curve(), *one.rows()):
                if series.startswith(("curve/", "training/")):
                    points.setdefault(at, {})[series] = value
                elif series.startswith("final/"):
                    run.summary[series] = value
            for step in sorted(points):
                run.log(points[step], step=step)
            rows = _plain(_rows(one.sweep, [one])).astype(object)
            run.log({"rows": wandb.Table(list(rows), rows.where(rows.notna(), None).to_numpy().tolist())})


TARGETS: Mapping[str, Callable[[Sequence[Mirrored], Path], None]] = {
    "csv": _csv,
    "parquet": _parquet,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


def export(folder: Path, target: str, out: Path | None, to: Console) -> None:
    """Writes a mirror of a run, of a sweep or of a folder of sweeps. Raises ``ValueError``."""
    refuse("export", [] if target in TARGETS else [unknown("target", target, TARGETS)])
    mirrored = _found(folder)
    refuse("export", [] if mirrored else [f"{folder} holds no runs; expected a run, a sweep or a folder of sweeps"])
    place = out or Path("exports") / folder.resolve().name / target
    TARGETS[target](mirrored, place)
    done = sum(one.look[0].state == "done" for one in mirrored)
    to.print(Text(f"wrote {place}: {len(mirrored)} runs, {done} of them with results"))


def _found(folder: Path) -> list[Mirrored]:
    """The runs of a folder, with the names of their sweeps."""
    if is_run(folder):
        return [Mirrored(folder.resolve().parent.name, Run(folder))]
    return [Mirrored(path.resolve().name, run) for path in sweeps(folder) for run in runs(path)]
