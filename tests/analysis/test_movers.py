"""Movers, what feeds them and what their components carry: by another way round, and where it was planted."""

from dataclasses import replace

import pytest
import torch

from iclab.analysis.heads.circuits import ov
from iclab.analysis.heads.edits import with_components
from iclab.analysis.heads.movers import (
    answered,
    cut,
    direct,
    name_mover_head,
    named,
    pattern,
    s_inhibition,
    steered,
    without,
    written,
)
from iclab.analysis.heads.patching import ablation, path
from iclab.analysis.heads.roles import attribution, patterns
from iclab.analysis.heads.steering import component, write
from iclab.measures.movers import mover_rows
from iclab.models import TokenTransformer, TokenTransformerConfig
from iclab.tasks import IndirectObject, LaundryList, MultiQueryRecall
from tests.analysis.test_composition import EXACT, normal
from tests.conftest import generator

TASK = LaundryList(items=5, shortest=3, longest=3, openers=1, separators=1)
PROMPTS = TASK.sample(12, generator(1))
SHAPES = {
    "attention": {},
    "mlp": {"d_mlp": 10},
    "rotary": {"rotary": 4, "positions": False, "parallel": True, "d_mlp": 10},
    "no norm": {"norm": False},
    "tied layers": {"tied": True},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@torch.no_grad()
def model(seed=0, **shape):
    """A token transformer with no weight left at zero or one."""
    config = TokenTransformerConfig(**({"n_layer": 3, "n_head": 2, "d_model": 12} | shape))
    made = TokenTransformer(TASK.vocab, TASK.n, config, generator(seed)).double()
    for weight in made.parameters():
        weight.add_(0.3 * normal(*weight.shape, rng=generator(seed + 1)))
    return made


def score_of(one, prompts, head, replace=None):
    name = f"blocks.{head[0]}.attn.pattern"
    return prompts.score(one.read(prompts.tokens, name, replace)[name][:, head[1]])


# ---- prompts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [TASK, IndirectObject(names=6)], ids=["list", "indirect object"])
def test_slots_and_the_answer_are_those_of_plain_loops(task):
    prompts = task.sample(20, generator(3))
    found = named(prompts)
    for i, row in enumerate(prompts.tokens.tolist()):
        options = prompts.options[i].nonzero().flatten().tolist()
        end = prompts.answer_mask[i].tolist().index(True)
        slots = sorted(row.index(option) for option in options)
        assert found.slots[i].tolist() == slots and found.end[i] == end
        assert row[slots[found.index[i]]] == prompts.targets[i, end]
        assert found.options[i].tolist()[0] == prompts.targets[i, end] and set(found.options[i].tolist()) == set(
            options
        )
    assert torch.equal(found.index, prompts.case_ids.gather(1, found.end.unsqueeze(1)).squeeze(1))


def test_prompts_that_do_not_ask_once_for_one_of_equally_many_are_refused():
    with pytest.raises(ValueError, match="must have one target position"):
        named(MultiQueryRecall(filled=True).sample(8, generator()))
    mixed = LaundryList(items=8, longest=6).sample(20, generator())
    with pytest.raises(ValueError, match="equally many options, two or more"):
        named(mixed)
    with pytest.raises(ValueError, match="an answer is none of the options"):
        named(replace(PROMPTS, targets=torch.full_like(PROMPTS.targets, TASK.vocab - 1)))


def test_the_score_is_one_on_the_answer_and_falls_to_minus_a_half_on_another_of_three():
    prompts = named(PROMPTS)
    n, rows = prompts.tokens.shape[1], torch.arange(12)
    answer = torch.nn.functional.one_hot(prompts.slots[rows, prompts.index], n).double()
    other = torch.nn.functional.one_hot(prompts.slots[rows, (prompts.index + 1) % 3], n).double()
    for place, expected in ((answer, 1.0), (other, -0.5)):
        pattern = place.unsqueeze(1).expand(12, n, n)
        assert prompts.score(pattern).tolist() == [expected] * 12
    assert torch.equal(prompts.seen(answer.unsqueeze(1).expand(12, n, n)).argmax(-1), prompts.index)


# ---- movers --------------------------------------------------------------------------------------------------------


@shapes
@torch.no_grad()
def test_answers_at_the_end_and_direct_effects_are_those_of_the_whole_model(shape):
    one, prompts, rows = model(**shape), named(PROMPTS), torch.arange(12)
    torch.testing.assert_close(answered(one, prompts, 5), one(prompts.tokens)[rows, prompts.end], **EXACT)
    parts = attribution(one, prompts.tokens)
    for head in ((0, 1), (2, 0)):
        told = parts[f"blocks.{head[0]}.head.{head[1]}"][rows, prompts.end].gather(1, prompts.options)
        torch.testing.assert_close(direct(one, prompts)[head], told[:, 0] - told[:, 1:].mean(1), **EXACT)


@torch.no_grad()
def test_the_mover_is_the_head_of_most_inhibition_unless_it_writes_against_the_answer():
    one, prompts = model(seed=4), named(PROMPTS)
    score = prompts.score(patterns(one, prompts.tokens)).mean(-1)
    found = name_mover_head(one, prompts)
    assert found[0] > 0 and direct(one, prompts)[found].mean() > 0
    for head in ((layer, a) for layer in (1, 2) for a in (0, 1)):
        assert score[head] <= score[found] or direct(one, prompts)[head].mean() <= 0
    rows = slice(6 * found[1], 6 * found[1] + 6)
    one.attention(found[0]).out.weight[:, rows] *= -1  # looks as before, and now writes against it
    assert name_mover_head(one, prompts) != found


def test_a_model_of_one_layer_has_no_mover_that_hears():
    with pytest.raises(ValueError, match="no head hears another"):
        name_mover_head(model(n_layer=1), named(PROMPTS))


# ---- what feeds them -----------------------------------------------------------------------------------------------


@shapes
@pytest.mark.parametrize("of", [(1, 1), (2, 0)])
@torch.no_grad()
def test_what_a_head_feeds_is_what_is_lost_along_its_path_into_the_queries(shape, of):
    one, prompts = model(**shape), named(PROMPTS)
    lost = s_inhibition(one, prompts, of)
    assert lost.shape == (of[0], 2, 12)
    for sender in ((layer, a) for layer in range(of[0]) for a in (0, 1)):
        nothing = torch.zeros(12, TASK.n, 6).double()
        patched = path(one, prompts.tokens, sender, of, nothing, "q")
        torch.testing.assert_close(
            lost[sender], score_of(one, prompts, of) - score_of(one, prompts, of, patched), **EXACT
        )
    assert lost.abs().max() > 1e-3


@torch.no_grad()
def test_a_head_that_also_changes_others_on_the_way_feeds_less_than_its_ablation_takes():
    one, prompts = model(), named(PROMPTS)
    whole = score_of(one, prompts, (2, 0)) - score_of(one, prompts, (2, 0), ablation(one, [(0, 1)], "zero"))
    assert (s_inhibition(one, prompts, (2, 0))[0, 1] - whole).abs().max() > 1e-3


def test_scores_that_have_no_such_path_are_refused():
    prompts = named(PROMPTS)
    for shape in ({"attention": "linear"}, {"null_slot": True}):
        with pytest.raises(ValueError, match="softmax alone"):
            without(model(**shape), prompts, (2, 0), torch.zeros(1, 12, 12).double())
    with pytest.raises(ValueError, match=r"no head \(3, 0\)"):
        without(model(), prompts, (3, 0), torch.zeros(1, 12, 12).double())


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_a_component_cut_is_one_cut_in_the_weights(bias):
    one, prompts = model(bias=bias), named(PROMPTS)
    if bias:
        one.attention(0).v.bias.zero_()  # else the edit of weights keeps what its component makes of them
    lost = cut(one, prompts, (2, 0), (0, 1))
    assert lost.shape == (6, 12)
    for i in range(6):
        factors = torch.ones(6)
        factors[i] = 0.0
        edited = with_components(one, (0, 1), factors)
        torch.testing.assert_close(lost[i], score_of(one, prompts, (2, 0)) - score_of(edited, prompts, (2, 0)), **EXACT)


@torch.no_grad()
def test_the_component_that_was_planted_is_the_one_that_is_missed_and_the_head_the_one_that_feeds():
    """The queries of head 1.0 read nothing but what component 3 of head 0.0 writes, and head 0.1 does not write."""
    one, prompts = model(n_layer=2, d_model=24, norm=False, positions=False), named(PROMPTS)
    V = ov(one)[0, 0].svd().V
    v, key = V[:, 3], one.attention(1).k.weight[:12]
    key -= key @ V @ V.mT  # what head 0.0 writes is heard by queries alone
    one.attention(1).q.weight[:12] = torch.outer(normal(12, rng=generator(3)), v)
    other = one.attention(0).out.weight[:, 12:]
    other -= torch.outer(v, v @ other)
    lost = s_inhibition(one, prompts, (1, 0)).abs().mean(-1)[0]
    assert lost[0] > 1e-3 and lost[1] < 1e-12
    found = cut(one, prompts, (1, 0), (0, 0)).abs().mean(-1)
    assert found[3] > 1e-3 and found[torch.arange(12) != 3].max() < 1e-12


@torch.no_grad()
def test_a_null_slot_moves_no_slot():
    """What is read of a head, after an edit too, are its weights on the tokens alone."""
    one, prompts = model(null_slot=True), named(PROMPTS)
    whole, rows = pattern(one, prompts, (2, 0)), torch.arange(12)
    torch.testing.assert_close(whole, patterns(one, prompts.tokens)[2, 0], **EXACT)
    assert (whole.sum(-1) < 1).all()  # the rest is on the null slot
    alike = steered(one, prompts, (0, 0), component(one, (0, 1), 0), torch.zeros(1).double())  # does not hear it
    expected = patterns(one, prompts.tokens)[0, 0][rows, prompts.end].gather(1, prompts.slots)
    torch.testing.assert_close(alike[0], expected, **EXACT)


@torch.no_grad()
def test_steering_is_writing_and_what_is_written_at_the_end_alone():
    one, prompts = model(), named(PROMPTS)
    along, alphas = component(one, (0, 1), 0), torch.tensor([-2.0, 0.0, 3.0]).double()
    found = steered(one, prompts, (2, 0), along, alphas)
    assert found.shape == (3, 12, 3)
    name = "blocks.2.attn.pattern"
    for alpha, seen in zip(alphas.tolist(), found, strict=True):
        pattern = one.read(prompts.tokens, name, write([along], [alpha], at=prompts.end))[name][:, 0]
        torch.testing.assert_close(seen, prompts.seen(pattern), **EXACT)
    assert written(one, prompts, 2).shape == (2, 2, 12, 12)


# ---- result rows ---------------------------------------------------------------------------------------------------


def rows_of(one, task, prompts, untrained=None):
    made = mover_rows(one, task, prompts, lambda: untrained or one)
    return {(row["predictor"], row["quantity"]): row["value"] for row in made}


def told(one, task, prompts):
    return {quantity: value for (name, quantity), value in rows_of(one, task, prompts).items() if name == "transformer"}


@torch.no_grad()
def test_controls_are_the_mover_before_training_and_the_other_heads_of_a_layer():
    task = IndirectObject(names=2, openers=1, locations=1)
    one, other, prompts = model(seed=4, n_layer=2, n_head=3), model(seed=7, n_layer=2), task.sample(40, generator(5))
    found = rows_of(one, task, prompts, other)
    finding, held = named(prompts[:20]), named(prompts[20:])
    of, before = name_mover_head(one, finding), name_mover_head(other, finding)
    own = score_of(one, held, of).mean().item()
    rest = sum(score_of(one, held, (of[0], h)).mean().item() for h in range(3) if h != of[1]) / 2
    for name, control in (("untrained", score_of(other, held, before).mean().item()), ("other_heads", rest)):
        assert found[name, "mover_inhibition"] == pytest.approx(control)
        assert found[name, "mover_lead"] == pytest.approx(own - control)
    lead = found["other_heads", "kept_without_feeder"] - found["transformer", "kept_without_feeder"]
    assert found["other_heads", "feeder_lead"] == pytest.approx(lead)


@torch.no_grad()
def test_a_model_leads_over_itself_by_nothing_and_one_head_has_no_others():
    task = IndirectObject(names=2, openers=1, locations=1)
    found = rows_of(model(seed=4, n_layer=2, n_head=1), task, task.sample(40, generator(5)))
    assert found["untrained", "mover_lead"] == 0
    assert not any(name == "other_heads" for name, _ in found)


@torch.no_grad()
def test_rows_are_of_heads_found_on_one_half_and_measured_on_the_other():
    task = IndirectObject(names=2, openers=1, locations=1)
    one, prompts = model(seed=4, n_layer=2), task.sample(40, generator(5))
    found = told(one, task, prompts)
    finding, held = named(prompts[:20]), named(prompts[20:])
    of = name_mover_head(one, finding)
    feeder = (0, int(s_inhibition(one, finding, of).mean(-1).argmax()))
    assert found["mover_inhibition"] == pytest.approx(score_of(one, held, of).mean().item())
    lost = (
        score_of(one, held, of).mean()
        - score_of(one, held, of, path(one, held.tokens, feeder, of, torch.zeros(20, 7, 6).double(), "q")).mean()
    )
    assert found["mover_fed"] == pytest.approx(lost.item())
    for name, head in (("mover", of), ("feeder", feeder)):
        silent = one.replaced(held.tokens, ablation(one, [head], "mean", finding.tokens))[:, -1].gather(1, held.options)
        left = (silent[:, 0] - silent[:, 1]).mean().item() / found["logit_difference"]
        assert found[f"kept_without_{name}"] == pytest.approx(left)


@pytest.mark.parametrize("shape", [{"n_layer": 1}, {"attention": "linear"}, {"null_slot": True}], ids=str)
def test_there_are_no_rows_where_no_head_hears_another_by_softmax(shape):
    task = IndirectObject(names=2, openers=1, locations=1)
    assert not told(model(**shape), task, task.sample(8, generator()))


def test_there_are_no_rows_of_other_tasks():
    assert not told(model(), TASK, PROMPTS)
