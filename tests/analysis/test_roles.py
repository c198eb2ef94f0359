"""Head roles, ablation, path patching and attribution on models whose heads are known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.analysis.heads.patching import ablation, path, with_heads
from iclab.analysis.heads.roles import PLACES, attention_to, attribution, copying, inhibition, patterns, roles
from iclab.constructed.induction import induction_head
from tests.analysis.test_composition import EXACT, SHAPES, TOKENS, model, normal
from tests.conftest import generator

NAMES = list(PLACES)


def repeated(batch=6, vocab=5, seed=0):
    """A block of distinct tokens, twice."""
    block = torch.rand(batch, vocab, generator=generator(seed)).argsort(1)
    return block.repeat(1, 2)


# ---- where heads look ----------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), n=st.integers(2, 8), vocab=st.integers(1, 4))
def test_places_are_those_of_plain_loops(seed, n, vocab):
    tokens = torch.randint(vocab, (2, n), generator=generator(seed))
    by_hand = {
        "previous": lambda x, t, s: s == t - 1,
        "duplicate": lambda x, t, s: s < t and x[s] == x[t],
        "induction": lambda x, t, s: 1 <= s <= t and x[s - 1] == x[t],
    }
    for name, places in PLACES.items():
        expected = [[[bool(by_hand[name](x, t, s)) for s in range(n)] for t in range(n)] for x in tokens.tolist()]
        assert places(tokens).tolist() == expected


def test_the_constructed_heads_have_the_roles_that_they_were_built_for():
    tokens = repeated()
    found = roles(induction_head(5, 10), tokens)
    assert found["previous"][0, 0] == 1 and found["induction"][1, 0].item() == pytest.approx(1)
    assert found["induction"][0, 0] < 0.2 and found["previous"][1, 0] < 0.2
    assert not found["duplicate"].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_head_that_looks_elsewhere_has_no_role(name):
    tokens = repeated()
    places = PLACES[name](tokens)
    ideal = places / places.sum(-1, keepdim=True).clamp(min=1)
    assert attention_to(ideal, places).item() == pytest.approx(1)
    for other in set(NAMES) - {name}:
        assert attention_to(ideal, PLACES[other](tokens)) < 0.2
    uniform = torch.ones(10, 10).tril() / torch.arange(1, 11).unsqueeze(1)
    counted = [(uniform * p).sum(-1)[p.any(-1)] for p in places]
    torch.testing.assert_close(attention_to(uniform.expand(6, 10, 10), places), torch.cat(counted).mean())


def test_without_a_repeated_token_there_is_no_score_of_duplicates():
    with pytest.raises(ValueError, match="no query has such a place"):
        attention_to(torch.ones(1, 3, 3), PLACES["duplicate"](torch.tensor([[0, 1, 2]])))


def test_inhibition_is_one_on_the_target_minus_one_on_the_other_and_the_papers_for_two():
    pattern = torch.rand(3, 4, 6, 6, generator=generator()).softmax(-1)  # heads, prompts
    at, target, others = (torch.randint(6, (4,), generator=generator(i)) for i in range(3))
    found = inhibition(pattern, at, target, others.unsqueeze(1))
    for a in range(3):
        for b in range(4):
            row = pattern[a, b, at[b]]
            assert found[a, b] == row[target[b]] - row[others[b]]
    one_hot = torch.nn.functional.one_hot(torch.tensor([2, 3]), 5).double().unsqueeze(1).expand(2, 5, 5)
    zeros, twos, threes = (torch.full((2,), i) for i in (0, 2, 3))
    assert inhibition(one_hot, zeros, twos, threes.unsqueeze(1)).tolist() == [1, -1]
    three = torch.tensor([[3, 4, 1]] * 2)
    torch.testing.assert_close(inhibition(one_hot, zeros, twos, three), torch.tensor([1, -1 / 3]).double())


# ---- what heads write ----------------------------------------------------------------------------------------------


def test_the_match_head_copies_and_its_negative_does_not():
    one, tokens = induction_head(5, 10), repeated()
    assert copying(one, tokens, 1, 0, top=1) == 1
    assert copying(one, tokens, 1, 0, top=1, sign=-1) == 0
    assert copying(one, tokens, 0, 0, top=1) == 0 < copying(one, tokens, 0, 0, top=5)  # writes nothing that is read


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("m", [None, 2])
def test_attributions_add_up_to_the_logits(shape, m):
    one, to = model(**shape), torch.tensor([5, 0])
    parts = attribution(one, TOKENS, m)
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(0), one(TOKENS, m), **EXACT)
    assert len(parts) == 2 + 3 * (2 + one.config.bias + bool(one.config.d_mlp))
    for name, part in attribution(one, TOKENS, m, to).items():
        torch.testing.assert_close(part, parts[name][..., to], **EXACT)


def test_an_attribution_that_leaves_a_part_out_or_takes_the_norm_of_each_part_does_not_add_up():
    one = model(d_mlp=10)
    parts, said = attribution(one, TOKENS), one(TOKENS)
    for name in parts:
        rest = torch.stack([part for other, part in parts.items() if other != name]).sum(0)
        assert (rest - said).abs().max() > 1e-3
    alone = one.read_out(one.norm(one.read(TOKENS, "embed")["embed"])) - one.read_out(one.norm.bias)
    assert (alone - parts["embed"]).abs().max() > 1e-3


def test_what_the_match_head_adds_is_the_right_answer():
    tokens = repeated()
    parts = attribution(induction_head(5, 10), tokens)
    said = parts["blocks.1.head.0"][:, 5:-1].gather(-1, tokens[:, 6:].unsqueeze(-1))
    torch.testing.assert_close(said, torch.ones_like(said))
    assert not any(parts[name].any() for name in ("embed", "blocks.0.head.0", "bias"))


# ---- ablation ------------------------------------------------------------------------------------------------------


def test_ablation_puts_the_mean_another_prompt_or_nothing_in_the_place_of_heads():
    one = model()
    z = one.read(TOKENS, "blocks.1.attn.z")["blocks.1.attn.z"]
    for how, expected in (("zero", 0 * z), ("mean", z.mean(0, keepdim=True).expand_as(z))):
        replace = ablation(one, [(1, 0)], how, TOKENS)
        after = one.read(TOKENS, "blocks.1.attn.z", replace)["blocks.1.attn.z"]
        torch.testing.assert_close(after[:, 0], expected[:, 0], **EXACT)
        assert torch.equal(after[:, 1], z[:, 1])
    replace = ablation(one, [(1, 0)], "resample", TOKENS, generator(7))
    after = one.read(TOKENS, "blocks.1.attn.z", replace)["blocks.1.attn.z"]
    order = torch.randperm(len(TOKENS), generator=generator(7))
    assert torch.equal(after[:, 0], z[order, 0]) and not torch.equal(order, torch.arange(len(TOKENS)))


def test_several_heads_are_ablated_at_once_and_the_ablation_leaves_no_trace():
    one = model()
    plain = one(TOKENS)
    silent = {f"blocks.{i}.attn.z": torch.tensor(0.0) for i in range(3)}
    every = [(layer, head) for layer in range(3) for head in range(2)]
    torch.testing.assert_close(one.replaced(TOKENS, ablation(one, every, "zero")), one.replaced(TOKENS, silent))
    assert torch.equal(one(TOKENS), plain)


def test_without_its_previous_token_head_induction_is_gone():
    one, tokens = induction_head(5, 10), repeated()
    other = repeated(seed=1)
    for how in ("zero", "mean", "resample"):
        replace = ablation(one, [(0, 0)], how, other, generator())
        seen = one.read(tokens, "blocks.1.attn.pattern", replace)["blocks.1.attn.pattern"][..., 1:]
        assert attention_to(seen[:, 0], PLACES["induction"](tokens)) < 0.6
    assert attention_to(patterns(one, tokens)[1, 0], PLACES["induction"](tokens)).item() == pytest.approx(1)


# ---- paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_path_exchanged_for_itself_changes_nothing(shape):
    one = model(**shape)
    z = one.read(TOKENS, "blocks.0.attn.z")["blocks.0.attn.z"][:, 1]
    for into in ("q", "k", "v"):
        for frozen in (False, True):
            replace = path(one, TOKENS, (0, 1), (2, 0), z, into, frozen)
            torch.testing.assert_close(one.replaced(TOKENS, replace), one(TOKENS), **EXACT)


def test_all_paths_into_the_next_layer_are_the_whole_effect_on_it():
    """Nothing lies between a head and the layer after it, whose queries, keys and values, exchanged together, are those
    of a model in which the head itself was changed."""
    one = model()
    new = normal(5, 6, 6, rng=generator(8))
    whole = {"blocks.0.attn.z": with_heads([1], new.unsqueeze(1).expand(-1, 2, -1, -1))}
    expected = one.read(TOKENS, ["blocks.1.attn_out", "blocks.1.attn.pattern"], whole)
    replace = {}
    for into in ("q", "k", "v"):
        each = [path(one, TOKENS, (0, 1), (1, head), new, into) for head in range(2)]
        name = f"blocks.1.attn.{into}"
        replace[name] = lambda value, each=each, name=name: each[1][name](each[0][name](value))
    found = one.read(TOKENS, list(expected), replace)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **EXACT)
    only_q = one.read(TOKENS, "blocks.1.attn_out", {"blocks.1.attn.q": replace["blocks.1.attn.q"]})
    assert (only_q["blocks.1.attn_out"] - expected["blocks.1.attn_out"]).abs().max() > 1e-3


def test_a_path_touches_its_receiver_alone_and_freezing_the_norm_makes_it_linear():
    one = model()
    z = one.read(TOKENS, "blocks.0.attn.z")["blocks.0.attn.z"][:, 0]
    q = one.read(TOKENS, "blocks.2.attn.q")["blocks.2.attn.q"]
    step = normal(*z.shape, rng=generator(3))
    moved = {}
    for size in (1.0, 2.0):
        for frozen in (False, True):
            replace = path(one, TOKENS, (0, 0), (2, 1), z + size * step, "q", frozen)
            moved[size, frozen] = one.read(TOKENS, "blocks.2.attn.q", replace)["blocks.2.attn.q"] - q
            assert not moved[size, frozen][:, 0].any()
    torch.testing.assert_close(moved[2.0, True], 2 * moved[1.0, True], **EXACT)
    assert (moved[2.0, False] - 2 * moved[1.0, False]).abs().max() > 1e-3


def test_the_match_head_hears_of_the_previous_token_by_its_keys_alone():
    one, tokens = induction_head(5, 10), repeated()
    z = torch.zeros(6, 10, one.config.head_width).double()
    for into, hears in (("q", False), ("k", True), ("v", False)):
        replace = path(one, tokens, (0, 0), (1, 0), z, into)
        seen = one.read(tokens, "blocks.1.attn.pattern", replace)["blocks.1.attn.pattern"][..., 1:]
        assert (attention_to(seen[:, 0], PLACES["induction"](tokens)) < 0.5) == hears


def test_heads_and_paths_that_are_not_there_are_refused():
    one = model()
    with pytest.raises(ValueError, match=r"no head \(3, 0\) in a model of 3 layers.*by mean needs reference"):
        ablation(one, [(3, 0)], "mean")
    with pytest.raises(ValueError, match="resample needs a generator"):
        ablation(one, [(0, 0)], "resample", TOKENS)
    with pytest.raises(ValueError, match=r"later layer than \(1, 0\), given \(1, 1\)"):
        path(one, TOKENS, (1, 0), (1, 1), torch.zeros(5, 6, 6))
