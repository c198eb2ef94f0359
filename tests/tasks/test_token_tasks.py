"""What must hold of tasks over tokens: right answers that can be found, even evaluation, parts that do not meet."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.predictors import Bigram, Unigram
from iclab.tasks import IndirectObject, LaundryList, MarkovChain, MultiQueryRecall, RepeatedSequence
from iclab.tasks.tokens.laundry import new_sets
from iclab.tasks.tokens.markov import stationary
from tests.conftest import generator
from tests.models.test_tokens import assert_tokens_causal

TASKS = {
    "laundry list": LaundryList(items=12, longest=6),
    "laundry list, sets held out": LaundryList(items=12, longest=6, holds_out="sets"),
    "laundry list, answers held out": LaundryList(items=12, longest=6, holds_out="answers", part="new"),
    "laundry list, slots held out": LaundryList(items=12, longest=6, holds_out="slots"),
    "laundry list, openers held out": LaundryList(items=12, longest=6, holds_out="openers", part="new"),
    "laundry list, one length": LaundryList(items=12, longest=6).of_length(5),
    "indirect object": IndirectObject(),
    "indirect object, pairs held out": IndirectObject(names=9, holds_out="pairs", part="new"),
    "repeated sequence": RepeatedSequence(vocab=9, shortest=4, longest=6),
    "recall": MultiQueryRecall(vocab=20, n=24, pairs=5),
    "recall, filled": MultiQueryRecall(vocab=20, n=24, pairs=5, filled=True),
    "Markov chain": MarkovChain(states=3, n=11),
    "Markov chain, circulant": MarkovChain(states=4, n=9, alpha=2, circulant=True),
}
HELD = ("sets", "answers", "slots", "openers")


@pytest.fixture(params=TASKS.values(), ids=TASKS.keys())
def task(request):
    return request.param


@given(seed=st.integers(0, 2**31), batch=st.integers(1, 9))
def test_prompts_are_within_what_the_task_promises(seed, batch):
    for task in TASKS.values():
        drawn = task.sample(batch, generator(seed))
        assert drawn.tokens.shape == drawn.targets.shape and drawn.tokens.shape[1] <= task.n
        assert drawn.tokens.min() >= 0 and drawn.tokens.max() < task.vocab
        assert drawn.answer_mask.any(1).all() and drawn.options.shape == (batch, task.vocab)
        assert drawn.options.gather(1, drawn.targets)[drawn.answer_mask].all()


def test_the_same_generator_state_gives_the_same_prompts_and_another_does_not(task):
    one, same, other = (task.sample(50, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.tokens, same.tokens) and torch.equal(one.targets, same.targets)
    assert one.tokens.shape != other.tokens.shape or not torch.equal(one.tokens, other.tokens)
    assert torch.equal(one[3:5].tokens, one.tokens[3:5])


# ---- the laundry list ----------------------------------------------------------------------------------------------


def taken_apart(task, prompts):
    """Each prompt as plain lists, found by reading the tokens alone: list 1, list 2, opener, separator, answer."""
    for row, asked, targets in zip(
        *(x.tolist() for x in (prompts.tokens, prompts.answer_mask, prompts.targets)), strict=True
    ):
        end = row.index(task.vocab - 1)
        at = next(i for i in range(1, end) if row[i] >= task.items + task.openers)
        assert asked == [i == end for i in range(len(row))]
        yield row[1:at], row[at + 1 : end], row[0] - task.items, row[at] - task.items - task.openers, targets[end]


@given(seed=st.integers(0, 2**31), holds_out=st.sampled_from(("nothing", *HELD)))
def test_the_answer_is_the_only_listed_item_that_is_not_named_again(seed, holds_out):
    task = LaundryList(items=9, shortest=2, longest=7, holds_out=holds_out)
    drawn = task.sample(16, generator(seed))
    for i, (listed, named, opener, separator, answer) in enumerate(taken_apart(task, drawn)):
        assert len(set(listed)) == len(listed) and set(listed) - set(named) == {answer}
        assert len(named) == len(listed) - 1 and set(named) < set(listed)
        assert 0 <= opener < task.openers and 0 <= separator < task.separators
        assert listed.index(answer) == drawn.case_ids[i, 0]
        assert set(listed) == set(drawn.options[i].nonzero().flatten().tolist())


def test_second_lists_are_as_likely_in_every_order_and_lengths_and_slots_are_uniform():
    task = LaundryList(items=5, shortest=4, longest=4)
    orders = Counter()
    for listed, named, *_ in taken_apart(task, task.sample(6000, generator())):
        orders[tuple(listed.index(item) for item in named)] += 1
    assert len(orders) == 24  # 4 missing slots times 3! orders
    assert max(orders.values()) < 250 + 5 * 250**0.5 and min(orders.values()) > 250 - 5 * 250**0.5
    mixed = LaundryList(items=12, longest=6)
    lengths = Counter(len(listed) for listed, *_ in taken_apart(mixed, mixed.sample(3000, generator())))
    assert set(lengths) == {2, 3, 4, 5, 6} and max(lengths.values()) < 600 + 5 * 600**0.5


def slots_asked(task, prompts):
    return Counter(task.sample(prompts, generator()).case_ids[:, 0].tolist())


def assert_even(counts, n):
    assert len(counts) == n and len(set(counts.values())) == 1


@pytest.mark.parametrize("holds_out", ["nothing", "sets", "answers", "openers"])
def test_evaluation_asks_each_slot_equally_often(holds_out):
    for name, part in LaundryList(items=12, longest=6, holds_out=holds_out).parts().items():
        if name != "new":
            assert_even(slots_asked(part, part.balanced_batch(50)), part.longest)


def test_evenness_can_fail():
    uneven = LaundryList(items=12, shortest=5, longest=5)
    with pytest.raises(AssertionError):
        assert_even(slots_asked(uneven, 50), 5)  # slots are drawn
    with pytest.raises(AssertionError):
        assert_even(slots_asked(uneven.of_length(5), 51), 5)  # not a multiple of the slots


def example(listed, named, opener, separator, answer):
    return frozenset(listed), answer, listed.index(answer), opener, separator


def seen_and_new(holds_out):
    """What identifies an example as held out, in many prompts of either part."""
    task = LaundryList(items=10, shortest=3, longest=5, holds_out=holds_out)
    keys = {
        "sets": lambda e: e[0],
        "answers": lambda e: e[1],
        "slots": lambda e: (len(e[0]), e[2]),
        "openers": lambda e: (e[3] == task.openers - 1) or (e[4] == task.separators - 1),
    }
    for part in ("seen", "new"):
        half = replace(task, part=part)
        yield {keys[holds_out](example(*one)) for one in taken_apart(half, half.sample(2000, generator()))}


def assert_apart(seen, new):
    assert seen and new and not seen & new


@pytest.mark.parametrize("holds_out", HELD)
def test_what_is_held_out_is_never_seen_and_all_of_it_is_new(holds_out):
    assert_apart(*seen_and_new(holds_out))


def test_disjointness_can_fail():
    task = LaundryList(items=10, shortest=3, longest=5)
    one, other = ({e[0] for e in taken_apart_keys(task, seed)} for seed in (0, 1))
    with pytest.raises(AssertionError):
        assert_apart(one, other)


def taken_apart_keys(task, seed):
    return [example(*one) for one in taken_apart(task, task.sample(2000, generator(seed)))]


def test_a_fifth_of_the_sets_is_held_out_and_a_set_in_any_order_belongs_to_one_part():
    task = LaundryList(items=22, shortest=5, longest=5, holds_out="sets")
    listed = LaundryList(items=22, shortest=5, longest=5)._lists(
        torch.full((4000,), 5), torch.zeros(4000).long(), generator()
    )
    lengths, missing = torch.full((4000,), 5), torch.zeros(4000, dtype=torch.long)
    new = task.is_new(listed, lengths, missing)
    assert abs(new.double().mean() - 0.2) < 5 * (0.16 / 4000) ** 0.5
    assert torch.equal(task.is_new(listed.flip(1), lengths, missing), new)


@pytest.mark.parametrize("items", range(3, 9))
def test_lists_of_a_length_that_has_sets_of_one_part_alone_are_refused_and_others_are_drawn(items):
    """The new part of such lists could be drawn from for ever."""
    for length in range(2, items):
        sets = torch.tensor(list(combinations(range(items), length)))
        new = new_sets(sets, torch.ones_like(sets, dtype=torch.bool), items)
        if new.all() or not new.any():
            with pytest.raises(ValueError, match=f"all sets of {length} of {items} items are of one part"):
                LaundryList(items, length, length, holds_out="sets", part="new")
        else:
            assert LaundryList(items, length, length, holds_out="sets", part="new").sample(8, generator())
    with pytest.raises(ValueError, match="of one part"):
        LaundryList(items=5, longest=4, holds_out="sets")


def test_a_list_grows_up_to_its_longest_and_no_further():
    task = LaundryList(items=12, shortest=3, longest=6)
    assert [task.up_to(size).longest for size in (1, 3, 5, 6, 9)] == [3, 3, 5, 6, 6]
    assert task.up_to(4).vocab == task.vocab


def test_an_indirect_object_is_the_one_who_does_not_give_in_either_order():
    task = IndirectObject(names=5)
    drawn = task.sample(task.balanced_batch(99), generator())
    assert_even(Counter(drawn.case_ids[:, 0].tolist()), 2)
    for row, target, place in zip(
        drawn.tokens.tolist(), drawn.targets[:, -1].tolist(), drawn.case_ids[:, 0].tolist(), strict=True
    ):
        assert {row[1], row[3]} - {row[5]} == {target} and [row[1], row[3]][place] == target


def pairs_named(task):
    return {frozenset(row) for row in task.sample(3000, generator()).tokens[:, [1, 3]].tolist()}


def test_pairs_of_names_that_are_held_out_are_never_seen_in_either_order_and_all_others_are():
    task = IndirectObject(names=12, holds_out="pairs")
    seen, new = pairs_named(task), pairs_named(task.parts()["new"])
    assert_apart(seen, new)
    assert len(seen | new) == 66 and 5 <= len(new) <= 20
    with pytest.raises(AssertionError):
        assert_apart(pairs_named(IndirectObject(names=12)), new)
    assert not IndirectObject().parts()


# ---- recall --------------------------------------------------------------------------------------------------------


def looked_up(task, prompts):
    """The value of each asked key, from the pairs at the start of its prompt."""
    for row, asked in zip(prompts.tokens.tolist(), prompts.answer_mask.tolist(), strict=True):
        memory = dict(zip(row[: 2 * task.pairs : 2], row[1 : 2 * task.pairs : 2], strict=True))
        yield [memory.get(token, -1) if a else None for token, a in zip(row, asked, strict=True)]


@given(seed=st.integers(0, 2**31), pairs=st.integers(1, 6), filled=st.booleans())
def test_the_value_of_every_asked_key_is_in_the_context_and_each_key_is_asked_once(seed, pairs, filled):
    task = MultiQueryRecall(vocab=20, n=26, pairs=pairs, filled=filled)
    drawn = task.sample(8, generator(seed))
    for row, target, asked, place, found in zip(
        drawn.tokens.tolist(),
        drawn.targets.tolist(),
        drawn.answer_mask.tolist(),
        drawn.case_ids.tolist(),
        looked_up(task, drawn),
        strict=True,
    ):
        at = [i for i in range(task.n) if asked[i]]
        assert [target[i] for i in at] == [found[i] for i in at]
        assert sorted(row[i] for i in at) == sorted(row[: 2 * pairs : 2])
        assert all(i >= 2 * pairs and i % 2 == 0 for i in at) and all(row[2 * place[i]] == row[i] for i in at)
        assert all(1 <= k < 10 <= v < 20 for k, v in zip(row[: 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
        assert filled or all(token == 0 for i, token in enumerate(row) if i >= 2 * pairs and i not in at)


def test_gaps_are_distributed_as_the_published_generator_draws_them():
    task = MultiQueryRecall(vocab=20, n=22, pairs=3, power=0.3)
    space = (task.n - 2 * task.pairs) // 2
    p = 0.3 * np.arange(1, space + 1) ** (0.3 - 1)
    rng = np.random.default_rng(0)
    theirs = np.stack([rng.choice(space, 3, replace=False, p=p / p.sum()) for _ in range(20_000)])
    ours = task._gaps(20_000, generator()).numpy()
    for drawn in (ours, theirs):
        assert all(len(set(row)) == 3 for row in drawn[:100].tolist())
    for column in range(3):
        a, b = (np.bincount(x[:, column], minlength=space) / 20_000 for x in (ours, theirs))
        assert np.abs(a - b).max() < 5 * (2 * 0.25 / 20_000) ** 0.5


def test_a_repeated_sequence_is_certain_to_who_counts_what_followed():
    task = RepeatedSequence(vocab=9, shortest=4, longest=6)
    drawn = task.sample(32, generator())
    said = Bigram(9, 1e-9)(drawn.tokens)
    assert torch.equal(said.argmax(-1)[drawn.answer_mask], drawn.targets[drawn.answer_mask])
    for row, asked in zip(drawn.tokens.tolist(), drawn.answer_mask.tolist(), strict=True):
        m = asked.index(True)
        assert 4 <= m <= 6 and len(set(row[:m])) == m and row == (row[:m] * 3)[:12]
        assert asked == [False] * m + [True] * (11 - m) + [False]


# ---- Markov chains -------------------------------------------------------------------------------------------------


def test_rows_of_transition_matrices_are_laws_with_the_moments_of_a_dirichlet():
    for alpha in (1, 3):
        rows = MarkovChain(states=3, n=4, alpha=alpha).matrices(4000, generator()).flatten(0, 1)
        torch.testing.assert_close(rows.sum(-1), torch.ones(12_000, dtype=torch.float64))
        expected = (1 / 3) * (2 / 3) / (3 * alpha + 1)
        assert abs(rows.mean(0) - 1 / 3).max() < 0.01 and abs(rows.var(0) - expected).max() < 0.05 * expected
    circulant = MarkovChain(states=4, n=4, circulant=True).matrices(10, generator())
    torch.testing.assert_close(circulant.sum(1), torch.ones(10, 4, dtype=torch.float64))
    torch.testing.assert_close(circulant[:, 1].roll(-1, 1), circulant[:, 0])


def test_the_stationary_law_is_that_of_numpys_eigenvectors():
    matrices = MarkovChain(states=4, n=4).matrices(20, generator())
    for law, matrix in zip(stationary(matrices).numpy(), matrices.numpy(), strict=True):
        values, vectors = np.linalg.eig(matrix.T)
        one = vectors[:, np.abs(values - 1).argmin()].real
        np.testing.assert_allclose(law, one / one.sum(), atol=1e-10)


def exact_law(matrix):
    """π by Gauss and Jordan in exact fractions, where only π P = π and Σ π = 1 are used."""
    k, exact = len(matrix), [[Fraction(p) for p in row] for row in matrix]
    for i in range(k):  # whatever a row lacks in float64 stays in its state
        exact[i][i] = 1 - sum(p for j, p in enumerate(exact[i]) if j != i)
    rows = [[exact[j][i] - (i == j) for j in range(k)] + [Fraction(0)] for i in range(k - 1)] + [
        [Fraction(1)] * (k + 1)
    ]
    for i in range(k):
        pivot = next(r for r in range(i, k) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for r in (r for r in range(k) if r != i):
            rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [float(row[-1]) for row in rows]


@pytest.mark.parametrize("rare", [1e-3, 1e-9, 1e-17, 1e-40])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]])
def test_states_that_are_hardly_ever_left_have_their_share_to_rounding(rare, order):
    rows = [[0, 0.5, 0.5, 0], [0.3, 0, 0.7, 0], [0.2, 0.8 - rare, 0, rare], [0, 3 * rare, 0, 1 - 3 * rare]]
    matrix = torch.tensor(rows, dtype=torch.float64)[order][:, order]
    expected = torch.tensor(exact_law(matrix.tolist()), dtype=torch.float64)
    torch.testing.assert_close(stationary(matrix[None])[0], expected, rtol=1e-13, atol=0.0)


def test_a_state_that_is_never_left_has_all_and_two_of_them_are_refused():
    sink = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]], dtype=torch.float64)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        law = stationary(sink[order][:, order].unsqueeze(0))[0]
        assert law.tolist() == [float(state == 0) for state in order]
    two = torch.tensor([[0, 0.5, 0.5], [0, 1.0, 0], [0, 0, 1.0]], dtype=torch.float64)
    task = MarkovChain(states=3, n=4)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        with pytest.raises(ValueError, match="1 of 2 chains have no single stationary distribution"):
            task.walks(torch.stack([sink, two[order][:, order]]), generator())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.5, 2.0])
def test_rows_that_are_no_laws_are_refused(wrong):
    matrices = MarkovChain(states=3, n=4).matrices(5, generator())
    matrices[2, 1, 0] = wrong
    with pytest.raises(ValueError, match="must sum to 1; 1 of 5 differ"):
        MarkovChain(states=3, n=4).walks(matrices, generator())


def test_walks_take_steps_with_the_probabilities_of_their_matrix_and_stay_stationary():
    task = MarkovChain(states=3, n=50)
    matrix = task.matrices(1, generator(3))
    tokens = task.walks(matrix.expand(4000, -1, -1), generator()).tokens
    pairs = torch.stack([tokens[:, :-1], tokens[:, 1:]], -1).flatten(0, 1)
    counts = torch.zeros(3, 3, dtype=torch.float64).index_put_(
        (pairs[:, 0], pairs[:, 1]), torch.ones(()).double(), True
    )
    assert (counts / counts.sum(1, keepdim=True) - matrix[0]).abs().max() < 0.01
    law = stationary(matrix)[0]
    for t in (0, 1, 17, 49):  # a walk that skips or repeats a step of the scan would still be stationary: see pairs
        shares = torch.bincount(tokens[:, t], minlength=3) / 4000
        assert (shares - law).abs().max() < 5 * 0.5 / 4000**0.5


@given(seed=st.integers(0, 2**31), k=st.integers(2, 4), n=st.integers(2, 9), alpha=st.floats(0.1, 3.0))
def test_counts_of_tokens_and_of_pairs_equal_plain_loops(seed, k, n, alpha):
    tokens = torch.randint(k, (3, n), generator=generator(seed))
    for predictor, of_pairs in ((Unigram(k, alpha), False), (Bigram(k, alpha), True)):
        said = predictor(tokens).exp()
        for b, row in enumerate(tokens.tolist()):
            for t in range(n):
                followed = [row[s + 1] for s in range(t) if row[s] == row[t]] if of_pairs else row[: t + 1]
                expected = [(followed.count(j) + alpha) / (len(followed) + k * alpha) for j in range(k)]
                torch.testing.assert_close(said[b, t], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("predictor", [Unigram(5), Bigram(5)], ids=["unigram", "bigram"])
def test_counting_is_causal(predictor):
    assert_tokens_causal(predictor)


def test_the_bigram_predictor_is_the_posterior_mean_given_the_transitions():
    """By integration over a grid of two-state matrices: E[P_ij L] / E[L] with L = Π_s P_{x_s, x_{s+1}}."""
    row = [0, 0, 1, 0, 1, 1, 1]
    at = (np.arange(2000) + 0.5) / 2000
    stay0, stay1 = at[:, None], at[None, :]
    matrix = {(0, 0): stay0, (0, 1): 1 - stay0, (1, 1): stay1, (1, 0): 1 - stay1}
    said = Bigram(2)(torch.tensor([row])).exp()[0]
    likelihood = np.ones((2000, 2000))
    for t in range(len(row)):
        likelihood = likelihood * matrix[row[t - 1], row[t]] if t else likelihood
        expected = [(matrix[row[t], j] * likelihood).sum() / likelihood.sum() for j in range(2)]
        np.testing.assert_allclose(said[t].numpy(), expected, atol=1e-5)


def test_no_other_count_has_a_lower_loss_on_the_chains_it_is_for():
    drawn = MarkovChain(states=3, n=40).sample(3000, generator())

    def losses(predictor):
        said = predictor(drawn.tokens).gather(2, drawn.targets.unsqueeze(2)).squeeze(2)
        return -said[:, 1:-1].mean(1)

    best = losses(Bigram(3))
    for other in (Unigram(3), Bigram(3, 0.3), Bigram(3, 3.0)):
        gap = losses(other) - best
        assert gap.mean() > 5 * gap.std() / 3000**0.5
    even = losses(lambda tokens: torch.full((*tokens.shape, 3), 1 / 3).double().log())
    assert (even - losses(Unigram(3))).mean() > 0.05  # frequencies tell something, but for circulant chains nothing:
    drawn = MarkovChain(states=3, n=40, circulant=True).sample(3000, generator())
    assert losses(Unigram(3)).mean() > np.log(3)


# ---- at the door ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LaundryList(items=1, shortest=0), "items must be at least 2, given 1; shortest must be at least 2"),
        (lambda: LaundryList(longest=23), r"longest must lie between shortest and items, 2\.\.22, given 23"),
        (lambda: LaundryList(part="new"), "nothing is held out"),
        (lambda: LaundryList(longest=22, holds_out="sets"), "none can be held out"),
        (lambda: LaundryList(items=4, longest=3, holds_out="answers"), "a fifth of the items needs 5"),
        (lambda: LaundryList(balanced=True), "balanced lists have one length, given 2..10"),
        (lambda: LaundryList(holds_out="openers", separators=1), "separators must be at least 2"),
        (lambda: IndirectObject(names=1, locations=0), "names must be at least 2, given 1; locations must be"),
        (lambda: IndirectObject(names=4, holds_out="pairs"), "names must be at least 5, given 4"),
        (lambda: IndirectObject(part="new"), "nothing is held out"),
        (lambda: RepeatedSequence(vocab=9), r"longest must lie between shortest and vocab, 8\.\.9, given 16"),
        (lambda: MultiQueryRecall(n=31, pairs=8, vocab=17, power=0), "n must be even.*= 32.*vocab must.*= 18.*power"),
        (lambda: MarkovChain(states=1, n=1, alpha=0), "states must be at least 2.*n must be at least 2.*alpha"),
        (lambda: Bigram(0, -1.0), "Bigram: vocab must be at least 1, given 0; alpha must be positive"),
        (lambda: LaundryList().sample(0, generator()), "batch must be positive, given 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_everything_that_is_wrong(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_methods_with_a_new_name_answer_to_the_old_one_with_a_warning():
    task = LaundryList(items=6, longest=3)
    with pytest.warns(DeprecationWarning, match="LaundryList.evenly is now balanced_batch"):
        assert task.evenly(7) == task.balanced_batch(7)
    with pytest.warns(DeprecationWarning, match="LaundryList.followed is now monitored_parts"):
        assert task.followed() == task.monitored_parts()
