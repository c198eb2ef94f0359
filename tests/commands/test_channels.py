"""`iclab channels` on models on disk: finds what was planted, says what it cannot tell, refuses what is no model."""

import json

import pytest
import torch

from iclab.analysis.heads.composition import channels, compositions
from iclab.analysis.heads.folding import folded
from iclab.commands.channels import ranked
from tests.analysis.test_composition import model, planted
from tests.commands.test_cli import call


@pytest.fixture
def saved(tmp_path):
    """A file of a model with one planted channel."""
    planted("Q", 0.1).save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_the_command_prints_the_planted_channel_first_and_writes_all_numbers(saved, tmp_path, capsys):
    status, out, _ = call(capsys, "channels", str(saved), "--top", "3", "--json", str(tmp_path / "found.json"))
    rows = [line.split("|")[1:4] for line in out.splitlines() if line.startswith("| Q")]
    assert status == 0 and [cell.strip() for cell in rows[0]] == ["Q", "1.0.1", "2.1"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 3 and found[0]["z"] > 6 and found[0]["writer"] == [1, 0]


def test_the_order_can_be_chosen_and_one_that_is_not_known_is_refused(saved, capsys):
    _, out, _ = call(capsys, "channels", str(saved), "--by", "score", "--top", "5")
    scores = [float(line.split("|")[4]) for line in out.splitlines()[2:] if line.startswith(("| Q", "| K", "| V"))]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    status, _, err = call(capsys, "channels", str(saved), "--by", "luck")
    assert status == 2 and "unknown order 'luck'" in err
    status, _, err = call(capsys, "channels", str(saved.parent))
    assert status == 2 and "config.json" in err


def test_channels_are_of_the_folded_model_and_a_shared_mean_is_none():
    one = model(n_head=2, d_model=24)
    with torch.no_grad():
        for name, weight in one.named_parameters():
            if name.endswith("attn.out.weight"):
                weight.add_(3.0)  # every head writes along (1, …, 1), which no LayerNorm lets through
            if name.endswith(("q.weight", "k.weight", "v.weight")):
                weight.add_(0.5)
    naive = channels(compositions(one), 1)[0]
    told = ranked(one, 1, "z")[0]
    assert naive.score > 0.9 and naive.z > 10
    assert told.score < 0.6
    torch.testing.assert_close(folded(one)(torch.arange(6).unsqueeze(0)), one(torch.arange(6).unsqueeze(0)))


def test_of_rotary_positions_the_command_says_that_values_alone_compose(tmp_path, capsys):
    model(rotary=4, positions=False).save(tmp_path / "rotary.safetensors")
    status, out, _ = call(capsys, "channels", str(tmp_path / "rotary.safetensors"), "--top", "4")
    assert status == 0 and "only composition with values is reported" in out
    assert not any(line.startswith(("| Q", "| K")) for line in out.splitlines())
