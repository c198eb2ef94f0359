"""What a command writes and says: strict JSON, refusals and warnings of one line."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from iclab import cli
from iclab.commands.recall import COLUMNS
from iclab.files import write_json
from iclab.models import TokenTransformer, TokenTransformerConfig
from iclab.runs.store import Status
from tests.commands.test_cli import call
from tests.commands.test_verdicts import record

TOKENS = """title = "t"
question = "q"
paper = "p"
[task]
kind = "LaundryList"
items = 6
shortest = 2
longest = 3
[model]
n_layer = 1
d_model = 8
[eval.shifts.long]
kind = "LaundryList"
items = 6
shortest = 5
longest = 5
"""


def strictly(text):
    """What JSON says, where every constant that JSON does not have is an error."""

    def refused(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refused)


def test_what_is_not_finite_is_null_in_json(tmp_path):
    file = tmp_path / "found.json"
    write_json(file, {"a": [1.5, float("nan"), (float("inf"), None)], "b": {"c": -float("inf"), "d": "NaN"}})
    assert strictly(file.read_text()) == {"a": [1.5, None, [None, None]], "b": {"c": None, "d": "NaN"}}
    with pytest.raises(AssertionError, match="NaN is no JSON"):
        strictly(json.dumps(float("nan")))


def test_the_channels_of_a_head_that_writes_nothing_are_json(tmp_path, capsys):
    model = TokenTransformer(20, 16, TokenTransformerConfig(n_layer=3, d_model=12))
    with torch.no_grad():
        model.blocks[0].attn.v.weight[:6] = 0
        model.blocks[0].attn.v.bias[:6] = 0
        model.blocks[2].attn.q.weight[:6] = 0  # and one that reads nothing
    model.save(tmp_path / "weights.safetensors")
    for order in ("z", "z_head", "z_robust", "z_unreachable", "score"):
        file = tmp_path / f"{order}.json"
        given = ("channels", str(tmp_path / "weights.safetensors"), "--top", "1000", "--by", order, "--json", str(file))
        assert call(capsys, *given)[0] == 0
        found = strictly(file.read_text())
        assert {one["share"] for one in found if one["writer"] == [0, 0]} == {0.0}
        assert all(one["share"] is not None and one["score"] is not None for one in found)
        assert len(found) == 3 * 3 * 2 * 2 * 6 and all(one["writer"][0] < one["reader"][0] for one in found)


STUDIED = SimpleNamespace(id="0" * 12, task=SimpleNamespace(left_out={}))  # by `iclab recall`


def test_every_command_that_writes_json_writes_it_strictly(tmp_path, capsys, monkeypatch):
    """Each with something in it that is not finite."""
    from iclab.commands import bench, recall, theorems

    nowhere = iter([{"what": "x", "seconds": float("inf")}])
    for section in ("baselines", "probes", "throughput", "packs", "devices"):
        monkeypatch.setattr(bench, section, lambda: iter([{"what": "x", "seconds": float("nan")}]))
    for section in ("steps", "compiled", "engines"):
        monkeypatch.setattr(bench.costs, section, lambda: iter([{"what": "x", "seconds": float("nan")}]))
    monkeypatch.setattr(bench, "quality", lambda budget: nowhere)
    monkeypatch.setattr(recall, "RecallText", SimpleNamespace)
    monkeypatch.setattr(recall, "study_of", lambda *given: SimpleNamespace(cells=[SimpleNamespace(experiment=STUDIED)]))
    monkeypatch.setattr(recall, "sweep", lambda *given: ({STUDIED.id: Status("done")}, []))
    monkeypatch.setattr(
        recall.Run, "rows", lambda run: [{**dict.fromkeys(COLUMNS), "quantity": "x", "value": float("nan")}]
    )
    row = theorems._row
    monkeypatch.setattr(theorems, "_row", lambda tally: row(tally) | {"margin": float("nan")})
    judged = tmp_path / "judged"
    (judged / "0123456789ab").mkdir(parents=True)
    (judged / "0123456789ab" / "status.json").write_text("{}")
    (judged / "verdicts.json").write_text(json.dumps([record(low=None)]))
    commands = {
        "bench": ("--budget", "1"),
        "verdicts": (str(judged),),
        "recall": (str(tmp_path),),
        "verify": ("vonoswald2022_proposition1", "--cases", "1"),
    }
    asks = {name for name, command in cli.COMMANDS.items() if "json" in command.__annotations__}
    assert asks == {*commands, "channels"}  # channels: the test before
    for name, words in commands.items():
        file = tmp_path / f"{name}.json"
        call(capsys, name, *words, "--json", str(file))
        assert "null" in file.read_text() and strictly(file.read_text())


def test_no_command_writes_json_by_itself():
    """Files that a command is asked for go through `write_json`; those of the store have a reader of their own."""
    home = Path(cli.__file__).parent / "commands"
    for name in ("channels", "recall", "bench", "precision", "theorems"):
        assert not re.search(r"atomic_write|json\.dump\(", (home / f"{name}.py").read_text())


def test_a_dry_run_refuses_a_device_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (tmp_path / "t.toml").write_text(TOKENS)
    status, _, err = call(capsys, "sweep", str(tmp_path / "t.toml"), "--dry-run", "device=cuda")
    assert status == 2 and err.strip() == "iclab: device: cuda is requested, and torch finds 0 CUDA devices here"


def test_positions_that_are_never_trained_are_told_of(tmp_path, capsys):
    (tmp_path / "t.toml").write_text(TOKENS)
    dry = ("sweep", str(tmp_path / "t.toml"), "--dry-run", "--out", str(tmp_path / "runs"))
    status, out, _ = call(capsys, *dry, "seed=0:2")
    told = (
        "shift 'long' has sequences of 12 tokens, training of 8 at most: the 4 positions beyond stay as they were drawn"
    )
    assert status == 0 and out.replace("\n", " ").count(told) == 1
    assert told not in call(capsys, *dry, "model.positions=false")[1]
    assert told not in call(capsys, *dry, "task.longest=5")[1]
    status, _, _ = call(capsys, "sweep", *dry[1:2], *dry[3:], "train.steps=1", "eval.prompts=2", "--jobs", "1")
    (log,) = (tmp_path / "runs").glob("*/log.txt")
    assert status == 0 and told in log.read_text()


def test_a_setting_that_was_not_swept_is_named_by_a_figure(monkeypatch):
    import pandas

    from iclab import plots

    for key, kind in {"task.n": SystemExit, "value": KeyError}.items():
        monkeypatch.setattr("sys.argv", ["figure.py", "runs"])
        with pytest.raises(kind) as end:
            plots.command("", lambda table, key=key: table[key], lambda folder: pandas.DataFrame({"x": [1]}), "s")
        assert kind is KeyError or end.value.code == "nothing to draw: task.n was not swept"
    assert plots.by_seed(pandas.DataFrame({"x": [1]}))[0][0] is None
    assert [seed for seed, _ in plots.by_seed(pandas.DataFrame({"seed": [3, 1, 1]}))] == [1, 3]
