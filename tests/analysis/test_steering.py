"""Edits of weights and of what heads write: one thing in two ways, with controls that show what is no finding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.analysis.heads.circuits import ov
from iclab.analysis.heads.composition import component_scores, composition_score, compositions
from iclab.analysis.heads.edits import with_components, with_reading
from iclab.analysis.heads.steering import (
    component,
    grid,
    held_out,
    projections,
    random_direction,
    scale,
    traverse,
    write,
)
from iclab.constructed.induction import induction_head
from tests.analysis.test_composition import EXACT, SHAPES, TOKENS, model, normal
from tests.conftest import generator

HEAD = (1, 1)
Z, OUT = "blocks.1.attn.z", "blocks.1.attn_out"
FOLDABLE = {k: v for k, v in SHAPES.items() if k not in ("null slot", "linear attention", "tied layers")}


def without_value_biases(**shape):
    made = model(**shape)
    for i in range(3):
        made.attention(i).v.bias.data.zero_()
    return made


# ---- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", FOLDABLE.values(), ids=FOLDABLE.keys())
def test_a_head_that_is_only_refactored_computes_the_same(shape):
    one = model(**shape)
    made = with_components(one, HEAD, torch.ones(6))
    torch.testing.assert_close(made(TOKENS), one(TOKENS), atol=1e-12, rtol=1e-12)
    assert not torch.allclose(made.W_V, one.W_V)


def test_refactoring_with_the_bias_of_values_left_in_place_changes_the_model():
    one = model()
    made = with_components(one, HEAD, torch.ones(6))
    with torch.no_grad():
        rows = slice(6, 12)
        bias = one.attention(1).v.bias[rows]
        made.attention(1).v.bias[rows] = bias
        made.attention(1).out.bias.copy_(one.attention(1).out.bias)
    assert (made(TOKENS) - one(TOKENS)).abs().max() > 1e-3


@given(seed=st.integers(0, 2**31))
def test_edited_components_are_those_of_the_edited_head_and_of_no_other(seed):
    one = model()
    factors = 2 * torch.rand(6, generator=generator(seed)) - 0.5
    before, after = ov(one), ov(with_components(one, HEAD, factors))
    found = before[HEAD].svd()
    expected = (found.U * found.S * factors) @ found.V.mT
    torch.testing.assert_close(after[HEAD].dense(), expected, **EXACT)
    same = torch.ones(3, 2, dtype=torch.bool)
    same[HEAD] = False
    torch.testing.assert_close(after.dense()[same], before.dense()[same], **EXACT)


@given(seed=st.integers(0, 2**31), i=st.integers(0, 5), factor=st.floats(0, 8))
def test_a_component_raises_the_score_of_its_head_if_its_own_is_higher(seed, i, factor):
    one = model(seed % 5)
    found, reader = compositions(one, ["V"]), ov(one)[2, 0]
    own, whole = found.scores["V"][1, 1, i, 2, 0], found.heads("V")[1, 1, 2, 0]
    factors = torch.ones(6)
    factors[i] = factor
    after = composition_score(ov(with_components(one, HEAD, factors))[HEAD], reader)
    S2 = (found.writers.S[1, 1] * factors).square()
    predicted = (S2 @ found.scores["V"][1, 1, :, 2, 0].square() / S2.sum()).sqrt()
    torch.testing.assert_close(after, predicted, **EXACT)
    assert (after - whole) * (own - whole) * (factor - 1) >= -1e-12


@given(factor=st.floats(0, 10), part=st.sampled_from("qkv"))
def test_a_reader_sees_a_multiple_of_what_lies_along_a_direction(factor, part):
    one, way = model(), {"q": "Q", "k": "K", "v": "V"}[part]
    found = compositions(one)
    v, cs = found.writers.V[0, 1, :, 0], found.scores[way][0, 1, 0, 2, 1]
    made = with_reading(one, (2, 1), part, 3 * v, factor)
    after = component_scores(v.unsqueeze(1), compositions(made).readers[way][2, 1]).squeeze()
    torch.testing.assert_close(after, factor * cs / (1 + (factor**2 - 1) * cs**2).sqrt(), **EXACT)
    before, now = (getattr(m.attention(2), part).weight @ v for m in (one, made))
    torch.testing.assert_close(now[6:], factor * before[6:], **EXACT)
    assert torch.equal(now[:6], before[:6])


def test_a_random_direction_cut_from_a_reader_leaves_the_channel_nearly_as_it_is():
    one = model()
    found = compositions(one, ["Q"])
    v, cs = found.writers.V[0, 1, :, 0], found.scores["Q"][0, 1, 0, 2, 1]

    def left(direction):
        made = with_reading(one, (2, 1), "q", direction, 0.0)
        return component_scores(v.unsqueeze(1), compositions(made, ["Q"]).readers["Q"][2, 1]).item()

    assert left(v) == pytest.approx(0, abs=1e-12)
    drawn = [left(normal(12, rng=generator(i))) for i in range(20)]
    assert sum(drawn) / 20 > 0.7 * cs


def test_weights_that_cannot_be_edited_are_refused():
    with pytest.raises(ValueError, match=r"no head \(1, 2\)"):
        with_components(model(), (1, 2), torch.ones(6))
    with pytest.raises(ValueError, match="the head has 6 components, given 5"):
        with_components(model(), HEAD, torch.ones(5))
    with pytest.raises(ValueError, match="tied layers share their heads"):
        with_components(model(tied=True), HEAD, torch.ones(6))
    for shape in ({"null_slot": True}, {"attention": "linear"}):
        with pytest.raises(ValueError, match="leave biases of values where they are"):
            with_components(model(**shape), HEAD, torch.ones(6))
    with pytest.raises(ValueError, match="a direction of length 0"):
        with_reading(model(), HEAD, "q", torch.zeros(12), 0.0)


# ---- what heads write ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["component", "random"])
def test_a_direction_is_written_by_its_output_and_has_length_one(how):
    one = model()
    found = component(one, HEAD, 2) if how == "component" else random_direction(one, HEAD, generator())
    torch.testing.assert_close(found.y @ one.W_O[HEAD], found.v, **EXACT)
    assert found.v.norm().item() == pytest.approx(1)
    parts = ov(one)[HEAD].svd()
    if how == "component":
        torch.testing.assert_close(found.v, parts.V[:, 2], **EXACT)
    torch.testing.assert_close(parts.V @ (parts.V.mT @ found.v), found.v, **EXACT)  # the head can write it


def test_a_head_has_no_directions_beyond_its_rank():
    one = induction_head(5, 8)
    assert random_direction(one, (0, 0), generator()).v[5:10].norm().item() == pytest.approx(1)  # of the predecessor
    with pytest.raises(ValueError, match="no component 5 of 5"):
        component(one, (0, 0), 5)


def test_random_directions_are_even_over_the_sphere():
    one = model()
    drawn = torch.stack([random_direction(one, HEAD, generator(i)).v for i in range(500)]) @ ov(one)[HEAD].svd().V
    assert (drawn.mean(0).abs() < 5 * (1 / 6 / 500) ** 0.5).all()
    second = drawn.mT @ drawn / 500
    assert (second - torch.eye(6) / 6).abs().max() < 0.05


@given(i=st.integers(0, 5), factor=st.floats(-2, 3))
def test_scaling_what_is_written_equals_the_edit_of_the_weights(i, factor):
    one = without_value_biases()
    factors = torch.ones(6, dtype=torch.float64)
    factors[i] = factor
    by_weights = with_components(one, HEAD, factors)(TOKENS)
    by_writing = one.replaced(TOKENS, scale(one, component(one, HEAD, i), factor))
    torch.testing.assert_close(by_writing, by_weights, **EXACT)


def test_written_vectors_are_added_or_put_in_the_place_of_the_head():
    one = model()
    d = component(one, HEAD, 0)
    plain = one.read(TOKENS, [OUT, Z])
    added = one.read(TOKENS, OUT, write([d], [0.7], "add"))[OUT]
    torch.testing.assert_close(added, plain[OUT] + 0.7 * d.v, **EXACT)
    own = plain[Z][:, 1] @ one.W_O[HEAD]
    replaced = one.read(TOKENS, OUT, write([d], [-2.0]))[OUT]
    torch.testing.assert_close(replaced, plain[OUT] - own - 2.0 * d.v, **EXACT)


def test_several_directions_are_written_at_one_token_of_each_prompt():
    one, at = model(), torch.tensor([0, 5, 2, 3, 1])
    found = [component(one, HEAD, 0), component(one, (1, 0), 1), component(one, HEAD, 3)]
    plain = one.read(TOKENS, OUT)[OUT]
    moved = one.read(TOKENS, OUT, write(found, [1.0, 2.0, -3.0], "add", at))[OUT] - plain
    expected = torch.zeros_like(plain)
    expected[torch.arange(5), at] = 1.0 * found[0].v + 2.0 * found[1].v - 3.0 * found[2].v
    torch.testing.assert_close(moved, expected, **EXACT)
    with pytest.raises(ValueError, match="3 directions, 2 alphas"):
        write(found, [1.0, 2.0])


def test_projections_are_what_the_head_writes_along_the_direction_and_the_natural_unit_of_a_grid():
    one = model()
    d = component(one, HEAD, 1)
    said = projections(one, TOKENS, d)
    by_hand = (one.read(TOKENS, Z)[Z][:, 1] @ one.W_O[HEAD] * d.v).sum(-1)
    torch.testing.assert_close(said, by_hand, **EXACT)
    points = grid([1.0, 2.0, 0.5], points=5, widest=4)
    assert points.shape == (125, 3)
    assert points.abs().max(0).values.tolist() == [4, 8, 2] and len(points.unique(dim=0)) == 125
    assert grid([2.0], 3, 1).tolist() == [[-2], [0], [2]]


def test_a_traversal_watches_every_point():
    one = model()
    found = [component(one, HEAD, 0), component(one, HEAD, 1)]
    points = grid([1.0, 1.0], 3)
    seen = traverse(lambda replace: one.replaced(TOKENS, replace)[:, -1], found, points, "add")
    for point, logits in zip(points.tolist(), seen, strict=True):
        torch.testing.assert_close(logits, one.replaced(TOKENS, write(found, point, "add"))[:, -1])
    torch.testing.assert_close(seen[4], one(TOKENS)[:, -1])  # the middle of the grid adds nothing


# ---- choosing and measuring ----------------------------------------------------------------------------------------


def test_points_are_chosen_by_index_and_measured_elsewhere_as_in_plain_loops():
    rng = generator(4)
    here, there = (torch.rand(7, b, generator=rng, dtype=torch.float64) for b in (30, 40))
    index, other = torch.randint(3, (30,), generator=rng), torch.randint(3, (40,), generator=rng)
    found = held_out(here, index, there, other)
    best = {k: max(range(7), key=lambda p, k=k: here[p, index == k].mean()) for k in range(3)}
    by_index = torch.stack([there[best[int(k)], j] for j, k in enumerate(other)])
    torch.testing.assert_close(found["by_index"].value, by_index.mean())
    torch.testing.assert_close(found["by_index"].stderr, by_index.std() / 40**0.5)
    torch.testing.assert_close(found["single"].value, there[here.mean(1).argmax()].mean())
    torch.testing.assert_close(found["random"].value, there.mean())


def test_measured_on_the_prompts_that_points_were_chosen_on_luck_looks_like_a_channel():
    rng = generator(1)
    here, there = ((torch.rand(300, 40, generator=rng) < 0.25).double() for _ in range(2))
    index = torch.arange(40) % 8
    flattered, honest = held_out(here, index, here, index), held_out(here, index, there, index)
    assert flattered["by_index"].value > 0.7
    assert abs(honest["by_index"].value - 0.25) < 4 * honest["by_index"].stderr
    assert abs(honest["random"].value - 0.25) < 0.02


def test_what_depends_on_the_index_alone_is_worth_nothing_without_the_oracle():
    """Point p answers index p and no other: by index all are right, any single point is right for one in four."""
    index = torch.arange(40) % 4
    success = (torch.arange(4).unsqueeze(1) == index).double()
    found = held_out(success, index, success, index)
    assert found["by_index"].value == 1 and found["single"].value == found["random"].value == 0.25


def test_an_index_without_a_chosen_point_is_refused():
    with pytest.raises(ValueError, match="no point was chosen for index 2"):
        held_out(torch.ones(1, 2), torch.tensor([0, 1]), torch.ones(1, 1), torch.tensor([2]))
