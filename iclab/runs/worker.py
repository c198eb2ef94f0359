"""One process that works on one run:  python -m iclab.runs.worker RUN_FOLDER [--retry ATTEMPTS]

It holds the run's lock for its whole life, so that two sweeps on one store share the work. It ends with 0 where the run
is done, 3 where it failed, diverged or was interrupted by the disk, 75 where another process holds it, and 143 after an
orderly stop (SIGTERM, or the end of its standard input, by which it notices that whoever started it is gone). Where
the disk takes not even the status, it ends with 100 more than the number of the system's error.
"""

import argparse
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iclab.errors import Damaged
from iclab.experiments.identity import NUMERICS
from iclab.runs.disk import ADVICE, passing, told
from iclab.runs.store import CURVE, ENDED, Curve, Run, now
from iclab.stops import Stopped, listen

DONE, FAILED, BUSY, STOPPED = 0, 3, 75, 143
UNRECORDED = 100  # and the number of the error that kept the status from being written


def arguments(folder: Path, retry: int | None) -> list[str]:
    """Returns the arguments of a worker that stops when whoever started it is gone."""
    return [str(folder), "--watch", *([] if retry is None else ["--retry", str(retry)])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes the lock and works; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m iclab.runs.worker", description=__doc__)
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
    except (OSError, Damaged) as error:  # the failure could not even be recorded
        print(told(error), file=sys.stderr)
        number = error.errno if isinstance(error, OSError) else None
        return UNRECORDED + number if number in ADVICE else FAILED


def work(run: Run, retry: int | None = None) -> int:
    """Runs a run to its end, unless it is finished."""
    status = run.recorded()
    if status.state == "done" and run.checked().state == "done":
        return DONE
    if status.state in ENDED and status.state != "done" and status.attempts != retry:
        return FAILED
    if status.state == "diverged":
        run.start_anew()  # going on from a checkpoint would only diverge again
    run.tidy()
    run.note_damage(status)
    origin = run.origin() if run.weights else {}  # what it is measured in may be another environment
    if status.state == "running":  # an attempt that nobody ended
        status = replace(status, seconds=round(status.seconds + run.lost_seconds(status), 3))
    begun = {"attempts": status.attempts + 1, "error": "", "started": now(), "ended": None, "origin": origin}
    status = run.record(status, state="running", **begun)
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
        if passing(error) or isinstance(error, Damaged):
            run.note(told(error))
            return {"state": "interrupted", "error": told(error)}
        run.note(traceback.format_exc())
        return {"state": "failed", "error": told(error)}


def _perform(run: Run) -> dict[str, Any]:
    import torch  # these load torch, which a run that another process holds can do without

    from iclab.experiments.experiment import Experiment
    from iclab.experiments.plugins import bring_back
    from iclab.experiments.streams import resolve
    from iclab.learning.training import Diverged
    from iclab.runs.environment import write_environment
    from iclab.runs.perform import perform
    from iclab.runs.trainings import training_id

    torch.set_num_threads(1)
    settings = run.settings()
    bring_back(settings, run.folder)
    experiment = Experiment.from_mapping(settings, run.folder / "config.toml")
    weights, curve = run.weights, Curve(run.folder / CURVE, run.checkpoint)
    if weights is None:
        _forget_other_device(run, resolve(experiment.device).type)
        _forget_other_curve(run, curve)
        _note_numerics(run)
    write_environment(run.folder / "environment.json", experiment.device, experiment.imports)
    try:
        kept = run.keep_rows(perform(experiment, run.folder, curve, run.note, weights, run.curve))
        return {"state": "done", "training": training_id(experiment, run.numerics), **kept}
    except Diverged as error:
        run.note(str(error))
        return {"state": "diverged", "error": str(error)}


def _note_numerics(run: Run) -> None:
    if run.numerics != NUMERICS:
        run.note(f"goes on with the numerics {NUMERICS}; its id is that of the numerics {run.numerics}")


def _forget_other_device(run: Run, device: str) -> None:
    """Starts a run anew whose checkpoint was made on another kind of device: the generators there have other states."""
    try:
        before = str(run.environment().get("device", device)).partition(":")[0]
    except Damaged:  # a checkpoint of another device is none that can be gone on from, which is seen there
        return
    if before != device and run.checkpoint.exists():
        run.note(f"starts anew: its checkpoint was made on {before}, and this is {device}")
        run.start_anew()


def _forget_other_curve(run: Run, curve: Curve) -> None:
    """Cuts the curve back to the checkpoint; starts a run anew whose curve is not the one that the checkpoint knows."""
    from iclab.learning.training import mark_of

    mark = mark_of(run.checkpoint)
    if mark and not curve.back_to(mark):
        run.note(f"starts anew: {CURVE} is not the curve of its checkpoint")
        run.start_anew()


def _listen(watch: bool) -> None:
    """Turns a request to stop into `Stopped`, and the end of the standard input into such a request."""
    faulthandler.enable()
    listen(signal.SIGTERM)
    if watch:
        threading.Thread(target=_await_end, daemon=True).start()
    else:
        listen(signal.SIGINT)


def _await_end() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
