"""Factored circuits of heads equal dense algebra; composition scores obey their laws, and find what was planted."""

from math import pi
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.analysis.heads.circuits import ov, qk
from iclab.analysis.heads.composition import (
    ORDERS,
    chance,
    chance_within,
    channels,
    component_scores,
    composition_score,
    compositions,
    written_span,
)
from iclab.analysis.heads.folding import folded
from iclab.analysis.heads.low_rank import LowRank
from iclab.constructed.induction import induction_head
from iclab.models import TokenTransformer, TokenTransformerConfig, Transformer, TransformerConfig
from iclab.tasks import DynamicalSystem, LinearRegression
from tests.conftest import generator

EXACT = {"atol": 1e-10, "rtol": 1e-10}
SIZES = {"d": st.integers(1, 9), "e": st.integers(1, 12), "seed": st.integers(0, 2**31)}


def normal(*shape, rng):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def low_rank(d, e, rng, *batch):
    return LowRank(normal(*batch, d, e, rng=rng), normal(*batch, e, d, rng=rng))


def dense_score(W1, W2):
    return torch.linalg.matrix_norm(W1 @ W2) / (torch.linalg.matrix_norm(W1) * torch.linalg.matrix_norm(W2))


def turn(d, rng, *batch):
    """A rotation by Haar's measure."""
    Q, R = torch.linalg.qr(normal(*batch, d, d, rng=rng))
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


# ---- two factors against the matrix --------------------------------------------------------------------------------


@given(**SIZES, f=st.integers(1, 12))
def test_factors_give_what_the_dense_matrix_gives(d, e, f, seed):
    rng = generator(seed)
    M, N = low_rank(d, e, rng, 2), low_rank(d, f, rng, 2)
    torch.testing.assert_close((M @ N).dense(), M.dense() @ N.dense(), **EXACT)
    torch.testing.assert_close(M.mT.dense(), M.dense().mT, **EXACT)
    torch.testing.assert_close(M.trace(), M.dense().diagonal(dim1=-2, dim2=-1).sum(-1), **EXACT)
    torch.testing.assert_close(M.norm(), torch.linalg.matrix_norm(M.dense()), **EXACT)
    torch.testing.assert_close(composition_score(M, N), dense_score(M.dense(), N.dense()), **EXACT)


@given(**SIZES)
def test_components_are_the_decomposition_of_the_dense_matrix(d, e, seed):
    M = low_rank(d, e, generator(seed), 2)
    found, rank = M.svd(), min(d, e)
    S = torch.linalg.svdvals(M.dense())
    torch.testing.assert_close(found.S, S[:, :rank], **EXACT)
    torch.testing.assert_close((found.U * found.S.unsqueeze(-2)) @ found.V.mT, M.dense(), **EXACT)
    torch.testing.assert_close(found.low_rank().dense(), M.dense(), **EXACT)
    for side in (found.U, found.V):
        torch.testing.assert_close(side.mT @ side, torch.eye(rank).double().expand(2, -1, -1), **EXACT)
    assert (found.V.gather(-2, found.V.abs().argmax(-2, keepdim=True)) > 0).all()


def test_a_norm_far_below_that_of_its_factors_keeps_its_digits():
    """A B = 1e-9 where A and B are of size 1: the trace of AᵀA BBᵀ is 1e-18, lost beside 1."""
    M = LowRank(torch.ones(1, 2).double(), torch.tensor([[1.0], [-1.0 + 1e-9]], dtype=torch.float64))
    by_trace = torch.trace((M.A.mT @ M.A) @ (M.B @ M.B.mT)).clamp(min=0).sqrt().item()
    assert M.norm().item() == pytest.approx(1e-9, rel=1e-6)
    assert by_trace != pytest.approx(1e-9, rel=1e-2)


