"""What heads do is told rightly of models whose mechanism is known, and each measure can fail."""

import pytest
import torch

from iclab.analysis.heads import list_recall
from iclab.analysis.heads.circuits import ov
from iclab.analysis.heads.composition import compositions
from iclab.analysis.heads.cuts import (
    accuracy_of,
    along_random,
    attention_of,
    correlation,
    cuts,
    keeps,
    scaled,
    size,
    without_path,
)
from iclab.analysis.heads.roles import attribution, induction, patterns
from iclab.constructed.induction import induction_head
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.token_training import TokenTrainingConfig
from iclab.measures import edits
from iclab.measures.channels import channel_rows
from iclab.measures.heads import circuit_of
from iclab.models import PointerTransformerConfig, TokenTransformerConfig
from iclab.tasks import LaundryList, MarkovChain, RepeatedSequence
from tests.analysis.test_composition import EXACT
from tests.conftest import analysed, generator

LISTS = LaundryList(items=7, longest=4).of_length(4)
LIST_SHAPE = TokenTransformerConfig(n_head=2, d_model=12, d_mlp=8)
BLOCKS = RepeatedSequence(vocab=8, shortest=3, longest=5)
READER, WRITER = (1, 0), (0, 0)


def list_model():
    return LIST_SHAPE.build(LISTS.vocab, LISTS.n, generator(3)).double()


def lists(batch=24, seed=0):
    return LISTS.sample(batch, generator(seed))


# ---- lists ---------------------------------------------------------------------------------------------------------


def test_where_heads_look_at_the_end_equals_plain_loops():
    model, prompts = list_model(), lists()
    found, seen = list_recall.attention_from_end(model, prompts), patterns(model, prompts.tokens)
    for b, k in enumerate(prompts.case_ids[:, -1].tolist()):
        for layer in range(2):
            for head in range(2):
                row = seen[layer, head, b, -1].tolist()
                first, second = row[1:5], row[6:9]
                told = [
                    getattr(found, name)[layer, head, b].item() for name in ("first", "second", "hit", "inhibition")
                ]
                rest = [weight for slot, weight in enumerate(first) if slot != k]
                by_hand = [sum(first), sum(second), float(first[k] == max(first)), first[k] - sum(rest) / 3]
                assert told == pytest.approx(by_hand)


def test_what_parts_write_for_the_missing_item_adds_up_to_its_lead():
    model, prompts = list_model(), lists()
    said = model(prompts.tokens)[:, -1]
    for b, listed in enumerate(prompts.tokens[:, 1:5].tolist()):
        k = int(prompts.case_ids[b, -1])
        rest = [said[b, item].item() for slot, item in enumerate(listed) if slot != k]
        total = sum(terms[b].item() for terms in list_recall.written(model, prompts).values())
        assert total == pytest.approx(said[b, listed[k]].item() - sum(rest) / 3)


def test_what_is_copied_times_the_weight_is_what_a_head_writes_that_looks_at_one_item_alone():
    model, prompts = list_model(), lists()
    copied = list_recall.copied(model, prompts, LISTS.items)
    seen = patterns(model, prompts.tokens)[..., -1, :]
    items = prompts.tokens < LISTS.items
    layer, head = 1, 1
    once = torch.nn.functional.one_hot(prompts.tokens, LISTS.vocab)
    for slot in (2, 6):  # one of either list
        alone = torch.zeros_like(seen[layer, head])
        alone[:, slot] = seen[layer, head, :, slot]
        replace_pattern = {
            "blocks.1.attn.pattern": lambda p, alone=alone: p.index_copy(1, torch.tensor([head]), alone_rows(p, alone))
        }
        changed = model.read(prompts.tokens, "blocks.1.attn.z", replace_pattern)["blocks.1.attn.z"][:, head, -1]
        divide, _ = list_recall.last_norm(
            model.norm, model.read(prompts.tokens, "blocks.1.resid_post")["blocks.1.resid_post"][:, -1]
        )
        logits = divide(changed @ model.W_O[layer, head]) @ model.read_out.weight[: LISTS.items].mT
        own = (logits * once[:, slot, : LISTS.items]).sum(1) - logits.mean(1)
        assert items[:, slot].all()
        torch.testing.assert_close(copied[layer, head, :, slot] * alone[:, slot], own, **EXACT)


