"""Sweeps that can be watched and killed while they go on: forks of this process, each in a session of its own."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from iclab import cli
from iclab.runs import engine
from tests.faults.processes import Sweep, ended, processes, session

STUDY_TIME = ("train.steps=300", "eval.every=10")  # a few seconds, so that there is time to kill


def begin(study: Path, *words: str, pack: str = "off") -> Sweep:
    """Starts `iclab sweep` of a study, with its store beside it; a worker has one run, unless there are packs."""
    command = ["sweep", str(study), "--out", str(study.parent / "store"), "--pack", pack, *words]
    read, write = os.pipe()
    os.set_blocking(read, False)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        engine.PAUSE = 0.02
        ended(lambda: cli.main(command), write)
    os.close(write)
    return Sweep(pid, read)


def finished(study: Path, *words: str, pack: str = "off") -> tuple[int, str]:
    """Sweeps to the end; returns the exit status and what was printed."""
    sweep = begin(study, *words, pack=pack)
    code = sweep.wait(180)
    return code, sweep.told()


def command_of(pid: int) -> str:
    """The command line of a process; empty where it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def of_session(leader: int, word: str) -> list[int]:
    """The living processes of a session in whose command a word is."""
    return [pid for pid in processes() if session(pid) == leader and word in command_of(pid)]


def gone(pids: list[int], seconds: float = 40.0) -> None:
    """Waits until none of these processes is left."""
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if session(pid) is not None]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.05)
