"""Mirrors of runs: read back by the tools that they are for, they hold what the store holds."""

import json
import sys
from math import nan

import pandas as pd
import pytest

import iclab
from iclab.experiments.experiment import Experiment
from iclab.runs.store import Run, Status
from iclab.tasks import LinearRegression
from tests.commands.test_cli import call

CURVE = [{"step": 10, "loss": 0.9, "seconds": 1.5, "layers": [1, 2]}, {"step": 20, "loss": 0.5, "seconds": 2.5}]
OWN = {"distribution": "own", "predictor": "transformer", "layer": None, "position": None}


def rows(seed):
    """Rows of each kind of place."""
    yield {**OWN, "quantity": "excess", "value": 0.25 + seed, "stderr": 0.125}
    yield {**OWN, "quantity": "risk", "position": "under", "value": 4.0, "stderr": None}
    yield from ({**OWN, "quantity": "risk", "position": at, "value": 2.0 - at, "stderr": nan} for at in (0, 1))
    yield {**OWN, "quantity": "edit_scaled", "position": 0.5, "value": 0.75, "stderr": 0.5}
    yield {**OWN, "quantity": "fit_distance", "predictor": "ridge", "layer": 1, "value": 0.5, "stderr": 0.25}
    yield {**OWN, "quantity": "evolution_risk", "step": 10, "value": 1.5, "stderr": 0.5}


SERIES = {  # of rows, with their places and values; those of errors besides
    "final/excess/own/transformer": [(20, 0.25)],
    "final/risk/own/transformer/under": [(20, 4.0)],
    "by_position/risk/own/transformer": [(0, 2.0), (1, 1.0)],
    "final/edit_scaled/own/transformer/0.5": [(20, 0.75)],
    "by_layer/fit_distance/own/ridge": [(1, 0.5)],
    "training/evolution_risk/own/transformer": [(10, 1.5)],
    "final/excess/own/transformer/stderr": [(20, 0.125)],
    "curve/loss": [(10, 0.9), (20, 0.5)],
    "curve/seconds": [(10, 1.5), (20, 2.5)],
}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep of two finished runs and one that diverged."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        experiment = Experiment(LinearRegression(2, 3), seed=seed)
        run = Run(tmp_path / "runs" / "study" / experiment.id)
        run.create(experiment.mapping())
        (run.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(point)}\n" for point in CURVE))
        kept = run.keep_rows(rows(seed)) if seed < 2 else {"error": "the loss is nan"}
        run.record(Status(), state="done" if seed < 2 else "diverged", **kept)
    return tmp_path / "runs" / "study"


def export(capsys, source, *words):
    """What the command prints."""
    code, out, err = call(capsys, "export", str(source), *words)
    assert (code, err) == (0, "")
    return out


def run_of(sweep, seed):
    return Experiment(LinearRegression(2, 3), seed=seed).id


