"""One process that works on one run:  python -m iclab.experiments.worker RUN_FOLDER [--retry ATTEMPTS]

It holds the run's lock for its whole life, so that two sweeps on one store share the work. It ends with 0 where the run
is done, 3 where it failed or diverged, 75 where another process holds it, and 143 after an orderly stop (SIGTERM, or
the end of its standard input, by which it notices that whoever started it is gone).
"""

import argparse
import errno
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iclab.experiments.store import ENDED, Curve, Run, now

DONE, FAILED, BUSY, STOPPED = 0, 3, 75, 143


class Stopped(BaseException):
    """An orderly stop was asked for; not an error of the run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes the lock and works; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m iclab.experiments.worker", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--retry", type=int, help="try again a run that failed in its attempt of this number")
    parser.add_argument("--watch", action="store_true", help="stop when the standard input ends")
    given = parser.parse_args(arguments)
    run = Run(given.folder)
    try:
        _listen(given.watch)
        with run.hold(patience=0.5) as mine:
            return work(run, given.retry) if mine else BUSY
    except Stopped:
        return STOPPED
    except OSError as error:  # the failure could not even be recorded
        print(told(error), file=sys.stderr)
        return FAILED


def work(run: Run, retry: int | None = None) -> int:
    """Brings a run to its end, unless it has one."""
    status = run.recorded()
    if status.state in ENDED and (status.state == "done" or status.attempts != retry):
        return DONE if status.state == "done" else FAILED
    if status.state == "diverged":
        run.start_anew()  # going on from a checkpoint would only diverge again
    run.tidy()
    status = run.record(status, state="running", attempts=status.attempts + 1, error="", started=now(), ended=None)
    start = time.monotonic()
    ending = _ending(run)
    seconds = round(status.seconds + time.monotonic() - start, 3)
    status = run.record(status, **ending, seconds=seconds, ended=now())
    return {"done": DONE, "pending": STOPPED}.get(status.state, FAILED)


def _ending(run: Run) -> dict[str, Any]:
    """Works on the run; how that ended, as entries of the status."""
    try:
        return _perform(run)
    except Stopped:
        run.note("stopped")
        return {"state": "pending"}
    except Exception as error:
        run.note(traceback.format_exc())
        return {"state": "failed", "error": told(error)}


def _perform(run: Run) -> dict[str, Any]:
    import torch  # these load torch, which a run that another process holds can do without

    from iclab.experiments import evolution
    from iclab.experiments.environment import write_environment
    from iclab.experiments.experiment import load
    from iclab.experiments.run import perform
    from iclab.experiments.streams import resolve
    from iclab.training import Diverged

    torch.set_num_threads(1)
    experiment = load(run.folder / "config.toml")
    _forget_other_device(run, resolve(experiment.device).type)
    write_environment(run.folder / "environment.json", experiment.device)
    try:
        measured = perform(experiment, run.folder, Curve(run.folder / "metrics.jsonl"), run.note)
        run.keep_rows([*measured, *evolution.rows(run.curve())])
    except Diverged as error:
        run.note(str(error))
        return {"state": "diverged", "error": str(error)}
    return {"state": "done"}


def _forget_other_device(run: Run, device: str) -> None:
    """Starts a run anew whose checkpoint was made on another kind of device: the generators there have other states."""
    before = run.environment().get("device", device).partition(":")[0]
    if before != device and run.checkpoint.exists():
        run.note(f"starts anew: its checkpoint was made on {before}, and this is {device}")
        run.start_anew()


def told(error: Exception) -> str:
    """An error in one line, with advice where the disk is at fault."""
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}".strip().splitlines()[-1]
    advice = {
        errno.ENOSPC: "; free some space and give the same command again",
        errno.EDQUOT: "; the quota is used up",
        errno.EFBIG: "; the limit on the size of files is reached",
        errno.EROFS: "; choose another folder with --out",
        errno.EACCES: "; choose another folder with --out",
        errno.EPERM: "; choose another folder with --out",
    }
    where = f"cannot use {error.filename}" if error.filename else "cannot use a file"
    return f"{where}: {error.strerror or error}{advice.get(error.errno or 0, '')}"


def _listen(watch: bool) -> None:
    """Turns a request to stop into `Stopped`, and the end of the standard input into such a request."""
    faulthandler.enable()
    signal.signal(signal.SIGTERM, _stop)
    if watch:
        threading.Thread(target=_await_end, daemon=True).start()
    else:
        signal.signal(signal.SIGINT, _stop)


def _stop(*_: object) -> None:
    raise Stopped


def _await_end() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
