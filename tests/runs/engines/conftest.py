"""A study, what it measures where nothing disturbs it, and places where it can be swept: a fake of Slurm on PATH, a
real one, and a Dask cluster that is started by hand."""

import os
import signal
import sys

import pytest
import torch

from iclab.runs.engines import slurm
from iclab.runs.store import runs
from tests.conftest import unchecked
from tests.runs.engines import fake_slurm, slurm_on_loopback
from tests.runs.engines.begun import STUDY_TIME, finished
from tests.runs.engines.dask_by_hand import Shell
from tests.runs.test_sweep import STUDY, assert_the_same


@pytest.fixture
def study(tmp_path):
    """In a folder whose name needs quotes and more than ASCII."""
    path = tmp_path / "Übung für 100%" / "study_file.toml"
    path.parent.mkdir()
    path.write_text(STUDY)
    return path


def _undisturbed(tmp_path_factory, pack):
    """The runs of seeds 0 to 3, made on this machine, by id."""
    path = tmp_path_factory.mktemp("undisturbed") / "study_file.toml"
    path.write_text(STUDY)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # loaded here, and not in every fork
    with unchecked():
        code, output = finished(path, *STUDY_TIME, "seed=0:4", pack=pack)
    assert code == 0, output
    return {run.id: run for run in runs(path.parent / "store")}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Runs that trained alone."""
    return _undisturbed(tmp_path_factory, "off")


@pytest.fixture(scope="session")
def undisturbed_packs(tmp_path_factory):
    """Runs that trained in packs."""
    return _undisturbed(tmp_path_factory, "auto")


def _as_measured_in(calm):
    """Holds all runs of a store to what they measure when nothing disturbs them."""

    def check(store, count):
        found = runs(store)
        assert len(found) == count
        for run in found:
            assert run.checked().state == "done", run.checked()
            assert_the_same(run, calm[run.id])

    return check


@pytest.fixture
def same(undisturbed):
    """Compares a store with runs that trained alone."""
    return _as_measured_in(undisturbed)


@pytest.fixture
def same_packs(undisturbed_packs):
    """Compares a store with runs that trained in packs."""
    return _as_measured_in(undisturbed_packs)


@pytest.fixture
def shell(tmp_path):
    """A Dask scheduler elsewhere, without workers."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    made = Shell(folder)
    yield made
    made.close()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """The folder in which the fake keeps its tasks, and writes down how it was called."""
    folder = tmp_path / "fake"
    (folder / "bin").mkdir(parents=True)
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        path = folder / "bin" / name
        path.write_text(f'#!/bin/bash\nexec {sys.executable} -S {fake_slurm.__file__} {name} "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setattr(slurm, "POLL", 0.3)
    yield folder
    for pid in fake_slurm.tasks(folder).values():
        os.killpg(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A real Slurm of this machine."""
    if reason := slurm_on_loopback.missing():
        pytest.skip(reason)
    with slurm_on_loopback.running(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture
def at_hand(cluster, monkeypatch):
    """Commands of Slurm reach this one, and every test has it for itself."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    monkeypatch.setattr(slurm, "POLL", 0.5)
    yield
    cluster.call("scancel", "--user=root")
    cluster.idle()
