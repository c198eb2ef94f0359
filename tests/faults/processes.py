"""Sweeps as processes that cost little: forks of one that has loaded torch already. They can be killed at any moment.

The engine and the worker are those of the project; only a worker is a fork of the sweep itself.
"""

import errno
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file

from iclab import cli
from iclab.runs import engine, worker
from iclab.runs.engines import local
from iclab.runs.engines.local import Processes, Slot
from iclab.runs.store import Run, at_once, runs

STUDY = """title = "A study under faults"
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
steps = 40
batch = 4
warmup = 0.1
[eval]
prompts = 16
bootstrap = 1
every = 5
[sweep]
seed = "0:SEEDS"
[[claims]]
name = "The zero predictor has the risk of the labels"
quantity = "risk"
predictor = "zero"
within = [2.25, 4.0]
"""


@dataclass
class Fork:
    """A forked worker, as the engine sees it."""

    pid: int
    pipe: int
    slot: Slot
    returncode: int | None = None

    def code(self) -> int | None:
        """The exit status; none while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self.pipe)
                PIPES.discard(self.pipe)
        return self.returncode

    def where(self) -> str:
        """Nothing: there is one place only."""
        return ""

    def stop(self) -> None:
        """Asks it to stop."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self, patience: float) -> None:
        """Waits for its end, and then stops it."""
        end = time.monotonic() + patience
        while self.code() is None and time.monotonic() < end:
            time.sleep(0.01)
        if self.code() is None:
            os.kill(self.pid, signal.SIGKILL)


PIPES: set[int] = set()  # the ends by which forked workers notice that the sweep is gone; no worker may hold another's


class Forks(Processes):
    """Workers that are forks of the sweep itself: they belong to its session, by which tests find them."""

    def start(self, runs: Sequence[Run], retry: Mapping[str, int]) -> Any:
        """Starts a worker of runs as the engine does, but for the server."""
        read, write = os.pipe()
        with open(runs[0].log, "ab", opener=at_once) as log:
            pid = os.fork()
            if pid == 0:
                for pipe in (write, *PIPES):
                    with suppress(OSError):
                        os.close(pipe)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                ended(lambda: worker.main(worker.arguments(runs, retry)), log.fileno(), read)
        os.close(read)
        PIPES.add(write)
        return Fork(pid, write, self.free.popleft())

    def left(self, child: Any) -> None:
        """Takes back the slot."""
        self.free.append(child.slot)


def ended(call: Callable[[], int], output: int, stdin: int | None = None) -> None:
    """Makes a call the whole life of this process, with its output in a file. The server of forks that the tests may
    have is none of its children."""
    code = 1
    try:
        vars(forkserver._forkserver).update(_forkserver_address=None, _forkserver_alive_fd=None, _forkserver_pid=None)
        if stdin is not None:
            os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1) for n in (1, 2))
        code = call()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


@dataclass
class Sweep:
    """`iclab sweep` in a session of its own, and everything that it printed."""

    pid: int
    pipe: int  # and no file, which a limit on the size of files would concern
    code: int | None = None
    output: bytes = b""

    def poll(self) -> int | None:
        """The exit status; none while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = 120.0) -> int:
        """Waits for the end, and then for all that it started."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            self.told()
            assert time.monotonic() < end, f"the sweep does not end: {self.told()}"
            time.sleep(0.005)
        self.alone(end)
        return self.code or 0

    def alone(self, end: float) -> None:
        """Waits until no process of the session is left."""
        while left := self.members():
            assert time.monotonic() < end, f"orphans: {left}"
            time.sleep(0.01)

    def members(self) -> list[int]:
        """The living processes of its session but itself."""
        return [pid for pid in processes() if pid != self.pid and session(pid) == self.pid]

    def told(self) -> str:
        """What it printed."""
        with suppress(BlockingIOError):
            while more := os.read(self.pipe, 2**16):
                self.output += more
        return self.output.decode(errors="replace")


def processes() -> list[int]:
    """All processes of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def session(pid: int) -> int | None:
    """The session of a living process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[3])


