"""What becomes of a store whose files were damaged, and of a run whose disk takes no more: told by name, and mended."""

import errno
import json
import os
import shutil
from collections import Counter

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from iclab import cli
from iclab.commands import verdicts
from iclab.errors import Damaged
from iclab.experiments.experiment import Experiment
from iclab.experiments.study import Study
from iclab.learning.training import BrokenCheckpoint, Training, TrainingConfig
from iclab.models import Transformer, TransformerConfig
from iclab.runs import disk
from iclab.runs.results import load
from iclab.runs.store import Run, runs
from iclab.tasks import LinearRegression
from tests.runs.test_reuse import Here

STUDY = """title = "A study of damage"
question = "Is it mended?"
paper = "none"
seed = 0
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
steps = 6
batch = 4
[eval]
prompts = 16
bootstrap = 1
every = 2
[[claims]]
name = "The zero predictor has the risk of the labels"
quantity = "risk"
predictor = "zero"
within = [2.25, 4.0]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store in which everything is done."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study_file.toml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iclab.commands.sweep.Engine", Here)
        assert cli.main(["sweep", str(folder / "study_file.toml"), "--out", str(folder / "store")]) == 0
    return folder


@pytest.fixture
def store(finished, tmp_path, monkeypatch):
    """A copy of it."""
    monkeypatch.setattr("iclab.commands.sweep.Engine", Here)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "store"


def only(store):
    (run,) = runs(store)
    return run


def sweep(store, *words):
    return cli.main(["sweep", str(store.parent / "study_file.toml"), "--out", str(store), *words])


def flipped(path):
    content = path.read_bytes()
    at = next(i for i, byte in enumerate(content) if i > len(content) // 2 and 48 <= byte < 57)
    path.write_bytes(content[:at] + bytes([content[at] + 1]) + content[at + 1 :])


# ---- disks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_disk_that_takes_no_more_interrupts_a_run_and_the_same_command_finishes_it(
    store, monkeypatch, number, capsys
):
    truth, run = only(store).rows(), only(store)
    shutil.rmtree(run.folder)
    replace = os.replace

    def full(old, new):
        if "weights" in str(new):
            raise OSError(number, os.strerror(number))
        return replace(old, new)

    monkeypatch.setattr(os, "replace", full)
    assert sweep(store) == 3
    status, told = run.status(), capsys.readouterr().out
    assert status.state == "interrupted"
    assert status.error.startswith(f"cannot use {run.folder / 'weights.safetensors'}: {os.strerror(number)}; ")
    assert disk.PASSING[number] in status.error and status.error in told
    monkeypatch.setattr(os, "replace", replace)
    assert sweep(store) == 0
    assert run.rows() == truth


def test_other_errors_of_the_system_are_still_failures(store, monkeypatch):
    run = only(store)
    shutil.rmtree(run.folder)
    replace = os.replace

    def broken(old, new):
        if "weights" in str(new):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return replace(old, new)

    monkeypatch.setattr(os, "replace", broken)
    assert sweep(store) == 3
    assert run.status().state == "failed"


def test_a_full_disk_at_the_door_is_told_with_its_file_and_a_remedy(tmp_path, monkeypatch, capsys):
    (tmp_path / "study_file.toml").write_text(STUDY)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert sweep(tmp_path / "store") == 2
    path = tmp_path / "store" / "study.toml"
    wanted = f"iclab: cannot use {path}: No space left on device; free some space and give the same command again\n"
    assert capsys.readouterr().err == wanted


def test_a_finished_store_is_judged_again_where_nothing_can_be_written(store, monkeypatch, capsys):
    def read_only(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, read_only)
    assert sweep(store) == 0
    assert "not kept" not in capsys.readouterr().out
    shutil.copy(store.parent / "study_file.toml", store.parent / "other.toml")
    with open(store.parent / "study_file.toml", "a") as file:
        file.write("# a remark\n")
    assert sweep(store) == 0  # the judgement is made; that the file is another one is told
    out = capsys.readouterr().out
    assert f"not kept: cannot use {store / 'study.toml'}: Read-only file system; make the disk writable" in out


def test_strays_of_dead_processes_are_removed_and_those_of_living_ones_stay(store):
    run = only(store)
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    for folder, name in ((run.folder, "config.toml"), (run.folder, "results.jsonl"), (store, "study.toml")):
        (folder / f".{name}.{dead}.tmp").write_text("half")
        (folder / f".{name}.{os.getppid()}.tmp").write_text("half")
    assert sweep(store) == 0
    left = [path.name for folder in (run.folder, store) for path in folder.glob(".*.tmp")]
    assert sorted(left) == [f".{name}.{os.getppid()}.tmp" for name in ("config.toml", "results.jsonl", "study.toml")]


# ---- damage to a finished run --------------------------------------------------------------------------------------

RESULTS = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut at a line": lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3])),
    "a digit": flipped,
    "empty": lambda path: path.write_bytes(b""),
    "gone": os.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("how", RESULTS)
def test_damaged_results_are_told_by_name_and_measured_again_without_training(store, how, capsys):
    run, truth = only(store), only(store).rows()
    weights = (run.folder / "weights.safetensors").read_bytes()
    RESULTS[how](run.folder / "results.jsonl")
    run.checkpoint.unlink()  # so that only the weights know what was trained
    with pytest.raises(Damaged, match=r"results\.jsonl is damaged: .*iclab sweep .*study\.toml"):
        run.rows()
    with pytest.warns(UserWarning, match=r"without results: .*results\.jsonl is damaged"):
        table = load(store)
    assert table.state.tolist() == ["damaged"] and table.value.isna().all()
    assert cli.main(["ls", str(store)]) == 0 and "damaged" in capsys.readouterr().out
    assert cli.main(["show", str(run.folder)]) == 0 and "damaged" in capsys.readouterr().out
    assert sweep(store) == 0
    assert run.rows() == truth and run.status().state == "done"
    assert (run.folder / "weights.safetensors").read_bytes() == weights
    assert "takes the weights that were trained before" in run.log.read_text()


def test_rows_of_a_store_without_digests_are_read_as_before_and_torn_ones_are_not(store):
    run = only(store)
    truth, status = run.rows(), json.loads((run.folder / "status.json").read_text())
    old = {key: status[key] for key in ("state", "attempts", "seconds", "error", "started", "ended")}
    (run.folder / "status.json").write_text(json.dumps(old))
    assert run.rows() == truth and run.checked().state == "done" and len(load(store)) == len(truth)
    os.truncate(run.folder / "results.jsonl", 1000)
    assert run.status().state == "damaged"


@pytest.mark.parametrize("name", ["weights.safetensors", "metrics.jsonl", "environment.json"])
def test_other_damaged_files_of_a_finished_run_are_made_again(store, name):
    run, truth = only(store), only(store).rows()
    weights = {key: value.clone() for key, value in load_file(run.folder / "weights.safetensors").items()}
    content = bytearray((run.folder / name).read_bytes())
    content[-3] ^= 1
    (run.folder / name).write_bytes(bytes(content))
    assert run.status().state == "done" and run.rows() == truth  # no row is concerned
    assert name in run.checked().error
    assert sweep(store) == 0
    assert run.checked().state == "done" and run.rows() == truth
    again = load_file(run.folder / "weights.safetensors")
    assert all(torch.equal(again[key], weights[key]) for key in weights)


def test_files_that_were_removed_to_save_space_are_not_missed(store):
    run = only(store)
    for path in run.folder.glob("*.safetensors"):
        path.unlink()
    assert run.checked().state == "done"
    assert sweep(store) == 0
    assert run.status().attempts == 1


@pytest.mark.parametrize("how", ["gone", "other settings", "no TOML", "a date"])
def test_settings_that_are_not_those_of_the_id_are_told_and_written_anew(store, how, capsys):
    run = only(store)
    path, text = run.folder / "config.toml", (run.folder / "config.toml").read_text()
    if how == "gone":
        path.unlink()
    else:
        changed = {
            "other settings": text.replace("n_layer = 1", "n_layer = 2"),
            "no TOML": text[: len(text) // 2] + "[",
        }
        path.write_text(changed.get(how, text + "\n[when]\nday = 2020-01-01\n"))
    with pytest.raises(Damaged, match=r"config\.toml is damaged"):
        run.settings()
    with pytest.warns(UserWarning, match=r"config\.toml is damaged"):
        assert load(store).state.tolist() == ["damaged"]
    assert sweep(store) == 0
    assert path.read_text() == text and run.look()[0].state == "done"
    assert run.status().attempts == 1  # its results are whole


def test_the_id_that_settings_give_is_that_of_their_experiment(store):
    run = only(store)
    made = Experiment.from_mapping(run.settings(), "test")
    assert made.id == run.id
    run.folder.rename(store / "0123456789ab")
    with pytest.raises(Damaged, match=f"its settings have the id {run.id}, not 0123456789ab"):
        Run(store / "0123456789ab").settings()


STATUSES = [
    "",
    "{",
    "[]",
    "null",
    '{"state": 5}',
    '{"state": "finished"}',
    '{"state": "done", "colour": 1}',
    "[" * 10**5,
]


@pytest.mark.parametrize("text", STATUSES)
def test_one_damaged_status_stops_nobody(store, text, capsys):
    run, truth = only(store), only(store).rows()
    other = Run(store / "0123456789ab")
    shutil.copytree(run.folder, other.folder)
    (run.folder / "status.json").write_text(text)
    shutil.rmtree(other.folder / "lock", ignore_errors=True)
    assert cli.main(["ls", str(store.parent)]) == 0 and cli.main(["ls", str(store)]) == 0
    assert cli.main(["verdicts", str(store)]) == 0 and cli.main(["show", str(run.folder)]) == 0
    assert "damaged" in capsys.readouterr().out
    assert f"iclab sweep {store / 'study.toml'}" in run.status().error
    with pytest.warns(UserWarning):
        assert "damaged" in load(store).state.tolist()
    assert sweep(store) == 0
    assert run.rows() == truth and run.status().state == "done"


FAR = '[{"claim": "", "expected": "", "measured": "", "outcome": "holds", "distance": "far"}]'


@pytest.mark.parametrize("text", ["", "[{", "{}", "[3]", '[{"claim": 3}]', FAR, "\0"])
def test_damaged_verdicts_are_told_with_a_remedy_and_judged_again(store, text, capsys):
    truth = verdicts.claims(store)
    (store / "verdicts.json").write_text(text)
    assert cli.main(["verdicts", str(store)]) == 0
    assert "damaged" in capsys.readouterr().out
    ((_, told, *_),) = verdicts.claims(store)
    assert "verdicts.json is damaged" in told and f"iclab sweep {store / 'study.toml'}" in told
    assert sweep(store) == 0
    assert verdicts.claims(store) == truth


@pytest.mark.parametrize("text", ["", "title = ", "paper = 3", "\0"])
def test_verdicts_of_a_damaged_task_file_are_told_in_a_line(store, text, capsys):
    (store / "study.toml").write_text(text)
    assert cli.main(["verdicts", str(store), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 6  # of the claims, and of their tally


def test_a_folder_in_the_place_of_a_file_is_not_thrown_away(store, capsys):
    run = only(store)
    (run.folder / "results.jsonl").unlink()
    (run.folder / "results.jsonl").mkdir()
    (run.folder / "results.jsonl" / "mine").write_text("kept")
    assert sweep(store) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("results.jsonl is a folder where a file should be; remove it and give the same command again")
    assert (run.folder / "results.jsonl" / "mine").read_text() == "kept"


# ---- checkpoints ---------------------------------------------------------------------------------------------------


def training(seed=0):
    rng = torch.Generator().manual_seed(seed)
    model = Transformer(2, 3, TransformerConfig(n_layer=1, n_head=1, d_model=8), rng)
    return Training(model, LinearRegression(2, 3), TrainingConfig(steps=9, batch=4, optimizer="muon"), rng)


@pytest.fixture
def checkpoint(tmp_path):
    made = training()
    for _ in range(4):
        made.advance()
    made.save(tmp_path / "checkpoint.safetensors", "a mark")
    return tmp_path / "checkpoint.safetensors"


def rewritten(path, change=lambda state, told: None, digest=False):
    """The checkpoint with its tensors or counts changed, with its digest or as before there were any."""
    with safe_open(path, "pt") as file:
        told = dict(file.metadata())
    state = load_file(path)
    told = told if digest else {key: told[key] for key in ("step", "wild")}
    change(state, told)
    save_file(state, path, told)


PARAMETER = "parameter.blocks.0.attention.qkv.weight"


def test_a_checkpoint_from_before_there_were_digests_is_gone_on_from(checkpoint):
    rewritten(checkpoint)
    resumed, whole = training(3), training()
    resumed.resume(checkpoint)
    for _ in range(4):
        whole.advance()
    assert [resumed.advance() for _ in range(5)] == [whole.advance() for _ in range(5)]


def first(state, ending):
    return next(key for key in sorted(state) if key.endswith(ending) and state[key].ndim == 2)


BROKEN = {
    "a parameter of one number": lambda s, t: s.update({first(s, "weight"): torch.ones(1)}),
    "int8 weights": lambda s, t: s.update({first(s, "weight"): s[first(s, "weight")].to(torch.int8)}),
    "float64 weights": lambda s, t: s.update({first(s, "weight"): s[first(s, "weight")].double()}),
    "no moments": lambda s, t: [s.pop(key) for key in list(s) if "exp_avg" in key],
    "no momentum": lambda s, t: s.pop(next(key for key in s if "momentum" in key)),
    "an unknown tensor": lambda s, t: s.update(other=torch.ones(2)),
    "half a step": lambda s, t: t.update(step="1.5"),
    "a step too far": lambda s, t: t.update(step="1000000"),
    "a negative step": lambda s, t: t.update(step="-1"),
    "no step": lambda s, t: t.pop("step"),
    "a step that is true": lambda s, t: t.update(step="true"),
    "another step than the moments": lambda s, t: t.update(step="3"),
    "a negative square": lambda s, t: s[next(key for key in s if "exp_avg_sq" in key)].fill_(-1.0),
    "a moment that is no number": lambda s, t: s[next(key for key in s if "exp_avg" in key)].fill_(float("nan")),
    "no generator": lambda s, t: s.update(rng=torch.zeros(16, dtype=torch.uint8)),
    "a generator of zeros": lambda s, t: s["rng"].fill_(255),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_checkpoint_that_is_none_of_this_training_is_refused_and_changes_nothing(checkpoint, how):
    rewritten(checkpoint, BROKEN[how])
    other, same = training(5), training(5)
    with pytest.raises(BrokenCheckpoint, match=r"^checkpoint\.safetensors: ") as caught:
        other.resume(checkpoint)
    assert len(str(caught.value).splitlines()) == 1
    assert [other.advance() for _ in range(3)] == [same.advance() for _ in range(3)]


def test_a_flipped_bit_of_a_checkpoint_is_seen_by_its_digest(checkpoint):
    def nudge(state, told):
        state[first(state, "weight")].view(torch.int32)[0, 0] ^= 1

    rewritten(checkpoint, nudge, digest=True)
    with pytest.raises(BrokenCheckpoint, match="its content is not what was written"):
        training().resume(checkpoint)


def test_without_its_digest_a_flipped_bit_would_not_be_seen(checkpoint):
    rewritten(checkpoint, lambda state, told: state[first(state, "weight")].view(torch.int32)[0, 0].bitwise_xor_(1))
    training().resume(checkpoint)


@pytest.mark.parametrize("how", ["cut", "empty", "text", "a pipe", "a folder", "another training"])
def test_a_run_whose_checkpoint_is_broken_starts_anew_and_says_so(store, how):
    run, truth = only(store), only(store).rows()
    path, content = run.checkpoint, run.checkpoint.read_bytes()
    run.record(run.recorded(), state="interrupted", digests={}, rows=None)
    path.unlink()
    {
        "cut": lambda: path.write_bytes(content[:200]),
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("no checkpoint"),
        "a pipe": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "another training": lambda: training().save(path),
    }[how]()
    assert sweep(store) == 0
    assert run.rows() == truth
    assert ("removed checkpoint" if how in ("a pipe", "a folder") else "starts anew: checkpoint") in run.log.read_text()


def test_a_curve_that_is_not_the_one_of_the_checkpoint_is_trained_anew(store):
    """Its points become rows: one that was changed must not stay."""
    run, truth = only(store), only(store).rows()
    run.record(run.recorded(), state="interrupted", digests={}, rows=None)
    curve = run.folder / "metrics.jsonl"
    curve.write_text(curve.read_text().replace('"step": 2,', '"step": 1,', 1))
    assert sweep(store) == 0
    assert run.rows() == truth
    assert "starts anew: metrics.jsonl is not the curve of its checkpoint" in run.log.read_text()


def test_what_follows_the_mark_of_a_checkpoint_is_cut_off(store):
    run, truth = only(store), only(store).rows()
    run.record(run.recorded(), state="interrupted", digests={}, rows=None)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "steps": 6, "loss": 0.0, "risk": 0.0}\n{"step": "x"}\n[]\n{"st')
    assert sweep(store) == 0
    assert run.rows() == truth


# ---- many runs -----------------------------------------------------------------------------------------------------


def test_parameters_are_counted_once_for_each_shape(tmp_path, monkeypatch, capsys):
    (tmp_path / "study_file.toml").write_text(
        STUDY.replace("seed = 0\n", "") + '[sweep]\nseed = "0:30"\nmodel.n_layer = [1, 2]\n'
    )
    built, build = Counter(), TransformerConfig.build

    def counting(self, *sizes, **named):
        built[self] += 1
        return build(self, *sizes, **named)

    monkeypatch.setattr(TransformerConfig, "build", counting)
    from iclab.commands import sweep as sweeps

    sweeps._parameters_of.cache_clear()
    assert cli.main(["sweep", str(tmp_path / "study_file.toml"), "--dry-run"]) == 0
    assert sorted(built.values()) == [1, 1]
    sizes = {line.split("|")[-3].strip() for line in capsys.readouterr().out.splitlines() if "pending" in line}
    wanted = {f"{sum(p.numel() for p in build(shape, 2, 3).parameters()):,}" for shape in built}
    assert sizes == wanted


def test_cells_that_share_a_table_are_the_experiments_that_they_would_be_alone(tmp_path):
    path = tmp_path / "study_file.toml"
    path.write_text(
        STUDY.replace("seed = 0\n", "") + "[sweep]\nseed = [0, 1]\ntask.noise = [0.1, 1]\nmodel.n_layer = [1, 2]\n"
    )
    cells = Study.read(path).cells
    assert len(cells) == 8
    for cell in cells:
        alone = Experiment.from_mapping(cell.settings, "test")
        assert alone == cell.experiment and alone.id == cell.experiment.id
        assert (alone.seed, alone.task.noise, alone.model.n_layer) == tuple(cell.flat[k] for k in cell.values)
