"""A campaign against the store and the doors: kills, disks, damage, and files that anyone might have written.

Run with `make test-faults`: minutes, not seconds. Everything is drawn from seeds; only the moments of kills are not the
same twice. A table with the figures is printed at the end. The laws: nothing that is finished is lost, nothing is run
twice, what is measured equals to the bit what is measured undisturbed, no row is wrong without a word, nobody sees a
traceback, and no process is left behind.
"""

import json
import os
import resource
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from iclab import cli
from iclab.errors import UsageError
from iclab.runs.results import load
from iclab.runs.store import Run, Status, runs
from tests.conftest import unchecked
from tests.faults.mutations import MUTATIONS
from tests.faults.processes import Lab, Sweep, killed_at_random, mount, mounted, shot, still_done, unmount
from tests.faults.taskfiles import at_most, changed, outcome

pytestmark = pytest.mark.faults

TASKS = sorted((Path(__file__).parents[2] / "tasks").glob("*.toml"))
KILLS = int(os.environ.get("ICLAB_KILLS", 200))
MUTATED = int(os.environ.get("ICLAB_MUTATIONS", 220))
FUZZED = int(os.environ.get("ICLAB_FUZZED", 10_000))
FOLDERS = int(os.environ.get("ICLAB_FOLDERS", 300))
ROWS = ("predictor", "distribution", "quantity", "layer", "position", "step", "value", "stderr")


