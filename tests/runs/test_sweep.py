"""Sweeps as processes: killed at any moment, twice at once, on full disks. Nothing is lost and nothing done twice.

What kills whole processes of a sweep is slow, but for one sweep that is interrupted; a worker killed in the middle of
each file, and one that finds its run held by another, are tried at once.
"""

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from iclab import cli
from iclab.commands import sweep as sweeps
from iclab.experiments.experiment import Experiment
from iclab.runs import worker
from iclab.runs.results import load
from iclab.runs.store import Run, runs
from tests.conftest import unchecked
from tests.runs.test_reuse import Here

STUDY = """title = "A study for tests"
question = "Does it end?"
paper = "none"
[task]
kind = "LinearRegression"
d = 2
n = 3
noise = 0.5
[model]
n_layer = 1
n_head = 1
d_model = 8
[train]
steps = 20
batch = 4
warmup = 0.1
[eval]
prompts = 32
bootstrap = 5
every = 10
[[claims]]
name = "The zero predictor has the risk of the labels"
quantity = "risk"
predictor = "zero"
within = [2.25, 2.0]
"""
LONG = ("train.steps=1500", "eval.every=50")  # a few seconds, so that there is time to kill


@pytest.fixture
def study(tmp_path):
    """In a folder whose name needs quotes and more than ASCII."""
    path = tmp_path / "Übung für zwei" / "study_file.toml"
    path.parent.mkdir()
    path.write_text(STUDY)
    return path


def start(study, *arguments, limit=None):
    """`iclab sweep` in a process group of its own, which can be killed as a whole."""
    command = [sys.executable, "-m", "iclab.cli", "sweep", str(study), "--out", str(study.parent / "store")]
    command += ["--pack", "off", *arguments]  # a worker for each run

    def before():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=before
    )


def sweep(study, *arguments, limit=None, engine=sweeps.Engine):
    """The same to its end, in a fork of this process, which has loaded already what a new one loads for seconds; its
    workers are processes of their own, unless the engine says otherwise."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        sweeps.Engine = engine
        words = ["sweep", str(study), "--out", str(study.parent / "store"), "--pack", "off", *arguments]
        ended(lambda: cli.main(words), write, limit)
    os.close(write)
    with open(read) as pipe:
        output = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output


def ended(call, output, limit):
    """Makes a call the whole life of this process."""
    code = 1
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1) for n in (1, 2))
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = call()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """Loads what the first optimizer of a process loads for seconds, so that no fork need do it; and forks check no
    shapes, as no other process does."""
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    with unchecked():
        yield


def stored(study):
    return {run.settings()["seed"]: run for run in runs(study.parent / "store")}


def workers(folder):
    """The processes that write the log of a run below a folder, and are not this one."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/fd/2"):
        with suppress(OSError):
            if os.readlink(path).startswith(f"{folder}{os.sep}"):
                found.add(int(path.parts[2]))
    return sorted(found)


def wait_for(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.02)
    return found


