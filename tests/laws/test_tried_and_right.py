"""Closed forms and weights against oracles that share nothing with them: numbers of many digits, exact fractions,
every way that there is. The oracles are slow, so the cases are small."""

from fractions import Fraction
from itertools import combinations, pairwise

import mpmath
import pytest
import torch

from iclab.analysis.heads.folding import folded
from iclab.models import TokenTransformer, TokenTransformerConfig, Transformer, TransformerConfig
from iclab.models.activations import HookContext, ScopedHooks
from iclab.models.transformer import Attention
from iclab.predictors import DiscreteMMSE, GreedyTree, NearestNeighbours, Newton
from tests.conftest import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def whole(low, high, *shape, seed=0):
    return torch.randint(low, high, shape, generator=generator(seed)).double()


# ---- many digits ---------------------------------------------------------------------------------------------------


def pool_mean(pool, xs, ys, noise):
    """Σ_m p_m w_m with 60 digits, p_m ∝ exp(−r_m / 2 noise²)."""
    with mpmath.workdps(60):
        inputs, labels = ([[mpmath.mpf(v) for v in row] for row in rows] for rows in (xs.tolist(), [ys.tolist()]))
        left = [
            sum(
                (y - sum(mpmath.mpf(w) * v for w, v in zip(member, x, strict=True))) ** 2
                for x, y in zip(inputs, labels[0], strict=True)
            )
            for member in pool.tolist()
        ]
        shares = [mpmath.exp(-(r - min(left)) / (2 * mpmath.mpf(noise) ** 2)) for r in left]
        return [float(sum(s * w for s, w in zip(shares, c, strict=True)) / sum(shares)) for c in pool.T.tolist()]