@pytest.fixture(scope="module", autouse=True)
def as_users_have_it() -> Iterator[None]:
    """Nothing but the code itself checks what it is given."""
    with unchecked():
        yield


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Figures by what they are of, printed at the end."""
    summary = Summary({})
    request.config.pluginmanager.register(summary)
    yield summary.figures


@dataclass
class Summary:
    """Figures that are printed once all tests are through, as what a test prints is not shown."""

    figures: dict[str, str]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints them as a table of Markdown."""
        for what, told in {"tried": "what came of it", "---": "---", **self.figures}.items():
            terminalreporter.write_line(f"| {what} | {told} |")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A place for stores."""
    return Lab(tmp_path_factory.mktemp("lab"))


# ---- kills ---------------------------------------------------------------------------------------------------------


def test_nothing_is_lost_or_done_twice_whenever_processes_are_killed(lab: Lab, table: dict[str, str]) -> None:
    rng, kills, stores, start = Random(0), [0, 0], 0, time.monotonic()
    while sum(kills) < KILLS:
        store = lab.new()
        found = killed_at_random(lab, store, rng, min(25, KILLS - sum(kills)))
        kills = [kills[0] + found[0], kills[1] + found[1]]
        lab.assert_undisturbed(store)
        stores += 1
    assert sum(kills) == KILLS
    table["kills with -9"] = f"{kills[0]} of workers, {kills[1]} of sweeps, {stores} stores, {_seconds(start)}"


def test_sweeps_on_one_store_share_the_work_and_survive_kills(lab: Lab, table: dict[str, str]) -> None:
    rng, start, kills = Random(1), time.monotonic(), 0
    for _ in range(8):
        store, done = lab.new(), {}
        for attempt in range(50):
            pair = [lab.start(store) for _ in range(2)]
            if attempt < 3:
                time.sleep(rng.uniform(0.05, 0.6))
                victims = [pid for sweep in pair for pid in sweep.members()]
                shot(rng.choice(victims or [pair[0].pid]))
                kills += 1
            codes = [sweep.wait() for sweep in pair]
            assert not any("Traceback" in sweep.told() for sweep in pair)
            done = still_done(store, done)
            if codes == [0, 0]:
                break
        lab.assert_undisturbed(store)
        assert sum(run.status().attempts for run in runs(store)) <= lab.seeds + 3  # one more for each kill at most
    table["two sweeps on one store"] = f"8 stores, {kills} kills, {_seconds(start)}"


def test_a_run_that_is_done_again_would_be_noticed(lab: Lab) -> None:
    store = lab.copy()
    before = still_done(store, {})
    run = runs(store)[0]
    run.record(run.recorded(), attempts=2)
    with pytest.raises(AssertionError, match="lost or run again"):
        still_done(store, before)


def test_another_row_or_weight_would_be_noticed(lab: Lab) -> None:
    store = lab.copy()
    run = runs(store)[0]
    rows = [{**row, "value": row["value"] * (1 + 2**-52)} for row in run.rows()]
    run.record(run.recorded(), **run.keep_rows(rows))
    with pytest.raises(AssertionError):
        lab.assert_undisturbed(store)


def test_an_orphan_would_be_noticed(lab: Lab) -> None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    sweep = Sweep(pid, os.open(os.devnull, os.O_RDONLY))
    while sweep.poll() is None:
        time.sleep(0.01)
    orphans = sweep.members()
    with pytest.raises(AssertionError, match="orphans"):
        sweep.alone(time.monotonic() + 0.1)
    for orphan in orphans:
        os.kill(orphan, signal.SIGKILL)


# ---- disks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(lab: Lab) -> Iterator[Path]:
    """A small disk of its own."""
    folder = lab.new()
    if why := mounted(folder, "4m"):
        pytest.skip(f"no disk can be mounted here: {why}")
    yield folder
    unmount(folder)


def test_a_full_disk_interrupts_and_the_same_command_goes_on(lab: Lab, disk: Path, table: dict[str, str]) -> None:
    seen: Counter[str] = Counter()
    for size in (4, 12, 20, 28, 40, 48, 60, 80, 100, 140, 180, 240):
        unmount(disk)
        assert not mounted(disk, f"{size}k")
        sweep = lab.start(disk / "store")
        code, told = sweep.wait(), sweep.told()
        assert code in (2, 3, 0) and "Traceback" not in told, told
        if code:
            assert "give the same command again" in told and str(disk) in told, told
        states = {run.status().state for run in runs(disk / "store")} if code == 3 else set()
        assert states <= {"done", "interrupted", "pending"}, (states, told)
        seen.update([f"status {code}"])
        assert not mount("-o", "remount,size=16m", str(disk))
        assert lab.start(disk / "store").wait() == 0
        lab.assert_undisturbed(disk / "store")
    assert seen["status 2"] and seen["status 3"]
    table["full disks"] = f"{sum(seen.values())} sizes: {_counts(seen)}"


def test_a_finished_store_is_judged_again_on_a_disk_that_is_read_only(
    lab: Lab, disk: Path, table: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.start(disk / "store").wait() == 0
    assert not mount("-o", "remount,ro", str(disk))
    sweep = lab.start(disk / "store")
    assert sweep.wait() == 0 and "holds" in sweep.told() and "not kept" not in sweep.told(), sweep.told()
    assert cli.main(["verdicts", str(disk / "store")]) == 0 and "holds" in capsys.readouterr().out
    assert not mount("-o", "remount,rw", str(disk))
    runs(disk / "store")[0].record(Status())
    assert not mount("-o", "remount,ro", str(disk))
    sweep = lab.start(disk / "store")
    assert sweep.wait() in (2, 3) and "make the disk writable" in sweep.told() and "Traceback" not in sweep.told()
    table["read-only disks"] = "a finished store judged again, an unfinished one refused"


def test_a_limit_on_the_size_of_files_interrupts_and_the_same_command_goes_on(lab: Lab, table: dict[str, str]) -> None:
    seen: Counter[str] = Counter()
    for limit in (0, 100, 400, 800, 1500, 3000, 4500, 6000, 10_000, 30_000, 60_000, 100_000):
        store = lab.new()
        sweep = lab.start(store, before=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        code = sweep.wait()
        assert code in (0, 2, 3) and "Traceback" not in sweep.told(), sweep.told()
        states = {run.status().state for run in runs(store)}
        assert states <= {"done", "interrupted", "pending"}, states
        seen.update([f"status {code}"])
        assert lab.start(store).wait() == 0
        lab.assert_undisturbed(store)
    table["limits on the size of files"] = f"{sum(seen.values())} limits: {_counts(seen)}"


# ---- damage --------------------------------------------------------------------------------------------------------


def readers(store: Path, capsys: pytest.CaptureFixture[str]) -> dict[tuple, list]:
    """What everything that reads a store makes of it; the rows of the runs that it calls done."""
    run = next(iter(sorted(path for path in store.iterdir() if path.is_dir() and len(path.name) == 12)))
    for words in (["ls", str(store.parent)], ["ls", str(store)], ["verdicts", str(store)], ["show", str(run)]):
        with at_most(60):
            code = cli.main(words)
        told = capsys.readouterr()
        assert code in (0, 2), (words, code, told)
        assert code == 0 or len(told.err.splitlines()) == 1, told.err
        assert "Traceback" not in told.out + told.err
    with at_most(60), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rows_of(store)


def rows_of(store: Path) -> dict[tuple, list]:
    """The rows of the runs of a store that are done, as `load` has them."""
    try:
        found = load(store)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
        return {}
    done = found[found.state == "done"]
    return {(run,): [tuple(map(str, row)) for row in part[[*ROWS]].values] for run, part in done.groupby("run")}


def damaged(lab: Lab, source: Path, name: str, kind: str, seed: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What becomes of a store with one file damaged: every reader tells the truth or says that it cannot, and the same
    command makes it whole or says in a line what to remove."""
    rng, store, truth = Random(f"{name} {kind} {seed}"), lab.copy(source), rows_of(lab.reference)
    victim = (store if name in ("study.toml", "verdicts.json") else runs(store)[0].folder) / name
    MUTATIONS[kind](victim, rng)
    found = readers(store, capsys)
    wrong = [run for run, rows in found.items() if rows != truth[run]]
    assert not wrong, f"a silent wrong row after {kind} of {name}"
    missed = len(truth) - len(found)
    sweep = lab.start(store, jobs=1)
    code, told = sweep.wait(), sweep.told()
    assert "Traceback" not in told, told
    if code:
        assert kind == "full_folder" and "remove it and give the same command again" in told, (name, kind, code, told)
        return "refused by name"
    lab.assert_undisturbed(store, whole=kind != "remove")
    assert rows_of(store) == truth
    return "told and mended" if missed else "no row concerned"


