"""One process that works on a run, or on several that train as a pack:

    python -m iclab.runs.worker RUN_FOLDER [RUN_FOLDER ...] [--retry ID=ATTEMPTS]

It holds the locks of its runs for its whole life, so that two sweeps on one store share the work. It ends with 0 where
the runs are done, 3 where one failed, diverged or was interrupted by the disk, 75 where another process holds one, and
143 after an orderly stop (SIGTERM, or the end of its standard input, by which it notices that whoever started it is
gone). Where the disk takes not even the status, it ends with 100 more than the number of the system's error.
"""

import argparse
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iclab.errors import Damaged
from iclab.experiments.identity import NUMERICS
from iclab.runs.disk import ADVICE, passing, told
from iclab.runs.store import CURVE, ENDED, Curve, Run, Status, now
from iclab.stops import Stopped, listen, whole

DONE, FAILED, BUSY, STOPPED = 0, 3, 75, 143
UNRECORDED = 100  # and the number of the error that kept the status from being written


def arguments(runs: Sequence[Run], retry: Mapping[str, int]) -> list[str]:
    """Returns the arguments of a worker that stops when whoever started it is gone. `retry` are the numbers of the
    attempts that failed, by run, of those that it shall try again."""
    again = [f"--retry={run.id}={retry[run.id]}" for run in runs if run.id in retry]
    return [*(str(run.folder) for run in runs), "--watch", *again]


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes the locks and works; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m iclab.runs.worker", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--retry", metavar="ID=ATTEMPTS", action="append", default=[], help="try a failed run again")
    parser.add_argument("--watch", action="store_true", help="stop when the standard input ends")
    given = parser.parse_args(arguments)
    retry = {id: int(count) for id, _, count in (text.partition("=") for text in given.retry)}
    try:
        _listen(given.watch)
        return hold_and_work([Run(folder) for folder in given.folders], retry)
    except Stopped:
        return STOPPED
    except (OSError, Damaged) as error:  # the failure could not even be recorded
        print(told(error), file=sys.stderr)
        number = error.errno if isinstance(error, OSError) else None
        return UNRECORDED + number if number in ADVICE else FAILED


def hold_and_work(runs: Sequence[Run], retry: Mapping[str, int]) -> int:
    """Works on those of the runs that no other process holds; returns the exit status."""
    with ExitStack() as locks:
        mine = [run for run in runs if locks.enter_context(run.hold(patience=0.5))]
        code = work_together(mine, retry) if mine else BUSY
        return BUSY if len(mine) < len(runs) and code != STOPPED else code


def work(run: Run, retry: int | None = None) -> int:
    """Brings a run to its end, unless it has one; returns the exit status."""
    return work_together([run], {} if retry is None else {run.id: retry})


def work_together(runs: Sequence[Run], retry: Mapping[str, int]) -> int:
    """Brings runs to their ends that have none: those that can train as a pack do so, and then each goes on alone.
    Returns the exit status."""
    standing = {run.id: _standing(run, retry.get(run.id)) for run in runs}
    codes = [code for code in standing.values() if code is not None]
    attempts = [_begin(run) for run in runs if standing[run.id] is None]
    left = deque(attempts)
    try:
        _train_together(attempts)
        while left:
            with _timed([left[0]]):
                ending = _ending(left[0].run)
            with whole():
                codes.append(left.popleft().end(ending))
    except Stopped:
        for attempt in left:
            attempt.run.note("stopped")
            codes.append(attempt.end({"state": "pending"}))
    return max(codes, default=DONE)


@dataclass(eq=False)
class Attempt:
    """An attempt at a run, whose status says that it runs."""

    run: Run
    status: Status
    seconds: float = 0.0

    def end(self, ending: Mapping[str, Any]) -> int:
        """Records how it ended; returns the exit status."""
        seconds = round(self.status.seconds + self.seconds, 3)
        state = self.run.record(self.status, **ending, seconds=seconds, ended=now()).state
        return {"done": DONE, "pending": STOPPED}.get(state, FAILED)


@contextmanager
def _timed(attempts: Sequence[Attempt]) -> Iterator[None]:
    """Shares the time that something takes among attempts."""
    start = time.monotonic()
    try:
        yield
    finally:
        for attempt in attempts:
            attempt.seconds += (time.monotonic() - start) / len(attempts)


