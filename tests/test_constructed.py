"""Transformers with weights set by hand equal the algorithms that they were built from."""

import itertools
from dataclasses import replace

import pytest
import torch
from conftest import generator
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import by_hand

from iclab.constructed import THEOREMS, Bounded, Case, Choices, Integers, Reals, Theorem, named
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
from iclab.constructed.operators import Layer, Product, Stream
from iclab.experiments.theorems import cases
from iclab.models import Transformer

HOLDING = [each for each in THEOREMS if each.expected == "holds"]
WRONG = [each for each in THEOREMS if each.expected == "fails"]
WITHIN = Build(largest_x=3.0, largest_y=6.0)


def prompts(d, n, seed=0, batch=16, noise=0.3):
    """xs and ys within the bounds of `WITHIN`."""
    rng = generator(seed)
    xs, ws, noises = (torch.randn(*shape, generator=rng).double() for shape in ((batch, n, d), (batch, d), (batch, n)))
    xs = xs.clamp(-3, 3)
    return xs, ((xs @ ws.unsqueeze(-1)).squeeze(-1) + noise * noises).clamp(-6, 6)


# ---- every theorem -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theorem", HOLDING, ids=lambda each: each.name)
@settings(max_examples=8)
@given(data=st.data())
def test_every_theorem_holds(theorem, data):
    case = data.draw(cases(theorem))
    assert theorem.error(case) <= theorem.bound(case)


@pytest.mark.slow
@pytest.mark.parametrize("theorem", HOLDING, ids=lambda each: each.name)
@settings(max_examples=250)
@given(data=st.data())
def test_every_theorem_holds_in_many_cases(theorem, data):
    case = data.draw(cases(theorem))
    assert theorem.error(case) <= theorem.bound(case)


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


def test_the_layers_that_theorem_4_of_bai_asks_for_are_no_more_than_twice_what_is_needed():
    assert layers_for(2.0, 1.0, 2.0, 0.1) == 11  # 4 log 10 = 9.2
    assert layers_for(2.0, 1.0, 0.0001, 0.1) == 1, "zero is near enough"


def test_newton_from_the_printed_start_never_leaves_the_largest_direction():
    """One input in each of two directions, the second of half the length: S = diag(1, 1/4)."""
    xs, ys = torch.tensor([[[1.0, 0.0], [0.0, 0.5], [1.0, 0.0]]]).double(), torch.tensor([[1.0, 1.0, 0.0]]).double()
    for steps in (1, 4, 10):
        right, printed = (float(newton(2, 3, steps, first)(xs, ys, 1).detach()) for first in (1.0, 2.0))
        assert right == pytest.approx(1.0)
        assert printed == pytest.approx(0.0)


# ---- they are plain transformers -----------------------------------------------------------------------------------


MODELS = {
    "sgd": lambda: stochastic_gradient_descent(2, 4, 0.03, 0.5, WITHIN),
    "sgd with LayerNorm": lambda: stochastic_gradient_descent(2, 4, 0.03, 0.5, replace(WITHIN, norm=True)),
    "ridge": lambda: recursive_least_squares(2, 4, 0.5, replace(WITHIN, norm=True)),
    "theorem 1": lambda: sgd_step(torch.tensor([1.0, -2.0]), 0.1, 0.5, WITHIN),
    "bai": lambda: gradient_descent(2, 4, 5, 0.1, 0.5),
    "fu": lambda: newton(2, 4, 3, 1e-3),
    "theorem 2": lambda: sherman_morrison(2, 0.5, replace(WITHIN, norm=True)),
}


BOUNDED = ["sgd", "sgd with LayerNorm", "ridge", "theorem 1", "theorem 2"]


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


def test_the_one_step_theorems_need_an_example():
    xs, ys = prompts(2, 1)
    with pytest.raises(ValueError, match="the first position that is answered is 1"):
        MODELS["theorem 1"]()(xs, ys)


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
        (lambda: newton(2, 3, -1, 0.1), "steps must be at least 0, given -1"),
        (lambda: newton(2, 3, 1, float("inf")), "first must be positive and finite, given inf"),
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


def halving(bound=0.25, **changes):
    """A statement about size/d that holds for bound ≥ the largest of it."""
    ranges = {"d": Integers(2, 5), "size": Reals(0.25, 0.5, log=True), "variant": Choices(["a", "b"])}
    given = {"error": lambda case: case.size / case.d, "bound": lambda case: bound, "ranges": ranges, **changes}
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


def test_a_range_of_an_unknown_number_is_refused():
    with pytest.raises(ValueError, match=r"unknown range 'lamb'\. Did you mean 'lam'"):
        halving(ranges={"lamb": Reals(0, 1)})