def test_signs_do_not_depend_on_how_factors_are_given_and_gaps_say_what_is_undetermined():
    rng = generator(3)
    M, A = low_rank(6, 3, rng), normal(3, 3, rng=rng)
    one, other = M.svd(), LowRank(M.A @ A, torch.linalg.inv(A) @ M.B).svd()
    torch.testing.assert_close(one.V, other.V, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(one.U, other.U, atol=1e-9, rtol=1e-9)
    U, V = turn(6, rng)[:, :3], turn(6, rng)[:, :3]
    equal = LowRank(U * torch.tensor([2.0, 1.0, 1.0]).double(), V.mT).svd()
    torch.testing.assert_close(equal.gaps(), torch.tensor([0.5, 0.0, 0.0]).double(), **EXACT)
    single = LowRank(U[:, :1] * 3, V[:, :1].mT).svd()
    torch.testing.assert_close(single.gaps(), torch.ones(1).double(), **EXACT)


# ---- heads ---------------------------------------------------------------------------------------------------------

TOKENS = torch.randint(7, (5, 6), generator=generator(1))
SHAPES = {
    "attention alone": {},
    "with MLP": {"d_mlp": 10},
    "without biases": {"bias": False, "d_mlp": 10},
    "parallel, rotary": {"parallel": True, "rotary": 4, "d_mlp": 10, "positions": False},
    "tied embedding": {"tied_embedding": True},
    "null slot": {"null_slot": True},
    "linear attention": {"attention": "linear"},
    "tied layers": {"tied": True},
    "bare attention": {"norm_attention": False, "d_mlp": 10},
    "no norm": {"norm": False},
}


@torch.no_grad()
def model(seed=0, **shape):
    """A token transformer with no weight left at zero or one."""
    config = TokenTransformerConfig(**({"n_layer": 3, "n_head": 2, "d_model": 12} | shape))
    made = TokenTransformer(7, 6, config, generator(seed)).double()
    for weight in made.parameters():
        weight.add_(0.2 * normal(*weight.shape, rng=generator(seed + 1)))
    return made


def test_circuits_are_those_that_the_model_runs():
    one = model(norm=False)
    read = one.read(TOKENS, ["blocks.1.resid_pre", "blocks.1.attn.scores", "blocks.1.attn.z", "blocks.1.attn.v"])
    h, attn = read["blocks.1.resid_pre"], one.attention(1)
    for part in (attn.q, attn.k, attn.v):
        part.bias.data.zero_()
    scores = one.read(TOKENS, "blocks.1.attn.scores")["blocks.1.attn.scores"]
    by_circuit = torch.einsum("btd,ade,bse->bats", h, qk(one)[1].dense(), h)
    torch.testing.assert_close(by_circuit * attn.scale, scores, **EXACT)
    parts = one.read(TOKENS, ["blocks.1.attn.pattern", "blocks.1.attn_out"])
    written = torch.einsum("bats,bsd,ade->bte", parts["blocks.1.attn.pattern"], h, ov(one)[1].dense())
    torch.testing.assert_close(written + attn.out.bias, parts["blocks.1.attn_out"], **EXACT)


def test_anything_with_the_weights_of_its_heads_has_circuits():
    one = model()
    other = SimpleNamespace(W_Q=one.W_Q, W_K=one.W_K, W_V=one.W_V, W_O=one.W_O)
    torch.testing.assert_close(qk(other).dense(), qk(one).dense(), **EXACT)
    prompts = Transformer(3, 4, TransformerConfig(n_layer=2), generator())
    assert ov(prompts).dense().shape == (2, 2, 32, 32)
    wrong = SimpleNamespace(W_Q=one.W_Q, W_K=one.W_K, W_V=one.W_V, W_O=one.W_V)
    with pytest.raises(ValueError, match=r"W_O, transposed, must be \[layer head d_model d_head\] = \(3, 2, 12, 6\)"):
        ov(wrong)
    with pytest.raises(ValueError, match="a model without layers has no heads"):
        _ = model(n_layer=0).W_Q


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_folding_changes_no_logit(shape):
    one = model(**shape)
    made = folded(one)
    torch.testing.assert_close(made(TOKENS), one(TOKENS), **EXACT)
    norms = [part for part in made.modules() if isinstance(part, torch.nn.LayerNorm)]
    assert all((part.weight == 1).all() and (part.bias == 0).all() for part in norms)
    if made.config.norm and made.config.norm_attention:
        read, written = made.W_Q.sum(2), made.W_O.sum(-1)
        torch.testing.assert_close(read, torch.zeros_like(read), **EXACT)
        torch.testing.assert_close(written, torch.zeros_like(written), **EXACT)
    rows_sum_to_one = made.config.attention == "softmax" and not made.config.null_slot
    assert (not made.attention(0).v.bias.any()) is rows_sum_to_one


@pytest.mark.parametrize("layout", ["lagged", "encoder", "paired", "states"])
def test_folding_changes_no_answer_to_prompts(layout):
    task = DynamicalSystem(3, 6) if layout == "states" else LinearRegression(3, 6)
    prompts = task.sample(8, generator(), torch.float64)
    shape = TransformerConfig(n_layer=2, attention="softmax", layout=layout)
    one = Transformer(3, 6, shape, generator(), task.label_dim).double()
    with torch.no_grad():
        for weight in one.parameters():
            weight.add_(0.2 * normal(*weight.shape, rng=generator(1)))
        torch.testing.assert_close(folded(one)(prompts.xs, prompts.ys), one(prompts.xs, prompts.ys), **EXACT)


def test_folding_what_may_not_be_folded_is_seen():
    """Biases of values where part of the attention falls on a null slot; gains without what they multiply."""
    one = model(null_slot=True)
    with torch.no_grad():
        attn = one.attention(0)
        said = one(TOKENS)
        attn.out.bias.add_(attn.out.weight @ attn.v.bias)
        attn.v.bias.zero_()
        assert (one(TOKENS) - said).abs().max() > 1e-3
    two = model()
    with torch.no_grad():
        said = two(TOKENS)
        two.blocks[0].norm_attn.weight.fill_(1.0)
        assert (two(TOKENS) - said).abs().max() > 1e-3


# ---- composition scores --------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), e=st.integers(1, 5), d=st.integers(5, 9))
def test_scores_of_components_add_up_to_those_of_heads(seed, e, d):
    rng = generator(seed)
    first, second = low_rank(d, e, rng, 2), low_rank(d, e, rng, 3)
    writers = first.svd()
    scores = component_scores(writers.V, second.svd())
    S2 = writers.S.square()
    weighted = (S2.unsqueeze(-1) * scores.square()).sum(1) / S2.sum(-1, keepdim=True)
    for w in range(2):
        for r in range(3):
            dense = dense_score(first[w].dense(), second[r].dense())
            torch.testing.assert_close(weighted[w, r].sqrt(), dense, **EXACT)
            for i in range(e):
                alone = torch.outer(writers.U[w, :, i], writers.V[w, :, i])
                torch.testing.assert_close(scores[w, i, r], dense_score(alone, second[r].dense()), **EXACT)
    assert (scores <= 1 + 1e-12).all()


def test_scores_of_a_model_are_dense_products_for_queries_keys_and_values():
    one = model()
    found, OV, QK = compositions(one), ov(one).dense(), qk(one).dense()
    dense = {"Q": QK, "K": QK.mT, "V": OV}
    for way, readers in dense.items():
        expected = dense_score(OV[:, :, None, None], readers)
        torch.testing.assert_close(found.heads(way), expected, **EXACT)


def test_factors_in_the_wrong_order_are_seen():
    """The mistake of a published figure: what a query reads, compared with another factor of the writer."""
    one = model()
    OV, QK = ov(one)[0, 0], qk(one)[1, 0]
    right = dense_score(OV.dense(), QK.dense())
    torch.testing.assert_close(composition_score(OV, QK), right, **EXACT)
    permuted = LowRank(OV.B.mT, OV.A.mT), LowRank(QK.B.mT, QK.A.mT)
    for wrong in (composition_score(permuted[0], QK), composition_score(OV, permuted[1])):
        assert abs(wrong - right) > 1e-3


@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
def test_scores_do_not_see_scale_factors_or_rotations_of_both(seed, scale):
    rng = generator(seed)
    first, second, Q = low_rank(7, 3, rng), low_rank(7, 3, rng), turn(7, rng)
    turned = LowRank(scale * first.A, first.B @ Q), LowRank(Q.mT @ second.A, second.B)
    torch.testing.assert_close(composition_score(*turned), composition_score(first, second), **EXACT)
    only_one = composition_score(LowRank(first.A, first.B @ Q), second)
    assert (only_one - composition_score(first, second)).abs() > 1e-9


def test_aligned_components_have_score_one_and_matrices_of_zeros_none():
    rng = generator()
    u, v, w = (normal(5, 1, rng=rng) for _ in range(3))
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(composition_score(LowRank(u, v.mT), LowRank(v, w.mT)), one, **EXACT)
    assert composition_score(LowRank(u, 0 * v.mT), LowRank(v, w.mT)) == 0
    assert component_scores(v / v.norm(), LowRank(0 * v, w.mT).svd()).tolist() == [0]


# ---- chance --------------------------------------------------------------------------------------------------------


def test_mean_and_variance_of_chance_are_exact_in_two_dimensions():
    """There a random rotation is one angle: CS² = Σ a_i b_j O_ij², integrated over the circle by equal steps."""
    first, second = torch.tensor([2.0, 1.0]).double(), torch.tensor([3.0, 0.5]).double()
    angle = torch.arange(64, dtype=torch.float64) * (2 * pi / 64)
    O2 = torch.stack([angle.cos().square(), angle.sin().square(), angle.sin().square(), angle.cos().square()], -1)
    a, b = (each.square() / each.square().sum() for each in (first, second))
    scores = torch.einsum("i,tij,j->t", a, O2.unflatten(-1, (2, 2)), b)
    found = chance(first, second, 2)
    torch.testing.assert_close(found.mean, scores.mean(), **EXACT)
    torch.testing.assert_close(found.variance, scores.var(correction=0), **EXACT)


@pytest.mark.parametrize(("e", "f"), [(1, 1), (1, 4), (3, 2), (6, 4)])
def test_mean_and_variance_of_chance_are_those_of_random_rotations(e, f):
    d, rng, draws = 6, generator(e + 10 * f), 20000
    first, second = 1 + torch.arange(e).double(), 1 + torch.arange(f).double()
    O2 = turn(d, rng, draws)[:, :e, :f].square()
    a, b = (each.square() / each.square().sum() for each in (first, second))
    scores = torch.einsum("i,tij,j->t", a, O2, b)
    found = chance(first, second, d)
    assert abs(scores.mean() - found.mean) < 5 * (found.variance / draws).sqrt() + 1e-12
    error = (scores - found.mean).square().std() / draws**0.5
    assert abs(scores.var() - found.variance) < 5 * error + 1e-12


def test_what_is_written_in_a_subspace_has_the_chance_of_the_subspace():
    rng, d, r = generator(2), 9, 4
    basis, second = turn(d, rng)[:, :r], low_rank(d, 3, rng)
    v = torch.nn.functional.normalize(normal(20000, r, rng=rng), dim=-1) @ basis.mT
    scores = (v @ second.dense()).norm(dim=-1).square() / second.norm().square()
    found = chance_within(basis, second)
    assert abs(scores.mean() - found.mean) < 5 * (found.variance / len(v)).sqrt()
    assert abs(scores.var() / found.variance - 1) < 0.05
    assert abs(found.mean * d - 1) > 0.1
    written = LowRank(normal(2, 3, d, 2, rng=rng), normal(2, 3, 2, r, rng=rng) @ basis.mT).svd()
    span = written_span(written)
    torch.testing.assert_close(span @ span.mT, basis @ basis.mT, **EXACT)


def test_centred_weights_leave_one_dimension_less():
    def centred(x):
        return x - x.mean(-1, keepdim=True)

    rng, d, draws = generator(4), 5, 20000
    W2 = centred(normal(d, 2, rng=rng).mT).mT @ normal(2, d, rng=rng)
    v = torch.nn.functional.normalize(centred(normal(draws, d, rng=rng)), dim=-1)
    scores = (v @ W2).norm(dim=-1).square() / torch.linalg.matrix_norm(W2) ** 2
    S = torch.linalg.svdvals(W2)
    right, wrong = chance(torch.ones(1), S, d - 1), chance(torch.ones(1), S, d)
    error = (right.variance / draws).sqrt()
    assert abs(scores.mean() - right.mean) < 5 * error < abs(scores.mean() - wrong.mean)


# ---- the search ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def planted(way, share=0.05):
    """A random model in which component 1 of head 1.0 writes what head 2.1 reads, and nothing else is special."""
    made = model(seed=5, n_layer=4, n_head=3, d_model=48, norm=False)
    OV = ov(made)[1, 0].svd()
    v = OV.V[:, 1]
    target = made.attention(2)
    part = {"Q": target.q, "K": target.k, "V": target.v}[way]
    rows = part.weight[16:32]
    aimed = torch.outer(normal(16, rng=generator(6)), v)
    part.weight[16:32] = rows + share**0.5 * aimed * rows.norm() / aimed.norm()
    return made


@pytest.mark.parametrize("way", ["Q", "K", "V"])
@pytest.mark.parametrize("order", sorted({*ORDERS} - {"z_robust"}))  # a median of 16 scores is too rough to rank by
def test_a_planted_channel_is_found_first_in_the_whole_model(way, order):
    found = compositions(planted(way, 0.1))
    first, second = channels(found, 2, order)
    assert (first.way, first.writer, first.component, first.reader) == (way, (1, 0), 1, (2, 1))
    assert getattr(first, order) > getattr(second, order)
    assert first.z > 6 and first.z_robust > 3 and first.score > 1.5 * first.whole


def test_without_a_channel_nothing_stands_out_of_chance():
    found = compositions(model(seed=5, n_layer=4, n_head=3, d_model=48, norm=False))
    z = torch.cat([found.chance(way).z(found.scores[way]).flatten() for way in found.scores])
    assert z.max() < 6 and abs(z.mean()) < 0.2
    assert z.std() == pytest.approx(1, abs=0.2)


def test_no_channel_runs_backwards_or_within_a_layer():
    found = compositions(model())
    told = channels(found, 10**6)
    assert len(told) == 3 * 3 * 2 * 2 * 6 * 1  # ways, pairs of layers, heads, heads, components
    assert all(one.writer[0] < one.reader[0] for one in told)
    assert [one.z for one in told] == sorted((one.z for one in told), reverse=True)


def test_a_channel_stands_out_of_pairs_that_cannot_compose_as_numpy_says():
    found = compositions(model())
    scores = found.scores["K"].numpy()
    told = [one for one in channels(found, 10**6, "z_unreachable") if one.way == "K"]
    assert told
    for one in told:
        (m, h), at = one.reader, (*one.writer, one.component, *one.reader)
        others = scores[m:, :, :, m, h]  # of writers in the reader's layer or a later one
        assert one.z_unreachable == pytest.approx((scores[at] - others.mean()) / others.std(), rel=1e-12)


def test_the_induction_head_reads_the_previous_token_head_by_its_keys():
    found = compositions(induction_head(5, 8))
    assert channels(found, 1, "score")[0].way == "K"
    assert found.heads("K")[0, 0, 1, 0].item() == pytest.approx(5**-0.5)  # five equal components, read by one matrix
    assert found.heads("Q")[0, 0, 1, 0] == found.heads("V")[0, 0, 1, 0] == 0


def test_the_z_of_a_permuted_writer_is_that_of_dense_matrices_with_permuted_columns():
    one = model()
    found, (writer, reader) = compositions(one), ((0, 1), (1, 0))
    z = found.permuted_z("K", writer, reader, generator(3), 4)
    W, R, rng = ov(one)[writer].dense(), qk(one)[reader].dense().mT, generator(3)
    spread = chance(found.writers[writer].S, found.readers["K"][reader].S, found.D)
    for each in z:
        order = torch.randperm(len(W), generator=rng)
        dense = (W[:, order] @ R).norm() / (W.norm() * R.norm())
        torch.testing.assert_close(each, spread.z(dense.double()), rtol=1e-9, atol=1e-9)


def test_with_rotary_positions_only_values_compose():
    turned = model(rotary=4, positions=False)
    assert set(compositions(turned).scores) == {"V"}
    with pytest.raises(ValueError, match="unknown way 'Q'"):
        compositions(turned, ["Q"])
    with pytest.raises(ValueError, match=r"unknown order 'zz'.*count must be at least 1, given 0"):
        channels(compositions(turned), 0, "zz")