def alone_rows(pattern, row):
    """The pattern of one head with another last row."""
    new = pattern[:, 1:2].clone()
    new[:, 0, -1] = row
    return new


def answers(of):
    """A model that answers by counts of items."""

    def model(tokens):
        N = (tokens.shape[1] - 2) // 2
        c1, c2 = (
            list_recall.counts(tokens[:, part], LISTS.items) for part in (slice(1, N + 1), slice(N + 2, 2 * N + 1))
        )
        logits = torch.zeros(*tokens.shape, LISTS.vocab, dtype=torch.float64)
        logits[:, -1, : LISTS.items] = of(c1, c2)
        return logits

    return model


SUBTRACTS = answers(lambda c1, c2: 3 * c1 - 2 * c2 + 5)
DIFFERS = answers(lambda c1, c2: 4.0 * ((c1 > 0) & (c2 == 0)))


def explained(model, prompts):
    return {
        name: list_recall.fit(model, prompts, LISTS.items, of).terms.mean().item()
        for name, of in list_recall.MODELS.items()
    }


def test_a_model_that_subtracts_is_told_from_one_that_takes_a_set_difference_where_counts_are_apart():
    apart = list_recall.apart(lists(400), LISTS.items, generator(1))
    one, other = explained(SUBTRACTS, apart), explained(DIFFERS, apart)
    assert one["subtraction"] == pytest.approx(1) and one["set_difference"] < 0.7
    assert other["set_difference"] == pytest.approx(1) and other["subtraction"] < 0.7
    assert min(one["any_of_counts"], other["any_of_counts"]) > 0.99  # it takes 4 for 3
    made = list_recall.fit(SUBTRACTS, apart, LISTS.items, list_recall.subtraction)
    torch.testing.assert_close(made.coefficients, torch.tensor([3.0, 2.0], dtype=torch.float64))


