"""What must hold of blocks of weights that are held at zero: in every training, alone and in packs, exactly."""

from dataclasses import replace

import pytest
import torch

from iclab.analysis import linear_steps
from iclab.constructed import vonoswald
from iclab.experiments.experiment import Experiment
from iclab.learning import pack as packs
from iclab.learning import training as trainings
from iclab.learning.pack import pack_trainings, packing_problems
from iclab.learning.training import Training, TrainingConfig
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import GradientDescent
from iclab.tasks import Normal, WhitenedLinearRegression
from tests.conftest import generator

AHN = "q.y q.rest k.y k.rest v.x v.rest out.x out.rest"  # Ahn et al. 2023, Thm 3: B = 0
TASK = WhitenedLinearRegression(3, 9, inputs=Normal(spectrum=(1.0, 0.25, 2.0), rotation_seed=3))
BARE = {"layout": "encoder", "read_in": "identity", "norm": False, "positions": False, "normaliser": "seen"}
FREE = TransformerConfig(n_layer=2, n_head=1, d_model=6, scale=1.0, negated=True, init_scale=0.3, **BARE)
HELD = replace(FREE, zero_blocks=AHN)
RECIPES = {
    "default": TrainingConfig(steps=6, batch=16, positions="last"),
    "decayed, unclipped": TrainingConfig(steps=6, batch=16, weight_decay=0.1, clip=None),
    "muon": TrainingConfig(steps=6, batch=16, optimizer="muon", lr=1e-2),
}


def training(seed=0, shape=HELD, recipe=RECIPES["default"]):
    return Training(Transformer(3, 9, shape, generator(seed)), TASK, recipe, generator(100 + seed))


def assert_held(one):
    """Held entries are zero, and all others are not."""
    held = one.model.held_entries()
    for name, weights in one.parameters.items():
        zero = held.get(name, torch.zeros_like(weights, dtype=torch.bool))
        assert not weights[zero].any(), f"{name} has entries that are not held"
        assert (weights[~zero] != 0).all(), name


def trained(one):
    while one.step < one.recipe.steps:
        one.advance()
    return one


# ---- which entries -------------------------------------------------------------------------------------------------

CHANNELS = {"x": [0, 1, 2], "y": [3], "rest": [4, 5]}  # of the tokens (x, y, 1) in a stream of six channels


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("matrix", ["q", "k", "v", "out"])
def test_a_block_is_what_a_matrix_reads_of_some_channels_or_writes_into_them(matrix, channels):
    model = Transformer(3, 9, replace(FREE, zero_blocks=f"{matrix}.{channels}"), generator())
    touched = {name.split(".")[-2] for name in model.held_entries()}
    assert touched == {matrix}
    for layer in range(2):
        weight = getattr(model.attention(layer), matrix).weight
        reads = weight if matrix != "out" else weight.mT
        zero = [c for c in range(6) if not reads[:, c].any()]
        assert zero == CHANNELS[channels]


@pytest.mark.parametrize(("layout", "x", "y"), [("interleaved", [1, 2, 3], [0]), ("paired", [0, 1, 2], [3])])
def test_the_channels_are_those_of_the_layout(layout, x, y):
    shape = replace(FREE, layout=layout, zero_blocks="k.x v.y")
    model = Transformer(3, 9, shape, generator())
    k, v = model.attention(0).k.weight, model.attention(0).v.weight
    assert [c for c in range(6) if not k[:, c].any()] == x and [c for c in range(6) if not v[:, c].any()] == y


def test_the_other_weights_are_those_of_the_model_with_none_held():
    held, free = (Transformer(3, 9, shape, generator()) for shape in (HELD, FREE))
    for name, weights in free.named_parameters():
        zero = held.held_entries().get(name, torch.zeros_like(weights, dtype=torch.bool))
        assert torch.equal(held.get_parameter(name), weights.masked_fill(zero, 0.0))


# ---- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_held_blocks_are_zero_after_training_and_no_others(name):
    assert_held(trained(training(recipe=RECIPES[name])))


def test_a_training_that_forgets_what_is_held_would_be_noticed(monkeypatch):
    monkeypatch.setattr(trainings, "without_held", lambda gradients, held: gradients)
    with pytest.raises(AssertionError, match="not held"):
        assert_held(trained(training()))