def points(run, at_least):
    return lambda: len(run.curve()) >= at_least


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the long runs measure when nobody kills them."""
    path = tmp_path_factory.mktemp("undisturbed") / "study_file.toml"
    path.write_text(STUDY)
    code, output = sweep(path, *LONG, "seed=0:2")
    assert code == 0, output
    return stored(path)


def assert_the_same(run, reference):
    keys = ("step", "loss", "risk", "excess")
    assert [[p[k] for k in keys] for p in run.curve()] == [[p[k] for k in keys] for p in reference.curve()]
    assert run.rows() == reference.rows()
    assert (run.folder / "weights.safetensors").read_bytes() == (reference.folder / "weights.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_worker_costs_its_run_only_and_the_same_command_goes_on(study, undisturbed):
    process = start(study, *LONG, "seed=0:2", "--jobs", "2")
    wait_for(lambda: len(stored(study)) == 2)
    run = stored(study)[0]
    wait_for(points(run, 3))
    (victim,) = workers(run.folder)
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3, output
    assert "its process was killed by SIGKILL" in output
    assert {seed: run.status().state for seed, run in stored(study).items()} == {0: "interrupted", 1: "done"}
    assert "not measured" in output

    (run.folder / ".checkpoint.safetensors.99.tmp").write_bytes(b"half a checkpoint")
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 1450, "lo')
    code, output = sweep(study, *LONG, "seed=0:2")
    assert code == 0, output
    assert {seed: run.status().attempts for seed, run in stored(study).items()} == {0: 2, 1: 1}
    assert "continues at step" in run.log.read_text()
    assert not list(run.folder.glob("*.tmp"))
    for seed, reference in undisturbed.items():
        assert_the_same(stored(study)[seed], reference)


@pytest.mark.slow
def test_a_sweep_that_is_killed_as_a_whole_goes_on(study, undisturbed):
    process = start(study, *LONG, "--jobs", "1")
    wait_for(lambda: stored(study))
    run = stored(study)[0]
    wait_for(points(run, 2))
    os.kill(process.pid, signal.SIGKILL)  # the worker notices that it is alone, and stops in order
    process.wait()
    wait_for(lambda: not workers(run.folder), 20)
    assert run.status().state in ("pending", "done")

    process = start(study, *LONG, "--jobs", "1")
    wait_for(points(run, 10))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not run.held(), 20)

    code, output = sweep(study, *LONG)
    assert code == 0, output
    assert run.status().attempts == 3
    assert_the_same(run, undisturbed[0])
    code, output = sweep(study, *LONG)  # and once more: there is nothing to do
    assert (code, run.status().attempts) == (0, 3)
    assert "started" not in output


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_sweep_that_is_interrupted_stops_its_workers_and_says_how_to_go_on(study, how):
    process = start(study, "train.steps=100000", "eval.every=50", "--jobs", "1")
    wait_for(lambda: stored(study))
    run = stored(study)[0]
    wait_for(points(run, 1))
    (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command resumes from here" in output
    assert "Traceback" not in output + run.log.read_text()
    assert not workers(run.folder)
    assert (run.status().state, run.status().attempts) == ("pending", 1)


@pytest.mark.slow
def test_two_sweeps_on_one_store_share_the_work(study):
    both = [start(study, "train.steps=200", "seed=0:3", "--jobs", "1") for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert {seed: (run.status().state, run.status().attempts) for seed, run in stored(study).items()} == {
        seed: ("done", 1) for seed in range(3)
    }
    assert all("The zero predictor has the risk of the labels" in output for output in outputs)
    assert all(len(run.curve()) == 20 for run in stored(study).values())


# In the process of the sweep, or in workers of its own.
ENGINES = [pytest.param(Here, id="here"), pytest.param(sweeps.Engine, id="workers", marks=pytest.mark.slow)]


@pytest.mark.parametrize("engine", ENGINES)
def test_failed_runs_are_reported_and_tried_again_only_on_request(study, engine):
    settings = ["train.lr=1e-3,1e30", "train.warmup=0", "train.clip=none"]
    code, output = sweep(study, *settings, engine=engine)
    assert code == 3, output
    table = load(study.parent / "store")
    (bad,) = table[table.state == "diverged"].itertuples()
    assert "training diverged at step" in bad.error
    assert bad.error in output
    assert "1 of 2 runs diverged" in output
    run = Run(study.parent / "store" / bad.run)
    code, output = sweep(study, *settings, engine=engine)
    assert (code, run.status().attempts) == (3, 1)
    code, output = sweep(study, *settings, "--retry-failed", engine=engine)
    assert (code, run.status().attempts) == (3, 2)
    assert sorted(r.status().attempts for r in runs(study.parent / "store")) == [1, 2]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_full_disk_is_told_in_a_line_and_the_run_can_be_finished_later(study, engine):
    code, output = sweep(study, limit=2500, engine=engine)  # the checkpoint is larger
    assert code == 3, output
    run = stored(study)[0]
    assert run.status().state == "interrupted"
    assert run.status().error.startswith(f"cannot use {run.folder}/checkpoint.safetensors: File too large; ")
    assert run.status().error.endswith(" and give the same command again")
    assert run.status().error in output
    assert "Traceback" not in output
    code, output = sweep(study, engine=engine)
    assert code == 0, output


def test_a_store_that_cannot_even_be_begun_is_bad_usage(study):
    code, output = sweep(study, limit=100)
    assert code == 2
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"iclab: cannot use {study.parent / 'store' / 'study.toml'}: File too large; ")
    assert last.endswith(" and give the same command again")


# ---- workers -------------------------------------------------------------------------------------------------------


def new_run(tmp_path, **settings):
    path = tmp_path / "experiment.toml"
    path.write_text(STUDY.split("[task]")[1].split("[[claims]]")[0].join(["[task]", ""]))
    experiment = Experiment.read(path)
    for key, value in settings.items():
        experiment = Experiment.from_mapping({**experiment.mapping(), key: value}, "test")
    run = Run(tmp_path / "store" / experiment.id)
    run.create(experiment.mapping())
    return run


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The same run when nobody kills it."""
    run = new_run(tmp_path_factory.mktemp("calm"))
    assert in_a_child(worker.work, run) == worker.DONE
    return run


