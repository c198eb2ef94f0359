"""kill -9 at random moments, by engine: afterwards all runs are done, each with the bits of an undisturbed one.

Victims are what works on runs, what keeps that (servers of forks, Dask's processes) and whole clients. With
ICLAB_ENGINE_KILLS another number of kills is tried for each engine.
"""

import os
import signal
import time
from collections import Counter
from importlib.util import find_spec
from random import Random

import pytest

from iclab.runs.store import runs
from tests.faults.processes import shot, still_done
from tests.runs.engines.begun import STUDY_TIME, begin, command_of, of_session
from tests.runs.engines.test_slurm import fake, tasks  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("ICLAB_ENGINE_KILLS", 6))
RUNS = 4
ENGINES = {
    "local": ("--jobs", "2"),
    "dask": ("--engine", "dask", "--jobs", "2"),
    "slurm": ("--engine", "slurm", "--chunk", "2"),
}


def victims(sweep, fake):  # noqa: F811
    """What may be killed, by kind."""
    found = {
        "client": [sweep.pid],
        "server of forks or worker": of_session(sweep.pid, "forkserver"),
        "process of Dask": of_session(sweep.pid, "spawn_main"),
        "worker": of_session(sweep.pid, "iclab.runs.worker"),
        "task of an array": list(tasks(fake).values()),
    }
    return {kind: [pid for pid in pids if "resource_tracker" not in command_of(pid)] for kind, pids in found.items()}


def killed(sweep, fake, rng):  # noqa: F811
    """Kills one of them; returns its kind."""
    kinds = {kind: pids for kind, pids in victims(sweep, fake).items() if pids}
    kind = rng.choice(sorted(kinds))
    shot(rng.choice(kinds[kind]))
    return kind


def finished_in_spite_of(study, fake, engine, rng, kills):  # noqa: F811
    """Gives the same command until it ends well, and kills meanwhile; returns how often it was given."""
    store, done = study.parent / "store", {}
    for sweeps in range(1, 4 * KILLS + 2):
        sweep = begin(study, *STUDY_TIME, f"seed=0:{RUNS}", *ENGINES[engine])
        moment = time.monotonic() + rng.uniform(2, 12)
        while sweep.poll() is None:
            if kills.total() < KILLS and time.monotonic() > moment:
                kills[killed(sweep, fake, rng)] += 1
                moment = time.monotonic() + rng.uniform(0.5, 6)
            time.sleep(0.05)
        sweep.wait(120)
        assert "Traceback" not in sweep.told(), sweep.told()
        assert sweep.code in (0, 2, 3, -signal.SIGKILL), sweep.told()
        done = still_done(store, done) if store.exists() else {}
        if sweep.code == 0:
            return sweeps
    raise AssertionError("the store is never finished")


@pytest.mark.parametrize("engine", ENGINES)
def test_runs_end_once_and_the_same_whoever_is_killed(study, fake, same, engine, capsys):  # noqa: F811
    if engine == "dask" and not find_spec("distributed"):
        pytest.skip("without distributed")
    rng, kills, sweeps, lives, stores = Random(engine), Counter(), 0, 0, 0
    while kills.total() < KILLS and stores < KILLS:
        stores += 1
        path = study.parent / str(stores) / study.name
        path.parent.mkdir()
        path.write_bytes(study.read_bytes())
        sweeps += finished_in_spite_of(path, fake, engine, rng, kills)
        same(path.parent / "store", RUNS)
        lives += sum(run.status().attempts for run in runs(path.parent / "store"))
    assert kills.total(), "the runs were over before anybody was killed"
    with capsys.disabled():
        print(
            f"\n{engine}: {kills.total()} kills {dict(kills)}, {stores} stores, {sweeps} sweeps, {lives} lives of runs"
        )
