"""kill -9 at random moments, by engine: no finished run is lost or run twice, and all end with the bits of calm ones.

Everything that an engine consists of is a victim in turn: clients, workers, what keeps workers, servers, whole nodes.
What is gone comes back as it would elsewhere: another node, another scheduler, the controller after a while. The order
of the victims, and the moments as parts of the time that a sweep takes here, are drawn from the name of the engine.
With ICLAB_ENGINE_KILLS another number of kills is tried for each.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from random import Random

import pytest

from iclab.runs.store import runs
from tests.conftest import unchecked
from tests.faults.processes import shot
from tests.runs.engines import fake_slurm
from tests.runs.engines.begun import STUDY_TIME, begin, of_session
from tests.runs.engines.slurm_on_loopback import parent

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("ICLAB_ENGINE_KILLS", 6))
RUNS = 4
AWAY = 1.0  # seconds that a controller is away


class Local:
    """Forks of a server."""

    words = ("--jobs", "2")
    kinds = ("client", "server of forks", "worker")
    pack = "off"

    def ready(self):
        """Brings back what is gone."""

    def victims(self, kind, sweep):
        """What there is of a kind now."""
        if kind == "client":
            return [sweep.pid]
        forks = of_session(sweep.pid, "forkserver")
        servers = [pid for pid in forks if parent(pid) == sweep.pid]
        return servers if kind == "server of forks" else [pid for pid in forks if parent(pid) in servers]

    def kill(self, kind, victim):
        """Kills one."""
        shot(victim)


class Dask(Local):
    """A cluster of this machine, whose scheduler and nannies are of the client."""

    words = ("--engine", "dask", "--jobs", "2")
    kinds = ("client, scheduler and nannies", "worker", "process at a run")

    def victims(self, kind, sweep):
        words = {"worker": "spawn_main", "process at a run": "iclab.runs.worker"}
        return of_session(sweep.pid, words[kind]) if kind in words else [sweep.pid]


class DaskElsewhere(Local):
    """A scheduler and two nodes that are started by hand."""

    kinds = ("client", "scheduler", "node", "nanny", "worker", "process at a run")

    def __init__(self, shell):
        self.shell, self.nodes = shell, []
        self.ready()

    @property
    def words(self):
        return ("--engine", "dask", "--address", self.shell.address, "--jobs", "2")

    def ready(self):
        if self.shell.scheduler.poll() is not None:
            self.shell.close()
            self.shell.begin()
        self.nodes = [node for node in self.nodes if node.poll() is None]
        self.nodes += [self.shell.worker() for _ in range(2 - len(self.nodes))]

    def victims(self, kind, sweep):
        words = {"worker": "spawn_main", "process at a run": "iclab.runs.worker"}
        if kind in words:
            return [pid for node in self.nodes for pid in of_session(node.pid, words[kind])]
        nodes = [node.pid for node in self.nodes]
        return {"client": [sweep.pid], "scheduler": [self.shell.scheduler.pid]}.get(kind, nodes)

    def kill(self, kind, victim):
        shot(victim, group=kind == "node")
        if kind in ("node", "nanny"):
            next(node for node in self.nodes if node.pid == victim).wait()
            self.ready()


class FakeSlurm(Local):
    """Tasks of an array that nobody keeps."""

    words = ("--engine", "slurm", "--chunk", "2")
    kinds = ("client", "task")

    def __init__(self, folder):
        self.folder = folder

    def victims(self, kind, sweep):
        return [sweep.pid] if kind == "client" else list(fake_slurm.tasks(self.folder).values())


class RealSlurm(Local):
    """A controller and two nodes."""

    words = ("--engine", "slurm", "--option", "time=20", "--chunk", "2")
    kinds = ("client", "controller", "node", "task")

    def __init__(self, cluster):
        self.cluster = cluster

    def victims(self, kind, sweep):
        at_work = {name: pids for name in ("n1", "n2") if (pids := self.cluster.on(name))}
        tasks = [pid for pids in at_work.values() for pid in pids]
        return {"client": [sweep.pid], "controller": ["slurmctld"], "node": [*at_work], "task": tasks}[kind]

    def kill(self, kind, victim):
        if kind == "controller":
            self.cluster.kill(victim)
            time.sleep(AWAY)
            self.cluster.controller()
        elif kind == "node":
            self.cluster.lose(victim)
            self.cluster.node(victim)
        else:
            shot(victim)


@pytest.fixture
def local():
    return Local()


@pytest.fixture
def dask():
    if not find_spec("distributed"):
        pytest.skip("without distributed")
    return Dask()


@pytest.fixture
def dask_elsewhere(dask, shell):
    return DaskElsewhere(shell)


@pytest.fixture
def slurm_without_daemons(fake):
    return FakeSlurm(fake)


@pytest.fixture
def slurm(cluster, at_hand):
    return RealSlurm(cluster)


@dataclass
class Campaign:
    """The kills of an engine, in an order that is drawn, and what became of the runs."""

    engine: Local
    rng: Random
    kills: Counter[str] = field(default_factory=Counter)
    count: Counter[str] = field(default_factory=Counter)
    done: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0  # that a sweep takes here in which nobody is killed

    def __post_init__(self) -> None:
        self.plan = self._drawn()
        self.next = next(self.plan)

    def _drawn(self) -> Iterator[str]:
        """Every kind once, then every kind once more, and so on."""
        while True:
            yield from self.rng.sample(self.engine.kinds, len(self.engine.kinds))

    def left(self) -> bool:
        """Whether somebody is still to be killed."""
        return self.kills.total() < KILLS

    def watch(self, sweep) -> None:
        """Kills once while a sweep lasts, but not in the first, which tells how long that is. Who is next and not there
        yet is waited for."""
        start, before = time.monotonic(), self.kills.total()
        moment = start + self.seconds * self.rng.random()
        while sweep.poll() is None:
            due = self.seconds and self.left() and self.kills.total() == before and time.monotonic() > moment
            if due and (found := self.engine.victims(self.next, sweep)):
                with suppress(OSError):  # it ended by itself
                    self.engine.kill(self.next, self.rng.choice(found))
                    self.kills[self.next] += 1
                    self.next = next(self.plan)
            time.sleep(0.05)
        self.seconds = self.seconds or time.monotonic() - start

    def compare(self, store) -> None:
        """Counts runs that were done before, and are not any more, or not by the same attempt."""
        found = {run.id: run for run in runs(store)} if store.exists() else {}
        for id, status in self.done.items():
            self.count["lost"] += found[id].checked().state != "done"
            self.count["run twice"] += (found[id].folder / "status.json").read_bytes() != status
        self.done = {
            id: (run.folder / "status.json").read_bytes() for id, run in found.items() if run.status().state == "done"
        }

    def sweep(self, study) -> int:
        """Gives the command once; returns its exit status."""
        self.engine.ready()
        sweep = begin(study, *STUDY_TIME, f"seed=0:{RUNS}", *self.engine.words, pack=self.engine.pack)
        self.count["sweeps"] += 1
        self.watch(sweep)
        sweep.wait(120)
        assert "Traceback" not in sweep.told(), sweep.told()
        assert sweep.code in (0, 2, 3, -signal.SIGKILL), sweep.told()
        self.compare(study.parent / "store")
        return sweep.code

    def finish(self, study) -> None:
        """Gives the same command until it ends well."""
        self.done = {}
        assert any(self.sweep(study) == 0 for _ in range(4 * KILLS + 2)), "the store is never finished"
        found = runs(study.parent / "store")
        self.count.update(stores=1, runs=len(found), lives=sum(run.status().attempts for run in found))

    def told(self, name: str) -> str:
        """A line for each kind of victim, and one for what became of the runs."""
        rows = [f"{name} | {kind} | {self.kills[kind]}" for kind in self.engine.kinds]
        ended = ", ".join(
            f"{self.count[key]} {key}" for key in ("stores", "sweeps", "runs", "lives", "lost", "run twice")
        )
        return "\n".join(["", *rows, f"{name} | all | {self.kills.total()} | {ended}, {self.count['runs']} equal"])


def _campaign(study, engine, name, same, capsys):
    campaign = Campaign(engine, Random(name))
    while campaign.left():
        path = study.parent / str(campaign.count["stores"]) / study.name
        path.parent.mkdir()
        path.write_bytes(study.read_bytes())
        with unchecked():
            campaign.finish(path)
        same(path.parent / "store", RUNS)
        assert campaign.count["stores"] <= 2 * KILLS + 2, f"nobody is killed: {campaign.kills}"
    with capsys.disabled():
        print(campaign.told(name))
    assert not campaign.count["lost"] and not campaign.count["run twice"]


@pytest.mark.parametrize(
    "name", ["local", "dask", "dask_elsewhere", "slurm_without_daemons", pytest.param("slurm", marks=pytest.mark.slurm)]
)
def test_runs_end_once_and_the_same_whoever_is_killed(study, same, name, request, capsys):
    _campaign(study, request.getfixturevalue(name), name, same, capsys)


@pytest.mark.parametrize("name", ["local", "dask", "slurm_without_daemons"])
def test_packs_end_once_and_the_same_whoever_is_killed(study, same_packs, name, request, capsys):
    engine = request.getfixturevalue(name)
    engine.pack = "auto"
    _campaign(study, engine, f"{name} in packs", same_packs, capsys)