def test_no_damage_to_any_file_makes_a_wrong_row(
    lab: Lab, table: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    start, seen = time.monotonic(), Counter()
    sources = {"finished": lab.reference, "interrupted": interrupted(lab)}
    named = {where: [path.name for path in sorted(runs(store)[0].folder.iterdir())] for where, store in sources.items()}
    cases = [(where, name, kind) for where in sources for name in named[where] for kind in MUTATIONS]
    cases += [("finished", name, kind) for name in ("study.toml", "verdicts.json") for kind in MUTATIONS]
    rng = Random(2)
    more = rng.choices(cases, k=max(0, MUTATED - len(cases)))
    faults = []
    for seed, (where, name, kind) in enumerate(rng.sample(cases, len(cases)) + more):
        try:
            seen[damaged(lab, sources[where], name, kind, seed, capsys)] += 1
        except Exception as error:  # whatever went wrong, the others are tried too
            faults.append(f"{kind} of {name}, {where}, seed {seed}: {str(error)[:1000]}")
    table["damaged files"] = f"{sum(seen.values())} mutations of {len(cases)} kinds: {_counts(seen)}, {_seconds(start)}"
    assert not faults, "\n".join(faults)


def interrupted(lab: Lab) -> Path:
    """A store whose runs were killed in the middle of their training."""
    store = lab.new()
    for _ in range(100):
        sweep = lab.start(store)
        while sweep.poll() is None and not all(len(run.curve()) >= 5 for run in runs(store)[:1] or [Run(store)]):
            time.sleep(0.002)
        shot(sweep.pid, group=True)
        sweep.wait()
        if runs(store) and runs(store)[0].status().state == "interrupted" and runs(store)[0].checkpoint.exists():
            return store
        lab.count += 1
        store = lab.new()
    raise AssertionError("no run could be interrupted")


def test_a_wrong_row_would_be_noticed(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """The same damage in a store without digests, as they were before, is read without a word."""
    store = lab.copy()
    for run in runs(store):
        run.record(run.recorded(), digests={}, rows=None)
    with pytest.raises(AssertionError, match="a silent wrong row after flip_a_digit"):
        for seed in range(20):
            damaged(lab, store, "results.jsonl", "flip_a_digit", seed, capsys)


# ---- files of anyone -----------------------------------------------------------------------------------------------


def test_every_task_file_is_accepted_or_refused_in_lines(lab: Lab, table: dict[str, str]) -> None:
    start = time.monotonic()
    texts = [text for text in (path.read_text() for path in TASKS) if text.count("\n") < 200]
    parts = [in_a_child(lambda part=part: fuzz(lab, texts, part), lab.folder / f"fuzz_{part}.json") for part in (0, 1)]
    seen: Counter[str] = Counter()
    for process, path in parts:
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert code == 0, path.read_text() if path.exists() else "the child died"
        seen.update(json.loads(path.read_text()))
    faults = {what: count for what, count in seen.items() if what.startswith("fault")}
    table["fuzzed task files"] = f"{sum(seen.values())}: {_counts(seen)}"[:2000] + f", {_seconds(start)}"
    assert not faults, faults
    assert seen["accepted"] > FUZZED // 20 and seen["refused"] > FUZZED // 20


def fuzz(lab: Lab, texts: list[str], part: int) -> Counter[str]:
    """Half of the cases, in a process that may not take much memory."""
    most = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE") + 2**31
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    seen: Counter[str] = Counter()
    for case in range(part, FUZZED, 2):
        rng = Random(f"task file {case}")
        path = lab.folder / f"fuzzed_{part}.toml"
        path.write_bytes(changed(rng.choice(texts), texts, rng))
        found = outcome(path, lab.folder / "nothing")
        seen[found] += 1
        if found.startswith("fault"):
            (lab.folder / f"fault_{case}.toml").write_bytes(path.read_bytes())
    return seen


def in_a_child(call: Callable[[], Counter[str]], path: Path) -> tuple[int, Path]:
    """Calls in a forked process, which leaves what it found in a file."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            path.write_text(json.dumps(call()))
            code = 0
        except BaseException as error:
            path.write_text(repr(error))
        finally:
            os._exit(code)
    return pid, path


def test_a_task_file_that_breaks_the_reader_would_be_noticed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from iclab.experiments import study

    def broken(*_: object) -> None:
        raise KeyError("kind")

    path = lab.folder / "sound.toml"
    path.write_text(TASKS[0].read_text())
    assert outcome(path, lab.folder / "nothing") == "accepted"
    monkeypatch.setattr(study.experiment, "read", broken)
    assert outcome(path, lab.folder / "nothing").startswith("fault: KeyError")


def test_every_folder_of_weights_is_read_right_or_refused(tmp_path: Path, table: dict[str, str]) -> None:
    weights = pytest.importorskip("weights", reason="no generator of folders of weights is here")
    import shutil

    from iclab.models import load_pretrained

    start, seen, names = time.monotonic(), Counter(), sorted(weights.MUTATIONS)
    sound = {kind: weights.original(kind, tmp_path / kind) for kind in weights.KINDS}
    for case in range(FOLDERS):
        kind = [*weights.KINDS][case % len(weights.KINDS)]
        folder = Path(shutil.copytree(tmp_path / kind, tmp_path / "case"))
        weights.mutate(folder, names[case // len(weights.KINDS) % len(names)], case)
        with at_most(60):
            seen[weights.outcome(folder, load_pretrained, sound[kind])] += 1
        shutil.rmtree(folder)
    table["fuzzed folders of weights"] = f"{sum(seen.values())}: {_counts(seen)}, {_seconds(start)}"


def _counts(seen: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(seen.items()))


def _seconds(start: float) -> str:
    return f"{time.monotonic() - start:.0f} s"
