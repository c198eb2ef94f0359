"""The store: what exists is whole, a run has one worker, and everything is one tidy table."""

import errno
import json
import multiprocessing
import os
import time
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import iclab
from iclab.experiments.experiment import Experiment
from iclab.experiments.identity import run_id
from iclab.files import atomic_write
from iclab.runs.results import load
from iclab.runs.store import Curve, Run, Status, find, runs, sweeps
from iclab.runs.tables import COLUMNS, distinguishing_keys
from iclab.tasks import LinearRegression

TASK = LinearRegression(3, 4)


def row(value=1.0, **columns):
    measured = {"predictor": "ridge", "distribution": "own", "quantity": "risk", "layer": None, "position": None}
    return {**measured, "value": value, "stderr": 0.1, **columns}


def made(folder, state="done", rows=(), error="", **settings):
    experiment = Experiment.from_mapping({"task": Experiment(TASK).mapping()["task"], **settings}, "f")
    run = Run(folder / experiment.id)
    run.create(experiment.mapping())
    if state != "pending":
        run.record(Status(state, 1, 2.5, error))
    if state == "done":
        run.keep_rows(rows or [row()])
    return run


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fault):
    path = tmp_path / "status.json"
    atomic_write(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, fault, full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    run = made(tmp_path)
    (run.folder / ".checkpoint.safetensors.123.tmp").write_bytes(b"half")
    run.tidy()
    assert not list(run.folder.glob("*.tmp"))
    assert (run.folder / "config.toml").exists()


# ---- the training curve --------------------------------------------------------------------------------------------


def test_points_that_are_said_again_replace_the_old_ones(tmp_path):
    run = Run(tmp_path)
    first = Curve(tmp_path / "metrics.jsonl")
    for step in (10, 20, 30):
        first({"step": step, "loss": 1.0})
    again = Curve(tmp_path / "metrics.jsonl")
    for step in (20, 30, 40):
        again({"step": step, "loss": 2.0})
    assert [(point["step"], point["loss"]) for point in run.curve()] == [(10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]
    assert run.latest()["step"] == 40


@pytest.mark.parametrize("torn", ['{"step": 30, "lo', '{"step": 30', "3", "", "\n\n", "\0\0\0"])
def test_a_torn_last_line_is_left_out_and_repaired(tmp_path, torn):
    run, path = Run(tmp_path), tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 10}}\n{{"step": 20}}\n{torn}')
    assert [point["step"] for point in run.curve()] == [10, 20]
    assert run.latest() == {"step": 20}
    Curve(path)({"step": 30})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30]


def test_a_run_without_curve_has_no_points(tmp_path):
    assert Run(tmp_path).curve() == []
    assert Run(tmp_path).latest() == {}


def test_a_point_that_does_not_fit_on_the_disk_is_an_error(tmp_path):
    curve = Curve(tmp_path / "metrics.jsonl")
    curve({"step": 1})
    curve.path = "/dev/full"
    with pytest.raises(OSError, match="No space left"):
        curve({"step": 2})


# ---- status and lock -----------------------------------------------------------------------------------------------


def hold(run, ready, seconds):
    with run.hold() as mine:
        ready.put(mine)
        time.sleep(seconds)


def holder(run, seconds=60.0):
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    process = context.Process(target=hold, args=(run, ready, seconds), daemon=True)
    process.start()
    return process, ready.get(timeout=10)


def test_a_run_that_was_never_started_is_pending(tmp_path):
    run = made(tmp_path, "pending")
    assert run.status() == Status()
    assert not run.held()


def test_a_run_has_one_holder_and_is_freed_by_kill_9(tmp_path):
    run = made(tmp_path, "running")
    assert run.status().state == "interrupted"
    process, mine = holder(run)
    assert mine
    assert run.held()
    assert run.status().state == "running"
    with run.hold() as also_mine:
        assert not also_mine
    process.kill()
    process.join()
    assert not run.held()
    assert run.status().state == "interrupted"
    with run.hold() as now_mine:
        assert now_mine


