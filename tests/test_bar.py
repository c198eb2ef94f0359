"""How far work is: a line where something is new or after a while, and a bar on a terminal."""

import io

import pytest
import torch
from rich.console import Console

from iclab import bar as bars
from iclab.bar import bar
from iclab.learning.training import TrainingConfig, train
from iclab.models import Transformer, TransformerConfig
from iclab.tasks import LinearRegression


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is set."""
    now = [1000.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    return now


def test_a_pipe_gets_a_line_for_what_is_new_and_one_after_a_minute(clock):
    to = Console(file=io.StringIO(), width=100)
    with bar(9, to) as at:
        at(0, "searches")
        at(1, "searches", "and [b]goes on")
        clock[0] += bars.MINUTE - 1
        at(2, "searches")
        clock[0] += 2
        at(3, "searches", "and [b]goes on")
        at(4, "simplifies")
        at(5, "simplifies")
    assert to.file.getvalue().splitlines() == [
        "searches  0 of 9",
        "searches  3 of 9  and [b]goes on",
        "simplifies  4 of 9",
    ]


def test_a_terminal_gets_a_bar_that_leaves_nothing_behind():
    to = Console(file=io.StringIO(), width=100, force_terminal=True)
    with bar(4, to) as at:
        at(2, "searches [b]", "half way")
    text = to.file.getvalue()
    assert "searches [b]" in text and "2/4" in text and "half way" in text
    assert text.endswith("\x1b[?25h") or text.rstrip().endswith("\x1b[2K")  # the cursor is back, the line is gone


def test_a_training_draws_a_bar_where_it_is_asked_for(capsys):
    task = LinearRegression(d=1, n=3)
    for progress, said in ((True, True), (False, False)):
        model = Transformer(1, 3, TransformerConfig(n_layer=1, d_model=8, n_head=1))
        train(model, task, TrainingConfig(steps=3), torch.Generator().manual_seed(0), progress=progress)
        assert ("train  1 of 3  loss" in capsys.readouterr().err) == said
    steps = []
    train(model, task, TrainingConfig(steps=3), progress=lambda step, loss: steps.append(step))
    assert steps == [0, 1, 2]