def is_the_mean_of_the_pool(make, noise):
    pool, xs, ys = normal(5, 3), normal(6, 3, seed=1), normal(6, seed=2)
    found = make(pool, noise).weights(xs[None], ys[None])[0]
    wanted = torch.tensor([pool_mean(pool, xs[:i], ys[:i], noise) for i in range(6)], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("noise", [10.0**k for k in (-30, -20, -10, -5, -3, -2, -1, 0, 1, 2, 5, 10, 20, 30)])
def test_a_pool_is_weighed_rightly_over_sixty_orders_of_magnitude_of_noise(noise):
    is_the_mean_of_the_pool(DiscreteMMSE, noise)


def test_the_weights_of_a_pool_can_be_wrong():
    for noise in (1e-1, 1.0, 1e2):
        with pytest.raises(AssertionError):
            is_the_mean_of_the_pool(lambda pool, noise: DiscreteMMSE(pool, noise * (1 + 1e-6)), noise)


@pytest.mark.parametrize("start", ["spectral", "frobenius"])
@pytest.mark.parametrize("steps", [0, 1, 7, 20, 45])
def test_newton_is_its_iteration_in_many_digits(start, steps):
    """The condition of G is 1e6, and an eigenvector turns by eps times that."""
    xs, ys = normal(6, 3) * torch.tensor([1.0, 0.03, 0.001]), normal(6, seed=1)
    found = Newton(steps, start).weights(xs[None], ys[None])[0, -1]
    with mpmath.workdps(80):
        X, y = mpmath.matrix(xs[:-1].tolist()), mpmath.matrix(ys[:-1].tolist())
        G = X.T * X
        squares = G * G
        norms = {"spectral": max(mpmath.eigsy(squares, eigvals_only=True)), "frobenius": mpmath.mnorm(squares, "f")}
        M = G / norms[start]
        for _ in range(steps):
            M = 2 * M - M * G * M
        wanted = torch.tensor([float(w) for w in M * X.T * y], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9 * wanted.abs().max().item())


# ---- every way that there is ---------------------------------------------------------------------------------------


def mean_over_ways(k, power, X, y, x):
    """The weighted mean label of the k nearest, averaged over every choice of k whose others are all no nearer."""
    squares = [sum((a - b) ** 2 for a, b in zip(row, x, strict=True)) for row in X]
    answers = []
    for chosen in combinations(range(len(y)), min(k, len(y))):
        others = [squares[j] for j in range(len(y)) if j not in chosen]
        if others and max(squares[j] for j in chosen) > min(others):
            continue
        exact = [j for j in chosen if squares[j] == 0] if power else []
        weights = {j: 1.0 if exact else squares[j] ** (-power / 2) for j in exact or chosen}
        answers.append(sum(w * y[j] for j, w in weights.items()) / sum(weights.values()))
    return sum(answers) / len(answers)


def shares_ties(predictor, k, power):
    xs, ys = whole(-1, 2, 20, 8, 2), normal(20, 8, seed=1)
    found = predictor(xs, ys)
    for X, y, answers in zip(xs.tolist(), ys.tolist(), found.tolist(), strict=True):
        assert answers[0] == 0
        wanted = [mean_over_ways(k, power, X[:i], y[:i], X[i]) for i in range(1, 8)]
        assert answers[1:] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
@pytest.mark.parametrize(("weighting", "power"), [("uniform", 0), ("distance", 1), ("squared distance", 2)])
def test_neighbours_that_tie_are_the_mean_over_every_way_to_break_the_tie(k, weighting, power):
    shares_ties(NearestNeighbours(k, weighting), k, power)


def test_that_ties_are_shared_can_fail():
    def last_come(xs, ys):
        return NearestNeighbours(3)(xs + 1e-9 * torch.arange(8.0).unsqueeze(-1), ys)

    with pytest.raises(AssertionError):
        shares_ties(last_come, 3, 0)


def spread(ts):
    return sum((t - sum(ts) / len(ts)) ** 2 for t in ts)


def tree_of_fractions(X, t, x, depth):
    """The answer of a tree all of whose splits are tried; of those that are exactly as good the first coordinate's, and
    of these the lowest."""
    splits = []
    for c in range(len(x)):
        values = sorted({row[c] for row in X})
        for low, high in pairwise(values):
            sides = [[u for row, u in zip(X, t, strict=True) if (row[c] <= low) is left] for left in (True, False)]
            splits.append((sum(map(spread, sides)), c, (low + high) / 2))
    if not depth or not splits:
        return sum(t) / len(t)
    _, c, threshold = min(splits)
    kept = [j for j, row in enumerate(X) if (row[c] <= threshold) is (x[c] <= threshold)]
    return tree_of_fractions([X[j] for j in kept], [t[j] for j in kept], x, depth - 1)


def grows_as_in_fractions(tree, depth):
    xs, ys = whole(-1, 2, 12, 9, 3), whole(-2, 3, 12, 9, seed=1)
    for X, y, answers in zip(xs, ys, tree(xs, ys).tolist(), strict=True):
        rows, labels = [list(map(Fraction, row)) for row in X.tolist()], list(map(Fraction, y.tolist()))
        wanted = [float(tree_of_fractions(rows[:i], labels[:i], rows[i], depth)) for i in range(1, 9)]
        assert answers[1:] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_trees_on_a_grid_with_equal_splits_are_those_of_exact_fractions(depth):
    grows_as_in_fractions(GreedyTree(depth), depth)


def test_trees_of_fractions_can_say_otherwise():
    def mirrored(xs, ys):
        return GreedyTree(2)(xs.flip(-1), ys)  # ties go to the last coordinate

    with pytest.raises(AssertionError):
        grows_as_in_fractions(mirrored, 2)


# ---- weights -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_what_is_folded_is_folded_once_and_for_all():
    shape = TokenTransformerConfig(n_layer=2, n_head=2, d_model=8, d_mlp=8, attention="softmax")
    model = TokenTransformer(9, 7, shape, generator()).double()
    for weight in model.parameters():
        weight.add_(0.3 * torch.randn(weight.shape, generator=generator(1)))
    once = folded(model)
    twice = folded(once)
    moved = [(a - b).abs().max() for a, b in zip(once.parameters(), twice.parameters(), strict=True)]
    assert max(moved) <= 1e-15  # a mean that was taken off is a rounding, which may be taken off again
    tokens = torch.arange(7).unsqueeze(0)
    torch.testing.assert_close(twice(tokens), model(tokens), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("attention", ["softmax", "linear", "relu"])
@pytest.mark.parametrize("normaliser", ["seen", "longest", "none"])
@pytest.mark.parametrize("read", [(), ("attn.pattern",)], ids=["fused", "read"])
def test_a_token_that_sees_nothing_gets_nothing_and_moves_nothing(attention, normaliser, read):
    config = TransformerConfig(n_head=2, d_model=8, attention=attention, normaliser=normaliser)
    part = Attention(config, 4).to_empty(device="cpu")
    for weight in part.parameters():
        torch.nn.init.normal_(weight, generator=generator())
    mask = torch.ones(4, 4, dtype=torch.bool).tril(-1)  # the first sees none
    h = torch.randn(2, 4, 8, generator=generator(1)).requires_grad_()
    sight = Transformer(3, 4, config)._sight(mask, False, h.dtype)
    said = part(h, sight, ScopedHooks(HookContext(frozenset(f"here.{name}" for name in read), {}), "here"))
    assert torch.equal(said[:, 0], part.out.bias.expand(2, -1))
    said[:, 0].sum().backward(retain_graph=True)
    assert h.grad is not None and not h.grad.any()
    said.sum().backward()
    assert h.grad.isfinite().all() and h.grad.any()
