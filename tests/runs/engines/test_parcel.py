"""Files between the store and a worker elsewhere: what is packed comes back, and a part of it is a store that goes
on."""

import os
import shutil

import pytest

from iclab.files import atomic_write
from iclab.runs.engines import parcel
from iclab.runs.engines.parcel import Changes, packed, unpack
from iclab.runs.store import Run
from iclab.runs.worker import DONE, work
from tests.test_stops import calm, ended_as, heard, made, stopped_in_step  # noqa: F401

CONTENT = {"config.toml": b"a", "metrics.jsonl": b"\x00\xff", "imports/mine.py": b"", "log.txt": b"text"}


def folder_with(path, content=CONTENT):
    for name, text in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(text)
    return path


def test_what_is_packed_comes_back_the_same(tmp_path):
    unpack(packed(folder_with(tmp_path / "one")), tmp_path / "two")
    assert packed(tmp_path / "two") == CONTENT


def test_locks_and_half_written_files_stay(tmp_path):
    folder = folder_with(tmp_path, {**CONTENT, "lock": b"", ".status.json.7.tmp": b"ha"})
    changes = Changes(folder)
    (folder / ".log.txt.8.tmp").write_bytes(b"ha")
    (folder / "lock").write_bytes(b"mine")
    assert packed(folder) == CONTENT and changes.take() == {}


def test_changes_and_removals_travel(tmp_path):
    one, two = folder_with(tmp_path / "one"), folder_with(tmp_path / "two")
    changes = Changes(one)
    (one / "new.json").write_bytes(b"new")
    atomic_write(one / "config.toml", b"b")
    (one / "log.txt").unlink()
    found = changes.take()
    assert found == {"new.json": b"new", "config.toml": b"b", "log.txt": None}
    unpack(found, two)
    assert packed(two) == packed(one)
    assert changes.take() == {}


def rewritten_in_an_instant(folder):
    """Two files of one size, the second written so soon that the clock of the disk did not go on; what is seen of
    it."""
    folder_with(folder, {"status.json": b"first"})
    time = (folder / "status.json").stat().st_mtime_ns
    changes = Changes(folder)
    atomic_write(folder / "status.json", b"other")
    os.utime(folder / "status.json", ns=(time, time))
    return changes.take()


def test_a_file_written_again_in_the_same_instant_is_seen(tmp_path, monkeypatch):
    assert rewritten_in_an_instant(tmp_path / "one") == {"status.json": b"other"}
    mark = parcel._mark
    monkeypatch.setattr(parcel, "_mark", lambda path: mark(path)[:2])  # time and size alone would miss it
    assert rewritten_in_an_instant(tmp_path / "two") == {}


def test_a_checkpoint_never_travels_without_its_curve(tmp_path):
    """The curve may grow after it was looked at and before the checkpoint was."""
    folder = folder_with(tmp_path, {"metrics.jsonl": b"1\n"})
    changes = Changes(folder)
    (folder / "checkpoint.safetensors").write_bytes(b"knows of the first point")
    assert changes.take().keys() == {"metrics.jsonl", "checkpoint.safetensors"}


# ---- a parcel of a real run, of which a part arrives ---------------------------------------------------------------


@pytest.fixture
def states(tmp_path, monkeypatch):
    """A run at its second step, its seventh and its end, and what travels from each to the next."""
    run, folders, parcels = made(tmp_path / "there"), [], []
    for step in (2, 7, None):
        changes = Changes(run.folder)
        if step:
            stopped_in_step(run, step, monkeypatch)
        else:
            assert work(run) == DONE
        parcels.append(changes.take())
        folders.append(shutil.copytree(run.folder, tmp_path / f"state_{step}" / run.id))
    return folders, parcels


class Killed(BaseException):
    pass


def unpacked_in_part(files, folder, most, monkeypatch):
    left = iter(range(most))

    def writes(path, content):
        if next(left, None) is None:
            raise Killed
        atomic_write(path, content)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(parcel, "atomic_write", writes)
        unpack(files, folder)


def goes_on_from_parts(states, calm, tmp_path, monkeypatch):  # noqa: F811
    """Whether the store goes on from every part of every parcel, without beginning anew."""
    folders, parcels = states
    found = []
    for number, (before, files) in enumerate(zip(folders, parcels[1:], strict=False)):
        for most in range(sum(content is not None for content in files.values())):
            run = Run(shutil.copytree(before, tmp_path / f"{number}_{most}" / before.name))
            log = run.log.read_text()
            unpacked_in_part(files, run.folder, most, monkeypatch)
            assert run.checked().state != "done", "the status came before the rest"
            assert work(run) == DONE
            assert ended_as(run, calm)
            found.append("starts anew" not in run.log.read_text().removeprefix(log))
    assert len(found) > 8
    return all(found)


@pytest.mark.slow
def test_a_store_goes_on_from_any_part_of_a_parcel(states, calm, tmp_path, monkeypatch):  # noqa: F811
    assert goes_on_from_parts(states, calm, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_test_sees_a_checkpoint_before_its_curve(states, calm, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(parcel, "sorted", lambda names, key: sorted(names, key=key)[::-1], raising=False)
    checkpoint_first = lambda names, key: sorted(names, key=lambda name: (name == "status.json", name))  # noqa: E731
    with pytest.raises(AssertionError, match="the status came before"):
        goes_on_from_parts(states, calm, tmp_path, monkeypatch)
    monkeypatch.setattr(parcel, "sorted", checkpoint_first, raising=False)
    assert not goes_on_from_parts(states, calm, tmp_path / "again", monkeypatch)
