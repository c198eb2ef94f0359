"""Several layers of linear attention: steps and contractions read from weights, and the best preconditioned steps."""

import pytest
import torch

from iclab.analysis import linear_steps
from iclab.analysis.layers.attention import distance_to_identity, whitened
from iclab.analysis.layers.descent import best_descent
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import GradientDescent
from iclab.tasks import LinearRegression, Normal, WhitenedLinearRegression
from iclab.theory.one_layer import best_preconditioner
from tests.conftest import generator

TASK = WhitenedLinearRegression(3, 13, inputs=Normal(spectrum=(1.0, 0.25, 2.0), rotation_seed=3))
BARE = {"layout": "encoder", "read_in": "identity", "norm": False, "positions": False, "bias": False}
SHAPE = TransformerConfig(n_layer=2, n_head=1, d_model=5, d_head=5, scale=1.0, normaliser="seen", negated=True, **BARE)
MATRICES = torch.randn(2, 3, 3, generator=generator(4), dtype=torch.float64)


def constructed(B=None):
    """Lemma 1 of Ahn et al. 2023: scores −A_l on the inputs, values 1 on the label (and B on the inputs)."""
    model = Transformer(3, 13, SHAPE, generator()).double()
    with torch.no_grad():
        for block, A in zip(model.blocks, MATRICES, strict=True):
            for part in (block.attn.q, block.attn.k, block.attn.v, block.attn.out):
                part.weight.zero_()
            block.attn.q.weight[:3, :3] = torch.eye(3)
            block.attn.k.weight[:3, :3] = -A
            block.attn.v.weight[:4, :4] = torch.block_diag(torch.zeros(3, 3) if B is None else B, torch.ones(1, 1))
            block.attn.out.weight.copy_(torch.eye(5))
    return model


def test_layers_of_linear_attention_are_steps_preconditioned_one_by_one():
    prompts = TASK.sample(16, generator(1), torch.float64)
    lr = 1 / torch.arange(13, dtype=torch.float64).clamp(min=1)
    said, model = GradientDescent(2, lr, MATRICES)(prompts.xs, prompts.ys), constructed()
    torch.testing.assert_close(model(prompts.xs, prompts.ys), said)
    for step, A in zip(linear_steps(model), MATRICES, strict=True):
        torch.testing.assert_close(step.preconditioner, -A)
        assert step.leakage < 1e-12 and step.contraction.norm() < 1e-12
    swapped = GradientDescent(2, lr, MATRICES.flip(0))(prompts.xs, prompts.ys)
    assert not torch.allclose(swapped, said)


def test_what_moves_the_inputs_is_read_as_the_contraction_and_not_as_leakage():
    B = torch.tensor([[0.5, 0.1, 0.0], [0.0, 0.4, 0.0], [0.2, 0.0, 0.3]], dtype=torch.float64)
    for step in linear_steps(constructed(B)):
        torch.testing.assert_close(step.contraction, B)
        assert step.leakage < 1e-12


def test_what_is_written_into_the_constant_channel_is_leakage_where_it_is_read():
    """Written by the first layer and unread it changes no answer; read by the second it does."""
    model, prompts = constructed(), TASK.sample(4, generator(1), torch.float64)
    said = model(prompts.xs, prompts.ys)
    with torch.no_grad():
        model.blocks[0].attn.out.weight[4, 3] = 1.0
    assert max(step.leakage for step in linear_steps(model)) < 1e-12
    torch.testing.assert_close(model(prompts.xs, prompts.ys), said)
    with torch.no_grad():
        model.blocks[1].attn.v.weight[3, 4] = 1.0
    first, second = linear_steps(model)
    assert first.leakage < 1e-12 and second.leakage > 0.1
    assert not torch.allclose(model(prompts.xs, prompts.ys), said)


def test_inputs_that_move_other_than_along_the_preconditioner_leak_and_in_the_last_layer_do_not():
    model = constructed()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.out.weight[0, 3] = 1.0  # labels into an input
    first, last = linear_steps(model)
    assert first.leakage > 0.1 and last.leakage < 1e-12


def risk(task, A, prompts):
    """Of the steps with the matrices A at the query."""
    lr = 1 / torch.arange(task.n, dtype=torch.float64).clamp(min=1)
    return (GradientDescent(len(A), lr, A)(prompts.xs, prompts.ys) - prompts.ys)[:, -1].square().mean()


@pytest.mark.parametrize("steps", [2, 3])
def test_no_change_of_the_best_steps_lowers_their_risk(steps):
    """On the prompts that they were fitted to, where the minimum is exact: other multiples of Λ⁻¹ are worse."""
    found = best_descent(TASK, steps, generator(7), prompts=2048).preconditioner
    prompts = TASK.sample(2048, generator(7), torch.float64)
    least = risk(TASK, found, prompts)
    for seed in range(10):
        change = 1 + 0.05 * torch.randn(steps, 1, 1, generator=generator(seed), dtype=torch.float64)
        assert risk(TASK, change * found, prompts) > least
    assert least < 0.9 * risk(TASK, best_preconditioner(TASK, 12).expand(steps, 3, 3), prompts)  # best alone, repeated


def test_other_matrices_than_the_inverse_covariance_are_worse():
    found = best_descent(TASK, 2, generator(7)).preconditioner
    prompts = TASK.sample(8192, generator(8), torch.float64)
    plain = found.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None] * torch.eye(3, dtype=torch.float64)
    least = min(risk(TASK, c * plain, prompts) for c in (0.1, 0.2, 0.4, 0.7, 1.0))
    assert least > 1.5 * risk(TASK, found, prompts)


def test_one_best_step_is_the_optimum_of_one_layer():
    found = best_descent(TASK, 1, generator(7), prompts=100_000).preconditioner
    torch.testing.assert_close(found[0], best_preconditioner(TASK, 12), rtol=0.02, atol=0.02)


def test_the_matrices_of_the_best_steps_are_whitened_to_multiples_of_the_identity():
    for A in best_descent(TASK, 2, generator(7), prompts=512).preconditioner:
        assert distance_to_identity(whitened(A, TASK.input_second_moment())) < 1e-9
        assert distance_to_identity(A) > 0.3


def test_functions_that_are_not_whitened_are_refused():
    with pytest.raises(ValueError, match="needs a WhitenedLinearRegression, given LinearRegression"):
        best_descent(LinearRegression(3, 9), 2, generator())
