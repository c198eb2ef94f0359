"""What must hold of the rows about what a pointing model could point at, and what it does."""

from math import cos, pi
from typing import Literal

import pytest
import torch

from iclab.analysis.heads.reach import circle
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.measures import measure
from iclab.measures.pointing import pointed
from iclab.models import PointerTransformerConfig
from iclab.tasks import LaundryList
from tests.conftest import generator

LISTS = LaundryList(items=8, shortest=2, longest=6)


def model(keys: Literal["content", "positional"] = "positional", rank=2):
    shape = PointerTransformerConfig(n_layer=1, n_head=2, d_model=8, items=8, rank=rank, keys=keys)
    return shape.build(LISTS.vocab, LISTS.n, generator())


def said(accuracy, answered):
    """Rows as they are found before these."""
    told = {"accuracy": accuracy, "answered": answered}
    return [
        {"predictor": "transformer", "quantity": quantity, "position": slot, "value": value}
        for quantity, values in told.items()
        for slot, value in enumerate(values)
    ]


def table(rows):
    return {(row["predictor"], row["quantity"], row["position"]): row["value"] for row in rows}


def with_keys(keys):
    one = model(rank=keys.shape[1])
    with torch.no_grad():
        one.slot_keys[1 : len(keys) + 1] = keys
    return one


def test_a_list_that_is_longer_than_the_learned_keys_is_refused():
    one = PointerTransformerConfig(items=8, keys="positional", positions=False).build(LISTS.vocab, 6)
    with pytest.raises(ValueError, match="n = 7 are longer than the learned positions, n = 6"):
        one(torch.zeros(2, 7, dtype=torch.long))


def test_keys_on_a_circle_reach_every_slot_equally():
    one, lists = with_keys(3 * circle(5).float() + 1), LISTS.of_length(5)
    found = table(pointed(one, lists, said([1.0] * 5, [0.2] * 5), generator()))
    chord = 1 - cos(2 * pi / 5)  # how far a key is from the line through its neighbours
    for slot in range(5):
        assert found["transformer", "reach", slot] == pytest.approx(0.2, abs=1e-6)
        assert found["transformer", "margin", slot] == pytest.approx(chord, rel=1e-4)
        assert found["circle", "margin", slot] == pytest.approx(found["transformer", "margin", slot], rel=1e-4)
    assert found["transformer", "reachable_slots", None] == found["legendre", "reachable_slots", None] == 5
    assert found["transformer", "reach_ends", None] == pytest.approx(0.4, abs=1e-6)
    assert found["transformer", "answered_unreachable", None] == 0
    assert ("transformer", "reach_correlation", None) not in found  # nothing differs between slots


def test_an_answer_that_no_query_points_at_is_seen():
    one, lists = with_keys(torch.tensor([[0.0], [3.0], [1.0], [-1.0]])), LISTS.of_length(4)
    honest = table(pointed(one, lists, said([0.0, 1.0, 0.0, 1.0], [0.0, 0.6, 0.0, 0.4]), generator()))
    cheat = table(pointed(one, lists, said([1.0, 1.0, 0.0, 1.0], [0.25, 0.5, 0.0, 0.25]), generator()))
    assert [found["transformer", "answered_unreachable", None] for found in (honest, cheat)] == [0, 0.25]
    assert honest["transformer", "reach_correlation", None] == pytest.approx(1)
    assert cheat["transformer", "reach_correlation", None] < 0.8
    assert honest["transformer", "reachable_slots", None] == 2


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_model_answers_no_slot_that_its_keys_cannot_reach(rank):
    evaluation = Evaluation(prompts=60)
    one = Experiment(LISTS, model(rank=rank).config, eval=evaluation, device="cpu")
    rows = [row for row in measure(one, model(rank=rank)) if row["distribution"] == "6_items"]
    found = table(rows)
    missed = [slot for slot in range(6) if found["transformer", "margin", slot] == 0]
    assert rank == 3 or missed
    assert found["transformer", "answered_unreachable", None] == 0
    assert all(found["transformer", "accuracy", slot] == 0 for slot in missed)
    assert sum(found["transformer", "reach", slot] for slot in range(6)) == pytest.approx(1)
    sampled = [row["stderr"] for row in rows if row["quantity"] == "reach" and row["predictor"] == "transformer"]
    assert any(sampled) == (rank > 2)


@pytest.mark.parametrize("part", ["seen", "new"])
def test_a_slot_that_is_held_out_and_never_asked_has_no_accuracy_to_go_with_its_reach(part):
    lists = LaundryList(items=8, longest=6, holds_out="slots", part=part)
    one = Experiment(lists, model().config, eval=Evaluation(prompts=60), device="cpu")
    found = table(row for row in measure(one, model()) if row["distribution"] == "6_items")
    asked = {slot for slot in range(6) if ("transformer", "accuracy", slot) in found}
    assert asked == ({0, 1, 2, 4, 5} if part == "seen" else {3})
    assert all(("transformer", "reach", slot) in found for slot in range(6))
    assert part == "seen" or ("transformer", "reach_correlation", None) not in found


def test_there_is_nothing_to_tell_of_keys_that_know_the_content_or_of_lists_of_many_lengths():
    assert not list(pointed(model("content"), LISTS.of_length(4), [], generator()))
    assert not list(pointed(model(), LISTS, [], generator()))