@pytest.mark.parametrize(("target", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_tables_hold_what_the_store_holds(sweep, capsys, tmp_path, target, read):
    if target == "parquet":
        pytest.importorskip("pyarrow")
    told = export(capsys, sweep, "--to", target, "--out", str(tmp_path / "mirror"))
    assert told == f"wrote {tmp_path / 'mirror'}: 3 runs, 2 of them with results\n"
    made = {name: read(tmp_path / "mirror" / f"{name}.{target}") for name in ("runs", "curves", "rows")}
    assert dict(zip(made["runs"]["run"], made["runs"]["state"], strict=True))[run_of(sweep, 2)] == "diverged"
    assert set(made["runs"]["task.d"]) == {2} and set(made["runs"]["seed"]) == {0, 1, 2}
    loss = made["curves"][made["curves"]["quantity"] == "loss"]
    assert loss["value"].tolist() == [0.9, 0.5] * 3 and loss["step"].tolist() == [10, 20] * 3
    table = iclab.load(sweep).dropna(subset=["quantity"])
    for column in ("run", "seed", "quantity", "position", "region", "layer", "step", "value", "stderr"):
        ours, theirs = (
            list(one[column].astype(object).where(one[column].notna(), None)) for one in (table, made["rows"])
        )
        assert ours == theirs, column
    assert len(made["rows"]) == 14 and set(made["rows"]["sweep"]) == {"study"}


def test_a_run_a_sweep_and_a_folder_of_sweeps_are_mirrored_to_a_folder_of_their_name(sweep, capsys):
    run = sweep / run_of(sweep, 1)
    for source, count in ((run, 1), (sweep, 3), (sweep.parent, 3)):
        export(capsys, source, "--to", "csv")
        runs = pd.read_csv(sweep.parents[1] / "exports" / source.name / "csv" / "runs.csv")
        assert len(runs) == count and set(runs["sweep"]) == {"study"}


def test_tensorboard_reads_curves_rows_and_settings(sweep, capsys, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    export(capsys, sweep, "--to", "tensorboard", "--out", str(tmp_path / "mirror"))
    read = EventAccumulator(
        str(tmp_path / "mirror" / "study" / run_of(sweep, 0)), {"tensors": 0, "scalars": 0}
    ).Reload()
    tags = read.Tags()["scalars"]
    for series, points in SERIES.items():
        scalars = read.Scalars(series)[: len(points)]  # of hyper-parameters finals are written once more
        assert [each.step for each in scalars] == [at for at, _ in points]
        assert [each.value for each in scalars] == pytest.approx([value for _, value in points])
    assert not [tag for tag in tags if tag.startswith("curve/layers")]
    (settings,) = read.Tensors("settings/text_summary")
    assert "noise = 0.0" in settings.tensor_proto.string_val[0].decode()
    failed = EventAccumulator(str(tmp_path / "mirror" / "study" / run_of(sweep, 2))).Reload()
    assert {tag.partition("/")[0] for tag in failed.Tags()["scalars"]} == {"curve"}


def test_tensorboard_has_settings_as_hyper_parameters(sweep, capsys, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams import plugin_data_pb2

    export(capsys, sweep / run_of(sweep, 1), "--to", "tensorboard", "--out", str(tmp_path / "mirror"))
    read = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "mirror")).Reload()
    (run,) = read.Runs()
    content = read.SummaryMetadata(run, "_hparams_/session_start_info").plugin_data.content
    given = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert given["seed"].number_value == 1 and given["task.kind"].string_value == "LinearRegression"


def records(path):
    """The records of an offline run: a log of LevelDB, in blocks of 32 kB, each record in one piece or more."""
    from wandb.proto import wandb_internal_pb2

    content, at, data = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        data, at = data + content[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(data)
            data = b""


@pytest.mark.slow
def test_wandb_holds_curves_rows_and_settings_offline(sweep, capsys, tmp_path):
    pytest.importorskip("wandb")
    run = run_of(sweep, 0)
    export(capsys, sweep / run, "--to", "wandb", "--out", str(tmp_path / "mirror"))
    (path,) = (tmp_path / "mirror").glob(f"wandb/offline-run-*/run-{run}.wandb")
    found = list(records(path))
    logged = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in found
        if one.WhichOneof("record_type") == "history"
    ]
    assert [point["curve/loss"] for point in logged if "curve/loss" in point] == [0.9, 0.5]
    (config,) = (one.run.config for one in found if one.WhichOneof("record_type") == "run")
    assert {item.key: json.loads(item.value_json) for item in config.update}["seed"] == 0
    (table,) = path.parent.glob("files/media/table/rows*.json")
    assert len(json.loads(table.read_text())["data"]) == 7


# ---- what cannot be mirrored ---------------------------------------------------------------------------------------


def test_what_cannot_be_mirrored_is_refused_in_a_line(sweep, capsys, tmp_path):
    def refused(*words):
        code, out, err = call(capsys, "export", *map(str, words))
        assert code == 2 and out == "" and len(err.splitlines()) == 1
        return err

    assert "unknown target 'tensorbord'. Did you mean 'tensorboard'?" in refused(sweep, "--to", "tensorbord")
    assert f"{tmp_path / 'nothing'} holds no runs" in refused(tmp_path / "nothing", "--to", "csv")
    assert not (tmp_path / "exports").exists()


@pytest.mark.parametrize(
    ("target", "module", "install"),
    [
        ("tensorboard", "torch.utils.tensorboard", "tensorboard: pip install 'iclab[export]'"),
        ("parquet", "pyarrow", "pyarrow: pip install 'iclab[export]'"),
        ("wandb", "wandb", "wandb: pip install wandb"),
    ],
)
def test_a_missing_library_is_a_line_with_the_command_that_installs_it(
    sweep, capsys, monkeypatch, target, module, install
):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = call(capsys, "export", str(sweep), "--to", target)
    assert (code, err) == (2, f"iclab: export: --to {target} needs the package {install}\n")
    assert not (sweep.parents[1] / "exports").exists()


def test_event_files_are_not_added_to(sweep, capsys, tmp_path):
    pytest.importorskip("tensorboard")
    given = (str(sweep), "--to", "tensorboard", "--out", str(tmp_path / "mirror"))
    export(capsys, *given)
    code, _, err = call(capsys, "export", *given)
    assert code == 2 and "is there already; remove it, or give another --out" in err
