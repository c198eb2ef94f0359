"""The Lasso: its conditions on every prefix of prompts that tie, repeat, sleep and depend on each other.

The conditions of Karush, Kuhn and Tucker are necessary and sufficient, so that one law decides, in plain NumPy on the
examples: with c = Xᵀ(y − Xw)/i, c_j = α sign w_j where w_j ≠ 0 and |c_j| ≤ α elsewhere, to 1e-9 of |Xᵀy/i|_∞. Answers
also meet scikit-learn's two algorithms and, where ties abound, the best of all choices of signs.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Lasso as SklearnLasso
from sklearn.linear_model import LassoLars
from torch import Tensor
from torch.nn.functional import one_hot

from iclab.predictors import Landweber, Lasso, LeastSquares, Linear, Newton
from tests.conftest import generator
from tests.predictors.test_predictors import DRAWN, PLAIN, Drawn, extremes, rotation, slack

EPS = torch.finfo(torch.float64).eps

# ---- prompts -------------------------------------------------------------------------------------------------------


def normal(batch: int, n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = generator(seed)
    xs = torch.randn(batch, n, d, generator=rng, dtype=torch.float64)
    return xs, xs[..., 0] + 0.5 * torch.randn(batch, n, generator=rng, dtype=torch.float64)


def kinds(batch: int, n: int, d: int, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and labels of every kind that was ever wrong, or might be."""
    (xs, ys), rng = normal(batch, n, d, seed), generator(seed + 1)
    whole = torch.randint(-3, 4, (batch, n), generator=rng).double()
    signs = 2 * torch.randint(0, 2, (batch, n, d), generator=rng).double() - 1
    hot = one_hot(torch.randint(0, d, (batch, n), generator=rng), d).double()
    twice, k = torch.arange(d) // 2, torch.arange(d)
    low = torch.randint(-2, 3, (batch, n, 2), generator=rng) @ torch.randint(-2, 3, (2, d), generator=rng)
    awake = (torch.arange(n) >= n // 2).unsqueeze(-1) | (k % 2 == 0)
    return {
        "normal": (xs, ys),
        "signs, whole labels": (signs, whole),
        "signs, labels without noise": (signs, signs[..., 0] - signs[..., -1]),
        "three values": (torch.randint(-1, 2, (batch, n, d), generator=rng).double(), whole),
        "one-hot, whole labels": (hot, whole),
        "one-hot": (hot, ys),
        "repeated columns": (xs[..., twice], ys),
        "columns with their opposites": (xs[..., twice] * (1 - 2 * (k % 2)), ys),
        "multiples of columns": (xs[..., twice] * torch.tensor([1.0, 2.0, -1.0, 0.3]).double()[k % 4], ys),
        "repeated examples": (signs[:, torch.arange(n) % 3], whole),
        "one input": (xs[:, :1].expand_as(xs).contiguous(), ys),
        "one column, copied": (signs[..., :1].expand_as(xs).contiguous(), whole),
        "dead coordinates": (xs * (k % 2), ys),
        "coordinates that wake late": (xs * awake, ys),
        "signs that wake late": (signs * awake, whole),
        "rank 2": (low.double(), whole),
        "rank 2, turned": (low.double() @ rotation(d, rng), ys),
        "columns of all sizes": (xs * torch.logspace(0, -6, d).double(), ys),
        "zeros between": (xs * (torch.arange(n) % 2).unsqueeze(-1), ys),
    }


def every_kind(batch: int, n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """All kinds in one batch."""
    xs, ys = zip(*kinds(batch, n, d, seed).values(), strict=True)
    return torch.cat(xs), torch.cat(ys)


# ---- the conditions ------------------------------------------------------------------------------------------------


def violations(ws: Tensor, xs: Tensor, ys: Tensor, alpha: float) -> np.ndarray:
    """How far the conditions are missed in each prompt and prefix, relative to |Xᵀy/i|_∞ or, if that is more, to α."""
    found = np.zeros(ws.shape[:2])
    for i in range(1, ws.shape[1]):
        w, X, y = ws[:, i].numpy(), xs[:, :i].numpy(), ys[:, :i].numpy()
        error = y - np.einsum("bij,bj->bi", X, w)
        c, h = (np.einsum("bij,bi->bj", X, each) / i for each in (error, y))
        off = np.where(w == 0, np.maximum(abs(c) - alpha, 0), abs(c - alpha * np.sign(w)))
        found[:, i] = off.max(-1) / np.maximum(abs(h).max(-1), alpha)
    return found


def is_optimal(ws: Tensor, xs: Tensor, ys: Tensor, alpha: float) -> None:
    assert violations(ws, xs, ys, alpha).max() <= 1e-9  # NaN is not


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.25, 0.1, 1e-3, 1e-6])  # the first ones are where whole numbers tie
@pytest.mark.parametrize(("n", "d"), [(9, 3), (6, 9)])
def test_the_conditions_of_the_minimum_hold_on_every_prefix(alpha: float, n: int, d: int):
    xs, ys = every_kind(4, n, d, seed=n)
    is_optimal(Lasso(alpha).weights(xs, ys), xs, ys, alpha)


