"""Refusals: everything that is wrong, what was given, and the nearest thing known."""

from dataclasses import dataclass
from typing import Literal

import pytest
import torch

import iclab.learning.training
import iclab.models
from iclab.errors import refuse, unknown, unknown_choices
from tests.conftest import unchecked


def test_a_refusal_lists_every_problem_and_no_problem_refuses_nothing():
    refuse("thing", [])
    with pytest.raises(ValueError, match=r"^thing: one is wrong; two is wrong$"):
        refuse("thing", ["one is wrong", "two is wrong"])


def test_an_unknown_name_comes_with_the_nearest_and_with_all_that_are_known():
    assert (
        unknown("key", "layrs", ["layers", "heads"])
        == "unknown key 'layrs'. Did you mean 'layers'? Known: heads, layers"
    )
    assert unknown("key", "zzz", []) == "unknown key 'zzz'. Known: none"


@dataclass(frozen=True)
class Choice:
    attention: Literal["softmax", "linear"] = "softmax"
    width: int = 3


def test_words_that_an_annotation_does_not_allow_are_found():
    assert unknown_choices(Choice()) == []
    (problem,) = unknown_choices(Choice(attention="sofmax"))
    assert problem == "unknown attention 'sofmax'. Did you mean 'softmax'? Known: linear, softmax"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            "iclab.learning.training.TrainingConfig(optimizer='adam', targets='x')",
            ["unknown optimizer 'adam'", "unknown targets 'x'"],
        ),
        (
            "next(iclab.models.Transformer(3, 6).residual_stream(torch.zeros(1, 5, 3), torch.zeros(1, 4)))",
            ["xs of shape (1, 5, 3)", "ys of shape (1, 4)"],
        ),
        ("iclab.models.TransformerConfig(attention='sofmax')", ["unknown attention 'sofmax'", "'softmax'?"]),
    ],
)
def test_bad_words_and_shapes_are_refused_where_no_type_checker_watches(call, words):
    with unchecked(), pytest.raises(ValueError) as caught:
        eval(call, {"torch": torch, "iclab": iclab})
    assert all(word in str(caught.value) for word in words)
