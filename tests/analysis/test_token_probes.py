"""Probes of tokens: they find what a layer was made to hold, at the tokens that hold it, above the floor; no more."""

import pytest
import torch
from sklearn.linear_model import LinearRegression as SklearnLinear

from iclab.analysis import estimate, token_probes
from iclab.analysis.layers.token_probes import pooled_terms
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import Ridge
from iclab.tasks import LinearRegression
from tests.conftest import generator
from tests.models.test_models import LAYOUT_NAMES, model, task_of

TASK = LinearRegression(3, 6, noise=0.5)
SHAPE = TransformerConfig(
    n_layer=2,
    n_head=1,
    d_model=24,
    d_mlp=24,
    layout="interleaved",
    attention="relu",
    activation="relu",
    norm=False,
)


def prompts(batch, seed=0):
    return TASK.sample(batch, generator(seed), torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def phi(xs, seed=0):
    """A layer of a network: relu(B x), of unit norm on average."""
    return (xs @ normal(3, 8, seed=seed)).relu() / 4


@torch.no_grad()
def holder():
    """A transformer that writes relu(B x_i) into tokens of x by its first block, and by the second copies it to the
    token of y_i, whose position it knows."""
    one = Transformer(3, 6, SHAPE, generator()).double()
    for parameter in one.parameters():
        parameter.zero_()
    x, rep, copy, place = range(0, 3), range(4, 12), range(12, 20), 20
    one.read_in.weight[x, [1, 2, 3]] = 1.0
    one.read_in.weight[3, 0] = 1.0
    one.blocks[0].mlp_in.weight[:8, :3] = normal(3, 8).mT / 4
    one.blocks[0].mlp_out.weight[rep, range(8)] = 1.0
    # score_pq = 1 − (p − 1 − q)², positive at q = p − 1 alone
    p = torch.arange(11.0)
    one.position[:, place : place + 3] = torch.stack([torch.ones(11), p, p * p], dim=1)
    attn = one.blocks[1].attn
    for row, (ask, tell) in enumerate([((0, 2, -1), (1, 0, 0)), ((-2, 2, 0), (0, 1, 0)), ((-1, 0, 0), (0, 0, 1))]):
        attn.q.weight[row, place : place + 3] = torch.tensor(ask).double()
        attn.k.weight[row, place : place + 3] = torch.tensor(tell).double()
    attn.scale = 1.0
    attn.v.weight[range(8), rep] = 11.0  # divided by the number of tokens of the longest prompt
    attn.out.weight[copy, range(8)] = 1.0
    return one


def by_name(found):
    return {(one.target, one.tokens): one for one in found}


def test_what_a_layer_holds_is_found_at_its_tokens_from_there_on():
    drawn = prompts(400)
    found = by_name(token_probes(holder(), drawn, {"phi": phi(drawn.xs), "unrelated": phi(drawn.xs, 1)}))
    assert found.keys() == {(name, kind) for name in ("phi", "unrelated") for kind in "xy"}
    in_x, in_y, other = found["phi", "x"], found["phi", "y"], found["unrelated", "x"]
    assert in_x.r2.value[1:].min() > 0.999999 and in_y.r2.value[2] > 0.999999
    torch.testing.assert_close(in_x.r2.value[0], in_x.floor.value, atol=1e-3, rtol=0)  # the read-in holds x alone
    assert in_y.r2.value[:2].abs().max() < 0.1 and 0.4 < in_y.floor.value < 0.9
    assert in_x.above_floor.value[1] > 5 * in_x.above_floor.stderr[1] > 0
    lead = estimate(in_x.terms - other.terms)
    assert lead.value[1] > 5 * lead.stderr[1]


def test_a_copy_of_x_in_the_token_of_y_is_found_where_it_was_copied():
    drawn = prompts(200)
    for layout, r2 in (("interleaved", 0.0), ("copied", 1.0)):
        model = Transformer(3, 6, TransformerConfig(layout=layout, n_layer=0), generator()).double()
        (found,) = token_probes(model, drawn, {"x": drawn.xs}, ["y"])
        assert found.r2.value[0].item() == pytest.approx(r2, abs=0.15)  # y itself tells a little of x
        assert found.floor.value.item() == pytest.approx(1)


def test_an_answer_that_no_one_wrote_is_not_found_and_what_the_model_says_is():
    drawn = prompts(400)
    model = Transformer(3, 6, TransformerConfig(layout="interleaved", n_layer=2, norm=False), generator()).double()
    said = {"own": model(drawn.xs, drawn.ys).detach(), "ridge": Ridge(0.25)(drawn.xs, drawn.ys)}
    found = by_name(token_probes(model, drawn, {k: v.unsqueeze(-1) for k, v in said.items()}, ["x"]))
    assert found["own", "x"].r2.value[-1] > 0.999 > found["own", "x"].r2.value[0]
    assert found["ridge", "x"].r2.value.max() < 0.5 and found["ridge", "x"].floor.value.abs() < 0.1


def test_a_pooled_probe_is_the_least_squares_of_a_library_and_its_r2_that_of_the_held_out_half():
    h, v = normal(400, 5, 3), normal(400, 5, 2, seed=1)
    v = v + h[..., :2] + 7
    oracle = SklearnLinear().fit(h[:200].reshape(-1, 3).numpy(), v[:200].reshape(-1, 2).numpy())
    predicted = torch.as_tensor(oracle.predict(h[200:].reshape(-1, 3).numpy()))
    wanted = v[200:].reshape(-1, 2)
    expected = 1 - (predicted - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    torch.testing.assert_close(pooled_terms(h, v).mean(), expected, atol=1e-3, rtol=0)  # the penalty chosen is small


def test_the_error_of_a_pooled_r2_counts_prompts_and_not_tokens():
    """The same token five times over is no more evidence than once."""
    h, v = normal(400, 1, 3), normal(400, 1, 1, seed=1)
    v = v + h[..., :1]
    once, often = (estimate(pooled_terms(h.expand(-1, k, -1), v.expand(-1, k, -1))) for k in (1, 5))
    torch.testing.assert_close(once.stderr, often.stderr, atol=1e-4, rtol=1e-2)


def test_a_target_of_large_mean_gains_nothing_by_it():
    drawn = prompts(200)
    (found,) = token_probes(holder(), drawn, {"noise": 100 + normal(200, 6, 1)}, ["x"])
    assert found.r2.value.max() < 0.05 and found.floor.value < 0.05


def test_positions_where_the_target_does_not_vary_are_left_out():
    h, v = normal(64, 4, 3), normal(64, 4, 1, seed=1)
    v[:, 0] = 3.0
    torch.testing.assert_close(pooled_terms(h, v), pooled_terms(h[:, 1:], v[:, 1:]))
    assert pooled_terms(h, v[:, :1].expand(-1, 4, -1)).isnan().all()


def test_a_probe_that_is_tested_on_what_it_was_fitted_to_would_be_noticed():
    h, v = normal(16, 1, 8), normal(16, 1, 1, seed=1)
    twice = torch.cat([h, h]), torch.cat([v, v])
    assert pooled_terms(*twice).mean() > pooled_terms(h, v).mean() + 0.1


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_every_layout_has_tokens_of_x_and_of_y(layout):
    drawn = task_of(layout, noise=1.0).sample(64, generator(), torch.float64)
    ys = drawn.ys if drawn.ys.ndim == 3 else drawn.ys.unsqueeze(-1)
    one = model(layout, {"attention": "softmax"}, d_model=32, n_layer=1)
    found = by_name(token_probes(one, drawn, {"x": drawn.xs, "y": ys}))
    assert found["x", "x"].r2.value[0] > 0.999 and found["y", "y"].r2.value[0] > 0.999
    assert found["y", "x"].r2.value[0] < 0.5
    assert all(one.r2.value.shape == (2,) for one in found.values())


def test_bad_probes_are_refused():
    with pytest.raises(ValueError, match="at least 16 prompts, given 8"):
        token_probes(holder(), prompts(8), {})
    with pytest.raises(ValueError, match=r"unknown kind of tokens 'z'\. Known: x, y"):
        token_probes(holder(), prompts(16), {}, ["z"])