@dataclass
class Lab:
    """A place for stores of one study, with what it measures when nothing disturbs it."""

    folder: Path
    seeds: int = 4
    count: int = 0
    reference: Path = field(init=False)

    def __post_init__(self) -> None:
        self.study.write_text(STUDY.replace("SEEDS", str(self.seeds)))
        torch.set_num_threads(1)
        warm()
        self.reference = self.new()
        assert self.start(self.reference).wait() == 0

    @property
    def study(self) -> Path:
        """The task file."""
        return self.folder / "study_file.toml"

    def new(self) -> Path:
        """A folder for a store, not made yet."""
        self.count += 1
        return self.folder / f"store_{self.count}"

    def copy(self, source: Path | None = None) -> Path:
        """A copy of a store, the undisturbed one unless another is given."""
        return Path(shutil.copytree(source or self.reference, self.new()))

    def start(self, store: Path, *words: str, before: Callable[[], Any] = lambda: None, jobs: int = 2) -> Sweep:
        """Starts a sweep of the study; `before` is called in its process."""
        command = ["sweep", str(self.study), "--out", str(store), "--jobs", str(jobs), *words]
        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 2**20)
        os.set_blocking(read, False)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            PIPES.clear()
            local.Processes, engine.PAUSE = Forks, 0.01
            before()
            ended(lambda: cli.main(command), write)
        os.close(write)
        return Sweep(pid, read)

    def assert_undisturbed(self, store: Path, whole: bool = True) -> None:
        """Holds a finished store to what the study measures when nothing disturbs it: the same rows and bits. Where it
        need not be `whole`, weights, curve and log may be gone: who removes them does it to save space."""
        found = {run.id: run for run in runs(store)}
        for known in runs(self.reference):
            run = found.pop(known.id)
            assert run.status().state == "done", run.status()
            assert run.rows() == known.rows()
            if whole or (run.folder / "metrics.jsonl").exists():
                assert timeless(run.curve()) == timeless(known.curve())
            if whole or (run.folder / "weights.safetensors").exists():
                one, two = (load_file(each.folder / "weights.safetensors") for each in (run, known))
                assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
            if whole or run.log.exists():
                assert "Traceback" not in run.log.read_text(errors="replace"), run.log
        assert not found


def timeless(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A curve without the time that it took."""
    return [{key: value for key, value in point.items() if key != "seconds"} for point in curve]


def warm() -> None:
    """Loads what a run loads, so that forks need not."""
    import tempfile

    from iclab.experiments.experiment import Experiment
    from iclab.experiments.study import Study

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "study.toml"
        path.write_text(STUDY.replace("SEEDS", "1"))
        experiment = Study.read(path).cells[0].experiment
        assert isinstance(experiment, Experiment)
        run = Run(Path(name) / experiment.id)
        run.create(experiment.mapping())
        assert worker.work(run) == worker.DONE
        cli.main(["sweep", str(path), "--out", name, "--dry-run"])


def killed_at_random(lab: Lab, store: Path, rng: Random, most: int) -> tuple[int, int]:
    """Runs sweeps of a store until one ends well, and kills workers and whole sweeps with -9 at random moments, so many
    times at most. Returns the kills of workers and of sweeps; runs that were done are checked to have stayed so."""
    kills, done = [0, 0], {}
    for _ in range(200):
        sweep = lab.start(store)
        while sweep.poll() is None:
            time.sleep(rng.uniform(0.0, 0.12))
            victims = sweep.members()
            if sum(kills) < most and victims:
                whole = rng.random() < 0.15
                shot(sweep.pid if whole else rng.choice(victims), group=whole and rng.random() < 0.5)
                kills[whole] += 1
        sweep.alone(time.monotonic() + 30)
        assert "Traceback" not in sweep.told(), sweep.told()
        done = still_done(store, done)
        if sweep.code == 0:
            return kills[0], kills[1]
        assert sweep.code in (3, -signal.SIGKILL), (sweep.code, sweep.told())
    raise AssertionError("the store is never finished")


def still_done(store: Path, before: dict[str, bytes]) -> dict[str, bytes]:
    """The statuses of the runs that are done; those that were before must be as they were."""
    found = {run.id: (run.folder / "status.json").read_bytes() for run in runs(store) if run.status().state == "done"}
    assert all(found.get(id) == status for id, status in before.items()), "a finished run was lost or run again"
    return found


def shot(pid: int, group: bool = False) -> None:
    """kill -9."""
    with suppress(ProcessLookupError, PermissionError):
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)


def mounted(folder: Path, size: str) -> str:
    """Mounts a small disk at a folder; says why where that is not possible."""
    folder.mkdir(parents=True, exist_ok=True)
    return mount("-t", "tmpfs", "-o", f"size={size}", "iclab-faults", str(folder))


def mount(*words: str) -> str:
    """Calls mount; returns what it has against it."""
    import subprocess

    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True)
    except OSError as error:
        return os.strerror(error.errno or errno.ENOENT)
    return done.stderr.strip() if done.returncode else ""


def unmount(folder: Path) -> None:
    """Takes a disk away again."""
    import subprocess

    subprocess.run(["umount", "-l", str(folder)], capture_output=True)
