"""What must hold of training: reproducible, resumable to the bit, pure where it says so, honest about failure."""

from math import isclose

import pytest
import torch
from conftest import generator
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, stack_module_state, vmap

import iclab
from iclab.models import Transformer, TransformerConfig
from iclab.tasks import DecisionTree, LinearRegression, Truncated
from iclab.training import Curriculum, Diverged, Recipe, Training, loss, train

TASK = LinearRegression(3, 6, noise=0.5)
CONFIG = TransformerConfig(n_layer=2, n_head=2, d_model=8)
RECIPES = {
    "default": Recipe(steps=12, warmup=3),
    "muon": Recipe(steps=12, warmup=3, optimizer="muon", lr=1e-2),
    "posterior mean": Recipe(steps=12, targets="posterior_mean"),
    "curriculum": Recipe(steps=12, curriculum=Curriculum(dims=1, points=2, every=3)),
    "unclipped, decayed": Recipe(steps=12, clip=None, weight_decay=0.1, schedule="linear"),
    "bfloat16": Recipe(steps=12, precision="bfloat16"),
}


def fresh(recipe, seed=0):
    return Training(Transformer(3, 6, CONFIG, generator(seed)), TASK, recipe, generator(100 + seed))


def weights(training):
    return {k: v.detach().clone() for k, v in training.parameters.items()}


def same(one, other):
    return all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(params=RECIPES.values(), ids=RECIPES.keys())
def recipe(request):
    return request.param


def test_the_same_seeds_give_the_same_bits_and_other_seeds_do_not(recipe):
    runs = [fresh(recipe, seed) for seed in (0, 0, 1)]
    losses = [[run.advance() for _ in range(12)] for run in runs]
    assert losses[0] == losses[1] != losses[2]
    assert same(weights(runs[0]), weights(runs[1])) and not same(weights(runs[0]), weights(runs[2]))


@pytest.mark.parametrize("cut", [0, 1, 7, 12])
def test_a_resumed_training_ends_with_the_same_bits_as_an_uninterrupted_one(recipe, cut, tmp_path):
    whole, killed = fresh(recipe), fresh(recipe)
    losses = [whole.advance() for _ in range(12)]
    for _ in range(cut):
        killed.advance()
    killed.save(tmp_path / "checkpoint.safetensors")
    resumed = fresh(recipe, seed=5)  # other weights and prompts, all to be replaced by the checkpoint's
    resumed.resume(tmp_path / "checkpoint.safetensors")
    assert resumed.step == cut
    assert [resumed.advance() for _ in range(12 - cut)] == losses[cut:]
    assert same(weights(whole), weights(resumed))


def test_a_resume_that_forgets_the_optimizer_state_would_be_noticed(recipe, tmp_path, monkeypatch):
    whole, killed, forgetful = fresh(recipe), fresh(recipe), fresh(recipe)
    for _ in range(7):
        killed.advance()
    killed.save(tmp_path / "checkpoint.safetensors")
    monkeypatch.setattr(Training, "_restore", lambda self, moments: None)
    forgetful.resume(tmp_path / "checkpoint.safetensors")
    for _ in range(5):
        forgetful.advance()
    for _ in range(12):
        whole.advance()
    assert not same(weights(whole), weights(forgetful))


def test_the_loss_is_a_pure_function_of_parameters_and_prompts():
    model = Transformer(3, 6, CONFIG, generator())
    prompts = TASK.sample(4, generator())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    other = {k: v + 1 for k, v in model.named_parameters()}
    assert loss(model, other, prompts, prompts.ys) != loss(model, dict(model.named_parameters()), prompts, prompts.ys)
    assert same(before, model.state_dict())
    expected = (model(prompts.xs, prompts.ys) - prompts.ys).square().mean()
    assert loss(model, dict(model.named_parameters()), prompts, prompts.ys) == expected


def test_a_pack_of_replicas_mapped_over_has_the_gradients_of_each_alone():
    replicas = [Transformer(3, 6, CONFIG, generator(seed)) for seed in range(3)]
    prompts = TASK.sample(4, generator())
    packed, _ = stack_module_state(replicas)
    gradient = grad(lambda parameters: loss(replicas[0], parameters, prompts, prompts.ys))
    together = vmap(gradient)(packed)
    for r, replica in enumerate(replicas):
        alone = gradient(dict(replica.named_parameters()))
        for name, value in alone.items():
            torch.testing.assert_close(together[name][r], value, atol=1e-6, rtol=1e-4)