def test_a_glance_at_the_lock_does_not_keep_a_patient_worker_out(tmp_path):
    run = made(tmp_path)
    process, _ = holder(run, 0.2)
    with run.hold(patience=5.0) as mine:
        assert mine
    process.join()


def test_a_run_that_is_done_is_left_as_it_is(tmp_path):
    run = made(tmp_path, rows=[row(3.0)])
    run.create({"other": 1})
    assert run.settings()["task"]["d"] == 3
    assert run.rows()[0]["value"] == 3.0


@pytest.mark.parametrize("state", ["pending", "running", "failed", "diverged"])
def test_a_run_that_is_not_done_takes_new_settings_unless_it_is_held(tmp_path, state):
    run = made(tmp_path, state)
    settings = run.settings() | {"device": "cuda:1"}
    process, _ = holder(run)
    run.create(settings)
    assert run.settings()["device"] == "auto"
    process.kill()
    process.join()
    run.create(settings)
    assert run.settings() == settings
    assert run.recorded().state == state
    assert not run.held()


def test_a_status_that_is_none_is_told_with_its_file(tmp_path):
    run = made(tmp_path)
    (run.folder / "status.json").write_text('{"state": "done", "colour": 1}')
    status = run.status()
    assert status.state == "damaged"
    assert "not the status of a run" in status.error and str(run.folder / "status.json") in status.error


# ---- finding -------------------------------------------------------------------------------------------------------


def test_sweeps_and_runs_are_found(tmp_path):
    one, two = made(tmp_path / "a", seed=1), made(tmp_path / "b", seed=2)
    (tmp_path / "empty").mkdir()
    assert sweeps(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert sweeps(tmp_path / "a") == [tmp_path / "a"]
    assert sweeps(tmp_path / "missing") == []
    assert runs(tmp_path / "a") == [one] == runs(one.folder)
    assert find(two.id[:6], tmp_path) == two
    assert find(str(two.folder), tmp_path) == two


def test_a_run_that_is_not_there_or_not_one_is_refused(tmp_path):
    made(tmp_path / "a", seed=1)
    made(tmp_path / "b", seed=1)
    with pytest.raises(ValueError, match="unknown run 'zzz'"):
        find("zzz", tmp_path)
    with pytest.raises(ValueError, match="unknown run ''"):
        find("", tmp_path)
    with pytest.raises(ValueError, match=r"may be .*/a/.*/b/"):
        find(runs(tmp_path / "a")[0].id[:4], tmp_path)


# ---- the table -----------------------------------------------------------------------------------------------------


def test_the_table_is_tidy(tmp_path):
    rows = [row(1.0), row(2.0, position=0), row(3.0, position=1, distribution="skewed"), row(4.0, layer=2, stderr=None)]
    for seed in (0, 1):
        made(tmp_path, rows=rows, seed=seed, model={"n_layer": 2})
    made(tmp_path, rows=rows, seed=2, model={"n_layer": 4, "d_mlp": 8})
    table = load(tmp_path)
    assert list(table.columns) == ["run", "seed", "model.n_layer", "model.d_mlp", *COLUMNS, "state", "error"]
    assert len(table) == 12
    assert sorted(table["seed"].unique()) == [0, 1, 2]
    assert table.position.dtype == float and table.position.dropna().tolist() == [0.0, 1.0] * 3
    assert (table.region.isna() == table.position.notna()).all()
    assert table[table.position == 1].value.tolist() == [3.0] * 3
    assert table[table.region == "mean"].value.tolist() == [1.0, 4.0] * 3
    assert table.layer.isna().sum() == 9
    assert table.stderr.isna().sum() == 3
    assert (table.state == "done").all()


def test_of_the_settings_of_another_kind_only_those_are_shown_that_tell_runs_apart():
    line = {"kind": "LinearRegression", "seed": 0, "noise": 0.1, "d": 5}
    mixed = {"kind": "OneOf", "seed": 0, "tasks": [{"noise": 0.1}, {"noise": 0.5}], "base.d": 5}
    assert distinguishing_keys([mixed, line]) == ["kind"]
    assert distinguishing_keys([mixed, line, {**line, "noise": 0.5}]) == ["kind", "noise"]
    assert distinguishing_keys([mixed, {**mixed, "tasks": [{"noise": 1}]}]) == ["tasks"]
    assert distinguishing_keys([line, {**line, "seed": 1, "d": 6}]) == [
        "seed",
        "d",
    ]  # what all have is shown, needed or not


def test_a_run_without_results_has_one_row_that_says_why(tmp_path):
    good = made(tmp_path, seed=0)
    bad = made(tmp_path, "diverged", error="training diverged at step 3", seed=1)
    waits = made(tmp_path, "pending", seed=2)
    killed = made(tmp_path, "running", seed=3)
    table = load(tmp_path).set_index("run")
    assert np.isnan(table.loc[bad.id].value)
    assert table.loc[bad.id].error == "training diverged at step 3"
    assert table.state.to_dict() == {
        good.id: "done", bad.id: "diverged", waits.id: "pending", killed.id: "interrupted"
    }  # fmt: skip
    assert pd.isna(table.loc[waits.id].position) and pd.isna(table.loc[waits.id].region)


def test_a_single_run_can_be_loaded(tmp_path):
    run = made(
        tmp_path, rows=[row(5.0)], task={"kind": "LinearRegression", "d": 2, "n": 3, "inputs": {"spectrum": [1, 2]}}
    )
    made(tmp_path, seed=3)
    table = iclab.load(str(run.folder))
    assert table.value.tolist() == [5.0]
    assert list(table.columns) == ["run", *COLUMNS, "state", "error"]


def test_settings_that_are_lists_can_be_grouped_by(tmp_path):
    for spectrum in ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]):
        made(tmp_path, task={"kind": "LinearRegression", "d": 3, "n": 3, "inputs": {"spectrum": spectrum}})
    assert set(load(tmp_path).groupby("task.inputs.spectrum").groups) == {(1.0, 2.0, 3.0), (1.0, 1.0, 1.0)}


