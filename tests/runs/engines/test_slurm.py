"""Job arrays without a Slurm: the script, the options, the queue; and sweeps on a fake of it."""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from iclab.errors import UsageError
from iclab.runs.engines import chunk, slurm
from iclab.runs.engines.slurm import Slurm, minutes, options, queued, script
from iclab.runs.results import load
from iclab.runs.store import Run, runs
from iclab.runs.worker import DONE, FAILED, STOPPED
from tests.runs.engines.begun import STUDY_TIME, begin, finished
from tests.runs.engines.fake_slurm import tasks
from tests.runs.test_sweep import new_run, points, wait_for

SLURM = ("--engine", "slurm")

GOLDEN = """#!/bin/bash
#SBATCH --job-name=iclab-NAME
#SBATCH --output='/store/of two/.slurm/NAME_%a.log'
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --partition=gpu
#SBATCH --exclusive
#SBATCH --comment='two words'
export OMP_NUM_THREADS=1
export MKL_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
exec PYTHON -m iclab.runs.engines.chunk '/store/of two/.slurm/NAME.json' $SLURM_ARRAY_TASK_ID
"""


def test_the_script_of_an_array(monkeypatch):
    monkeypatch.setattr(sys, "executable", "PYTHON")
    given = options(["partition=gpu", "--exclusive", "comment=two words"])
    assert script(Path("/store/of two"), "NAME", given) == GOLDEN


def test_a_per_cent_sign_in_a_path_is_no_pattern():
    assert "--output='/100%% of/.slurm/NAME_%a.log'" in script(Path("/100% of"), "NAME", {})


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("30", 30),
        ("30:30", 30.5),
        ("02:30:00", 150),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("1-00:00:30", 1440.5),
        ("0", math.inf),
        ("UNLIMITED", math.inf),
        ("soon", None),
        ("1:2:3:4", None),
        ("", None),
        ("-5", None),
    ],
)
def test_limits_of_time_as_sbatch_reads_them(limit, expected):
    assert minutes(limit) == expected


def test_options_that_would_break_the_engine_are_refused_all_at_once():
    with pytest.raises(UsageError) as error:
        options(["array=0-3", "time=09:59", "signal=USR2", "partition=gpu"])
    told = str(error.value)
    assert "array is set by the engine; signal is set by the engine; time=09:59 is under 10 minutes" in told
    with pytest.raises(UsageError, match="time=soon is no time limit: expected MIN, HH:MM:SS or D-HH"):
        options(["time=soon"])


def test_how_many_runs_a_task_has():
    assert [slurm._size(None, count) for count in (0, 1, 1000, 1001, 5000)] == [1, 1, 1, 2, 5]
    assert slurm._size(20, 3) == 20
    assert (slurm._tasks(4, None), slurm._tasks(4, 2)) == ("--array=0-3", "--array=0-3%2")


# ---- a fake of Slurm on PATH ---------------------------------------------------------------------------------------


def calls(fake, name):
    """How often a command was called."""
    text = (fake / "calls").read_text() if (fake / "calls").exists() else ""
    return sum(line.split()[0] == name for line in text.splitlines())


def says(fake, text):
    """Makes squeue print a text."""
    (fake / "bin" / "squeue").write_text(f"#!/bin/bash\ncat <<'END'\n{text}END\n")


def test_the_queue_is_read(fake):
    says(fake, "7|0|RUNNING|None\n7|12|PENDING|Priority\n8|0|RUNNING|None\nN/A|N/A|PENDING|None\n7|[3-5]|PENDING|x\n\n")
    assert queued(["7"]) == {"7": {0: "RUNNING", 12: "PENDING (Priority)"}}
    assert queued([]) == {}


def test_a_controller_that_is_away_for_a_while_takes_nothing_from_the_queue(fake, tmp_path):
    base = tmp_path / ".slurm" / "abc"
    base.parent.mkdir()
    base.with_suffix(".json").write_text('{"chunks": [[["x"]]], "retry": {}}')
    base.with_suffix(".id").write_text("7")
    says(fake, "7|0|RUNNING|None\n")
    cluster = Slurm(tmp_path, {})
    assert cluster._queue() == {"7": {0: "RUNNING"}}
    (fake / "bin" / "squeue").write_text("#!/bin/bash\necho 'squeue: error: no controller' >&2\nexit 1\n")
    cluster.looked = -math.inf
    assert cluster._queue() == {"7": {0: "RUNNING"}}
    with pytest.raises(UsageError, match="--engine slurm: squeue: squeue: error: no controller"):
        Slurm(tmp_path, {})._queue()  # which never answered


