"""Sweeps on Dask clusters: whoever dies, the runs end once and with the same bits."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("distributed")

import iclab
from iclab.errors import UsageError
from iclab.runs.engines import Site, dask, opened
from iclab.runs.engines.places import differing, versions
from iclab.runs.store import runs
from tests.faults.processes import shot
from tests.runs.engines.begun import STUDY_TIME, begin, finished, gone, of_session
from tests.runs.test_sweep import points, wait_for

DASK = ("--engine", "dask")
LOCAL = (*DASK, "--jobs", "2")


def store(study):
    return study.parent / "store"


def found(study):
    """The runs, once they are there."""
    return runs(store(study)) if store(study).exists() else []


def under_way(study, count=2):
    """Waits until each of so many runs has come so far that it can be gone on from."""
    for run in wait_for(lambda: len(found(study)) == count and found(study)):
        wait_for(points(run, 2), 90)
        wait_for(run.checkpoint.exists)


def attempts(study):
    return sorted(run.status().attempts for run in runs(store(study)))


def test_two_places_are_compared_by_name():
    other = {**versions(), "torch": "1.0"}
    assert differing(versions(), versions()) == ""
    assert differing(versions(), other) == f"torch 1.0 there and {versions()['torch']} here"


@pytest.mark.slow
def test_a_sweep_on_processes_of_this_machine(study):
    code, output = finished(study, *DASK, "--jobs", "1", "train.steps=20", "eval.every=10")
    assert code == 0, output
    assert [run.status().state for run in found(study)] == ["done"]


def test_an_address_at_which_nobody_answers_is_refused_in_one_line(study, monkeypatch):
    monkeypatch.setattr(dask, "CONNECT", "1s")
    with pytest.raises(UsageError) as error, opened(Site("dask", address="tcp://127.0.0.1:9"), store(study), []):
        pass
    assert str(error.value).startswith("--address tcp://127.0.0.1:9: no scheduler answers: ")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.slow
def test_the_numbers_are_those_of_local_workers(study, same):
    code, output = finished(study, *STUDY_TIME, "seed=0:4", *LOCAL)
    assert code == 0, output
    same(store(study), 4)
    assert attempts(study) == [1] * 4


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_goes_on_elsewhere(study, same):
    sweep = begin(study, *STUDY_TIME, "seed=0:2", *LOCAL)
    under_way(study)
    shot(of_session(sweep.pid, "spawn_main")[-1])
    assert sweep.wait() == 0, sweep.told()
    same(store(study), 2)
    (again,) = [run for run in found(study) if run.status().attempts == 2]
    log = again.log.read_text()
    assert "lost its worker, and goes on at another one" in log and "continues at step" in log


@pytest.mark.slow
def test_after_its_client_was_killed_the_same_command_goes_on(study, same):
    sweep = begin(study, *STUDY_TIME, "seed=0:2", *LOCAL)
    under_way(study)
    os.kill(sweep.pid, signal.SIGKILL)
    assert sweep.wait(60) == -signal.SIGKILL  # and all that it started is gone
    assert not any(run.held() for run in found(study))
    code, output = finished(study, *STUDY_TIME, "seed=0:2", *LOCAL)
    assert code == 0, output
    same(store(study), 2)
    again = [run for run in found(study) if run.status().attempts > 1]  # one may have ended before the kill
    assert again and all("continues at step" in run.log.read_text() for run in again)


@pytest.mark.slow
def test_ctrl_c_of_the_terminal_stops_runs_in_order(study, same):
    sweep = begin(study, *STUDY_TIME, "seed=0:2", *LOCAL)
    under_way(study)
    os.killpg(sweep.pid, signal.SIGINT)
    assert sweep.wait(60) == 130, sweep.told()
    assert "Traceback" not in sweep.told(), sweep.told()
    for run in found(study):
        assert run.status().state == "pending" and run.checkpoint.exists()
        assert "stopped" in run.log.read_text() and "lost its worker" not in run.log.read_text()
    code, output = finished(study, *STUDY_TIME, "seed=0:2", *LOCAL)
    assert code == 0, output
    same(store(study), 2)
    assert attempts(study) == [2, 2]


# ---- a scheduler and workers that are started from the shell, in another folder -------------------------------------


@pytest.mark.slow
def test_workers_elsewhere_need_no_common_disk(study, shell, same):
    nodes = [shell.worker(), shell.worker()]
    sweep = begin(study, *STUDY_TIME, "seed=0:3", *DASK, "--address", shell.address, "--jobs", "2")
    wait_for(lambda: any(len(run.curve()) > 2 for run in found(study)), 120)
    children = [pid for node in nodes for pid in of_session(node.pid, "iclab.runs.worker")]
    assert children and not any(str(store(study)) in Path(f"/proc/{pid}/cmdline").read_text() for pid in children)
    shot(nodes[0].pid, group=True)  # a node is lost with all that is on it
    assert sweep.wait() == 0, sweep.told()
    same(store(study), 3)


@pytest.mark.slow
def test_a_scheduler_that_dies_is_told_in_a_line_and_the_same_command_goes_on(study, shell, same):
    node = shell.worker()
    sweep = begin(study, *STUDY_TIME, "seed=0:2", *DASK, "--address", shell.address)
    wait_for(lambda: any(len(run.curve()) > 2 for run in found(study)), 120)
    shell.scheduler.kill()
    assert sweep.wait(120) == 2, sweep.told()
    assert "Traceback" not in sweep.told(), sweep.told()
    assert "iclab: --engine dask: the scheduler is gone; the same command goes on with another one" in sweep.told()
    gone(of_session(node.pid, "iclab.runs.worker"))
    assert not any(run.held() for run in found(study))
    code, output = finished(study, *STUDY_TIME, "seed=0:2", *LOCAL)
    assert code == 0, output
    same(store(study), 2)


@pytest.mark.slow
def test_where_no_worker_comes_a_line_says_so_and_how_to_start_one(study, shell, same):
    sweep = begin(study, *STUDY_TIME, "seed=0:1", *DASK, "--address", shell.address)
    line = f"--address {shell.address} has no workers: start one with `dask worker {shell.address}`\n"
    wait_for(lambda: line in sweep.told())
    shell.worker()
    assert sweep.wait() == 0, sweep.told()
    assert sweep.told().count(line) == 1
    same(store(study), 1)


@pytest.mark.slow
def test_a_scheduler_that_dies_before_a_worker_has_come_is_told_in_a_line(study, shell):
    sweep = begin(study, *DASK, "--address", shell.address)
    wait_for(lambda: "has no workers" in sweep.told())
    shell.scheduler.kill()
    assert sweep.wait(120) == 2, sweep.told()
    assert "Traceback" not in sweep.told() and "the scheduler is gone" in sweep.told()


@pytest.mark.slow
def test_a_task_whose_client_is_gone_ends(study, shell):
    node = shell.worker()
    sweep = begin(study, "train.steps=100000", "eval.every=20", *DASK, "--address", shell.address)
    wait_for(lambda: any(len(run.curve()) > 2 for run in found(study)), 120)
    children = of_session(node.pid, "iclab.runs.worker")
    assert children
    shot(sweep.pid)
    assert sweep.wait() == -signal.SIGKILL
    gone(children, 60)
    assert node.poll() is None


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused_by_name(study, shell, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(Path(iclab.__file__).parent, other / "iclab", ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "iclab" / "errors.py", "a") as file:
        file.write("# another\n")
    shell.worker(path=other)
    from distributed import Client

    with Client(shell.address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        (address,) = client.scheduler_info()["workers"]
    code, output = finished(study, *DASK, "--address", shell.address)
    assert code == 2
    (line,) = [line for line in output.splitlines() if line.startswith("iclab: ")]
    assert line.startswith(f"iclab: --engine dask: the worker {address} is of another version: its source ")
    assert not any(run.status().attempts for run in found(study))


@pytest.mark.slow
def test_a_worker_that_joins_late_and_is_of_another_version_does_nothing(study, shell, tmp_path):
    """The client asks the workers when it starts; one that comes later is asked by its first task."""
    other = tmp_path / "other"
    shutil.copytree(Path(iclab.__file__).parent, other / "iclab", ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "iclab" / "errors.py", "a") as file:
        file.write("# another\n")
    sweep = begin(study, *DASK, "--address", shell.address, "--jobs", "1")
    time.sleep(3.0)
    shell.worker(path=other)
    assert sweep.wait(90) == 2, sweep.told()
    assert "a worker is of another version: its source " in sweep.told()
    assert not any(run.status().attempts for run in found(study))
