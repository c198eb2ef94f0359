"""Sweeps on a real Slurm of this machine: preempted, without its controller, on a node that is lost, left alone."""

import os
import signal
import time

import pytest

from iclab.runs.engines import slurm
from iclab.runs.store import runs
from tests.runs.engines import slurm_on_loopback
from tests.runs.engines.begun import STUDY_TIME, begin, finished
from tests.runs.test_sweep import wait_for

pytestmark = pytest.mark.slurm

SLURM = ("--engine", "slurm", "--option", "time=20")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if reason := slurm_on_loopback.missing():
        pytest.skip(reason)
    with slurm_on_loopback.running(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture(autouse=True)
def at_hand(cluster, monkeypatch):
    """Commands of Slurm reach this one, and every test has it for itself."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    monkeypatch.setattr(slurm, "POLL", 0.5)
    yield
    cluster.call("scancel", "--user=root")
    cluster.idle()


def store(study):
    return study.parent / "store"


def found(study):
    return runs(store(study)) if store(study).exists() else []


def at_work(study, count=1):
    """The runs, once so many have come to a second point."""
    return wait_for(lambda: [run for run in found(study) if len(run.curve()) > 1][:count], 90)


def test_a_sweep_is_done_with_the_same_bits(study, same):
    code, output = finished(study, *STUDY_TIME, "seed=0:3", *SLURM, "--chunk", "2")
    assert code == 0, output
    same(store(study), 3)
    assert [run.status().attempts for run in found(study)] == [1] * 3


def test_a_run_that_is_preempted_stops_in_order_and_goes_on(study, same, cluster):
    sweep = begin(study, *STUDY_TIME, "seed=0:2", *SLURM)
    at_work(study)
    cluster.call("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
    wait_for(lambda: "PENDING" in cluster.call("squeue", "-h", "-o", "%T", "-p", "main"))
    assert sweep.wait() == 0, sweep.told()
    same(store(study), 2)
    assert max(run.status().attempts for run in found(study)) == 2
    logs = [run.log.read_text() for run in found(study)]
    assert any("stopped" in log and "continues at step" in log for log in logs), logs


def test_a_controller_that_is_killed_and_started_again_stops_nothing(study, same, cluster):
    sweep = begin(study, *STUDY_TIME, "seed=0:3", *SLURM)
    at_work(study)
    cluster.kill("slurmctld")
    time.sleep(3.0)
    assert sweep.poll() is None, sweep.told()
    cluster.controller()
    assert sweep.wait() == 0, sweep.told()
    same(store(study), 3)
    assert [run.status().attempts for run in found(study)] == [1] * 3


def test_a_run_on_a_node_that_is_lost_goes_on_when_it_is_back(study, same, cluster):
    sweep = begin(study, *STUDY_TIME, "seed=0:2", *SLURM)
    at_work(study, 2)
    cluster.lose("n1")
    cluster.node("n1")
    assert sweep.wait(240) == 0, sweep.told()
    same(store(study), 2)
    assert sorted(run.status().attempts for run in found(study)) == [1, 2]


def test_a_sweep_that_is_detached_is_judged_later(study, same, cluster):
    code, output = finished(study, *STUDY_TIME, "seed=0:2", *SLURM, "--detach")
    assert code == 0, output
    assert cluster.call("squeue", "-h", "-r", "-o", "%T").split()
    code, output = finished(study, *STUDY_TIME, "seed=0:2", *SLURM)
    assert code == 0, output
    same(store(study), 2)
    assert len(list((store(study) / ".slurm").glob("*.sh"))) == 1


def test_ctrl_c_takes_the_array_from_the_queue(study, cluster):
    sweep = begin(study, "train.steps=100000", "eval.every=50", "seed=0:3", *SLURM)
    at_work(study)
    os.kill(sweep.pid, signal.SIGINT)
    assert sweep.wait() == 130, sweep.told()
    wait_for(lambda: not cluster.call("squeue", "-h"))
    assert {run.status().state for run in found(study)} == {"pending"}
