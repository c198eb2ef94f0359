"""Stores with many runs, and stores that are read while others write them."""

import time
import warnings
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO

import pytest
import torch
from rich.console import Console

from iclab import cli
from iclab.commands import terminal
from iclab.commands.sweep import prepare
from iclab.experiments.study import Study
from iclab.runs import worker
from iclab.runs.results import load
from iclab.runs.store import runs
from iclab.runs.trainings import training_id
from tests.conftest import unchecked
from tests.runs.engines.begun import begin
from tests.runs.test_sweep import STUDY

pytestmark = pytest.mark.slow

GRID = ["train.steps=2", "eval.every=1", "seed=0:1000"]


@pytest.fixture(autouse=True)
def as_elsewhere():
    """Shapes are not checked, as in no other process; and what the first optimizer loads for seconds is there."""
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    with unchecked():
        yield


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study_file.toml"
    path.write_text(STUDY)
    return path


def copied(study, folder):
    """Works on the first run of a study, and gives all others what it measured."""
    first, *others = prepare(study, folder, Console(quiet=True))
    assert worker.work(first) == worker.DONE
    names = {*first.recorded().digests, "log.txt"}
    made = {name: (first.folder / name).read_bytes() for name in names}
    for run, cell in zip(others, study.cells[1:], strict=True):
        for name, content in made.items():
            (run.folder / name).write_bytes(content)
        run.record(first.recorded(), training=training_id(cell.experiment))


def printed(*words):
    """What a command prints, once it has ended well."""
    with redirect_stdout(StringIO()) as output:
        assert cli.main([*map(str, words)]) == 0
    return output.getvalue()


def test_a_thousand_runs_are_listed_loaded_judged_and_swept_again(study, tmp_path, capsys):
    store, seconds = tmp_path / "runs" / "store", {}
    copied(Study.read(study, GRID), store)

    def timed(name, call):
        start = time.perf_counter()
        answer = call()
        seconds[name] = time.perf_counter() - start
        return answer

    again = timed("sweep", lambda: printed("sweep", study, "--out", store, *GRID))
    assert "1000 runs done, 0 not" in again and "holds" in again
    assert {run.status().attempts for run in runs(store)} == {1}
    assert timed("ls", lambda: printed("ls", store)).count(" done ") == 1000
    assert "holds" in timed("verdicts", lambda: printed("verdicts", store.parent))
    table = timed("load", lambda: load(store))
    assert table.run.nunique() == 1000 and set(table.state) == {"done"}
    with capsys.disabled():
        print("\n1000 runs:", ", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items()))


@pytest.mark.parametrize("engine", ["local", "dask"])
def test_a_store_can_be_read_all_the_time_that_a_sweep_writes_it(study, engine):
    """Readers meet no run that is half written, and keep no worker from its run."""
    if engine == "dask" and not find_spec("distributed"):
        pytest.skip("without distributed")
    store, states, looks = study.parent / "store", set(), 0
    sweep = begin(study, "train.steps=60", "eval.every=2", "seed=0:6", "--engine", engine, "--jobs", "2")
    with warnings.catch_warnings(action="error"):  # `load` warns of damage
        while sweep.poll() is None:
            if runs(store):
                states |= set(load(store).state)
                assert list(terminal.of_store(store, Console(quiet=True)))
                looks += 1
    assert sweep.wait() == 0, sweep.told()
    assert looks > 5 and states <= {"pending", "running", "done"}, states
    assert {run.status().attempts for run in runs(store)} == {1}
    assert "another sweep" not in sweep.told()
