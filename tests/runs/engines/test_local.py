"""Workers of this machine: a GPU for each, one thread, and no Ctrl-C of the terminal. And what `Site` refuses."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from iclab.errors import UsageError
from iclab.runs.engines import Site, local
from iclab.runs.engines.local import Processes, conditions_of_workers, slots
from tests.runs.test_sweep import new_run


@pytest.fixture
def gpus(monkeypatch):
    """Makes PyTorch see so many GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def seen(found):
    return [slot.get("CUDA_VISIBLE_DEVICES") for slot in found]


@pytest.mark.parametrize("devices", [["auto"], ["cuda"], ["cpu", "auto"]])
def test_each_worker_sees_one_gpu(gpus, devices):
    gpus(3)
    assert seen(slots(None, devices, cores=8)) == ["0", "1", "2"]
    assert seen(slots(5, devices, cores=8)) == ["0", "1", "2", "0", "1"]
    assert seen(slots(1, devices, cores=8)) == ["0"]


@pytest.mark.parametrize("devices", [["cpu"], ["cuda:1"], ["auto", "cuda:1"], []])
def test_no_gpu_is_chosen_for_who_names_one_or_needs_none(gpus, devices):
    gpus(3)
    assert slots(None, devices, cores=4) == [{}] * 4
    assert slots(2, devices, cores=4) == [{}] * 2


def test_without_gpus_there_is_a_worker_for_each_core(gpus):
    gpus(0)
    assert slots(None, ["auto"], cores=4) == [{}] * 4


def test_only_the_gpus_that_this_process_may_use_are_given(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5a")
    assert seen(slots(None, ["auto"], cores=4)) == ["3", "GPU-5a"]


def test_a_worker_says_which_gpu_it_has():
    child = lambda slot: local.Child.where(SimpleNamespace(slot=slot))  # noqa: E731
    assert (child({"CUDA_VISIBLE_DEVICES": "1"}), child({})) == ("GPU 1", "")


# ---- the processes -------------------------------------------------------------------------------------------------


def blocks_interrupts(pid):
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk")]
    return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)


def environment(pid):
    return dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry)


def test_a_worker_computes_in_one_thread_and_never_sees_the_ctrl_c_of_the_terminal(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    sleeper = [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"]
    with conditions_of_workers():
        inside = subprocess.Popen(sleeper, stdout=subprocess.PIPE)
    outside = subprocess.Popen(sleeper, stdout=subprocess.PIPE)
    try:
        for each in (inside, outside):
            each.stdout.readline()
        assert blocks_interrupts(inside.pid) and environment(inside.pid)["OMP_NUM_THREADS"] == "1"
        assert not blocks_interrupts(outside.pid) and "OMP_NUM_THREADS" not in environment(outside.pid)
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "this process itself hears it"
    finally:
        for each in (inside, outside):
            each.kill()
            each.communicate()


@pytest.mark.slow
def test_a_worker_of_the_server_is_such_a_process(tmp_path):
    run, workplace = new_run(tmp_path), Processes([{"CUDA_VISIBLE_DEVICES": "7"}])
    child = workplace.start([run], {})
    assert not workplace.has_room()
    assert blocks_interrupts(child.process.pid)
    assert environment(child.process.pid)["OMP_NUM_THREADS"] == "1"
    child.process.join(60)
    assert child.code() == 0 and run.status().state == "done"
    workplace.left(child)
    assert workplace.has_room()


class Killed:
    """A worker whose server is killed so many times while it forks."""

    def __init__(self, *errors):
        self.errors = [*errors]

    def start(self):
        if self.errors:
            raise self.errors.pop(0)


def test_a_server_that_is_killed_while_it_forks_is_followed_by_another(tmp_path):
    run = new_run(tmp_path)
    local._fork(Killed(EOFError("unexpected EOF"), ConnectionRefusedError()), run)
    with pytest.raises(OSError, match="the server that forks workers was killed each time"):
        local._fork(Killed(*[EOFError()] * 3), run)


# ---- what is said of the place -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engine": "slrum"}, "unknown engine 'slrum'. Did you mean 'slurm'? Known: dask, local, slurm"),
        ({"pack": "1"}, "--pack must be auto, off or a number of at least 2, given 1"),
        ({"pack": "on"}, "--pack must be auto, off or a number of at least 2, given on"),
        ({"jobs": 0}, "--jobs must be at least 1, given 0"),
        ({"engine": "slurm", "chunk": -1}, "--chunk must be at least 1, given -1"),
        ({"address": "tcp://a:1"}, "--address is for --engine dask, given --engine local"),
        ({"engine": "slurm", "cluster": "PBS"}, "--cluster is for --engine dask, given --engine slurm"),
        ({"options": ("a=1",)}, "--option is for --engine slurm, given --engine local"),
        ({"engine": "dask", "options": ("a=1",)}, "--option is for --engine slurm, given --engine dask"),
        ({"engine": "dask", "chunk": 2}, "--chunk is for --engine slurm, given --engine dask"),
        ({"detach": True}, "--detach is for --engine slurm, given --engine local"),
        (
            {"engine": "dask", "address": "a", "cluster": "PBS"},
            "--address names a cluster that is there, --cluster one",
        ),
        ({"engine": "slurm", "options": ("time=5",)}, "time=5 is under 10 minutes"),
    ],
)
def test_what_does_not_belong_together_is_refused(given, told):
    with pytest.raises(UsageError) as error:
        Site(**given)
    assert told in str(error.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(UsageError) as error:
        Site("local", jobs=0, address="a", chunk=0, detach=True)
    assert str(error.value).count(";") == 3  # a chunk of no runs is wrong as a number only


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"jobs": 3},
        {"engine": "dask", "address": "tcp://a:1", "jobs": 2},
        {"engine": "dask", "cluster": "PBS", "options": ("queue=a",)},
        {"engine": "slurm", "options": ("time=10", "gpus=1"), "chunk": 4, "detach": True},
    ],
)
def test_what_belongs_together_is_taken(given):
    assert Site(**given)
