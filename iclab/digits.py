"""Digits: how a number with its standard error is printed, everywhere in the package.

    0.0222 ± 0.0008      the error has one significant digit, and the value ends at the same place
    0.500 ± 0.012        two digits where the error begins with 1, which one digit would change by up to half
    (2.22 ± 0.08)e-05    powers of ten where both numbers are below 10⁻⁴, or one is 10⁶ or more
    0.5822               four digits of a value whose error is not known (none, or not a number)
    0.5822 ± 0           ... is zero, or infinite

The first digit of an error is that before rounding: 0.096 is written 0.10, and 0.0196 is written 0.020.
"""

from decimal import Context, Decimal
from math import isfinite, isnan

VALUE_DIGITS = 4  # of a value whose error says nothing about its last digit
SMALLEST, LARGEST = -4, 6  # powers of ten between which numbers are written out
DOUBLE = 15  # digits that every double keeps
ROOMY = Context(prec=2 * DOUBLE + 8)  # more digits than are ever printed


def with_error(value: float, error: float | None = None) -> str:
    """Returns a value with its standard error, rounded to the digits that the error leaves.

    >>> with_error(0.022213, 0.00081), with_error(0.5, 0.0123), with_error(2.2213e-5, 8.1e-7)
    ('0.0222 ± 0.0008', '0.500 ± 0.012', '(2.22 ± 0.08)e-05')
    >>> with_error(1234.5, 321.0), with_error(0.58221), with_error(float("nan"), 0.1)
    ('1200 ± 300', '0.5822', 'nan')
    """
    alone = f"{value:.{VALUE_DIGITS}g}"
    if not isfinite(value) or error is None or isnan(error):
        return alone
    error = abs(error)
    if error == 0 or not isfinite(error):
        return f"{alone} ± {error:.0f}"
    exact_value, exact_error = _exact(value), _exact(error)
    two = exact_error.as_tuple().digits[0] == 1
    place = exact_error.adjusted() - two
    if exact_value and exact_value.adjusted() - place > DOUBLE:  # below the last digit that the value has
        return f"{value:.{DOUBLE}g} ± {error:.{two:d}e}"
    return _rounded(exact_value, exact_error, place)


def _exact(number: float) -> Decimal:
    """The decimal number that stands for a float: the shortest that is read as it."""
    return Decimal(repr(float(number)))


def _rounded(value: Decimal, error: Decimal, place: int) -> str:
    """Both numbers at one decimal place, with a common power of ten where they are very large or very small."""
    last = Decimal((0, (1,), place))
    numbers = [number.quantize(last, context=ROOMY) for number in (value, error)]
    power = max(number.adjusted() for number in numbers if number)
    power = 0 if SMALLEST <= power < LARGEST else power
    texts = [f"{number.scaleb(-power, context=ROOMY):f}" if number else _zero(place - power) for number in numbers]
    return f"({' ± '.join(texts)})e{power:+03d}" if power else " ± ".join(texts)


def _zero(place: int) -> str:
    """Zero to a decimal place, without a sign."""
    return f"{0:.{max(0, -place)}f}"
