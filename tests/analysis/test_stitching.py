"""Stitching: a model stitched to itself is itself, and a bridge undoes what it should, no less and no more."""

import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from iclab.analysis import Relative, Stitched, affine_bridge, relative_bridge
from iclab.analysis.layers.stitching import least_squares_map, tokens_after
from iclab.constructed import ahn, guo, vonoswald
from iclab.learning.training import Training, TrainingConfig, train
from iclab.models import Transformer
from iclab.predictors import GradientDescent, GradientDescentPlusPlus, Predictor
from iclab.tasks import LinearRegression
from tests.conftest import generator
from tests.models.test_models import LAID_OUT, LAYOUT_NAMES, assert_causal, assert_uses_the_past, model, task_of

TASK = LinearRegression(3, 6, noise=0.5)
BARE = {"attention": "softmax", "norm": False, "d_mlp": 12, "n_layer": 3}


def prompts(batch, seed=0):
    return TASK.sample(batch, generator(seed), torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@torch.no_grad()
def rewritten(one, change, shift):
    """The same function with another stream, h' = h·change + shift: readers are undone, writers follow."""
    other = Transformer(one.d, one.n, one.config).double()
    other.load_state_dict(one.state_dict())
    undo = torch.linalg.inv(change)
    readers, writers = [other.read_out], [other.read_in]
    for block in other.blocks:
        readers += [block.attn.q, block.attn.k, block.attn.v, block.mlp_in]
        writers += [block.attn.out, block.mlp_out]
    for reader in readers:
        reader.weight.copy_(reader.weight @ undo.mT)
        reader.bias.sub_(reader.weight @ shift)
    for writer in writers:
        writer.weight.copy_(change.mT @ writer.weight)
        writer.bias.copy_(writer.bias @ change)
    other.read_in.bias.add_(shift)
    other.position.copy_(other.position @ change)
    return other


def rotation(width, seed=0):
    return torch.linalg.qr(normal(width, width, seed=seed)).Q


def gap(one, other, drawn):
    """The largest difference of answers, relative to the largest answer of the second."""
    said, wanted = one(drawn.xs, drawn.ys), other(drawn.xs, drawn.ys)
    return ((said - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize(("layout", "shape"), LAID_OUT)
def test_a_model_stitched_to_itself_is_itself_wherever_it_is_cut(layout, shape):
    one, drawn = model(layout, shape), task_of(layout).sample(4, generator(), torch.float64)
    for cut in range(one.config.n_layer + 1):
        again = Stitched(one, one, cut)
        torch.testing.assert_close(again(drawn.xs, drawn.ys), one(drawn.xs, drawn.ys))
        torch.testing.assert_close(again(drawn.xs, drawn.ys, 2), one(drawn.xs, drawn.ys, 2))


def test_a_model_stitched_at_another_depth_or_to_another_model_is_not_itself():
    one, other, drawn = model("interleaved", BARE), model("interleaved", BARE, seed=1), prompts(4)
    assert gap(Stitched(one, one, 1, into=2), one, drawn) > 0.1
    assert gap(Stitched(one, other, 1), one, drawn) > 0.1 < gap(Stitched(one, other, 1), other, drawn)


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_a_stitched_model_is_a_causal_predictor(layout):
    one, other = model(layout, BARE), model(layout, BARE, seed=1)
    fitted = affine_bridge(one, other, task_of(layout).sample(8, generator(), torch.float64), 1, 2)
    stitched = Stitched(one, other, 1, into=2, bridge=fitted)
    assert isinstance(stitched, Predictor)
    assert_causal(stitched, task_of(layout))
    assert_uses_the_past(stitched, layout)


class PeekingBridge(torch.nn.Module):
    """Each token gets the next one too."""

    def forward(self, h):
        return h + h.roll(-1, dims=1)


def test_a_bridge_that_peeks_breaks_causality():
    one = model("interleaved", BARE)
    with pytest.raises(AssertionError):
        assert_causal(Stitched(one, one, 2, bridge=PeekingBridge()))


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_a_fitted_bridge_undoes_an_affine_change_of_basis(cut):
    one = model("interleaved", BARE)
    change, shift = normal(8, 8, seed=1), normal(8, seed=2)
    other, drawn = rewritten(one, change, shift), prompts(16, seed=3)
    assert gap(other, one, drawn) < 1e-9
    assert gap(Stitched(one, other, cut), one, drawn) > 0.1  # directly, the parts do not understand each other
    bridge = affine_bridge(one, other, prompts(64), cut)
    assert gap(Stitched(one, other, cut, bridge=bridge), one, drawn) < 1e-9
    if cut:  # at the read-in the stream has fewer directions than channels, and any map of the others would do
        torch.testing.assert_close(bridge.weight, change.mT, atol=1e-8, rtol=1e-8)


def test_a_bridge_fitted_on_other_prompts_of_one_model_than_of_the_other_would_be_noticed():
    one = model("interleaved", BARE)
    other, drawn = rewritten(one, normal(8, 8, seed=1), normal(8, seed=2)), prompts(16, seed=3)
    mixed = least_squares_map(tokens_after(one, 1, prompts(64)), tokens_after(other, 1, prompts(64, 5)), torch.float64)
    assert gap(Stitched(one, other, 1, bridge=mixed), one, drawn) > 0.1


def test_a_penalised_map_is_the_ridge_regression_of_scikit_learn():
    source, target, lam = normal(30, 5) + 2, normal(30, 3, seed=1), 0.1
    mean_eigenvalue = (source - source.mean(0)).square().sum().item() / 5
    oracle = SklearnRidge(alpha=lam * mean_eigenvalue).fit(source.numpy(), target.numpy())
    found = least_squares_map(source, target, torch.float64, lam)
    torch.testing.assert_close(found.weight.detach(), torch.as_tensor(oracle.coef_))
    torch.testing.assert_close(found(source).detach(), torch.as_tensor(oracle.predict(source.numpy())))


def test_streams_that_hold_no_numbers_are_refused_by_name():
    for wrong in (float("nan"), float("inf")):
        source, target = normal(30, 5), normal(30, 3, seed=1)
        target[3, 1] = wrong
        with pytest.raises(ValueError, match="the target holds values that are not finite"):
            least_squares_map(source, target, torch.float64)
        with pytest.raises(ValueError, match="the source holds values that are not finite"):
            least_squares_map(target, source, torch.float64)


def test_streams_of_different_widths_are_joined_by_a_bridge():
    one, wide = model("interleaved", BARE), model("interleaved", BARE, d_model=12, seed=1)
    with pytest.raises(ValueError, match="streams of 8 and 12 channels need a bridge"):
        Stitched(one, wide, 1)
    assert Stitched(one, wide, 1, bridge=affine_bridge(one, wide, prompts(8), 1))(prompts(4).xs, prompts(4).ys).shape


# ---- constructions ---------------------------------------------------------------------------------------------------


def last_gap(said, wanted):
    """At the last position."""
    return ((said - wanted)[:, -1].abs().max() / wanted[:, -1].abs().max()).item()


@pytest.mark.parametrize("below, above", [(1, 1), (1, 3), (4, 2)])
def test_k_layers_of_one_descent_under_l_of_another_are_k_and_l_steps(below, above):
    lower, upper = (vonoswald.gradient_descent(3, 6, steps, 0.1) for steps in (4, 5))
    drawn, stitched = prompts(8), Stitched(lower, upper, below, into=5 - above)
    assert gap(stitched, GradientDescent(below + above, 0.1), drawn) < 1e-12
    assert gap(stitched, GradientDescent(below + above + 1, 0.1), drawn) > 1e-3
    assert gap(Stitched(lower, upper, below, into=4 - above), GradientDescent(below + above, 0.1), drawn) > 1e-3


def test_two_constructions_go_on_where_the_other_stopped():
    """Two plain steps of von Oswald et al., then the three preconditioned ones of Ahn et al. on the residuals that
    are left; the other way round it is another algorithm."""
    root = normal(3, 3, seed=5)
    A, step = (root @ root.mT + torch.eye(3)).expand(3, 3, 3) / 10, 0.1
    plain, preconditioned = vonoswald.gradient_descent(3, 6, 4, step), ahn.preconditioned(6, A)
    drawn, examples = prompts(8), 5
    both = torch.cat([examples * step * torch.eye(3, dtype=torch.float64).expand(2, 3, 3), A])
    wanted = GradientDescent(5, 1 / examples, preconditioner=both)(drawn.xs, drawn.ys)
    assert last_gap(Stitched(plain, preconditioned, 2, into=0)(drawn.xs, drawn.ys), wanted) < 1e-12
    other_way = Stitched(preconditioned, plain, 3, into=2)(drawn.xs, drawn.ys)
    assert last_gap(other_way, wanted) > 1e-3
    turned = GradientDescent(5, 1 / examples, preconditioner=both.flip(0))(drawn.xs, drawn.ys)
    assert last_gap(other_way, turned) < 1e-12


def test_steps_of_descent_above_those_of_gd_plus_plus_are_taken_on_the_inputs_as_these_left_them():
    lr, gamma, drawn = 0.1, 0.02, prompts(8)
    stitched = Stitched(
        vonoswald.gradient_descent(3, 6, 2, lr, gamma), vonoswald.gradient_descent(3, 6, 4, lr), 2, into=1
    )
    x, r = drawn.xs.clone(), drawn.ys.clone()
    r[:, -1] = 0.0
    for moved in (gamma, gamma, 0.0, 0.0, 0.0):
        scores = x[:, :-1] @ x.mT  # of each example with each token
        r, x = r - lr * (r[:, :-1, None] * scores).sum(1), x - moved * scores.mT @ x[:, :-1]
    assert last_gap(stitched(drawn.xs, drawn.ys), -r) < 1e-12
    for steps in (GradientDescent(5, lr), GradientDescentPlusPlus(5, lr, gamma)):
        assert last_gap(stitched(drawn.xs, drawn.ys), steps(drawn.xs, drawn.ys)) > 1e-4


def test_upper_layers_of_a_construction_do_ridge_on_whatever_representation_the_lower_ones_of_another_made():
    """Pasting, where it is exact: Theorem 1 of Guo et al. with one Φ below and, above, what was built for another."""
    one, other = (
        guo.Representation([normal(4, 3, seed=seed), *(normal(4, 4, seed=seed + i) for i in range(1, layers))], 0.1)
        for seed, layers in ((20, 2), (30, 3))
    )
    lower, upper = guo.ridge_decoder(one, 6, 2, 0.05, 0.3), guo.ridge_decoder(other, 6, 7, 0.08, 0.1)
    drawn, stitched = prompts(4), Stitched(lower, upper, 3, into=4)  # above Φ and the copy
    wanted = guo.ridge_decoder(one, 6, 7, 0.08, 0.1)
    assert gap(stitched, wanted, drawn) < 1e-12
    assert gap(stitched, upper, drawn) > 1e-2 < gap(stitched, lower, drawn)
    assert gap(Stitched(lower, upper, 2, into=4), wanted, drawn) > 1e-2  # without the copy


# ---- relative representations --------------------------------------------------------------------------------------


def test_relative_representations_are_cosines_with_the_anchors():
    one, anchors = model("interleaved", BARE), prompts(2)
    h, told = normal(5, 8), Relative.of(one, 1, anchors)
    tokens = one.read(anchors.xs, anchors.ys, "blocks.0.resid_post")["blocks.0.resid_post"].reshape(-1, 8)
    assert told(h).shape == (5, 2 * 11)
    for i, a in [(0, 0), (3, 7), (4, 21)]:
        expected = h[i] @ tokens[a] / (h[i].norm() * tokens[a].norm())
        torch.testing.assert_close(told(h)[i, a], expected)


def test_relative_bridges_join_streams_that_differ_by_a_rotation_and_a_scale_as_if_they_were_one():
    """Zero-shot: neither bridge is fitted on a stream of `one`, whose anchors alone are known."""
    one = model("interleaved", BARE)
    other, drawn = rewritten(one, 3 * rotation(8), torch.zeros(8).double()), prompts(16, seed=3)
    anchors, fit = prompts(4, seed=1), prompts(64)
    across = Stitched(one, other, 2, bridge=relative_bridge(one, other, anchors, fit, 2))
    within = Stitched(other, other, 2, bridge=relative_bridge(other, other, anchors, fit, 2))
    assert gap(across, within, drawn) < 1e-9
    assert 2 * gap(within, other, drawn) < gap(Stitched(one, other, 2), other, drawn)  # the lengths of tokens are lost


def test_a_relative_bridge_does_not_undo_a_general_change_of_basis_nor_anchors_in_another_order():
    one = model("interleaved", BARE)
    drawn, anchors, fit = prompts(16, seed=3), prompts(4, seed=1), prompts(64)
    for change, asked in ((normal(8, 8, seed=1), anchors), (rotation(8), prompts(4, seed=9))):
        other = rewritten(one, change, torch.zeros(8).double())
        reader = relative_bridge(other, other, anchors, fit, 2)
        across = torch.nn.Sequential(Relative.of(one, 2, asked), reader[1])
        assert gap(Stitched(one, other, 2, bridge=across), Stitched(other, other, 2, bridge=reader), drawn) > 0.1


# ---- what learns ---------------------------------------------------------------------------------------------------


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(module, before):
    """The names of what has changed."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_moves_what_learns_and_not_a_bit_of_the_rest(optimizer):
    one, other = model("interleaved", BARE).float(), model("interleaved", BARE, seed=1).float()
    kept = weights(one), weights(other)
    recipe = TrainingConfig(steps=5, warmup=0, optimizer=optimizer)
    expected = {
        "lower": {n for n in kept[0] if n.startswith(("read_in", "position", "blocks.0"))},
        "bridge": {"weight", "bias"},
        "upper": {n for n in kept[1] if n.startswith(("blocks.2", "read_out"))},
    }
    for part, names in expected.items():
        stitched = Stitched(one, other, 1, into=2, bridge=torch.nn.Linear(8, 8), learns=[part])
        before = weights(stitched)
        train(stitched, TASK, recipe, generator())
        never = {f"{part}.{n}" for n in names if n.endswith("attn.k.bias")}  # moves all scores of a token alike
        assert {f"{part}.{n}" for n in names} - never <= moved(stitched, before) <= {f"{part}.{n}" for n in names}
    assert not moved(one, kept[0]) and not moved(other, kept[1])


def test_a_bridge_is_trained_and_a_part_that_should_be_frozen_but_learns_would_be_noticed():
    one, other = model("interleaved", BARE).float(), model("interleaved", BARE, seed=1).float()
    leaky = Stitched(one, other, 1, learns=["lower", "upper"])
    before = weights(leaky.upper)
    train(leaky, TASK, TrainingConfig(steps=1, warmup=0), generator())
    assert moved(leaky.upper, before)


def test_a_stitched_training_is_resumed_to_the_bit_and_its_checkpoint_holds_what_learns(tmp_path):
    def fresh():
        one, other = model("interleaved", BARE).float(), model("interleaved", BARE, seed=1).float()
        stitched = Stitched(one, other, 1, learns=["lower"])
        return Training(stitched, TASK, TrainingConfig(steps=6), generator(5))

    whole, killed, resumed = fresh(), fresh(), fresh()
    losses = [whole.advance() for _ in range(6)]
    for _ in range(3):
        killed.advance()
    killed.save(tmp_path / "checkpoint.safetensors")
    resumed.resume(tmp_path / "checkpoint.safetensors")
    assert [resumed.advance() for _ in range(3)] == losses[3:]
    assert all(name.startswith("lower.") for name in resumed.parameters)


def test_nothing_to_learn_is_refused():
    one = model("interleaved", BARE)
    with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
        Training(Stitched(one, one, 1), TASK, TrainingConfig(), generator())


def test_parts_that_do_not_fit_are_refused_all_at_once():
    with pytest.raises(ValueError, match=r"cut must lie in 0\.\.3, given 4; into must lie in 0\.\.3, given -1") as told:
        Stitched(model("interleaved", BARE), model("paired", BARE), 4, -1, learns=["uper"])
    assert "the tokens of layout interleaved are not those of paired" in str(told.value)
    assert "unknown part 'uper'. Did you mean 'upper'?" in str(told.value)