def test_logits_by_counts_are_those_of_each_count():
    apart = list_recall.apart(lists(400), LISTS.items, generator(1))
    tables = {
        name: list_recall.by_counts(list_recall.fit(model, apart, LISTS.items, list_recall.any_of_counts))[:3, :3]
        for name, model in (("subtracts", SUBTRACTS), ("differs", DIFFERS))
    }
    subtracts = torch.tensor([[0.0, -2, -4], [3, 1, -1], [6, 4, 2]], dtype=torch.float64)
    differs = torch.tensor([[0.0, 0, 0], [4, 0, 0], [4, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(tables["differs"], differs, atol=1e-9, rtol=0)
    torch.testing.assert_close(tables["subtracts"], subtracts, atol=0.2, rtol=0)  # of counts of 4 that it takes for 3


def test_on_lists_as_they_are_the_two_cannot_be_told_apart_by_what_is_right():
    """A set difference is explained by subtraction as well as by itself: why the prompts that are apart are needed."""
    whole = lists(400)
    assert explained(DIFFERS, whole)["subtraction"] == pytest.approx(1)


def test_logits_that_know_nothing_of_counts_are_not_explained():
    noise = torch.randn(8, LISTS.vocab, generator=generator(2), dtype=torch.float64)

    def by_first_item(tokens):
        return noise[tokens[:, 1]].unsqueeze(1).expand(*tokens.shape, -1)

    found = explained(by_first_item, list_recall.apart(lists(400), LISTS.items, generator(1)))
    assert max(found.values()) < 0.2


def test_prompts_that_are_apart_keep_their_frame_and_list_things_twice():
    prompts = lists(200)
    apart = list_recall.apart(prompts, LISTS.items, generator())
    frame = [0, 5, 9]
    assert torch.equal(apart.tokens[:, frame], prompts.tokens[:, frame])
    inside = apart.tokens[:, [i for i in range(10) if i not in frame]]
    assert (inside < LISTS.items).all()
    c1, c2 = (list_recall.counts(apart.tokens[:, part], LISTS.items) for part in (slice(1, 5), slice(6, 9)))
    assert (c1 > 1).any() and ((c1 == 0) & (c2 > 0)).any() and (c1.sum(1) == 4).all() and (c2.sum(1) == 3).all()


def test_a_mover_is_found_and_its_lead_is_measured_on_prompts_that_did_not_choose_it():
    prompts = lists(40)
    hit = torch.zeros(2, 3, 40, dtype=torch.float64)
    hit[1, 2] = 1.0
    nothing = torch.zeros_like(hit)
    head, found = list_recall.mover_head(list_recall.AttentionFromEnd(nothing, nothing, hit, nothing), prompts)
    assert head == (1, 2) and found.value == pytest.approx(0.75)
    lucky = torch.zeros_like(hit)
    lucky[0, 1, :20] = 1.0  # on the first half alone
    head, found = list_recall.mover_head(list_recall.AttentionFromEnd(nothing, nothing, lucky, nothing), prompts)
    assert head == (0, 1) and found.value == pytest.approx(-0.25)


def test_silencing_a_head_that_writes_nothing_costs_nothing():
    model, prompts = list_model(), lists()
    with torch.no_grad():
        model.attention(1).out.weight[:, 6:] = 0.0  # of head 1.1
    before = list_recall.right(model, prompts, {})
    for how in list_recall.HOWS:
        assert torch.equal(list_recall.right_without(model, prompts, (1, 1), how, generator()), before)
    said, wanted = model(prompts.tokens)[:, -1].argmax(-1).tolist(), prompts.targets[:, -1].tolist()
    assert before.tolist() == [float(one == other) for one, other in zip(said, wanted, strict=True)]


def test_a_route_that_is_blocked_carries_no_weight_and_the_rest_still_adds_up_to_one():
    model, prompts = list_model(), lists()
    whole = patterns(model, prompts.tokens)[0].transpose(0, 1).contiguous()
    routes = list_recall.routes(prompts)
    assert set(routes) == {"end_to_first", "end_to_second", "second_to_first", "second_to_second"}
    for who, whom in routes.values():
        after = list_recall.blocked(who, whom)(whole)
        torch.testing.assert_close(after.sum(-1), torch.ones_like(after[..., 0]), **EXACT)
        own = torch.eye(10, dtype=torch.bool)[who, whom]
        assert not after[..., who, whom][..., ~own].any() and (own.any() == (who == whom))
        untouched = [t for t in range(10) if t not in range(10)[who]]
        torch.testing.assert_close(after[..., untouched, :], whole[..., untouched, :], **EXACT)


def test_a_model_whose_heads_write_nothing_needs_no_route():
    model, prompts = list_model(), lists()
    with torch.no_grad():
        for layer in range(2):
            model.attention(layer).out.weight.zero_()
    before = list_recall.right(model, prompts, {})
    for route in list_recall.routes(prompts).values():
        assert torch.equal(list_recall.right_but_for(model, prompts, route), before)


def test_lists_of_several_lengths_are_refused():
    with pytest.raises(ValueError, match="lists must be of one length"):
        list_recall.attention_from_end(list_model(), LaundryList(items=7, longest=4).sample(20, generator()))


# ---- cuts ----------------------------------------------------------------------------------------------------------


def circuit():
    """A previous-token head and the head that reads it, by hand; blocks in which all is certain."""
    return induction_head(BLOCKS.vocab, BLOCKS.n), BLOCKS.sample(16, generator())


def watched(prompts):
    return attention_of(READER, prompts, induction(prompts.tokens))


def test_what_is_watched_is_one_as_the_heads_are_and_factors_of_one_change_nothing():
    model, prompts = circuit()
    watch = watched(prompts)
    torch.testing.assert_close(watch(model, {}), torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(accuracy_of(prompts)(model, {}), torch.ones(16, dtype=torch.float64))
    kept = scaled(watch, model, WRITER, torch.ones(1, size(model, WRITER), dtype=torch.float64))
    torch.testing.assert_close(kept[0], torch.ones(16, dtype=torch.float64))


def test_without_all_components_the_reader_is_lost_and_each_one_carries_one_token():
    model, prompts = circuit()
    watch, e = watched(prompts), size(circuit()[0], WRITER)
    assert scaled(watch, model, WRITER, torch.zeros(1, e, dtype=torch.float64)).max() < 0.9
    left = 1 - scaled(watch, model, WRITER, cuts(e)).mean(1)
    alone = scaled(watch, model, WRITER, keeps(e)).mean(1)
    written = ov(model)[WRITER].svd().S > 1e-9
    assert written.sum() == BLOCKS.vocab  # each token has a direction of its own
    assert (left[written] > 0.02).all() and left[~written].abs().max() < 1e-9
    assert alone.max() < 1 - left.min()
    assert (1 - along_random(watch, model, WRITER, 1.0, 3, generator())).abs().max() < 1e-9


def test_the_reader_hears_of_the_writer_by_its_keys_alone():
    model, prompts = circuit()
    lost = {
        part: 1 - without_path(watched(prompts), model, prompts, WRITER, READER, part).mean().item()
        for part in ("q", "k", "v")
    }
    assert lost["k"] > 0.3 and abs(lost["q"]) < 1e-9 and abs(lost["v"]) < 1e-9


def test_a_correlation_is_pearsons_and_none_where_nothing_varies():
    x, y = torch.randn(2, 30, generator=generator(), dtype=torch.float64)
    assert correlation(x, y) == pytest.approx(torch.corrcoef(torch.stack([x, y]))[0, 1].item())
    assert correlation(x, 2 - 3 * x) == pytest.approx(-1) and correlation(x, torch.ones_like(x)) == 0


# ---- rows ----------------------------------------------------------------------------------------------------------


def told(rows):
    return {(one["predictor"], one["quantity"]): one["value"] for one in rows if one["position"] is None}


def test_the_hand_set_circuit_is_found_and_is_the_first_by_keys():
    model, prompts = circuit()
    assert circuit_of(model, prompts) == (WRITER, READER)
    untrained = TokenTransformerConfig(n_head=1).build(8, 10)
    found = told(channel_rows(model, untrained, (WRITER, READER), generator()))
    assert found["transformer", "circuit_rank_K"] == 1 and found["transformer", "circuit_z_K"] > 4
    assert found["0.0-1.0", "composition_K"] > 5 * found["0.0-1.0", "composition_Q"]
    assert found["chance", "composition_K"] == compositions(model).D ** -0.5
    assert found["untrained", "largest_z_K"] < 4
    for control in ("unreachable", "untrained", "permuted"):
        lead = found["transformer", "circuit_z_K"] - found[control, "largest_z_K"]
        assert found[control, "circuit_lead_K"] == pytest.approx(lead) and lead > 0


def test_a_control_that_permutes_nothing_is_the_circuit_itself(monkeypatch):
    model, _ = circuit()
    arguments = (model, TokenTransformerConfig(n_head=1).build(8, 10), (WRITER, READER), generator())
    monkeypatch.setattr(torch, "randperm", lambda n, generator=None: torch.arange(n))
    assert told(channel_rows(*arguments))["permuted", "circuit_lead_K"] == pytest.approx(0, abs=1e-9)


def test_pairs_that_are_told_are_those_that_can_compose():
    model = TokenTransformerConfig(n_layer=3, n_head=2, d_model=8).build(8, 10)
    rows = list(channel_rows(model, model, None, generator()))
    pairs = {one["predictor"] for one in rows if one["quantity"] == "composition_V" and "-" in one["predictor"]}
    assert pairs == {f"{i}.{a}-{j}.{b}" for i, j in ((0, 1), (0, 2), (1, 2)) for a in (0, 1) for b in (0, 1)}
    assert not any(one["quantity"].startswith("circuit") for one in rows)


def experiment(task, analyses, model, prompts=12):
    recipe, evaluation = TokenTrainingConfig(steps=0, batch=2), Evaluation(prompts=prompts, analyses=analyses)
    return Experiment(task, model, recipe, evaluation, device="cpu")


def test_edits_are_measured_on_prompts_that_did_not_choose_the_heads():
    shape = TokenTransformerConfig(n_head=2, d_model=8)
    one = experiment(BLOCKS, ("channels", "edits"), shape)
    model = one.build(generator())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = analysed(one, model, "channels", "edits")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {row["distribution"] for row in rows} == {"own"}
    found = told(rows)
    assert found["transformer", "edit_drop"] == 0
    assert found["cut_top", "edit_drop"] == pytest.approx(
        found["transformer", "edit_score"] - found["cut_top", "edit_score"]
    )
    by_component = [row for row in rows if row["quantity"] == "edit_drop_by_component"]
    assert len(by_component) == 4 and found["cut_top", "edit_drop"] in [
        pytest.approx(row["value"]) for row in by_component
    ]
    scaled_by = {(row["predictor"], row["position"]): row["value"] for row in rows if row["quantity"] == "edit_scaled"}
    assert scaled_by["top", 1.0] == pytest.approx(found["transformer", "edit_score"])
    assert scaled_by["top", 0.0] == pytest.approx(found["cut_top", "edit_score"])
    assert scaled_by["random", 1.0] == pytest.approx(found["transformer", "edit_score"], abs=1e-6)


def test_several_components_that_are_cut_are_the_strongest_by_score_or_the_weakest():
    """Seen is all that a head writes: it is lost the faster the larger what is cut first; a wrong order is told."""
    model = TokenTransformerConfig(n_head=1, d_model=8).build(5, 6).double()
    S = ov(model)[WRITER].svd().S.detach()

    def power(edited, edits):
        return ov(edited)[WRITER].svd().S.square().sum().detach().expand(4)

    for scores, sign in ((S, 1), (-S, -1)):
        rows = list(edits._several_rows(model, power, WRITER, scores))
        left = {(row["predictor"], row["position"]): row["value"] for row in rows}
        for m in range(9):
            first, last = S[m:].square().sum().item(), S[: 8 - m].square().sum().item()
            assert left["strongest", m] == pytest.approx(first if sign > 0 else last)
            assert left["weakest", m] == pytest.approx(last if sign > 0 else first)
        assert sign * left["transformer", None] > 0


def test_the_mechanism_is_told_of_every_length_and_of_all_heads():
    task = LaundryList(items=7, longest=4)
    one = experiment(task, ("mechanism",), LIST_SHAPE)
    rows = analysed(one, one.build(generator()), "mechanism")
    assert {row["distribution"] for row in rows} == {"2_items", "3_items", "4_items"}
    heads = {row["predictor"] for row in rows if row["quantity"] == "mechanism_resample"}
    assert heads == {f"head_{layer}.{head}" for layer in (0, 1) for head in (0, 1)}
    parts = {row["predictor"] for row in rows if row["quantity"] == "mechanism_written"}
    assert parts == {
        "embed",
        "0.0",
        "0.1",
        "1.0",
        "1.1",
        "0.attn_bias",
        "1.attn_bias",
        "0.mlp_out",
        "1.mlp_out",
        "bias",
    }


def test_where_all_items_are_listed_nothing_is_told_of_what_being_listed_gives():
    one = experiment(LaundryList(items=4, longest=4), ("mechanism",), LIST_SHAPE)
    rows = analysed(one, one.build(generator()), "mechanism")
    told_of = {row["distribution"] for row in rows if row["quantity"] == "mechanism_fit_taken"}
    assert told_of == {"2_items", "3_items"} and {row["distribution"] for row in rows} == told_of | {"4_items"}


def test_an_attribution_is_of_all_parts():
    model, prompts = list_model(), lists()
    assert set(attribution(model, prompts.tokens, 1)) == set(list_recall.written(model, prompts))


def test_analyses_that_cannot_be_made_are_refused_together():
    shape = TokenTransformerConfig(n_layer=1, attention="linear")
    with pytest.raises(ValueError, match=r"'mechanism' needs task\.kind LaundryList, given MarkovChain") as told_of:
        experiment(MarkovChain(), ("mechanism", "edits"), shape, prompts=4)
    for part in (
        "'mechanism' needs softmax",
        "'edits' needs task.kind RepeatedSequence",
        "n_layer of 2 or more",
        "softmax",
        "prompts of 8 or more",
    ):
        assert part in str(told_of.value)
    with pytest.raises(ValueError, match=r"'mechanism' needs model\.n_layer of 1 or more, given 0"):
        experiment(LaundryList(items=7, longest=4), ("mechanism",), TokenTransformerConfig(n_layer=0))
    with pytest.raises(ValueError, match="without layers has no heads"):
        patterns(TokenTransformerConfig(n_layer=0).build(LISTS.vocab, LISTS.n), lists().tokens)
    with pytest.raises(
        ValueError,
        match=r"needs a TokenTransformerConfig, .*, given PointerTransformerConfig",
    ):
        experiment(LaundryList(items=7, longest=4), ("mechanism",), PointerTransformerConfig(items=7))
