"""What must hold of parameters as one vector: updates are those of torch's optimizers, one parameter at a time."""

from itertools import pairwise

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.optim._muon import _zeropower_via_newtonschulz as newton_schulz

from iclab.errors import UsageError
from iclab.learning import flat
from iclab.learning.training import Training, TrainingConfig
from iclab.models import Transformer, TransformerConfig
from iclab.tasks import LinearRegression
from tests.conftest import generator

TASK = LinearRegression(3, 6, noise=0.5)
SHAPE = TransformerConfig(n_layer=2, n_head=2, d_model=8, d_mlp=12, attention="softmax")
SETTINGS = {"steps": 10, "batch": 4, "lr": 0.02, "clip": 0.5, "weight_decay": 0.3}


def fresh(dtype=torch.float64, **settings):
    model = Transformer(3, 6, SHAPE, generator()).to(dtype)
    return Training(model, TASK, TrainingConfig(**(SETTINGS | settings)), generator(1))


def gradients(training, seed):
    rng = generator(seed)
    return [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in training.parameters.values()]


def by_torch(training, steps):
    """The optimizers of torch, on copies of the parameters, after steps with the same gradients."""
    recipe, copies = training.recipe, {name: p.detach().clone() for name, p in training.parameters.items()}
    inside = [n for n, p in copies.items() if recipe.optimizer == "muon" and p.ndim == 2 and n.startswith("blocks.")]
    parameters = {name: nn.Parameter(p) for name, p in copies.items()}
    rest = [p for name, p in parameters.items() if name not in inside]
    settings = recipe.lr, recipe.betas, recipe.eps, recipe.weight_decay
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, *settings)]
    if inside:
        matrices = [parameters[name] for name in sorted(inside)]
        optimizers.append(torch.optim.Muon(matrices, recipe.lr, recipe.weight_decay))
    for step in range(steps):
        for p, gradient in zip(parameters.values(), gradients(training, step), strict=True):
            p.grad = gradient
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(parameters.values(), recipe.clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            optimizer.step()
    return parameters, optimizers


def stepped(training, steps):
    for step in range(steps):
        training._update(tuple(gradients(training, step)), training.recipe.rate(step))
        training.step += 1
    return training


def apart(training, parameters):
    return max((p - parameters[name]).abs().max().item() for name, p in training.parameters.items())


@pytest.mark.parametrize("changes", [{}, {"clip": None}, {"weight_decay": 0.0, "betas": (0.5, 0.7)}])
def test_updates_are_those_of_torch_with_a_bound_on_the_norm_of_all_gradients(changes):
    expected, _ = by_torch(fresh(**changes), 10)
    assert apart(stepped(fresh(**changes), 10), expected) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_bfloat16_matrices_move_as_by_muon_of_torch_to_the_bit(dtype, monkeypatch):
    own = flat.orthogonal
    monkeypatch.setattr(flat, "orthogonal", lambda matrices: own(matrices.bfloat16()))
    settings = {"optimizer": "muon", "clip": None}
    expected, _ = by_torch(fresh(dtype, **settings), 10)
    training = stepped(fresh(dtype, **settings), 10)
    blocks = {n: p for n, p in training.parameters.items() if p.ndim == 2 and n.startswith("blocks.")}
    assert all(torch.equal(p, expected[name]) for name, p in blocks.items()) and len(blocks) == 12
    assert apart(training, expected) < (1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("shape", [(5, 4, 4), (3, 12, 8), (3, 8, 12), (1, 1, 6)])
def test_orthogonal_matrices_are_those_of_plain_iterations(shape):
    matrices = torch.randn(shape, generator=generator(), dtype=torch.float64)
    for found, one in zip(flat.orthogonal(matrices), matrices, strict=True):
        left, sizes, right = torch.linalg.svd(one / one.norm(), full_matrices=False)
        for _ in range(5):
            sizes = 3.4445 * sizes - 4.7750 * sizes**3 + 2.0315 * sizes**5
        torch.testing.assert_close(found, left @ sizes.diag() @ right, atol=1e-12, rtol=0)
        rough = newton_schulz(one, (3.4445, -4.7750, 2.0315), 5, 1e-7).double()
        assert (found - rough).norm() < 0.1 * found.norm()  # what bfloat16 leaves


def test_a_bound_on_each_gradient_alone_would_be_noticed(monkeypatch):
    def each(flats, most):
        for one in flats:
            for part in one.parts(one.gradient):
                part.mul_(min(1.0, most / part.norm().item()))

    expected, _ = by_torch(fresh(), 3)
    monkeypatch.setattr("iclab.learning.training.bound_norm", each)
    assert apart(stepped(fresh(), 3), expected) > 1e-3


def test_parameters_are_views_of_one_vector_and_the_model_answers_as_before():
    model, prompts = Transformer(3, 6, SHAPE, generator()), TASK.sample(4, generator())
    before = model(prompts.xs, prompts.ys)
    training = Training(model, TASK, TrainingConfig(**SETTINGS), generator(1))
    assert torch.equal(model(prompts.xs, prompts.ys), before)
    (one,) = training.flats
    places = [p.data_ptr() for p in model.parameters()]
    steps = [(b - a) // 4 for a, b in pairwise([*places, one.theta.data_ptr() + 4 * len(one.theta)])]
    assert steps == [p.numel() for p in model.parameters()] and places[0] == one.theta.data_ptr()


@pytest.mark.parametrize(
    "move", [lambda model: model.double(), lambda model: Training(model, TASK, TrainingConfig(), generator())]
)
def test_a_model_that_got_other_weights_after_its_training_was_made_is_refused(move):
    training = fresh(torch.float32)
    training.advance()
    move(training.model)
    with pytest.raises(UsageError, match="other weights after its training was made"):
        training.advance()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_has_the_names_and_the_numbers_of_the_optimizers_of_torch(optimizer, tmp_path):
    """So those of before can be read; Muon's moments do not depend on the iterations."""
    training = stepped(fresh(optimizer=optimizer), 4)
    training.save(tmp_path / "checkpoint.safetensors")
    _, optimizers = by_torch(fresh(optimizer=optimizer), 4)
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys() if name.startswith("optimizer.")}  # noqa: SIM118
    expected = {
        f"optimizer.{kind}.{index}.{key}": torch.as_tensor(value)
        for kind, each in zip(("adamw", "muon"), optimizers, strict=False)
        for index, state in each.state_dict()["state"].items()
        for key, value in state.items()
    }
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-12, rtol=1e-12)


class Mixed(nn.Module):
    """A model of two precisions."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, xs, ys):
        return (xs.double() @ self.slope).float() + self.offset


def test_parameters_of_two_precisions_are_two_vectors_with_one_bound():
    training = Training(Mixed(), TASK, TrainingConfig(**SETTINGS), generator())
    assert sorted(len(one.theta) for one in training.flats) == [1, 3]
    expected, _ = by_torch(training, 6)
    assert apart(stepped(training, 6), expected) < 1e-6
