"""One task of a Slurm array, which works on a list of runs, or packs of them, one after the other:

    python -m iclab.runs.engines.chunk LIST.json INDEX

PyTorch is loaded once for all of them. Runs that have ended, or that another process holds, are passed over. Slurm asks
it to stop with SIGTERM (a preemption, after which Slurm itself queues it again, or the end by `scancel`) or, some time
before the limit, with SIGUSR1: then the run is left at its last step and the task asks to be queued again.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from iclab.learning.training import step_of
from iclab.runs import worker
from iclab.runs.store import ENDED, Run
from iclab.stops import Stopped, listen, reason


def main(arguments: Sequence[str] | None = None) -> int:
    """Works on the runs of one entry of a list; returns the exit status."""
    file, index = (arguments or sys.argv[1:])[:2]
    plan = json.loads(Path(file).read_text())
    got_on = False
    listen(signal.SIGTERM, signal.SIGUSR1)
    for names in plan["chunks"][int(index)]:
        runs = [Run(Path(file).absolute().parents[1] / name) for name in names]
        before = _steps(runs)
        code = _work(runs, plan["retry"])
        got_on |= code == worker.DONE or _steps(runs) > before
        if code == worker.STOPPED:
            return _stopped(runs, got_on)
    return 0


def _steps(runs: Sequence[Run]) -> int:
    return sum(step_of(run.checkpoint) for run in runs)


def _work(runs: Sequence[Run], retry: Mapping[str, int]) -> int:
    """Works on runs; the exit status that a worker of them would have."""
    try:
        return worker.hold_and_work(runs, retry)
    except Stopped:
        return worker.STOPPED


def _stopped(runs: Sequence[Run], got_on: bool) -> int:
    """Asks to be queued again where time was up, unless that would go on for ever."""
    if reason() != signal.SIGUSR1:
        return worker.STOPPED
    if not got_on:
        for run in runs:
            text = f"the time limit is too short: a task that began at step {step_of(run.checkpoint)} ended there"
            run.note(text)
            with run.hold(patience=0.5) as mine:
                _ = (
                    mine
                    and run.recorded().state not in ENDED
                    and run.record(run.recorded(), state="interrupted", error=text)
                )
        return worker.FAILED
    task = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    for run in runs:
        run.note(f"time is up: queued again ({task})")
    return subprocess.run(["scontrol", "requeue", task]).returncode


if __name__ == "__main__":
    sys.exit(main())
