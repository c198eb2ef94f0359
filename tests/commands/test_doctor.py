"""Workers side by side with this machine: who differs, and locks that hold on one node alone."""

import json
import multiprocessing
import sys
from pathlib import Path

import pytest

from iclab import cli
from iclab.commands.doctor import answers, lock_problems, others
from iclab.runs import store
from iclab.runs.engines import places
from iclab.runs.engines.places import got_lock, place


def test_without_an_engine_this_machine_is_reported(tmp_path, capsys):
    assert cli.main(["doctor", "--out", str(tmp_path)]) == 0
    assert "iclab on this machine" in capsys.readouterr().out


def test_a_worker_of_another_version_is_told_by_name():
    same, other = place(), {**place(), "torch": "1.0", "host": "elsewhere"}
    assert others({"task 0": same}) == []
    (line,) = others({"task 0": same, "task 1": other})
    assert line.startswith("task 1 is of another version: torch 1.0 there and ")


@pytest.mark.parametrize(
    ("locks", "told"),
    [
        ([True, False], ""),
        ([True, True], "task 0 and task 1 got the lock of one file at once, so that a run could be worked on twice"),
        ([False, False], "no worker got the lock"),
        ([True, "[Errno 38] Function not implemented"], "no locks between nodes: task 1: [Errno 38]"),
    ],
)
def test_just_one_must_get_the_lock(locks, told):
    problems = lock_problems({f"task {i}": {"lock": lock} for i, lock in enumerate(locks)})
    assert "".join(problems).startswith(told) and bool(problems) == bool(told)
    assert all("mount Lustre with -o flock (not localflock)" in line for line in problems)


def test_what_tasks_print_is_read_and_what_else_is_printed_is_not():
    assert answers(['1: {"lock": true}', "srun: job 7 queued", "0:  ", ' 0: {"lock": false}']) == {
        "task 1": {"lock": True},
        "task 0": {"lock": False},
    }


def asked(folder, count, found):
    found.put(got_lock(folder, count))


def at_once(folder, count=2):
    """What so many processes get that ask for the lock at the same time."""
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    processes = [context.Process(target=asked, args=(folder, count, found)) for _ in range(count)]
    for each in processes:
        each.start()
    return sorted(found.get(timeout=20) for _ in processes)


def test_of_processes_that_ask_at_the_same_time_one_gets_the_lock(tmp_path):
    assert at_once(tmp_path, 3) == [False, False, True]


def test_the_test_sees_locks_that_are_none(tmp_path, monkeypatch):
    """As with localflock, where each machine has its own."""
    monkeypatch.setattr(store, "locked", lambda *_, **__: True)
    assert at_once(tmp_path) == [True, True]


def test_a_folder_that_others_do_not_share_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "TOGETHER", 0.1)
    with pytest.raises(TimeoutError, match="is it there on all machines"):
        got_lock(tmp_path, 2)


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """A Slurm that answers as it is told."""

    def answering(*told):
        lines = [f"{i}: {json.dumps(each)}" for i, each in enumerate(told)]
        path = tmp_path / "bin" / "srun"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable} -S\nprint({chr(10).join(lines)!r})\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent))

    return answering


def test_doctor_tells_whether_nodes_agree(tmp_path, srun, capsys):
    command = ["doctor", "--engine", "slurm", "--out", str(tmp_path / "runs")]
    srun({**place(), "lock": True}, {**place(), "lock": False})
    assert cli.main(command) == 0
    assert "all agree" in capsys.readouterr().out
    srun({**place(), "lock": True}, {**place(), "lock": True, "iclab": "0.0"})
    assert cli.main(command) == 3
    output = capsys.readouterr().out
    assert "task 1 is of another version: iclab 0.0 there" in output and "localflock" in output
    assert [path.name for path in Path(tmp_path).iterdir()] == ["bin"], "something is left"


def test_where_there_is_no_slurm_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(["doctor", "--engine", "slurm"]) == 2
    assert capsys.readouterr().err == "iclab: --engine slurm: cannot call srun: No such file or directory\n"
