"""Intervals contain the truth as often as they say, whatever seeds and prompts do; those of prompts alone do not."""

from math import inf, isclose, isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from iclab.experiments.intervals import SeedMean, clopper_pearson, sure_errors, unanimous_error, wilson
from iclab.experiments.streams import generator

TRIALS = 1500
CHANCE = 4 * (0.05 * 0.95 / TRIALS) ** 0.5  # four standard errors of a coverage that is counted


def sampled(seeds, over_seeds, over_prompts, shared=False, rng=None):
    """Values of seeds around a true mean of 0, each with an error by its prompts, or one error by prompts of all."""
    rng = rng or np.random.default_rng(0)
    own = rng.normal(0, over_seeds, (TRIALS, seeds))
    return own + rng.normal(0, over_prompts, (TRIALS, 1 if shared else seeds))


def coverage(values, interval):
    """How often the true mean, 0, lies in the interval."""
    ends = [interval(list(map(float, row))) for row in values]
    return sum(low <= 0 <= high for low, high in ends) / len(ends)


def by_prompts(error):
    """The cheat: the error of a mean over prompts alone, as if seeds gave the same network."""

    def interval(values):
        half = 1.96 * error / len(values) ** 0.5
        return np.mean(values) - half, np.mean(values) + half

    return interval


@given(
    seeds=st.integers(2, 8),
    ratio=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
    seed=st.integers(0, 2**16),
    shared=st.booleans(),
)
def test_the_interval_over_seeds_contains_the_truth_however_large_prompt_errors_are(seeds, ratio, seed, shared):
    values = sampled(seeds, 1.0, ratio, shared, np.random.default_rng(seed))
    errors = [ratio] * seeds
    found = coverage(values, lambda row: SeedMean.of(row, errors, ratio if shared else 0.0).interval())
    assert found >= 0.95 - CHANCE


def test_an_interval_of_prompt_errors_alone_misses_the_truth():
    values = sampled(5, 8.0, 1.0)
    assert coverage(values, by_prompts(1.0)) < 0.25
    assert coverage(values, lambda row: SeedMean.of(row, [1.0] * 5).interval()) >= 0.95 - CHANCE


def test_an_error_that_all_seeds_share_must_be_added():
    values = sampled(8, 1.0, 3.0, shared=True)
    assert coverage(values, lambda row: SeedMean.of(row, [3.0] * 8).interval()) < 0.9
    assert coverage(values, lambda row: SeedMean.of(row, [3.0] * 8, shared=3.0).interval()) >= 0.95 - CHANCE


def test_seeds_draw_test_prompts_of_their_own_so_that_they_share_no_error():
    assert generator(0, "test").initial_seed() != generator(1, "test").initial_seed()


def test_one_seed_has_ten_prompt_errors_and_none_without_one():
    assert SeedMean.of([1.0], [0.1]).interval() == (0.0, 2.0)
    assert all(map(isnan, SeedMean.of([1.0], [nan]).interval()))


def test_seeds_that_agree_by_chance_are_no_surer_than_their_prompts():
    mean = SeedMean.of([1.0, 1.0, 1.0], [0.3, 0.3, 0.3])
    assert isclose(mean.stderr, 0.3 / 3**0.5)


@pytest.mark.parametrize(("seeds", "known"), [(2, False), (5, False), (6, True), (9, True)])
def test_seeds_that_agree_without_an_error_decide_from_six_on(seeds, known):
    mean = SeedMean.of([3.0] * seeds, [nan] * seeds)
    assert isnan(mean.stderr) is not known
    assert (2 * 0.5**seeds <= 0.05) is known


def test_what_is_infinite_in_each_seed_is_so_without_an_error_and_in_some_with_an_infinite_one():
    assert SeedMean.of([inf, inf], [nan, nan]).stderr == 0
    assert SeedMean.of([inf, 3.0], [nan, 0.1]).stderr == inf


@given(trials=st.integers(1, 60), share=st.integers(1, 99))
def test_clopper_pearson_contains_every_share_and_is_that_of_scipy(trials, share):
    p, counts = share / 100, range(trials + 1)
    ends = [clopper_pearson(k, trials) for k in counts]
    covered = sum(binom.pmf(k, trials, p) for k, (low, high) in zip(counts, ends, strict=True) if low <= p <= high)
    assert covered >= 0.95 - 1e-9
    for k in {0, trials // 2, trials}:
        known = binomtest(k, trials).proportion_ci(method="exact")
        assert clopper_pearson(k, trials) == pytest.approx((known.low, known.high), abs=1e-9)


@given(trials=st.integers(1, 5000), part=st.floats(0, 1))
def test_wilson_is_that_of_scipy_and_has_a_length_where_all_agree(trials, part):
    successes = round(part * trials)
    known = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes / trials, trials) == pytest.approx((known.low, known.high), abs=1e-9)
    assert 0 < unanimous_error(trials) < 1
    assert isclose(1.96 * unanimous_error(trials), 1 - wilson(1.0, trials)[0], rel_tol=1e-4)


def test_the_more_runs_there_are_the_further_one_must_lie_outside():
    assert [round(sure_errors(count), 2) for count in (1, 9, 100)] == [1.96, 2.77, 3.48]