def test_an_array_that_was_never_handed_in_is_none(tmp_path, fake):
    (tmp_path / ".slurm").mkdir()
    (tmp_path / ".slurm" / "abc.json").write_text('{"chunks": [[["x"]]], "retry": {}}')
    assert Slurm(tmp_path, {}).arrays == []
    says(fake, "7\n7\n")  # it was, by somebody who was killed before the number could be kept
    (array,) = Slurm(tmp_path, {}).arrays
    assert (array.job, (tmp_path / ".slurm" / "abc.id").read_text()) == ("7", "7")


def test_where_there_is_no_slurm_one_line_says_so(study, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, output = finished(study, *SLURM)
    assert code == 2
    assert output.strip().splitlines()[-1] == ("iclab: --engine slurm: cannot call sbatch: No such file or directory")


# ---- tasks of an array, in this process ----------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path):
    """Two runs, and the list of an array whose only task has both."""
    found = [new_run(tmp_path), new_run(tmp_path, seed=1)]
    path = tmp_path / "store" / ".slurm" / "abc.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"chunks": [[[run.id] for run in found]], "retry": {}}))
    return str(path), found


@pytest.fixture
def life(monkeypatch, fake):
    """Plays a task whose workers end as they are told, at such steps; returns its exit status."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    (fake / "7.sh").write_text("#SBATCH --output=/dev/null\n")
    (fake / "7_0.pid").write_text("0")

    def play(path, ends, steps, why):
        ends, steps = iter(ends), iter(steps)
        monkeypatch.setattr(chunk, "listen", lambda *_: None)
        monkeypatch.setattr(chunk, "reason", lambda: why)
        monkeypatch.setattr(chunk, "step_of", lambda _: next(steps))
        monkeypatch.setattr(chunk.worker, "work_together", lambda *_: next(ends))
        return chunk.main([path, "0"])

    return play


def test_a_task_whose_time_is_up_is_queued_again(listed, life, fake):
    assert life(listed[0], [STOPPED], [0, 40], signal.SIGUSR1) == 0
    assert calls(fake, "scontrol") == 1
    assert "time is up: queued again (7_0)" in listed[1][0].log.read_text()


def test_a_task_that_came_no_step_further_is_not_and_says_why(listed, life, fake):
    assert life(listed[0], [STOPPED], [40] * 3, signal.SIGUSR1) == FAILED
    assert calls(fake, "scontrol") == 0
    status = listed[1][0].status()
    assert (status.state, status.error) == (
        "interrupted",
        "the time limit is too short: a task that began at step 40 ended there",
    )


def test_a_task_that_began_its_last_run_late_did_come_further(listed, life, fake):
    assert life(listed[0], [DONE, STOPPED], [0, 0, 0, 0], signal.SIGUSR1) == 0
    assert calls(fake, "scontrol") == 1
    assert listed[1][1].status().state == "pending"


def test_a_task_that_is_preempted_leaves_the_queue_to_slurm(listed, life, fake):
    assert life(listed[0], [STOPPED], [0, 40], signal.SIGTERM) == STOPPED
    assert calls(fake, "scontrol") == 0


def test_a_task_passes_over_runs_that_others_hold(listed, life):
    with listed[1][0].hold() as mine:
        assert mine
        assert life(listed[0], [DONE], [0] * 4, None) == 0


# ---- whole sweeps --------------------------------------------------------------------------------------------------


def store(study):
    return study.parent / "store"


@pytest.mark.slow
@pytest.mark.parametrize(("words", "count"), [((), 4), (("--chunk", "2"), 2), (("--chunk", "9", "--jobs", "1"), 1)])
def test_a_sweep_is_done_by_an_array(study, fake, same, words, count):
    code, output = finished(study, *STUDY_TIME, "seed=0:4", *SLURM, *words)
    assert code == 0, output
    same(store(study), 4)
    assert {run.status().attempts for run in runs(store(study))} == {1}
    assert len(list(fake.glob("*.pid"))) == count and calls(fake, "sbatch") == 1
    assert "The zero predictor has the risk of the labels" in output


@pytest.mark.slow
def test_a_sweep_that_is_detached_goes_on_alone_and_is_judged_later(study, fake, same):
    code, output = finished(study, *STUDY_TIME, "seed=0:2", *SLURM, "--detach")
    assert code == 0, output
    assert "Submitted. The same command waits for the runs and judges the claims." in output
    assert len(tasks(fake)) == 2
    code, output = finished(study, *STUDY_TIME, "seed=0:2", *SLURM)
    assert (code, calls(fake, "sbatch")) == (0, 1), output
    same(store(study), 2)
    code, output = finished(study, *STUDY_TIME, "seed=0:2", *SLURM)
    assert (code, calls(fake, "sbatch")) == (0, 1), output


@pytest.mark.slow
def test_after_its_client_was_killed_the_same_command_waits_for_the_same_array(study, fake, same):
    sweep = begin(study, *STUDY_TIME, "seed=0:2", *SLURM)
    wait_for(lambda: len(tasks(fake)) == 2)
    os.kill(sweep.pid, signal.SIGKILL)
    assert sweep.wait() == -signal.SIGKILL
    code, output = finished(study, *STUDY_TIME, "seed=0:2", *SLURM)
    assert (code, calls(fake, "sbatch")) == (0, 1), output
    same(store(study), 2)
    assert {run.status().attempts for run in runs(store(study))} == {1}


@pytest.mark.slow
def test_ctrl_c_takes_the_array_from_the_queue(study, fake, same):
    sweep = begin(study, *STUDY_TIME, "seed=0:2", *SLURM)
    wait_for(lambda: len(runs(store(study))) == 2 if store(study).exists() else False)
    for run in runs(store(study)):
        wait_for(points(run, 2))
    os.kill(sweep.pid, signal.SIGINT)
    assert sweep.wait() == 130, sweep.told()
    wait_for(lambda: not tasks(fake))
    assert calls(fake, "scancel") == 1
    assert {run.status().state for run in runs(store(study))} == {"pending"}
    assert all(run.checkpoint.exists() for run in runs(store(study)))
    code, output = finished(study, *STUDY_TIME, "seed=0:2", *SLURM)
    assert (code, calls(fake, "sbatch")) == (0, 2), output
    same(store(study), 2)


@pytest.mark.parametrize("state", ["pending", "running", "failed", "diverged"])
def test_a_task_that_is_still_at_work_does_not_try_a_failed_run_again(tmp_path, monkeypatch, state):
    """It has passed that run over, or goes on with others of its list: the run needs a task of its own."""
    run = Run(tmp_path / "0123456789ab")
    run.folder.mkdir()
    run.record(run.recorded(), state=state, attempts=1)
    (tmp_path / slurm.FOLDER).mkdir()
    monkeypatch.setattr(slurm, "queued", lambda jobs: {"7": {0: "RUNNING"}})
    before = tmp_path / slurm.FOLDER / "before"

    def attached(tried):
        before.with_suffix(".json").write_text(json.dumps({"chunks": [[[run.id]]], "retry": tried}))
        before.with_suffix(".id").write_text("7")
        return slurm.Slurm(tmp_path, {}).start([run], {run.id: 1}).array is not None

    assert attached({}) == (state in ("pending", "running"))
    assert attached({run.id: 1})


@pytest.mark.slow
def test_failed_runs_are_tried_again_only_on_request(study, fake):
    settings = ["train.lr=1e-3,1e30", "train.warmup=0", "train.clip=none", *SLURM]
    assert finished(study, *settings)[0] == 3
    table = load(store(study))
    (bad,) = table[table.state == "diverged"].run.unique()
    assert finished(study, *settings)[0] == 3
    assert (Run(store(study) / bad).status().attempts, calls(fake, "sbatch")) == (1, 1)
    assert finished(study, *settings, "--retry-failed")[0] == 3
    assert (Run(store(study) / bad).status().attempts, calls(fake, "sbatch")) == (2, 2)


@pytest.mark.slow
def test_a_task_whose_time_is_up_stops_at_its_step_and_ends_with_the_same_bits(study, fake, same):
    sweep = begin(study, *STUDY_TIME, "seed=0:1", *SLURM)
    run = wait_for(lambda: runs(store(study)) if store(study).exists() else [])[0]
    wait_for(points(run, 3))
    os.kill(tasks(fake)["1_0"], signal.SIGUSR1)
    assert sweep.wait() == 0, sweep.told()
    assert "time is up: queued again (1_0)" in run.log.read_text()
    assert "continues at step" in run.log.read_text()
    assert run.status().attempts == 2
    same(store(study), 1)


@pytest.mark.slow
def test_a_controller_that_is_away_for_a_while_stops_no_sweep(study, fake, same):
    sweep = begin(study, *STUDY_TIME, "seed=0:1", *SLURM)
    wait_for(lambda: calls(fake, "squeue") > 1)
    (fake / "away").touch()
    time.sleep(1.0)
    assert sweep.poll() is None, sweep.told()
    (fake / "away").unlink()
    assert sweep.wait() == 0, sweep.told()
    same(store(study), 1)


@pytest.mark.slow
def test_a_task_that_is_killed_is_told_with_its_place(study, fake):
    sweep = begin(study, *STUDY_TIME, "seed=0:1", *SLURM)
    run = wait_for(lambda: runs(store(study)) if store(study).exists() else [])[0]
    wait_for(points(run, 1))
    os.killpg(tasks(fake)["1_0"], signal.SIGKILL)
    assert sweep.wait() == 3, sweep.told()
    assert run.status().state == "interrupted"
    assert "left the queue" in sweep.told()
