"""Transformers with weights set by hand equal the algorithms that they were built from."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclab.commands.theorems import cases
from iclab.constructed import THEOREMS, Bounded, Case, Choices, Integers, Reals, Theorem, ahn, bai, named, vonoswald
from iclab.constructed.akyurek import (
    Build,
    divider,
    mover,
    multiplier,
    reader,
    recursive_least_squares,
    sgd_step,
    sherman_morrison,
    stochastic_gradient_descent,
)
from iclab.constructed.bai import gradient_descent, layers_for
from iclab.constructed.fu import newton
from iclab.constructed.guo import Representation, dynamics_decoder, ridge_decoder
from iclab.constructed.heads import Kinked
from iclab.constructed.operators import Layer, Product, Stream
from iclab.constructed.random_features import represented
from iclab.models import Transformer
from tests.conftest import generator
from tests.models.test_models import by_hand

HOLDING = [each for each in THEOREMS if each.expected == "holds"]
WRONG = [each for each in THEOREMS if each.expected == "fails"]
WITHIN = Build(largest_x=3.0, largest_y=6.0)


def prompts(d, n, seed=0, batch=16, noise=0.3):
    """xs and ys within the bounds of `WITHIN`."""
    rng = generator(seed)
    xs, ws, noises = (torch.randn(*shape, generator=rng).double() for shape in ((batch, n, d), (batch, d), (batch, n)))
    xs = xs.clamp(-3, 3)
    return xs, ((xs @ ws.unsqueeze(-1)).squeeze(-1) + noise * noises).clamp(-6, 6)


def hidden_layer(d, k=5, m=3):
    """W, b and O of random features."""
    rng = generator(7)
    return tuple(torch.randn(*shape, generator=rng).double() for shape in ((k, d), (k,), (m, k)))


def network(*sizes):
    """A leaky ReLU network with layers of these sizes."""
    pairs = itertools.pairwise(sizes)
    return Representation([torch.randn(b, a, generator=generator(b)).double() for a, b in pairs], 0.2)


# ---- every theorem -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theorem", HOLDING, ids=lambda each: each.name)
@settings(max_examples=5)
@given(data=st.data())
def test_every_theorem_holds(theorem, data):
    error, bound = theorem.measure(data.draw(cases(theorem)))
    assert error <= bound


@pytest.mark.slow
@pytest.mark.parametrize("theorem", HOLDING, ids=lambda each: each.name)
@settings(max_examples=250)
@given(data=st.data())
def test_every_theorem_holds_in_many_cases(theorem, data):
    error, bound = theorem.measure(data.draw(cases(theorem)))
    assert error <= bound


@pytest.mark.parametrize("theorem", WRONG, ids=lambda each: each.name)
def test_what_is_printed_wrong_fails_and_its_corrected_form_holds_on_the_same_cases(theorem):
    tally = theorem.tried(theorem.drawn(6))
    assert not tally.holds
    assert tally.passes()
    assert theorem.ranges == theorem.corrected.ranges
    assert not replace(theorem, corrected=theorem).tried(theorem.drawn(6)).passes(), "a twin must hold"


def test_the_printed_sign_is_off_by_twice_the_decay():
    d, lr, lam = 3, 0.1, 0.5
    xs, ys = prompts(d, 2)
    w = torch.randn(d, generator=generator(5)).double()
    right, wrong = (sgd_step(w, lr, lam, WITHIN, printed)(xs, ys)[:, 1] for printed in (False, True))
    torch.testing.assert_close(wrong - right, 2 * lr * lam * xs[:, 1] @ w, atol=1e-9, rtol=0)


def test_names_of_theorems_are_their_own():
    names = [each.name for each in THEOREMS]
    assert len(set(names)) == len(names)
    assert all(named(name).name == name for name in names)


# ---- against loops -------------------------------------------------------------------------------------------------


def divided_without_layer_norm():
    layer = Layer(Stream(1, 1, {"a": (1, 1.0)}), Product(), 1e-16)
    layer.div(layer.stream.value("x"), layer.stream.value("x"), "a")


def stepped(w, x, y, lr, lam):
    return w - lr * ((w @ x - y) * x + lam * w)


@pytest.mark.parametrize("norm", [False, True])
@given(seed=st.integers(0, 2**31), d=st.integers(1, 5), n=st.integers(1, 5), lam=st.sampled_from([0.0, 0.5]))
@settings(max_examples=10)
def test_sgd_in_layers_equals_sgd_in_a_loop_from_any_weights(norm, seed, d, n, lam):
    xs, ys = prompts(d, n, seed, batch=2)
    w = torch.randn(d, generator=generator(seed)).double()
    model = stochastic_gradient_descent(d, n, 0.02, lam, replace(WITHIN, norm=norm), w)
    for x, y, said, bounds in zip(xs, ys, model(xs, ys), model.tolerance(xs, ys), strict=True):
        now = w
        for i in range(n):
            assert abs(now @ x[i] - said[i]) <= bounds[i] < 1e-5
            now = stepped(now, x[i], y[i], 0.02, lam)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 4), n=st.integers(1, 5), lam=st.sampled_from([0.5, 3.0]))
@settings(max_examples=10)
def test_recursive_least_squares_in_layers_equals_the_normal_equations(seed, d, n, lam):
    xs, ys = prompts(d, n, seed, batch=2)
    model = recursive_least_squares(d, n, lam, replace(WITHIN, norm=True))
    assert model.config.n_layer == 4 * (n - 1) + 1
    for x, y, said, bounds in zip(xs, ys, model(xs, ys), model.tolerance(xs, ys), strict=True):
        for i in range(n):
            w = torch.linalg.solve(x[:i].T @ x[:i] + lam * torch.eye(d).double(), x[:i].T @ y[:i])
            assert abs(w @ x[i] - said[i]) <= bounds[i] < 1e-3


def test_errors_are_as_small_as_they_can_be_with_each_product():
    d = 4
    xs, ys = prompts(d, 2, batch=64)
    w = torch.randn(d, generator=generator(5)).double()
    exact = torch.stack([stepped(w, x[0], y[0], 0.14, 0.3) @ x[1] for x, y in zip(xs, ys, strict=True)])
    found = {}
    for kind, norm in itertools.product(["published", "even", "richardson"], [False, True]):
        model = sgd_step(w, 0.14, 0.3, replace(WITHIN, product=Product(kind), norm=norm))
        found[kind, norm] = (model(xs, ys)[:, 1] - exact).abs().max().item()
    assert found["published", False] < 1e-8
    assert found["even", False] < found["published", False]
    assert found["richardson", False] < 3e-11
    assert all(found[kind, True] < 1e-8 for kind in ("published", "even", "richardson"))
    for c, most in ((1e2, 1e-1), (1e3, 1e-3), (1e4, 1e-5)):  # by c² from one to the next
        model = sgd_step(w, 0.14, 0.3, replace(WITHIN, product=Product("published", c)))
        assert most / 1e4 < (model(xs, ys)[:, 1] - exact).abs().max() < most


def test_theorem_2_in_thirteen_layers_equals_the_normal_equations():
    for d in (1, 4):
        xs, ys = prompts(d, 2)
        model = sherman_morrison(d, 0.3, replace(WITHIN, norm=True))
        assert model.config.n_layer == 13
        said = model(xs, ys)[:, 1]
        for x, y, answer in zip(xs, ys, said, strict=True):
            w = torch.linalg.solve(torch.outer(x[0], x[0]) + 0.3 * torch.eye(d).double(), x[0] * y[0])
            assert abs(w @ x[1] - answer) < 1e-7


def test_float32_is_as_good_as_float32_can_be():
    xs, ys = prompts(3, 4)
    model = stochastic_gradient_descent(3, 4, 0.02, 0.5, replace(WITHIN, dtype=torch.float32))
    exact = stochastic_gradient_descent(3, 4, 0.02, 0.5, WITHIN)(xs, ys)
    error, bound = (model(xs.float(), ys.float()) - exact).abs(), model.tolerance(xs.float(), ys.float())
    assert (error <= bound).all()
    assert error.max() < 1e-3
    torch.testing.assert_close(model.tolerance(xs, ys).float(), bound, atol=0, rtol=1e-3)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 4), n=st.integers(1, 6), steps=st.integers(0, 5))
@settings(max_examples=10)
def test_relu_heads_descend_as_a_loop_does_on_every_prefix(seed, d, n, steps):
    xs, ys = prompts(d, n, seed, batch=2)
    model = gradient_descent(d, n, steps, 0.1, 0.5)
    assert model.config.n_layer == steps + 1 and model.config.n_head == (3 if steps else 2)
    for x, y, said in zip(xs, ys, model(xs, ys), strict=True):
        for i in range(n):
            w = torch.zeros(d).double()
            for _ in range(steps):
                w = w - 0.1 * (x[:i].T @ (x[:i] @ w - y[:i]) / max(i, 1) + 0.5 * w)
            torch.testing.assert_close(said[i], w @ x[i], atol=1e-12, rtol=1e-12)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 4), n=st.integers(1, 6), steps=st.integers(0, 5))
@settings(max_examples=10)
def test_relu_heads_iterate_as_newton_does_on_every_prefix(seed, d, n, steps):
    xs, ys = prompts(d, n, seed, batch=2)
    first = float(torch.linalg.matrix_norm(xs.mT @ xs, 2).max() ** -2)
    model = newton(d, n, steps, first)
    assert (model.config.n_layer, model.config.d_model) == (steps + 2, 3 * d + 3)
    for x, y, said in zip(xs, ys, model(xs, ys), strict=True):
        for i in range(n):
            s = x[:i].T @ x[:i]
            m = first * s
            for _ in range(steps):
                m = 2 * m - m @ s @ m
            torch.testing.assert_close(said[i], x[i] @ m @ x[:i].T @ y[:i], atol=1e-11, rtol=1e-11)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 4), n=st.integers(1, 6), layers=st.integers(1, 3))
@settings(max_examples=10)
def test_preconditioned_layers_descend_as_a_loop_does_on_every_prefix(seed, d, n, layers):
    xs, ys = prompts(d, n, seed, batch=2)
    A, B = 0.3 * torch.randn(2, layers, d, d, generator=generator(seed)).double()
    model = ahn.preconditioned(n, A, B)
    for x, y, said in zip(xs, ys, model(xs, ys), strict=True):
        for i in range(n):
            now, left, query, answer = x[:i].clone(), y[:i].clone(), x[i].clone(), torch.zeros(1).double()
            for a, b in zip(A, B, strict=True):
                moved = now - (now @ a.mT @ now.mT @ now @ b.mT) / max(i, 1)
                answer = answer + left @ now @ a @ query / max(i, 1)
                left = left - (now @ a.mT @ now.mT @ left) / max(i, 1)
                now, query = moved, query - b @ now.mT @ now @ a @ query / max(i, 1)
            torch.testing.assert_close(said[i], answer[0], atol=1e-12, rtol=1e-10)


def test_whitening_preconditioners_answer_as_if_inputs_were_white():
    xs, ys = prompts(3, 6)
    root = torch.randn(3, 3, generator=generator(4)).double()
    eye, inverse = torch.eye(3).double().repeat(3, 1, 1), torch.linalg.inv(root @ root.mT).repeat(3, 1, 1)
    white = ahn.preconditioned(6, 0.2 * eye, 0.1 * eye)(xs, ys)
    found = ahn.preconditioned(6, 0.2 * inverse, 0.1 * eye)(xs @ root.mT, ys)
    torch.testing.assert_close(found, white)
    assert (ahn.preconditioned(6, 0.2 * eye)(xs @ root.mT, ys) - white).abs().max() > 0.1


def test_multiples_of_the_identity_are_gd_plus_plus():
    xs, ys = prompts(3, 6)
    eye = torch.eye(3).double().repeat(3, 1, 1)
    found = ahn.preconditioned(6, 0.2 * eye, 0.3 * eye)(xs, ys, 1)[:, 0]
    torch.testing.assert_close(found, vonoswald.gradient_descent(3, 6, 3, 0.2 / 5, 0.2 * 0.3 / 5)(xs, ys)[:, -1])


def test_the_layers_that_theorem_4_of_bai_asks_for_are_no_more_than_twice_what_is_needed():
    assert layers_for(2.0, 1.0, 2.0, 0.1) == 11  # 4 log 10 = 9.2
    assert layers_for(2.0, 1.0, 0.0001, 0.1) == 1, "zero is near enough"


@pytest.mark.parametrize("units", ["4d", "2d + 1"])
@given(seed=st.integers(0, 2**31), d=st.integers(1, 4), n=st.integers(1, 6), steps=st.integers(0, 5))
@settings(max_examples=10)
def test_an_mlp_that_shrinks_makes_the_steps_those_of_proximal_descent_on_every_prefix(units, seed, d, n, steps):
    xs, ys = prompts(d, n, seed, batch=2)
    model = bai.lasso(d, n, steps, 0.1, 0.5, units)
    assert model.config.n_layer == steps + 1 and model.config.n_head == 2
    assert model.config.d_mlp == (0 if not steps else 4 * d if units == "4d" else 2 * d + 1)
    for x, y, said in zip(xs, ys, model(xs, ys), strict=True):
        for i in range(n):
            w = torch.zeros(d).double()
            for _ in range(steps):
                w = torch.nn.functional.softshrink(w - 0.1 * x[:i].T @ (x[:i] @ w - y[:i]) / max(i, 1), 0.05)
            torch.testing.assert_close(said[i], w @ x[i], atol=1e-12, rtol=1e-12)


def test_with_too_few_units_the_weights_are_off_by_the_threshold_or_by_themselves():
    """One step from w = 0 on an example x = 1: w = S(0.1 y), here with y = 3 and a threshold of 0.05."""
    xs, ys = torch.ones(1, 2, 1).double(), torch.tensor([[3.0, 0.0]]).double()
    found = {
        signs: bai.lasso(1, 2, 1, 0.1, 0.5, "2d", signs)(xs, ys, 1).item()
        for signs in itertools.product((1, -1), repeat=2)
    }
    right, w, theta = 0.25, 0.3, 0.05
    wanted = {(1, 1): right - theta, (1, -1): right - w, (-1, 1): right + w, (-1, -1): right + theta}
    assert found == pytest.approx(wanted)
    assert bai.lasso(1, 2, 1, 0.1, 0.5)(xs, ys, 1).item() == pytest.approx(right)


@pytest.mark.parametrize("link", ["logistic", "probit"])
def test_more_heads_bring_the_steps_nearer_to_those_of_the_link_itself(link):
    xs, ys = prompts(3, 6)
    ys, g, wanted = (ys > 0).double(), bai.LINKS[link].g, torch.zeros(16, 6).double()
    for i in range(6):
        w = torch.zeros(16, 3).double()
        for _ in range(4):
            errors = g((xs[:, :i] @ w.unsqueeze(-1)).squeeze(-1)) - ys[:, :i]
            w = w - 0.15 * (xs[:, :i].mT @ errors.unsqueeze(-1)).squeeze(-1) / max(i, 1)
        wanted[:, i] = g((w * xs[:, i]).sum(-1))
    found = [bai.generalized_linear(3, 6, 4, 0.15, pieces, link, 3.0) for pieces in (32, 128)]
    assert [model.config.n_head for model in found] == [35, 131]
    errors = [(model(xs, ys) - wanted).abs().max().item() for model in found]
    assert errors[0] > 10 * errors[1] > 0, "16 times smaller with four times as many, in the limit"
    assert errors[1] < 5e-3


def test_the_error_of_straight_pieces_is_reached():
    g = bai.LINKS["logistic"].g
    f = Kinked.interpolating(g, 6.0, 32)
    s = torch.linspace(-6, 6, 10001, dtype=torch.float64)
    found = f.constant + sum(gain * (s - kink).relu() for gain, kink in zip(f.gains, f.kinks, strict=True))
    assert 0.9 < (found - g(s)).abs().max() / bai.approximation("logistic", 32, 6.0) <= 1
    assert bai.approximation("logistic", 32, 6.0) == pytest.approx(1.7e-3, rel=0.02)
    for link in bai.LINKS.values():
        values = link.g(torch.linspace(-9, 9, 100001, dtype=torch.float64))
        step = 18 / 100000
        assert values.diff().max() / step == pytest.approx(link.steepness, rel=1e-4)
        assert values.diff().diff().abs().max() / step**2 == pytest.approx(link.curvature, rel=1e-3)


def test_a_network_of_two_layers_learns_as_autograd_has_it_learn_on_every_prefix():
    xs, ys = prompts(2, 5, batch=2)
    xs, ys, lr = xs / 3, ys / 6, 0.5
    learned = []
    v, u = (each.double() for each in IN_BOX)
    found = {pieces: bai.network_descent(v, u, 5, 3, lr, pieces)(xs, ys) for pieces in (32, 128)}
    for b, i in itertools.product(range(2), range(1, 5)):
        weights = [v.clone().requires_grad_(), u.clone().requires_grad_()]
        for _ in range(3):
            loss = ((xs[b, :i] @ weights[0].mT).square() @ weights[1] / 2 - ys[b, :i]).square().mean() / 2
            moved = [w - lr * dw for w, dw in zip(weights, torch.autograd.grad(loss, weights), strict=True)]
            weights = [w.detach().clamp(-1, 1).requires_grad_() for w in moved]
        exact = (xs[b, i] @ weights[0].mT).square() @ weights[1] / 2
        assert abs(found[128][b, i] - exact) < 1e-3
        assert abs(found[32][b, i] - exact) < 2e-2
        learned.append(abs(exact - (xs[b, i] @ v.mT).square() @ u / 2).item())
    assert max(learned) > 5e-3


def test_weights_that_would_leave_the_box_stop_at_its_side():
    xs, ys = torch.ones(1, 2, 1).double(), torch.tensor([[1.0, 0.0]]).double()
    model = bai.network_descent(torch.tensor([[0.9]]), torch.tensor([0.9]), 2, 1, 1.0, 256)
    v, u = (model.read(xs, ys, "blocks.1.resid_post")["blocks.1.resid_post"][-1, -1, 3 + k].item() for k in (0, 1))
    assert (v, u) == (pytest.approx(1.0), pytest.approx(1.0))
    assert model(xs, ys, 1).item() == pytest.approx(0.5, abs=1e-3)


def validated(x, y, training, steps, lams, margin, beta):
    """The answer of a validated ridge regression to one prompt, in loops, and the weight of each penalty."""
    ws = []
    for lam in lams:
        w, examples, labels = torch.zeros(x.shape[1]).double(), x[:training], y[:training]
        for _ in range(steps):
            w = w - (examples.T @ (examples @ w - labels) / training + lam * w) / (beta + lam)
        ws.append(w)
    losses = [((x[training:-1] @ w - y[training:-1]) ** 2).mean().item() / 2 for w in ws]
    left, shares = 1.0, []
    for loss in losses:
        taken = max(0.0, 1 - sum(max(0.0, loss - other) for other in losses) / margin)
        shares.append(min(left, taken))
        left -= shares[-1]
    return sum(share * w for share, w in zip(shares, ws, strict=True)) @ x[-1], shares


@given(seed=st.integers(0, 2**31), d=st.integers(1, 3), training=st.integers(1, 4), validation=st.integers(1, 4))
@settings(max_examples=15)
def test_layers_validate_as_a_loop_does(seed, d, training, validation):
    xs, ys = prompts(d, training + validation + 1, seed, batch=3)
    model = bai.validated_ridge(d, training, validation, 4, [0.3, 3.0, 9.0], 0.2, 3.0, 6.0)
    assert (model.config.n_layer, model.config.n_head) == (4 + 4, 9)
    for x, y, said in zip(xs, ys, model(xs, ys, 1), strict=True):
        wanted, shares = validated(x, y, training, 4, [0.3, 3.0, 9.0], 0.2, 9.0 * d)
        assert sum(shares) == pytest.approx(1)
        torch.testing.assert_close(said[0], wanted, atol=1e-11, rtol=1e-11)


def test_of_two_penalties_that_are_equally_good_the_first_is_taken():
    """Losses are told apart by no more than the margin: the best may have no share at all."""
    xs, ys = prompts(2, 5, batch=32)
    found = [validated(x, y, 2, 4, [3.0, 0.3], 1e3, 18.0)[1] for x, y in zip(xs, ys, strict=True)]
    assert min(shares[0] for shares in found) > 0.9
    wide, narrow = (bai.validated_ridge(2, 2, 2, 4, [3.0, 0.3], margin, 3.0, 6.0) for margin in (1e6, 1e-9))
    first = bai.validated_ridge(2, 2, 2, 4, [3.0], 1.0, 3.0, 6.0)
    torch.testing.assert_close(wide(xs, ys, 1), first(xs, ys, 1), atol=1e-4, rtol=0)
    assert (narrow(xs, ys, 1) - first(xs, ys, 1)).abs().max() > 0.1


def test_validation_examples_are_not_trained_on_and_training_examples_do_not_validate():
    xs, ys = prompts(2, 5, batch=4)
    one = bai.validated_ridge(2, 2, 2, 4, [0.3], 1.0, 3.0, 6.0)
    changed = ys.clone()
    changed[:, 2:4] = -ys[:, 2:4]
    torch.testing.assert_close(one(xs, changed, 1), one(xs, ys, 1), atol=1e-12, rtol=0)
    losses = slice(2 + 2 + 2 + 1, 2 + 2 + 2 + 2)  # after x, y, the mark of an example, w and f
    made = bai.validated_ridge(2, 2, 2, 0, [0.3], 1.0, 3.0, 6.0).read(xs, ys, "blocks.1.resid_mid")
    wanted = (ys[:, 2:4] ** 2).mean(-1) / 2  # of w = 0
    held = made["blocks.1.resid_mid"].view(4, 5, 5, -1)[:, -1, :, losses]
    torch.testing.assert_close(held, wanted.view(4, 1, 1).expand_as(held), atol=1e-12, rtol=1e-12)


def test_prompts_of_another_length_than_was_split_are_refused():
    model = bai.validated_ridge(2, 2, 2, 4, [0.3], 1.0, 3.0, 6.0)
    with pytest.raises(ValueError, match="n = 4: the first position that is answered is 4"):
        model(*prompts(2, 4))
    with pytest.raises(ValueError, match="n = 6 are longer than"):
        model(*prompts(2, 6))


def test_labels_decide_between_logistic_regression_and_least_squares_and_a_mixed_prompt_gets_both():
    xs, real = prompts(2, 5, noise=0.0)
    binary, real = (real > 0).double(), real.sign() * (real.abs() + 1.2)
    model = bai.tested(2, 5, 3, 0.05, 128, 0.1, 3.0, 9.0)
    likely = bai.generalized_linear(2, 5, 3, 0.05, 128, "logistic", 3.0, 9.0)
    least = gradient_descent(2, 5, 3, 0.05)
    torch.testing.assert_close(model(xs, binary)[:, 1:], likely(xs, binary)[:, 1:], atol=1e-10, rtol=0)
    torch.testing.assert_close(model(xs, real)[:, 1:], least(xs, real)[:, 1:], atol=1e-10, rtol=0)
    assert (likely(xs, binary) - least(xs, binary)).abs()[:, 1:].max() > 0.1
    mixed = torch.cat([binary[:, :3], real[:, 3:]], dim=1)  # Ψ = 3/4 at the last position, S = 1/2
    halves = (likely(xs, mixed, 1) + least(xs, mixed, 1)) / 2
    torch.testing.assert_close(model(xs, mixed, 1), halves, atol=1e-10, rtol=0)


def test_newton_from_the_printed_start_never_leaves_the_largest_direction():
    """One input in each of two directions, the second of half the length: S = diag(1, 1/4)."""
    xs, ys = torch.tensor([[[1.0, 0.0], [0.0, 0.5], [1.0, 0.0]]]).double(), torch.tensor([[1.0, 1.0, 0.0]]).double()
    for steps in (1, 4, 10):
        right, printed = (float(newton(2, 3, steps, first)(xs, ys, 1).detach()) for first in (1.0, 2.0))
        assert right == pytest.approx(1.0)
        assert printed == pytest.approx(0.0)


# ---- they are plain transformers -----------------------------------------------------------------------------------


IN_BOX = torch.tensor([[0.5, -0.3], [0.2, 0.9]]), torch.tensor([0.7, -0.4])
MODELS = {
    "sgd": lambda: stochastic_gradient_descent(2, 4, 0.03, 0.5, WITHIN),
    "sgd with LayerNorm": lambda: stochastic_gradient_descent(2, 4, 0.03, 0.5, replace(WITHIN, norm=True)),
    "ridge": lambda: recursive_least_squares(2, 4, 0.5, replace(WITHIN, norm=True)),
    "theorem 1": lambda: sgd_step(torch.tensor([1.0, -2.0]), 0.1, 0.5, WITHIN),
    "bai": lambda: gradient_descent(2, 4, 5, 0.1, 0.5),
    "lasso": lambda: bai.lasso(2, 4, 5, 0.1, 0.5),
    "logistic": lambda: bai.generalized_linear(2, 4, 3, 0.2, 32, largest_x=3.0, largest_y=6.0),
    "network of two layers": lambda: bai.network_descent(*IN_BOX, 4, 2, 0.02, 6, 1.0, 3.0, 6.0),
    "validated": lambda: bai.validated_ridge(2, 1, 2, 4, [0.3, 3.0], 0.1, 3.0, 6.0),
    "tested": lambda: bai.tested(2, 4, 3, 0.05, 16, 0.1, 3.0, 6.0),
    "fu": lambda: newton(2, 4, 3, 1e-3),
    "theorem 2": lambda: sherman_morrison(2, 0.5, replace(WITHIN, norm=True)),
    "von oswald": lambda: vonoswald.gradient_descent(2, 4, 3, 0.1, 0.02),
    "features": lambda: vonoswald.feature_descent(*hidden_layer(2), 4, 2, 0.1),
    "separate tokens": lambda: vonoswald.separate_tokens(2, 4, 0.1),
    "ahn": lambda: ahn.preconditioned(4, *(0.3 * torch.randn(2, 3, 2, 2, generator=generator(8)).double())),
    "guo": lambda: ridge_decoder(network(2, 3, 3), 4, 5, 0.1, 0.5),
    "guo, dynamics": lambda: dynamics_decoder(network(4, 3), 2, 4, 5, 0.1, 0.5, coordinate=1),
    "random features": lambda: represented("inner", 5, 2, 4, generator()),
}


BOUNDED = [
    "validated",
    "tested",
    "logistic",
    "network of two layers",
    "sgd",
    "sgd with LayerNorm",
    "ridge",
    "theorem 1",
    "theorem 2",
]


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_no_answer_depends_on_what_comes_later(build):
    model = build()
    first, other = prompts(2, model.n, 1), prompts(2, model.n, 2)
    answers = model(*first)
    for i in range(model.n):
        xs, ys = first[0].clone(), first[1].clone()
        xs[:, i + 1 :], ys[:, i:] = other[0][:, i + 1 :], other[1][:, i:]
        torch.testing.assert_close(model(xs, ys)[:, i], answers[:, i], atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_a_plain_transformer_with_the_same_weights_gives_the_same_answers(build, tmp_path):
    model = build()
    xs, ys = prompts(2, model.n)
    model.save(tmp_path / "weights.safetensors")
    plain = Transformer.load(tmp_path / "weights.safetensors")
    assert type(plain) is Transformer
    assert torch.equal(plain(xs, ys), model(xs, ys))
    torch.testing.assert_close(by_hand(plain, xs[0], ys[0]), model(xs, ys)[0], atol=1e-6, rtol=0)


def test_the_sizes_are_those_of_the_theorems():
    for d in (1, 3):
        one = sgd_step(torch.ones(d), 0.1, 0.5, WITHIN)
        assert (one.config.n_layer, one.config.d_model) == (9, 3 + 4 * d + 3)  # and a row for each of three columns
        two = sherman_morrison(d, 0.5, WITHIN)
        assert (two.config.n_layer, two.config.d_model) == (13, 3 + 3 * d + 3 * d * d + 3 + 2)  # and two pads
        assert stochastic_gradient_descent(d, 7, 0.01, 0.5, WITHIN).config.n_layer == 13


@pytest.mark.parametrize("build", [MODELS["sgd"], MODELS["ridge"]], ids=["sgd", "ridge"])
def test_shorter_prompts_and_prompts_of_zeros_are_answered(build):
    model = build()
    xs, ys = prompts(2, 4)
    for n in (1, 2, 3):
        torch.testing.assert_close(model(xs[:, :n], ys[:, :n]), model(xs, ys)[:, :n], atol=1e-13, rtol=1e-13)
    assert model(0 * xs, ys).abs().max() < 1e-9
    assert model(xs, 0 * ys).abs().max() < 1e-9


# ---- what cannot be is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [MODELS[name] for name in BOUNDED], ids=BOUNDED)
def test_prompts_beyond_the_bounds_are_refused(build):
    model = build()
    xs, ys = prompts(2, model.n)
    with pytest.raises(ValueError, match=r"the weights were set for inputs of at most 3 in size, given 3\.5"):
        model(xs.index_fill(0, torch.tensor([0]), 3.5), ys)
    with pytest.raises(ValueError, match=r"for labels of at most 6 in size, given 7"):
        model(xs, ys.index_fill(0, torch.tensor([0]), 7.0))
    with pytest.raises(ValueError, match="given nan"):
        model(xs * float("nan"), ys)
    ys[:, -1] = float("nan")  # is not read
    assert model(xs, ys).isfinite().all()


def test_a_bound_is_not_broken_by_its_own_rounding_to_float32():
    model = sgd_step(torch.tensor([1.0]), 0.1, 0.5, replace(WITHIN, largest_y=0.4, dtype=torch.float32))
    xs, ys = torch.tensor([[[1.0], [1.0]]]), torch.tensor([[0.4, 0.0]])
    assert ys.max().item() > 0.4
    assert model(xs, ys).isfinite().all()
    with pytest.raises(ValueError, match=r"for labels of at most 0\.4"):
        model(xs, torch.nextafter(ys, torch.ones(1)))


@pytest.mark.parametrize("name", ["theorem 1", "network of two layers", "tested"])
def test_some_theorems_need_an_example(name):
    xs, ys = prompts(2, 1)
    with pytest.raises(ValueError, match="the first position that is answered is 1"):
        MODELS[name]()(xs, ys)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sherman_morrison(2, 0.0), "lam must be positive and finite, given 0.0"),
        (lambda: recursive_least_squares(2, 3, -1.0), "lam must be positive"),
        (lambda: recursive_least_squares(2, 3, float("nan")), "lam must be positive"),
        (lambda: recursive_least_squares(2, 0, 1.0), "n must be at least 1"),
        (lambda: stochastic_gradient_descent(2, 0, 1.0), "n must be at least 1"),
        (lambda: stochastic_gradient_descent(2, 3, float("nan"), -1.0), "lr must be finite, given nan; lam must be at"),
        (lambda: stochastic_gradient_descent(2, 3, 0.1, w=torch.tensor([1.0, float("nan")])), "w must be finite"),
        (lambda: sgd_step(torch.ones(2), float("inf")), "lr must be finite"),
        (lambda: recursive_least_squares(2, 3, 1e-6), "errors could reach"),
        (lambda: sherman_morrison(2, 1e-9), "errors could reach"),
        (lambda: stochastic_gradient_descent(2, 9, 3.0), "errors could reach"),
        (lambda: recursive_least_squares(2, 3, 0.1, Build(norm=True, dtype=torch.float32)), "errors could reach"),
        (lambda: sgd_step(torch.ones(2), 0.1, 0.0, Build(product=Product("even", 1.0))), "errors could reach"),
        (lambda: sgd_step(torch.ones(2), 0.1, 0.0, Build(largest_x=0.0)), "largest_x must be positive"),
        (lambda: Product(scale=-1.0), "scale must be positive"),
        (lambda: gradient_descent(2, 3, -1, 0.1), "steps must be at least 0, given -1"),
        (lambda: gradient_descent(2, 3, 1, 0.0, -1.0), "lam must be at least 0, given -1.0; lr must be positive"),
        (
            lambda: bai.lasso(2, 3, -1, 0.0, -1.0),
            "steps must be at least 0, given -1; lam must be at least 0, given -1.0",
        ),
        (lambda: bai.generalized_linear(2, 3, 1, 9.0, 8), "lr must be at most 2/β = 4, given 9"),
        (
            lambda: bai.generalized_linear(2, 3, 1, 0.1, 0, largest_x=-1.0),
            "pieces must be positive and finite, given 0; l",
        ),
        (lambda: bai.generalized_linear(2, 3, 1, 0.1, 8, "logit"), "unknown link 'logit'"),
        (lambda: bai.network_descent(*IN_BOX, 3, 1, 0.1, 8, 0.8), "weights must be within 0.8, given 0.9"),
        (
            lambda: bai.validated_ridge(2, 0, 2, 4, [0.3, 0.0], 0.1),
            "training must be positive and finite, given 0; lam 1",
        ),
        (lambda: bai.validated_ridge(2, 1, 2, 4, [], 0.1), "lams must hold at least one penalty"),
        (lambda: bai.tested(2, 4, 3, 0.6, 16, 0.5), "lr must be at most 1/β = 0.5, given 0.6; width must be below 0.5"),
        (lambda: newton(2, 3, -1, 0.1), "steps must be at least 0, given -1"),
        (lambda: newton(2, 3, 1, float("inf")), "first must be positive and finite, given inf"),
        (lambda: ahn.preconditioned(3, torch.ones(0, 2, 2)), "there must be at least one A_l, given none"),
        (lambda: ahn.preconditioned(3, torch.ones(1, 2, 2) / 0), "A must be finite"),
        (lambda: ridge_decoder(network(2, 3), 0, -1, 0.0, -1.0), "n must .*; steps must .*; lam must .*; lr must be"),
        (
            lambda: dynamics_decoder(network(3, 3), 2, 3, 1, 0.1, 0.1, 2),
            "3 numbers, .* of d = 2; coordinate must lie in",
        ),
        (
            lambda: Representation([torch.ones(3, 2), torch.ones(3, 2)], 1.0),
            r"\(3, 2\) cannot follow \(3, 2\); slope must",
        ),
        (lambda: Representation([], 0.5), "there must be a matrix at least"),
        (lambda: mover(2, 1, 2, 0), "0 cannot read the later 2"),
        (divided_without_layer_norm, "it is LayerNorm that divides, and there is none"),
    ],
)
def test_what_cannot_be_built_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_transformer_of_unknown_errors_promises_nothing():
    with pytest.raises(ValueError, match="not known"):
        Bounded(2, 3).tolerance(*(each.float() for each in prompts(2, 3)))
    with pytest.raises(ValueError, match="not known"):
        reader(WITHIN, 1e4, balanced=False, d=2).tolerance(*prompts(2, 1))


# ---- the checks can fail -------------------------------------------------------------------------------------------


def test_a_weight_that_is_a_little_off_breaks_the_promise():
    xs, ys = prompts(2, 4)
    for build in (MODELS["sgd"], MODELS["sgd with LayerNorm"], MODELS["ridge"]):
        model, exact = build(), build()(xs, ys)
        bound = model.tolerance(xs, ys)
        assert bound.max() < 1e-4, "a promise that says something"
        with torch.no_grad():
            model.blocks[1].mlp_out.weight *= 1.001
        assert not ((model(xs, ys) - exact).abs() <= bound).all()


def test_each_operator_alone_can_be_told_from_a_neighbour():
    xs = torch.rand(8, 1, 2, generator=generator(1), dtype=torch.float64) + 0.5
    build = Build(largest_x=2.0, norm=True)
    product, quotient = multiplier(build)(xs, xs[..., 0])[:, 0], divider(build)(xs, xs[..., 0])[:, 0]
    first, second = xs[:, 0].mT
    torch.testing.assert_close(product, first * second, atol=1e-8, rtol=0)
    torch.testing.assert_close(quotient, first / (1 + second**2), atol=1e-8, rtol=0)
    assert (quotient - first / second**2).abs().min() > 1e-2
    balanced, printed = (reader(build, 1e4, each, 2)(xs, xs[..., 0])[:, 0] - first for each in (True, False))
    assert balanced.abs().max() < 1e-7 < 1e-5 < printed.abs().min()


# ---- theorems as such ----------------------------------------------------------------------------------------------


def halving(bound=0.25, error=lambda case: case.size / case.d, **changes):
    """A statement about size/d that holds for bound ≥ the largest of it."""
    ranges = {"d": Integers(2, 5), "size": Reals(0.25, 0.5, log=True), "variant": Choices(["a", "b"])}
    given = {"measure": lambda case: (error(case), bound), "ranges": ranges, **changes}
    return Theorem(name="halving", paper="nobody", statement="size/d is small", reason="arithmetic", **given)


def test_cases_are_the_same_each_time_and_reach_both_ends():
    drawn = list(halving().drawn(20))
    assert drawn == list(halving().drawn(20))
    assert [(each.d, each.size, each.variant) for each in drawn[:2]] == [(2, 0.25, "a"), (5, 0.5, "b")]
    assert {each.d for each in drawn} == {2, 3, 4, 5} and {each.variant for each in drawn} == {"a", "b"}
    assert all(0.25 <= each.size <= 0.5 for each in drawn)
    assert len(set(drawn)) == 20


@pytest.mark.parametrize("condition", [1.0, 50.0])
def test_inputs_have_the_condition_and_the_size_that_a_case_names(condition):
    xs, _ = Case(d=4, n=40000, size=2.0, condition=condition, seed=3).prompt()
    values = torch.linalg.eigvalsh(xs[0].mT @ xs[0] / len(xs[0]))
    expected = 4 * condition ** -torch.linspace(1, 0, 4, dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=0.05, atol=0.0)


def test_the_worst_case_is_the_one_nearest_to_its_bound():
    tally = halving().tried([Case(d=5, size=0.5), Case(d=2, size=0.5), Case(d=3, size=0.25)])
    assert tally.worst[0].d == 2 and tally.holds and tally.passes()
    assert not halving(0.12).tried(halving().drawn(20)).holds
    assert halving(0.0, error=lambda case: 0.0).tried([Case()]).holds


def test_an_error_that_is_not_a_number_breaks_the_bound_and_is_the_worst():
    tally = halving(error=lambda case: float("nan") if case.d == 3 else 0.0).tried([Case(d=2), Case(d=3), Case(d=4)])
    assert not tally.holds and tally.worst[0].d == 3


def test_a_wrong_statement_passes_only_with_a_counter_example_and_a_twin_that_holds():
    right, wrong = halving(), halving(0.1)
    assert replace(wrong, corrected=right).tried(right.drawn(9)).passes()
    assert not replace(right, corrected=right).tried(right.drawn(9)).passes()
    assert not replace(wrong, corrected=wrong).tried(right.drawn(9)).passes()


def test_a_case_is_measured_once():
    seen = []
    tally = halving(error=lambda case: seen.append(case) or 0.0).tried(halving().drawn(5))
    assert seen == [case for case, *_ in tally.results] == list(halving().drawn(5))


def test_what_was_printed_differs_from_what_holds_in_words_and_measure_alone():
    right, wrong = halving(cases=7), halving(0.1).measure
    printed = right.as_printed("somebody", "size/d is tiny", wrong)
    assert (printed.name, printed.corrected, printed.expected) == ("halving_printed", right, "fails")
    told = {"name": "halving", "paper": "nobody", "statement": "size/d is small", "measure": right.measure}
    assert replace(printed, **told, corrected=None) == right
    assert right.as_printed("somebody", "", wrong, name="other").name == "other"
    assert printed.tried(right.drawn(9)).passes()


def test_a_range_of_an_unknown_number_is_refused():
    with pytest.raises(ValueError, match=r"unknown range 'lamb'\. Did you mean 'lam'"):
        halving(ranges={"lamb": Reals(0, 1)})
