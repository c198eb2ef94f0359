"""What must hold of compiled training: the numbers of the model, or the model itself where nothing can be compiled."""

import os
import subprocess
import sys

import pytest
import torch

from iclab.errors import UsageError
from iclab.experiments.experiment import Experiment
from iclab.learning.pack import packing_problems
from iclab.learning.training import Curriculum, Training, TrainingConfig
from iclab.models import Transformer, TransformerConfig
from iclab.tasks import LinearRegression
from tests.conftest import generator

TASK = LinearRegression(3, 6, noise=0.5)
SHAPE = TransformerConfig(n_layer=1, n_head=2, d_model=8)


def losses(training, steps=20):
    return torch.tensor([training.advance() for _ in range(steps)], dtype=torch.float64)


def fresh(shape=SHAPE, **settings):
    return Training(Transformer(3, 6, shape, generator()), TASK, TrainingConfig(steps=20, **settings), generator(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"optimizer": "muon"}, {"positions": "last", "targets": "posterior_mean"}], ids=str
)
def test_losses_of_a_compiled_training_are_those_of_the_model_and_of_another_recipe_are_not(settings):
    compiled = fresh(compile=True, **settings)
    expected = losses(fresh(**settings))
    torch.testing.assert_close(losses(compiled), expected, atol=1e-5, rtol=1e-5)
    assert compiled.graph is not None  # it was compiled
    assert (losses(fresh(**settings, lr=9e-3)) - expected).abs().max() > 1e-4


def test_without_a_compiler_a_training_goes_on_with_the_same_bits_and_says_so_once():
    def broken(*given):
        raise RuntimeError("no C++ compiler found\nmore lines")

    training, said = fresh(compile=True), []
    training.log, training.graph = said.append, broken
    assert torch.equal(losses(training), losses(fresh()))
    assert said == ["train.compile: goes on without, for nothing could be compiled: no C++ compiler found"]


WITHOUT = """
import torch
from tests.learning.test_compiled import fresh, losses
training, said = fresh(compile=True), []
training.log = said.append
assert torch.equal(losses(training, 3), losses(fresh(), 3)) and training.graph is None
assert len(said) == 1 and "compiler" in said[0], said
"""


@pytest.mark.slow
def test_where_no_compiler_is_found_the_losses_are_those_of_the_model(tmp_path):
    """In a process of its own, whose graphs are in no cache."""
    there = {"PATH": str(tmp_path), "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=os.environ | there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_compiled_is_refused_at_the_door():
    with pytest.raises(UsageError, match="prompts of one shape"):
        TrainingConfig(compile=True, curriculum=Curriculum(dims=1, points=2))
    with pytest.raises(UsageError, match="precision = float32"):
        TrainingConfig(compile=True, precision="bfloat16")
    one = Experiment(TASK, SHAPE, TrainingConfig(compile=True), device="cpu")
    assert packing_problems([one, one]) == ["train.compile is not done in packs"]


def test_compiling_is_a_part_of_the_id_where_it_is_set():
    plain, chosen = (Experiment(TASK, SHAPE, TrainingConfig(compile=each), device="cpu") for each in (False, True))
    assert plain.id != chosen.id and "compile" not in plain.mapping()["train"]
    assert Experiment.from_mapping(chosen.mapping(), "f") == chosen
