"""Functions of a query and its keys."""

from math import atan, cos

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.tasks import (
    Alternating,
    Arctangent,
    Cosine,
    Custom,
    KeyAverage,
    Power,
    QueryFunction,
    Sphere,
    labels,
)
from tests.conftest import generator

INVARIANT = [
    KeyAverage(Power(1)),
    KeyAverage(Cosine(2.0), seed=3),
    KeyAverage(Arctangent(3.0)),
    KeyAverage(correlation=Power(2)),
    KeyAverage(Power(2), Power(1), overlap=0.5),
    QueryFunction(Power(3)),
    Custom(lambda xs: xs[:, 1:, 0].amax(1) * xs[:, 0, 0]),
]


def inputs(batch=6, n_keys=5, d=4, seed=0):
    return Sphere().sample(batch, n_keys + 1, d, generator(seed), torch.float64)


def permuted(xs, seed=1):
    return torch.cat([xs[:, :1], xs[:, 1:][:, torch.randperm(xs.shape[1] - 1, generator=generator(seed))]], dim=1)


def test_targets_are_their_formulas_as_plain_loops():
    xs = inputs()
    turn, beta = KeyAverage(overlap=0.5).turn(4), KeyAverage(Power(1))
    b = torch.stack([beta(e.expand(2, 4).unsqueeze(0))[0] for e in torch.eye(4, dtype=torch.float64)])  # read off
    assert b.norm().item() == pytest.approx(1)
    found = labels([KeyAverage(Power(2), Cosine(2.0), 0.5), QueryFunction(Arctangent(3)), Alternating(Power(3))], xs)
    for k, x in enumerate(xs):
        z = [(b @ y).item() for y in x]
        u = [cos(2 * (x[0] @ turn @ y).item()) for y in x]
        assert found[k, 0].item() == pytest.approx(sum(u[i] * z[i] ** 2 for i in range(1, 6)) / 5)
        assert found[k, 1].item() == pytest.approx(z[0] * atan(z[0] / 3))
        assert found[k, 2].item() == pytest.approx(sum((-1) ** i * z[i] ** 3 for i in range(1, 6)) / 5)


@pytest.mark.parametrize("target", INVARIANT, ids=lambda each: str(each).split(" at 0x")[0])
def test_the_order_of_keys_is_without_effect_where_it_is_said_to_be(target):
    xs = inputs()
    assert target.invariant
    torch.testing.assert_close(target(permuted(xs)), target(xs), rtol=1e-12, atol=1e-12)


def test_the_negative_control_depends_on_the_order_of_keys():
    xs, control = inputs(), Alternating()
    exchanged = xs[:, [0, 2, 1, 4, 3, 5]]
    pairs = control(xs) + control(exchanged)
    torch.testing.assert_close(pairs, -2 / 5 * (xs[:, 5] @ _beta()))  # all that does not change its sign: the odd key
    assert not control.invariant
    with pytest.raises(ValueError, match="the order of the keys moves the function"):
        Custom(control)(xs)


def _beta():
    return torch.stack([QueryFunction(Power(1))(e.expand(1, 2, 4))[0] for e in torch.eye(4, dtype=torch.float64)])


@pytest.mark.parametrize("n_keys", [2, 3, 4])
def test_a_function_that_only_some_orders_move_is_refused_too(n_keys):
    """Of the generators of all orders one at least moves it: here only the exchange, or only the moving on."""
    xs = inputs(n_keys=n_keys)
    cyclic = Custom(lambda xs: (xs[:, 1:, 0] * xs[:, 1:].roll(1, 1)[..., 1]).sum(1))
    exchange = Custom(lambda xs: xs[:, 1, 0] * xs[:, 2, 0] + 0 * xs[:, 0, 0])
    if n_keys > 2:
        for target in (cyclic, exchange):
            with pytest.raises(ValueError, match="the order of the keys"):
                target(xs)
    torch.testing.assert_close(Custom(lambda xs: xs[:, 1:].sum((1, 2)))(xs), xs[:, 1:].sum((1, 2)))


@pytest.mark.parametrize(
    "target",
    [
        KeyAverage(Power(2), Cosine(), 0.5),
        QueryFunction(Arctangent()),
        Alternating(),
        Custom(lambda xs: xs.sum((1, 2))),
    ],
    ids=lambda target: type(target).__name__,
)
def test_whole_numbers_have_the_values_of_the_same_floats(target):
    xs = torch.randint(-3, 4, (5, 4, 2), generator=generator())
    values = target(xs)
    assert values.dtype == torch.get_default_dtype() and values.count_nonzero() > 2
    assert torch.equal(values, target(xs.float())) and torch.equal(labels([target], xs)[:, 0], values)


@given(st.floats(-1, 1), st.sampled_from([2, 4, 6]), st.integers(0, 5))
def test_the_turn_is_orthogonal_for_every_overlap(overlap, d, seed):
    turn = KeyAverage(overlap=overlap, seed=seed).turn(d)
    torch.testing.assert_close(turn @ turn.mT, torch.eye(d, dtype=torch.float64))
    assert turn.trace().item() / d == pytest.approx(overlap, abs=1e-12)


def test_what_is_no_target_is_refused():
    with pytest.raises(ValueError, match=r"an overlap of 0.5 needs an even d, given 3"):
        labels([KeyAverage(overlap=0.5)], inputs(d=3))
    with pytest.raises(ValueError, match="at least 2 tokens, given 1"):
        labels([KeyAverage()], inputs(n_keys=0))
    with pytest.raises(ValueError, match=r"overlap must lie in -1..1, given 2"):
        KeyAverage(overlap=2.0)
    for bad in (lambda: Power(-1), lambda: Arctangent(0.0)):
        with pytest.raises(ValueError, match="must be"):
            bad()
