"""Printed numbers: the digits that their errors leave, and no others."""

import re
from decimal import Decimal
from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.analysis import Estimate
from iclab.digits import with_error

NUMBER = r"-?\d+(?:\.\d+)?"
PAIR = re.compile(rf"\((?P<v>{NUMBER}) ± (?P<e>{NUMBER})\)e(?P<p>[+-]\d+)|(?P<value>{NUMBER}) ± (?P<error>{NUMBER})")
mantissas = st.floats(1, 9.999)


def read(text):
    """What a text says: value and error, as exact decimals that keep their trailing zeros."""
    found = PAIR.fullmatch(text)
    assert found, text
    power = int(found["p"] or 0)
    return tuple(Decimal(found[a] or found[b]).scaleb(power) for a, b in (("v", "value"), ("e", "error")))


def keeps_the_law(write, value, error):
    """Both numbers end at one place, at which the error has one digit, or two from 10 to 20, and neither is off by more
    than half of that place."""
    exact = Decimal(repr(value)), Decimal(repr(error))
    step = Decimal(1).scaleb(exact[1].adjusted() - (exact[1].as_tuple().digits[0] == 1))
    shown = read(write(value, error))
    for number, of in zip(shown, exact, strict=True):
        assert abs(number - of) <= step / 2 and number % step == 0
        assert number or not number.is_signed()
    assert shown[0].as_tuple().exponent == shown[1].as_tuple().exponent
    assert 1 <= shown[1] / step <= 20


pairs = st.builds(
    lambda sign, a, b, size, apart: (sign * a * 10.0**size, b * 10.0 ** (size - apart)),
    st.sampled_from([-1.0, 0.0, 1.0]),
    mantissas,
    mantissas,
    st.floats(-250, 250),
    st.integers(-6, 12),
)


@given(pairs)
def test_a_value_ends_where_its_error_does(pair):
    keeps_the_law(with_error, *pair)


@pytest.mark.parametrize(
    "write",
    [
        lambda v, e: f"{v:.4f} ± {e:.1g}",
        lambda v, e: with_error(v * 1.0001, e),
        lambda v, e: with_error(v, 1.6 * e),
        lambda v, e: "-0.000 ± 0.010" if v < 0 else with_error(v, e),
        lambda v, e: with_error(v, e).replace(" ±", "0 ±"),
    ],
)
def test_other_ways_of_writing_break_the_law(write):
    cases = [(0.022249, 0.0008), (222.49, 0.08), (-0.0001, 0.01)]
    for case in cases:
        keeps_the_law(with_error, *case)
    with pytest.raises(AssertionError):
        for case in cases:
            keeps_the_law(write, *case)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.022213, 0.00081, "0.0222 ± 0.0008"),
        (0.5, 0.0123, "0.500 ± 0.012"),
        (0.5, 0.0196, "0.500 ± 0.020"),
        (0.5, 0.096, "0.50 ± 0.10"),
        (700.0, 100.0, "700 ± 100"),
        (1234.5, 321.0, "1200 ± 300"),
        (0.3, 20.0, "0 ± 20"),
        (-0.0001, 0.01, "0.000 ± 0.010"),
        (2.2213e-5, 8.1e-7, "(2.22 ± 0.08)e-05"),
        (0.0, 1e-9, "(0.0 ± 1.0)e-09"),
        (9.99e-5, 9.9e-5, "0.00010 ± 0.00010"),
        (-5.0, 1.2345e7, "(0.0 ± 1.2)e+07"),
        (1e300, 1e299, "(1.00 ± 0.10)e+300"),
        (5e-324, 5e-324, "(5 ± 5)e-324"),
        (1e300, 1e-300, "1e+300 ± 1.0e-300"),
        (0.58221, None, "0.5822"),
        (0.58221, nan, "0.5822"),
        (0.58221, inf, "0.5822 ± inf"),
        (0.58221, 0.0, "0.5822 ± 0"),
        (nan, 0.1, "nan"),
        (-inf, 0.1, "-inf"),
        (3, 1, "3.0 ± 1.0"),
    ],
)
def test_numbers_are_printed_with_their_errors(value, error, text):
    assert with_error(value, error) == text


@given(st.floats(), st.none() | st.floats(min_value=0))
def test_any_number_is_printed_in_one_short_line(value, error):
    text = with_error(value, error)
    assert 0 < len(text) <= 60 and "\n" not in text and (text == "nan") == (value != value)


def test_estimates_print_their_numbers():
    one = Estimate(torch.tensor(0.022213), torch.tensor(0.00081))
    assert str(one) == f"{one}" == "0.0222 ± 0.0008"
    several = Estimate(torch.tensor([1.25, nan]), torch.tensor([0.11, 0.03]))
    assert str(several) == "[1.25 ± 0.11, nan]"
    layers = Estimate(several.value.expand(2, 2), several.stderr.expand(2, 2))
    assert str(layers) == f"[{several}, {several}]"
    many = Estimate(torch.arange(100.0), torch.full((100,), 0.5))
    assert str(many).startswith("[0.0 ± 0.5, 1.0 ± 0.5, ") and str(many).endswith("98.0 ± 0.5, 99.0 ± 0.5]")
    assert "…" in str(many) and len(str(many)) < 150