def test_many_coordinates_join_and_leave():
    """d = 20 and every prefix up to 41; the last prefixes before d are interpolated."""
    given = kinds(2, 41, 20, seed=1)
    for kind in ("normal", "signs, whole labels", "multiples of columns", "coordinates that wake late"):
        xs, ys = given[kind]
        for alpha in (0.1, 1e-4):
            is_optimal(Lasso(alpha).weights(xs, ys), xs, ys, alpha)


@given(drawn=DRAWN, alpha=st.sampled_from([1e-6, 1e-3, 0.03, 1.0]))
def test_the_conditions_hold_at_every_penalty(drawn: Drawn, alpha: float):
    is_optimal(Lasso(alpha).weights(drawn.xs, drawn.ys), drawn.xs, drawn.ys, alpha)


def earlier(xs: Tensor, ys: Tensor) -> Tensor:
    """The weights of one example fewer, from the fourth on."""
    ws = Lasso(0.25).weights(xs, ys)
    return torch.cat([ws[:, :4], ws[:, 3:-1]], dim=1)


def ungrown(xs: Tensor, ys: Tensor) -> Tensor:
    """One coordinate never joins."""
    ws = Lasso(0.25).weights(xs, ys)
    return ws.where(torch.arange(ws.shape[-1]) < ws.shape[-1] - 1, 0.0)


@pytest.mark.parametrize("cheat", [Lasso(0.25 * (1 + 1e-7)).weights, LeastSquares().weights, earlier, ungrown])
@pytest.mark.parametrize("kind", ["normal", "signs, whole labels"])
def test_the_conditions_can_fail(cheat: Callable[[Tensor, Tensor], Tensor], kind: str):
    xs, ys = kinds(12, 9, 3)[kind]
    with pytest.raises(AssertionError):
        is_optimal(cheat(xs, ys), xs, ys, 0.25)


# ---- other ways to the minimum -------------------------------------------------------------------------------------


def objective(w: np.ndarray, X: np.ndarray, y: np.ndarray, alpha: float) -> float:
    return ((X @ w - y) ** 2).sum() / (2 * len(y)) + alpha * abs(w).sum()


