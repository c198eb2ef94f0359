"""Sweeps on a real Slurm of this machine: preempted, without its controller, on a node that is lost, left alone."""

import os
import signal
import time

import pytest

from iclab.runs.store import runs
from tests.faults.processes import shot
from tests.runs.engines.begun import STUDY_TIME, begin, finished
from tests.runs.test_sweep import assert_the_same, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("at_hand")]

SLURM = ("--engine", "slurm", "--option", "time=20")


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


def test_a_controller_that_is_killed_and_started_again_stops_nothing(study, cluster, tmp_path):
    longer = ("train.steps=3000", "eval.every=10", "seed=0:3")  # so that runs are at work when their start is saved
    calm = tmp_path / "calm" / study.name
    calm.parent.mkdir()
    calm.write_bytes(study.read_bytes())
    assert finished(calm, *longer)[0] == 0
    sweep = begin(study, *longer, *SLURM)
    at_work(study, 2)
    cluster.saved()
    cluster.kill("slurmctld")
    time.sleep(3.0)
    assert sweep.poll() is None and "running" in [run.status().state for run in found(study)], sweep.told()
    cluster.controller()
    assert sweep.wait(180) == 0, sweep.told()
    for run, other in zip(found(study), found(calm), strict=True):
        assert run.checked().state == "done" and run.id == other.id
        assert_the_same(run, other)
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


# ---- a Dask cluster whose workers are jobs -------------------------------------------------------------------------

JOBS = ("--engine", "dask", "--cluster", "SLURM", "--jobs", "2", "--option", "cores=1", "--option", "interface=lo")


def test_workers_that_dask_has_slurm_start_may_be_lost(study, same, cluster, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.chdir(study.parent)  # in which Slurm leaves what the jobs say
    sweep = begin(study, *STUDY_TIME, "seed=0:2", *JOBS, "--option", "memory=450MB")
    at_work(study)
    for pid in wait_for(lambda: cluster.on("n1")):
        shot(pid)
    assert sweep.wait() == 0, sweep.told()
    same(store(study), 2)
    wait_for(lambda: not cluster.call("squeue", "-h"))


@pytest.mark.parametrize("wrong", ["memory=450MB queue=nobodys", "memory=much", "memory=1GB cores=many", "cores=2"])
def test_a_cluster_that_cannot_be_had_is_told_in_a_line(study, wrong):
    pytest.importorskip("dask_jobqueue")
    options = [word for option in wrong.split() for word in ("--option", option)]
    code, output = finished(study, *JOBS, *options)
    assert code == 2 and "Traceback" not in output, output
    assert output.splitlines()[-1].startswith("iclab: --cluster SLURM, with --option KEY=VALUE: "), output