def _standing(run: Run, retry: int | None) -> int | None:
    """The exit status for an end that stands; none for a run that has work left."""
    status = run.recorded()
    if status.state == "done" and run.checked().state == "done":
        return DONE
    return FAILED if status.state in ENDED and status.state != "done" and status.attempts != retry else None


def _begin(run: Run) -> Attempt:
    status = run.recorded()
    if status.state == "diverged":
        run.start_anew()  # going on from a checkpoint would only diverge again
    run.tidy()
    run.note_damage(status)
    origin = run.origin() if run.weights else {}  # what it is measured in may be another environment
    if status.state == "running":  # an attempt that nobody ended
        lost = run.lost_seconds(status) / _pack_of(run)  # which the runs of a pack have in common
        status = replace(status, seconds=round(status.seconds + lost, 3))
    begun = {"attempts": status.attempts + 1, "error": "", "started": now(), "ended": None, "origin": origin}
    return Attempt(run, run.record(status, state="running", phase="", **begun))


def _train_together(attempts: Sequence[Attempt]) -> None:
    """Trains runs as a pack as far as they can; whatever the trouble is, a run meets its own when it goes on alone."""
    untrained = [attempt for attempt in attempts if attempt.run.weights is None]
    if len(untrained) < 2 and all(_pack_of(attempt.run) == 1 for attempt in untrained):
        return
    from iclab.runs.packing import train_together

    with _timed(untrained):
        prepared = {}
        for run in (attempt.run for attempt in untrained):
            with suppress(Exception):
                prepared[run] = _prepared(run)
        for run in prepared:
            run.begin("train")
        try:
            train_together(prepared)
        except Exception as error:
            for attempt in untrained:
                attempt.run.note(f"goes on alone: {told(error)}")


def _pack_of(run: Run) -> int:
    from iclab.learning.training import pack_of  # loads torch, which a run that another holds can do without

    return pack_of(run.checkpoint)


def _ending(run: Run) -> dict[str, Any]:
    """Works on the run; how that ended, as entries of the status."""
    try:
        return _perform(run)
    except Exception as error:
        if passing(error) or isinstance(error, Damaged):
            run.note(told(error))
            return {"state": "interrupted", "error": told(error)}
        run.note(traceback.format_exc())
        return {"state": "failed", "error": told(error)}


def _perform(run: Run) -> dict[str, Any]:
    from iclab.learning.training import Diverged
    from iclab.runs.perform import perform
    from iclab.runs.trainings import training_id

    experiment, curve = _prepared(run), Curve(run.folder / CURVE, run.checkpoint)
    try:
        rows = perform(experiment, run.folder, curve, run.note, run.weights, run.curve, run.begin)
        kept = run.keep_rows(rows)
        return {"state": "done", "training": training_id(experiment, run.numerics), **kept}
    except Diverged as error:
        run.note(str(error))
        return {"state": "diverged", "error": str(error)}


def _prepared(run: Run) -> Any:
    """The experiment of a run, once what an earlier attempt left fits to it and the environment is recorded."""
    import torch

    from iclab.experiments.experiment import Experiment
    from iclab.experiments.plugins import bring_back
    from iclab.experiments.streams import resolve
    from iclab.learning.training import pack_of
    from iclab.runs.environment import write_environment

    torch.set_num_threads(1)
    settings = run.settings()
    bring_back(settings, run.folder)
    experiment = Experiment.from_mapping(settings, run.folder / "config.toml")
    if run.weights is None:
        _forget_other_device(run, resolve(experiment.device).type)
        _forget_other_curve(run)
        _note_numerics(run)
    path, pack = run.folder / "environment.json", pack_of(run.checkpoint)
    write_environment(path, experiment.device, experiment.imports, pack)
    return experiment


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


def _forget_other_curve(run: Run) -> None:
    """Cuts the curve back to the checkpoint; starts a run anew whose curve is not the one that the checkpoint knows."""
    from iclab.learning.training import mark_of

    mark = mark_of(run.checkpoint)
    if mark and not Curve(run.folder / CURVE, run.checkpoint).back_to(mark):
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