def test_held_blocks_are_zero_in_a_pack_whose_replicas_train_as_alone():
    together = [training(seed) for seed in range(3)]
    pack = pack_trainings(together)
    while pack.active:
        pack.advance()
    for seed, one in enumerate(together):
        assert_held(one)
        alone = trained(training(seed)).parameters
        for name, weights in one.parameters.items():
            torch.testing.assert_close(weights, alone[name], atol=1e-5, rtol=1e-4)


def test_a_pack_that_forgets_what_is_held_would_be_noticed(monkeypatch):
    monkeypatch.setattr(packs, "without_held", lambda gradients, held: gradients)
    together = [training(seed) for seed in range(2)]
    pack_trainings(together).advance()
    with pytest.raises(AssertionError, match="not held"):
        assert_held(together[1])


def test_models_with_other_blocks_make_no_pack():
    one, other = (Experiment(TASK, shape, RECIPES["default"]) for shape in (HELD, FREE))
    assert packing_problems([one, replace(one, seed=1)]) == []
    assert packing_problems([one, other]) == ["the models are of 2 shapes"]


def test_a_resumed_training_holds_what_was_held(tmp_path):
    one, other = training(), training(seed=0)
    for _ in range(3):
        one.advance()
    one.save(tmp_path / "checkpoint")
    other.resume(tmp_path / "checkpoint")
    assert_held(trained(other))
    assert all(torch.equal(w, other.parameters[name]) for name, w in trained(one).parameters.items())


# ---- theorem -------------------------------------------------------------------------------------------------------


def test_with_the_blocks_of_theorem_3_any_weights_are_preconditioned_descent():
    """Ahn et al. 2023, Lemma 1: whatever training makes of the other blocks, to the digits of float64."""
    model = trained(training(shape=replace(HELD, bias=False))).model.double()
    steps, prompts = linear_steps(model), TASK.sample(32, generator(1), torch.float64)
    A = torch.stack([-step.preconditioner for step in steps])
    lr = 1 / torch.arange(9, dtype=torch.float64).clamp(min=1)
    torch.testing.assert_close(model(prompts.xs, prompts.ys), GradientDescent(2, lr, A)(prompts.xs, prompts.ys))
    assert [step.leakage for step in steps] == [0.0, 0.0] and not any(step.contraction.any() for step in steps)


def test_with_all_blocks_the_weights_are_no_such_descent():
    model = trained(training(shape=replace(FREE, bias=False))).model.double()
    steps, prompts = linear_steps(model), TASK.sample(32, generator(1), torch.float64)
    A = torch.stack([-step.preconditioner for step in steps])
    lr = 1 / torch.arange(9, dtype=torch.float64).clamp(min=1)
    said, descent = model(prompts.xs, prompts.ys), GradientDescent(2, lr, A)(prompts.xs, prompts.ys)
    assert not torch.allclose(said, descent) and all(step.leakage > 0 for step in steps)


# ---- at the door ---------------------------------------------------------------------------------------------------


def test_what_is_no_block_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"unknown zero_blocks 'out\.xs'. Did you mean 'out\.x'\?"):
        replace(FREE, zero_blocks="q.y out.xs")
    with pytest.raises(ValueError, match="zero_blocks is for read_in = identity"):
        TransformerConfig(zero_blocks="q.y")


def test_a_construction_whose_blocks_are_not_zero_is_no_start():
    experiment = Experiment(TASK, HELD, RECIPES["default"]).mapping()
    start = {"construction": {"kind": "VonOswald2022", "steps": 2, "lr": 0.1}}
    shape = vonoswald.config(3, 2)
    model = {**experiment["model"], "d_model": shape.d_model, "tied": True, "bias": False, "normaliser": "none"}
    with pytest.raises(ValueError, match=r"needs model\.zero_blocks = , given"):
        Experiment.from_mapping({**experiment, "model": model, "start": start}, "f")


def test_a_model_is_saved_and_loaded_with_its_blocks(tmp_path):
    model = trained(training()).model
    model.save(tmp_path / "model")
    again = Transformer.load(tmp_path / "model")
    assert again.config.zero_blocks == AHN and again.held_entries().keys() == model.held_entries().keys()


def test_no_blocks_are_no_part_of_settings_or_ids():
    plain = Experiment(TASK, FREE, RECIPES["default"])
    assert "zero_blocks" not in plain.mapping()["model"]
    assert plain.id != Experiment(TASK, HELD, RECIPES["default"]).id