def in_a_child(call, *arguments):
    """Runs a function in a forked process; its exit status."""
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(call(*arguments)))
    process.start()
    process.join()
    return process.exitcode


def killed_while_writing(run, name, occasion):
    """Works on a run and dies by kill -9 in the middle of writing a file for the n-th time."""
    sync, seen = os.fsync, []

    def dies(descriptor):
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            seen.append(descriptor)
            if len(seen) == occasion:
                os.ftruncate(descriptor, 100)
                os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = dies
    return worker.work(run)


@pytest.mark.parametrize(
    ("name", "occasion"),
    [
        ("checkpoint.safetensors", 1),
        ("checkpoint.safetensors", 2),
        ("metrics.jsonl", 1),
        ("weights.safetensors", 1),
        ("results.jsonl", 1),
        ("status.json", 2),
    ],
)
def test_a_run_killed_while_it_writes_is_finished_as_if_nothing_had_been(tmp_path, calm, name, occasion):
    run = new_run(tmp_path)
    assert in_a_child(killed_while_writing, run, name, occasion) == -signal.SIGKILL
    assert list(run.folder.glob(f".{name}.*.tmp"))
    assert run.status().state == "interrupted"
    assert in_a_child(worker.work, run) == worker.DONE
    assert_the_same(run, calm)
    assert run.status().attempts == 2
    assert not list(run.folder.glob(".*.tmp"))


def test_an_error_is_kept_in_the_log_and_in_one_line_of_the_status(tmp_path):
    run = new_run(tmp_path, device="cuda:63")
    assert in_a_child(worker.work, run) == worker.FAILED
    assert run.status().state == "failed"
    assert len(run.status().error.splitlines()) == 1
    assert "Traceback" in run.log.read_text()
    assert in_a_child(worker.work, run) == worker.FAILED
    assert run.status().attempts == 1
    assert in_a_child(worker.work, run, 1) == worker.FAILED
    assert run.status().attempts == 2
    assert in_a_child(worker.work, run, 1) == worker.FAILED  # another sweep has tried it again meanwhile
    assert run.status().attempts == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_that_failed_on_one_device_is_repaired_on_another(study, engine):
    run = new_run(study.parent, device="cuda:63")
    assert in_a_child(worker.work, run) == worker.FAILED
    code, output = sweep(study, "device=cpu", "--retry-failed", engine=engine)
    assert code == 0, output
    assert stored(study)[0].folder == run.folder
    assert (run.status().attempts, run.settings()["device"]) == (2, "cpu")
    code, output = sweep(study, "device=cuda:63", engine=engine)  # nothing is left to do, so that it is not missed
    assert (code, run.settings()["device"]) == (0, "cpu"), output


def test_a_checkpoint_of_another_kind_of_device_is_not_gone_on_from(tmp_path, calm):
    run = new_run(tmp_path)
    (run.folder / "environment.json").write_text('{"device": "cuda:1"}')
    run.checkpoint.write_bytes(b"the state of a generator on a GPU")
    assert in_a_child(worker.work, run) == worker.DONE
    assert "its checkpoint was made on cuda, and this is cpu" in run.log.read_text()
    assert_the_same(run, calm)


def test_a_worker_leaves_a_run_that_another_one_holds_or_has_done(tmp_path):
    run = new_run(tmp_path)
    with run.hold() as mine:
        assert mine
        command = [sys.executable, "-m", "iclab.runs.worker", str(run.folder)]
        assert subprocess.run(command).returncode == worker.BUSY
    assert run.status().state == "pending"
    assert in_a_child(worker.work, run) == worker.DONE
    assert in_a_child(worker.work, run) == worker.DONE
    assert run.status().attempts == 1


def test_a_status_that_cannot_be_written_is_told_on_standard_error(tmp_path):
    run = new_run(tmp_path)
    bound = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))  # noqa: E731
    command = [sys.executable, "-m", "iclab.runs.worker", str(run.folder)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=bound)
    assert done.returncode == worker.UNRECORDED + errno.EFBIG
    assert done.stderr.startswith(f"cannot use {run.folder / 'status.json'}: File too large; ")


def test_a_run_keeps_its_environment(tmp_path):
    run = new_run(tmp_path)
    assert in_a_child(worker.work, run) == worker.DONE
    kept = json.loads((run.folder / "environment.json").read_text())
    assert kept["threads"] == 1
    assert kept["python"] == sys.version.split()[0]
    assert {"torch", "numpy", "iclab", "device", "revision"} <= kept.keys()