def by_signs(X: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    """The best of the minima on all 3^d faces of fixed signs that lie on their face."""
    best = np.zeros(X.shape[1])
    for signs in map(np.array, product((-1, 0, 1), repeat=X.shape[1])):
        A, w = signs != 0, np.zeros(len(signs))
        w[A] = np.linalg.pinv(X[:, A].T @ X[:, A]) @ (X[:, A].T @ y - alpha * len(y) * signs[A])
        if (w * signs >= 0).all() and objective(w, X, y, alpha) < objective(best, X, y, alpha):
            best = w
    return best


@pytest.mark.parametrize("kind", ["signs, whole labels", "repeated columns", "three values", "rank 2"])
def test_no_choice_of_signs_does_better(kind: str):
    xs, ys = kinds(6, 7, 3)[kind]
    for alpha in (0.5, 0.1):
        ws = Lasso(alpha).weights(xs, ys)
        for b, i in product(range(6), range(1, 7)):
            X, y = xs[b, :i].numpy(), ys[b, :i].numpy()
            least = objective(by_signs(X, y, alpha), X, y, alpha)
            assert objective(ws[b, i].numpy(), X, y, alpha) <= least * (1 + 1e-12) + 1e-15


def test_two_coordinates_that_tie_join_together():
    xs = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
    ws = Lasso(0.1).weights(xs, torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(ws[0, 2], torch.tensor([0.8, 0.8], dtype=torch.float64), rtol=1e-15, atol=0)


LIBRARY = {  # an algorithm, and what it leaves: the first stops at a duality gap of 1e-14·|y|², 1e-7 in the weights
    "coordinate descent": (lambda a: SklearnLasso(a, fit_intercept=False, tol=1e-14, max_iter=10**6), 1e-6),
    "least angles": (lambda a: LassoLars(a, fit_intercept=False, eps=EPS, max_iter=10**4), 1e-10),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_scikit_learn_finds_the_same_weights(name: str):
    make, tolerance = LIBRARY[name]
    for kind in ("normal", "one-hot", "dead coordinates", "coordinates that wake late"):
        xs, ys = kinds(2, 14, 5)[kind]
        ws = Lasso(0.03).weights(xs, ys)
        for b, i in product(range(2), (3, 6, 9, 13)):  # one minimum: columns are independent or pull less than α
            wanted = make(0.03).fit(xs[b, :i].numpy(), ys[b, :i].numpy()).coef_
            np.testing.assert_allclose(ws[b, i].numpy(), wanted, rtol=0, atol=tolerance * (1 + abs(wanted).max()))


# ---- units, batches, steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "t"), [(1e-8, 1.0), (3e8, 1.0), (1.0, 3e-8), (1.0, 1e8), (1e-8, 1e-8), (1e8, 1e8)])
def test_units_play_no_part(s: float, t: float):
    """x → s x with α → s α, and y → t y with α → t α: up to rounding, as no factor is a power of two."""
    xs, ys = every_kind(4, 9, 4, seed=3)
    for alpha in (0.5, 0.03):
        ws = Lasso(alpha).weights(xs, ys)
        scaled = Lasso(alpha * s * t).weights(s * xs, t * ys) * (s / t)
        torch.testing.assert_close(scaled, ws, rtol=0, atol=1e-9 * (1 + ws.abs().max().item()))


def test_units_can_play_a_part():
    xs, ys = kinds(12, 9, 4, seed=3)["normal"]
    with pytest.raises(AssertionError):
        torch.testing.assert_close(Lasso(0.5).weights(3 * xs, ys) * 3, Lasso(0.5).weights(xs, ys), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1e-3])
def test_the_company_in_a_batch_does_not_choose_between_minima(alpha: float):
    xs, ys = every_kind(2, 9, 4, seed=5)
    ws = Lasso(alpha).weights(xs, ys)
    assert torch.equal(Lasso(alpha).weights(xs.flip(0), ys.flip(0)).flip(0), ws)
    alone = torch.cat([Lasso(alpha).weights(x.unsqueeze(0), y.unsqueeze(0)) for x, y in zip(xs, ys, strict=True)])
    assert torch.equal(alone, ws)


def test_too_few_steps_are_seen():
    """Prefixes that two moves do not bring to the minimum are not numbers; the others are right."""
    xs, ys = normal(12, 14, 5, seed=7)
    ws, few = Lasso(0.01).weights(xs, ys), Lasso(0.01, steps=2).weights(xs, ys)
    lost = few.isnan().any(-1)
    assert lost.any() and not lost.all() and not ws.isnan().any()
    assert torch.equal(few[~lost], ws[~lost])


def test_columns_nearer_than_rounding_can_part_are_answered_right_or_not_at_all():
    """Columns that differ by 1e-8 of their size and a penalty of 1e-12, where XᵀX has no digit left to tell them by."""
    xs, ys = normal(20, 7, 3, seed=9)
    xs = xs[..., :1] + 1e-8 * xs
    ws = Lasso(1e-12, steps=50).weights(xs, ys)
    norms = (xs.square().cumsum(1) / torch.arange(1, 8).unsqueeze(-1)).sqrt().amax((1, 2))
    rounding = (norms.square().unsqueeze(-1) * ws.abs().sum(-1) * 16 * EPS).numpy()
    h = ((xs * ys.unsqueeze(-1)).cumsum(1)[:, :-1] / torch.arange(1, 7).unsqueeze(-1)).abs().amax(-1).numpy()
    known = ~np.isnan(rounding[:, 1:])
    off = violations(ws, xs, ys, 1e-12)[:, 1:]
    assert known.any() and (off[known] * h[known] <= 1e-9 * h[known] + rounding[:, 1:][known]).all()


@pytest.mark.parametrize("predictor", [Lasso(0.1), Newton(3), Landweber(3)])
def test_a_prompt_whose_squares_overflow_is_no_matter_to_the_others(predictor: Linear):
    """One matrix that is not finite makes LAPACK refuse a whole batch."""
    xs, ys = normal(3, 8, 3, seed=11)
    right, large = predictor(xs, ys), xs.clone()
    for bad in (1e200, float("nan"), float("inf")):
        large[1, 4, 0] = bad
        found = predictor(large, ys)
        assert torch.equal(found[[0, 2]], right[[0, 2]]) and torch.equal(found[1, :4], right[1, :4])
        assert found[1, 5:].isnan().all()


# ---- limits --------------------------------------------------------------------------------------------------------


def tends_to_least_squares(make: Callable[[float], Linear], drawn: Drawn) -> None:
    """G (w_ls − w) = α·s with |s_j| ≤ 1, so past d examples |w_ls − w| ≤ α √d · i / s_min²."""
    least, _ = extremes(drawn.xs)
    i, determined = torch.arange(drawn.n, dtype=torch.float64), slice(drawn.d + 1, None)
    ls = LeastSquares().weights(drawn.xs, drawn.ys)[:, determined]
    for alpha in (1e-1, 1e-3, 1e-6, 1e-12):
        gap = (make(alpha).weights(drawn.xs, drawn.ys)[:, determined] - ls).norm(dim=-1)
        bound = (alpha * drawn.d**0.5 * i / least.square())[:, determined]
        assert (gap <= bound * (1 + 1e-9) + 10 * slack(drawn.xs) * (1 + ls.norm(dim=-1))).all()


@given(drawn=DRAWN)
def test_past_d_examples_it_tends_to_least_squares(drawn: Drawn):
    tends_to_least_squares(Lasso, drawn)


def test_the_limit_can_fail():
    with pytest.raises(AssertionError):
        tends_to_least_squares(lambda alpha: Lasso(alpha + 1e-3), PLAIN)
