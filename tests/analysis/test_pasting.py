"""Pasting: a new read-in learns under frozen blocks, and its controls are what they are called."""

from dataclasses import replace

import pytest
import torch

from iclab.analysis import Stitched, new_read_in, paste, pasting
from iclab.analysis.layers.pasting import READ_INS
from iclab.learning.training import TrainingConfig, train
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import Predictor
from iclab.tasks import LinearRegression
from tests.conftest import generator
from tests.models.test_models import assert_causal, assert_uses_the_past

TASK = LinearRegression(3, 6, noise=0.5)
SHAPE = TransformerConfig(n_layer=3, n_head=2, d_model=16, d_mlp=16, layout="interleaved", attention="softmax")


def source(d=4, n=8, seed=0, shape=SHAPE):
    """A model of other inputs and longer prompts than those that it is pasted to."""
    return Transformer(d, n, shape, generator(seed))


def prompts(batch, seed=0, dtype=torch.float32):
    return TASK.sample(batch, generator(seed), dtype)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("cut", range(4))
@pytest.mark.parametrize("kind", READ_INS)
def test_a_pasted_model_is_a_causal_predictor_that_uses_the_past(kind, cut):
    upper = source().double()
    pasted = paste(new_read_in(kind, upper, 3, 6, generator()), upper, cut)
    assert isinstance(pasted, Predictor)
    assert_causal(pasted)
    if cut < 3 or kind == "one_layer":
        assert_uses_the_past(pasted)


def test_a_read_in_with_the_weights_below_the_cut_restores_the_model():
    upper, drawn = source(3, 6), prompts(4)
    for kind, cut in (("linear", 0), ("one_layer", 1)):
        read_in = new_read_in(kind, upper, 3, 6, generator(1))
        pasted = paste(read_in, upper, cut)
        assert not torch.allclose(pasted(drawn.xs, drawn.ys), upper(drawn.xs, drawn.ys), atol=1e-3)
        read_in.load_state_dict({name: upper.state_dict()[name] for name in read_in.state_dict()})
        for place, same in ((cut, True), (cut + 1, False)):
            said = paste(read_in, upper, place)(drawn.xs, drawn.ys)
            assert torch.allclose(said, upper(drawn.xs, drawn.ys), atol=1e-6) == same


def test_a_read_in_that_peeks_would_be_noticed():
    upper = source().double()
    pasted = paste(new_read_in("linear", upper, 3, 6, generator()), upper, 1)
    with pytest.raises(AssertionError):
        assert_causal(lambda xs, ys: pasted(xs, ys.roll(-1, dims=1)))


def test_read_ins_are_what_they_are_called():
    """Linear: a token of the stream is one linear map of x or y alone. Copied: of y with its x. One layer: of more."""
    upper = source()
    changed = {"linear": (0, 0), "linear_copied": (0, 1), "one_layer": (0, 1)}
    drawn, other = prompts(4), prompts(4, seed=1)
    xs = drawn.xs.clone()
    xs[:, 0] = other.xs[:, 0]
    for kind, (own, after) in changed.items():
        read_in = new_read_in(kind, upper, 3, 6, generator())
        *_, before = read_in.residual_stream(drawn.xs, drawn.ys)
        *_, now = read_in.residual_stream(xs, drawn.ys)
        moved = (before - now).abs().amax((0, 2)) > 1e-6
        assert moved[own] and moved[1] == bool(after) and moved[2:].any() == (kind == "one_layer")
        assert read_in.config.d_model == 16 and read_in.config.n_layer == (kind == "one_layer")


def test_read_ins_are_the_same_for_a_model_whose_labels_hold_their_inputs():
    """Of such a model the upper blocks may never have had to copy; a linear read-in still does not do it for them."""
    upper = source(shape=replace(SHAPE, layout="copied", attention="linear"))
    layouts = {kind: new_read_in(kind, upper, 3, 6, generator()).config.layout for kind in READ_INS}
    assert layouts == {"linear": "interleaved", "linear_copied": "copied", "one_layer": "interleaved"}
    assert new_read_in("one_layer", upper, 3, 6, generator()).config.attention == "softmax"  # which can copy


@pytest.mark.parametrize("kind", READ_INS)
def test_training_a_pasted_model_changes_no_bit_of_the_frozen_part_and_all_of_the_read_in(kind):
    upper = source()
    pasted = paste(new_read_in(kind, upper, 3, 6, generator()), upper, 1)
    given, below, above = weights(upper), weights(pasted.lower), weights(pasted.upper)
    train(pasted, TASK, TrainingConfig(steps=5, warmup=0), generator())
    for before, now in ((given, weights(upper)), (given, weights(pasted.upper)), (above, weights(pasted.upper))):
        assert all(torch.equal(before[name], now[name]) for name in before)
    moved = {name for name, value in pasted.lower.state_dict().items() if not torch.equal(value, below[name])}
    silent = {n for n in below if n.startswith(("norm.", "read_out")) or n.endswith("attn.k.bias")}
    assert moved - silent == below.keys() - silent  # the idle read-out aside, and biases that no softmax notices
    assert not any(n.startswith(("norm.", "read_out")) for n in moved)


def test_freezing_matters():
    upper = source()
    thawed = Stitched(new_read_in("linear", upper, 3, 6, generator()), upper, 0, 1, learns=["lower", "upper"])
    train(thawed, TASK, TrainingConfig(steps=1, warmup=0), generator())
    assert any(not torch.equal(value, upper.state_dict()[name]) for name, value in thawed.upper.state_dict().items())


def test_the_controls_are_what_they_are_called():
    upper = source(seed=5)
    made = pasting(upper, [1, 2], 3, 6, generator())
    cut_up = {(kind + end, cut) for kind in READ_INS for end in ("", "_untrained") for cut in (1, 2)}
    assert made.keys() == cut_up | {("full", None)} | {(f"{kind}_alone", None) for kind in READ_INS}
    drawn = prompts(4)
    for kind in READ_INS:
        pasted, untrained, alone = made[kind, 2], made[f"{kind}_untrained", 2], made[f"{kind}_alone", None]
        assert isinstance(pasted, Stitched) and isinstance(untrained, Stitched) and isinstance(alone, Transformer)
        assert pasted.into == untrained.into == 2
        for one, other in ((pasted.upper, upper), (pasted.lower, alone), (untrained.lower, alone)):
            assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
        assert not torch.equal(untrained.upper.blocks[2].attn.q.weight, upper.blocks[2].attn.q.weight)
        said = [one(drawn.xs, drawn.ys) for one in (pasted, untrained, alone)]
        assert not torch.allclose(said[0], said[1]) and not torch.allclose(said[0], said[2])
        assert all(p.requires_grad for p in alone.parameters())
    full = made["full", None]
    assert isinstance(full, Transformer) and full.config == upper.config and (full.d, full.n) == (3, 6)


def test_a_paste_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"unknown read-in 'linaer'\. Did you mean 'linear'.*the layout is lagged"):
        new_read_in("linaer", Transformer(3, 6), 3, 6)
    with pytest.raises(ValueError, match="the model's are vectors"):
        pasting(Transformer(3, 6, TransformerConfig(layout="interleaved"), labels=2), [1], 3, 6)
    with pytest.raises(ValueError, match=r"into must lie in 0\.\.3, given 4"):
        pasting(source(), [4], 3, 6)