def test_numbers_that_are_not_finite_survive(tmp_path):
    made(tmp_path, rows=[row(float("nan")), row(float("inf"))])
    values = load(tmp_path).value
    assert np.isnan(values[0])
    assert values[1] == float("inf")


@pytest.mark.parametrize("make", ["missing", "empty", "file"])
def test_a_folder_without_runs_is_refused(tmp_path, make):
    folder = tmp_path / "nothing"
    if make == "empty":
        folder.mkdir()
    elif make == "file":
        folder.write_text("")
    with pytest.raises(ValueError, match="nothing holds no runs"):
        load(folder)


def test_of_hundreds_of_runs_every_result_is_read_once(tmp_path, monkeypatch):
    rows = [row(float(i), position=i) for i in range(100)]
    first = made(tmp_path, rows=rows)
    content = {path.name: path.read_text() for path in first.folder.iterdir()}
    for i in range(1, 300):
        changed = {name: text.replace("seed = 0", f"seed = {i}", 1) for name, text in content.items()}
        folder = tmp_path / run_id(tomllib.loads(changed["config.toml"]))
        folder.mkdir()
        for name, text in changed.items():
            (folder / name).write_text(text)
    read, content_of = Counter(), Path.read_bytes

    def counting(path):
        read[path] += 1
        return content_of(path)

    monkeypatch.setattr(Path, "read_bytes", counting)
    table = load(tmp_path)
    assert sum(path.name == "results.jsonl" for path in read) == 300 and set(read.values()) == {1}
    assert len(table) == 30_000
    assert table.seed.nunique() == 300
