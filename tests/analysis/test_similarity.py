"""CKA: the formula in plain loops, what it does not change under, and what it does."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.analysis import features, linear_cka
from iclab.analysis.layers.similarity import _unbiased_hsic
from iclab.models import Transformer, TransformerConfig
from iclab.tasks import LinearRegression
from tests.conftest import generator

SIZES = {
    "seed": st.integers(0, 2**31),
    "n": st.integers(4, 12),
    "width": st.integers(1, 20),
    "other": st.integers(1, 6),
}
BOTH = pytest.mark.parametrize("unbiased", [False, True], ids=["biased", "unbiased"])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def rotation(width, seed):
    return torch.linalg.qr(normal(width, width, seed=seed)).Q


def hsic_by_hand(x, y):
    """tr(K H L H), entry by entry."""
    n = len(x)
    grams = [[[float(a @ b) for b in z] for a in z] for z in (x, y)]
    one, two = (centred_by_hand(gram) for gram in grams)
    return sum(one[i][j] * two[i][j] for i in range(n) for j in range(n))


def centred_by_hand(gram):
    means = [sum(row) / len(gram) for row in gram]
    overall = sum(means) / len(gram)
    rows = range(len(gram))
    return [[gram[i][j] - means[i] - means[j] + overall for j in rows] for i in rows]


def unbiased_by_hand(x, y):
    """The mean of k_ij l_ij + k_ij l_qr − 2 k_ij l_iq over all i, j, q, r that differ: the U-statistic itself."""
    n = len(x)
    one, two = x @ x.T, y @ y.T
    terms = [one[i, j] * (two[i, j] + two[q, r] - 2 * two[i, q]) for i, j, q, r in permutations(range(n), 4)]
    return float(sum(terms)) / len(terms)


def cka_by_hand(x, y, hsic):
    return hsic(x, y) / (hsic(x, x) * hsic(y, y)) ** 0.5


@given(**SIZES)
def test_cka_is_its_formula_in_plain_loops_for_all_pairs_of_layers(seed, n, width, other):
    """Narrow layers are compared by sums over features, wide ones by sums over pairs of rows."""
    one, two = normal(2, n, width, seed=seed) + 3, normal(3, n, other, seed=seed + 1)
    expected = [[cka_by_hand(x, y, hsic_by_hand) for y in two] for x in one]
    torch.testing.assert_close(linear_cka(one, two), torch.tensor(expected, dtype=torch.float64))


@given(seed=st.integers(0, 2**31), n=st.integers(4, 6), width=st.integers(1, 8))
def test_unbiased_hsic_is_the_mean_over_four_different_rows(seed, n, width):
    x, y = normal(1, n, width, seed=seed), normal(1, n, 2, seed=seed + 1)
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    found = _unbiased_hsic(x, y).item() / (n * (n - 3))
    assert found == pytest.approx(unbiased_by_hand(x[0], y[0]), abs=1e-10)


@BOTH
@given(**SIZES)
def test_cka_does_not_change_under_rotations_shifts_and_scales(unbiased, seed, n, width, other):
    one, two = normal(2, n + 4, width, seed=seed), normal(1, n + 4, other, seed=seed + 1)
    turned = -0.3 * one @ rotation(width, seed + 2) + normal(width, seed=seed + 3)
    kept, found = linear_cka(one, two, unbiased), linear_cka(turned, two, unbiased)
    torch.testing.assert_close(found, kept, atol=1e-9, rtol=1e-9, equal_nan=True)
    torch.testing.assert_close(linear_cka(two, turned, unbiased), kept.mT, atol=1e-9, rtol=1e-9, equal_nan=True)


@BOTH
def test_cka_of_a_layer_with_itself_turned_is_one_and_under_a_general_map_it_is_less(unbiased):
    x = normal(1, 200, 5)
    stretched = x * torch.tensor([1.0, 1, 1, 1, 100], dtype=torch.float64)
    assert linear_cka(x, x @ rotation(5, 1), unbiased).item() == pytest.approx(1)
    assert linear_cka(x, stretched, unbiased).item() < 0.7  # the cheat: an invertible map that is no rotation


@BOTH
def test_rows_in_another_order_are_other_examples(unbiased):
    x = normal(1, 200, 5)
    assert linear_cka(x, x.roll(1, 1), unbiased).abs().item() < 0.1


def test_only_the_unbiased_estimate_says_that_wide_features_have_nothing_in_common():
    one, two = normal(30, 20, 100), normal(30, 20, 100, seed=1)
    biased, unbiased = linear_cka(one, two), linear_cka(one, two, unbiased=True)
    assert biased.mean() > 0.7 and unbiased.mean().abs() < 0.02
    assert unbiased.min() < 0


def test_both_ways_to_sum_agree():
    x = normal(1, 20, 19)
    wide = torch.cat([x, torch.zeros(1, 20, 30, dtype=torch.float64)], dim=-1)  # the same rows, now with Gram matrices
    for unbiased in (False, True):
        other = normal(2, 20, 19, seed=1)
        torch.testing.assert_close(linear_cka(wide, other, unbiased), linear_cka(x, other, unbiased))


def test_the_layers_of_a_model_are_most_like_themselves():
    model = Transformer(3, 6, TransformerConfig(n_layer=2), generator())
    h = features(model, LinearRegression(3, 6).sample(100, generator())).flatten(1, 2)
    found = linear_cka(h, h)
    torch.testing.assert_close(found.diagonal(), torch.ones(3, dtype=torch.float64))
    assert (found <= 1 + 1e-12).all() and (found - torch.eye(3)).max() < 0.999


def test_layers_that_do_not_vary_have_no_cka_and_other_examples_are_refused():
    assert linear_cka(torch.ones(1, 8, 3), normal(1, 8, 3)).isnan().all()
    with pytest.raises(ValueError, match="the same examples for both networks, given 8 and 3; needs at least 4 rows"):
        linear_cka(normal(1, 8, 2), normal(1, 3, 2))