def test_posterior_mean_targets_have_the_gradient_of_sampled_ones_on_average_and_less_noise():
    model = Transformer(3, 6, CONFIG, generator()).double()
    best = iclab.bayes(TASK)

    def gradients(prompts, targets):
        value = loss(model, dict(model.named_parameters()), prompts, targets)
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])

    rng, sampled, averaged = generator(), [], []
    for _ in range(400):
        prompts = TASK.sample(8, rng, torch.float64)
        sampled.append(gradients(prompts, prompts.ys))
        averaged.append(gradients(prompts, best(prompts.xs, prompts.ys)))
    sampled, averaged = torch.stack(sampled), torch.stack(averaged)
    gap = sampled - averaged
    z = gap.mean(0) / (gap.std(0) / 20)
    assert z.abs().max() < 5  # hundreds of coordinates, each within five standard errors
    assert averaged.var(0).sum() < 0.8 * sampled.var(0).sum()


def test_the_rate_warms_up_and_falls_as_its_schedule_says():
    cosine = Recipe(steps=110, warmup=10, lr=1.0)
    assert [cosine.rate(s) for s in (0, 9)] == [0.1, 1.0]
    assert isclose(cosine.rate(60), 0.5) and cosine.rate(109) < 1e-3
    linear = Recipe(steps=20, warmup=10, lr=1.0, schedule="linear")  # the triangle of Raventós et al.
    assert isclose(linear.rate(15), 0.5)
    assert Recipe(steps=20, warmup=0, lr=1.0, schedule="constant").rate(19) == 1.0


def test_a_curriculum_grows_to_the_full_task_and_stays_there():
    plan = Curriculum(dims=1, points=2, dims_step=1, points_step=3, every=10)
    stages = [plan.stage(TASK, step) for step in (0, 9, 10, 20, 1000)]
    assert [(s.dims, s.points) for s in stages[:3]] == [(1, 2), (1, 2), (2, 5)]
    assert isinstance(stages[0], Truncated) and stages[3] is TASK and stages[4] is TASK


@pytest.mark.parametrize("lr", [1e4, 1e30])
def test_a_training_that_diverges_says_so_with_its_step(lr):
    training = fresh(Recipe(steps=200, lr=lr, warmup=0, clip=None))
    with pytest.raises(Diverged, match=rf"at step {training.step}|diverged at step \d+: loss"):
        for _ in range(200):
            training.advance()


def test_training_lowers_the_excess_risk():
    prompts = TASK.sample(1024, generator(7))
    best = iclab.bayes(TASK)(prompts.xs, prompts.ys)
    model = Transformer(3, 6, TransformerConfig(n_layer=2, n_head=2, d_model=16), generator())
    before = (model(prompts.xs, prompts.ys) - best).square().mean()
    steps = []
    assert train(model, TASK, Recipe(steps=600), generator(1), lambda step, value: steps.append(step)) is model
    after = (model(prompts.xs, prompts.ys) - best).square().mean()
    risk = (best - prompts.ys).square().mean()
    assert steps == list(range(600))
    assert after < 0.35 * risk < before  # measured: 0.25 and 1.39 of the risk


@given(seed=st.integers(0, 2**31))
def test_targets_without_a_known_posterior_are_refused_before_the_first_step(seed):
    model = Transformer(2, 3, CONFIG, generator(seed))
    with pytest.raises(ValueError, match="no closed form of the Bayes predictor is known for DecisionTree"):
        Training(model, DecisionTree(2, 3), Recipe(targets="posterior_mean"), generator())


def test_bad_recipes_are_refused_with_everything_that_is_wrong():
    with pytest.raises(ValueError, match=r"steps.*given -1.*batch.*given 0.*lr.*given 0.0.*clip.*betas"):
        Recipe(steps=-1, batch=0, lr=0.0, clip=0.0, betas=(0.9, 1.0))
    with pytest.raises(ValueError, match=r"dims.*every"):
        Curriculum(dims=0, points=1, every=0)
