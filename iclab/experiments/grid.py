"""The grammar of sweeps: a key and its values, crossed with every other key.

    model.n_layer=1,2,4           values as in TOML: numbers, true, false, texts (quotes may be left out), lists, tables
    device=cuda:0,cuda:1          a text may end in a number, which makes no range of it
    seed=0:4    seed=0:10:2       integers, the end left out
    train.lr=log:1e-4..1e-2:5     5 values, evenly spaced in the logarithm, both ends among them
    task.noise=lin:0..1:5         the same, evenly spaced

In a file, `[sweep]` holds a list for each key, or one of these ranges as a text. Keys whose values belong together are
written as one, and vary as one:

    "task.d, train.prompts" = [[8, 64], [16, 256]]
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import exp, isfinite, log, prod
from typing import Any

from iclab.errors import UsageError, refuse
from iclab.experiments.config import shown
from iclab.experiments.mappings import Nested, flatten

Axes = dict[str, list[Any]]

LARGEST = 100_000
KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")
BARE = re.compile(r"[A-Za-z_][\w./+-]*(:\d+)?")
INTEGERS = re.compile(r"([+-]?\d+):([+-]?\d+)(?::([+-]?\d+))?")
SPACED = re.compile(r"(log|lin):(.+?)\.\.(.+):([+-]?\d+)")
FORMS = "a,b,c or a:b or a:b:step or log:a..b:count or lin:a..b:count"


def setting(text: str) -> tuple[str, list[Any]]:
    """Returns key and values of one `key=value` of the command line. Raises ``ValueError`` where it is malformed."""
    key, equals, values = text.partition("=")
    if not equals or not KEY.fullmatch(key):
        raise UsageError(f"{text!r} is not a setting; expected key=value, e.g. model.n_layer=1,2,4")
    try:
        return key, parse(values)
    except (ValueError, OverflowError) as error:  # Python refuses numbers of too many digits in words of its own
        raise UsageError(f"{key}: {error}") from None


def parse(text: str) -> list[Any]:
    """Returns the values that a text of the grammar lists. Raises ``ValueError`` where there are none or it is
    malformed.

    >>> parse("1,2,4")
    [1, 2, 4]
    >>> parse("0:4")
    [0, 1, 2, 3]
    >>> parse("log:1e-4..1e-2:3")
    [0.0001, 0.001, 0.01]
    >>> parse("softmax,linear")
    ['softmax', 'linear']
    """
    ranged = span(text.strip())
    return ranged if ranged is not None else [_scalar(item) for item in _items(text)]


def span(text: str) -> list[Any] | None:
    """Returns the values of a range, None where the text is not one."""
    if match := INTEGERS.fullmatch(text):
        return _integers(text, *(int(part) for part in match.groups() if part))
    if match := SPACED.fullmatch(text):
        return _spaced(text, *match.groups())
    malformed = text.startswith(("log:", "lin:")) or re.fullmatch(r"[\d+:.-]*:[\d+:.-]*", text)
    refuse("range", [f"{text!r} is malformed; expected {FORMS}"] if malformed else [])
    return None


def _integers(text: str, start: int, stop: int, step: int = 1) -> list[int]:
    refuse("range", [f"{text!r} has step 0"] if step == 0 else [])
    refuse("range", _size_problems(text, -((start - stop) // step)))
    return list(range(start, stop, step))


def _spaced(text: str, form: str, low: str, high: str, count: str) -> list[Any]:
    ends, number = [_number(text, low), _number(text, high)], int(count)
    problems = [f"{text!r} needs at least 2 values, given {number}"] if number < 2 else _size_problems(text, number)
    if form == "log" and min(ends) <= 0:
        problems.append(f"{text!r} needs ends above 0")
    refuse("range", problems)
    inner = [_between(form, *ends, share=i / (number - 1)) for i in range(1, number - 1)]
    values = [ends[0], *inner, ends[1]]
    whole = all(isinstance(end, int) for end in ends) and all(v == int(v) for v in values)
    return [int(v) if whole else float(v) for v in values]


def _between(form: str, low: float, high: float, share: float) -> float:
    """A point of the range, to 12 digits: a value in the middle should read 0.001, not 0.0009999999999999998."""
    exact = exp((1 - share) * log(low) + share * log(high)) if form == "log" else (1 - share) * low + share * high
    return float(f"{exact:.12g}")


def _number(text: str, part: str) -> int | float:
    value = _scalar(part)
    fits = type(value) in (int, float) and isfinite(value)
    refuse("range", [] if fits else [f"{text!r} is malformed: {part!r} is not a finite number"])
    return value


def _size_problems(text: str, size: int) -> list[str]:
    if size < 1:
        return [f"{text!r} is empty"]
    return [f"{text!r} lists {size} values, more than {LARGEST}"] if size > LARGEST else []


def _items(text: str) -> Iterator[str]:
    """The parts between commas that stand outside of quotes and brackets."""
    depth, quote, start = 0, "", 0
    for i, letter in enumerate(text):
        if quote or letter in "\"'":
            quote = quote if quote and letter != quote else "" if quote else letter
        elif letter == "," and depth == 0:
            yield text[start:i]
            start = i + 1
        depth += 0 if quote else (letter in "[{") - (letter in "]}")
    yield text[start:]


def _scalar(item: str) -> Any:
    """One value as TOML has it; a bare word is a text, and Python's ways to write a float are taken as well."""
    item = item.strip()
    refuse("list", [] if item else ["a value is empty"])
    if "\n" not in item:
        try:
            return tomllib.loads(f"v = {item}")["v"]
        except (ValueError, RecursionError):
            pass
    if BARE.fullmatch(item):
        return item
    try:
        return float(item)
    except ValueError:
        raise UsageError(f"{item!r} is not a value; put a text with unusual characters into quotes") from None


def axes_of(table: Nested) -> tuple[Axes, list[str]]:
    """Returns the axes of a `[sweep]` table, and what is wrong with it. Dotted keys may be quoted or nested."""
    axes: Axes = {}
    problems: list[str] = []
    for key, values in _paths(table):
        problems += [f"sweep.{key} is given twice"] if key in axes else []
        try:
            axes[key] = _listed(values) if len(tied(key)) == 1 else _rows(values, len(tied(key)))
        except (ValueError, OverflowError) as error:
            problems.append(f"sweep.{key}: {error}")
    counted = Counter(name for key in axes for name in tied(key))
    return axes, problems + [f"sweep.{name} is given twice" for name, count in counted.items() if count > 1]


def tied(key: str) -> list[str]:
    """Returns the keys that vary as one, most often a single one."""
    return [name.strip() for name in key.split(",")]


def _rows(values: Any, width: int) -> list[Any]:
    """The values of keys that vary as one."""
    rows = _listed(values)
    for row in rows:
        if not isinstance(row, list) or len(row) != width:
            raise UsageError(f"expected {width} values, one for each key, given {shown(row)}")
    return rows


def _paths(table: Nested, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping):
            yield from _paths(value, key)
        else:
            yield key, value


def _listed(values: Any) -> list[Any]:
    if isinstance(values, str) and (ranged := span(values)) is not None:
        return ranged
    if not isinstance(values, list):
        raise UsageError(f"expected a list of values or a range, given {shown(values)}")
    if not values:
        raise UsageError("the list is empty")
    return values


def settings(texts: Iterable[str]) -> tuple[Axes, list[str]]:
    """Returns the axes that the command line gives, and what is wrong with it."""
    axes: Axes = {}
    problems: list[str] = []
    for text in texts:
        try:
            key, values = setting(text)
        except ValueError as error:
            problems.append(str(error))
        else:
            problems += [f"{key} is given twice"] if key in axes else []
            axes[key] = values
    return axes, problems


def cross(axes: Axes) -> Iterator[dict[str, Any]]:
    """Yields every combination of values, the last key varying fastest. Raises ``ValueError`` where there are too
    many.

    >>> [tuple(cell.values()) for cell in cross({"model.n_layer": [1, 2], "seed": [0, 1]})]
    [(1, 0), (1, 1), (2, 0), (2, 1)]
    """
    size = prod(len(values) for values in axes.values())
    refuse("sweep", [f"the grid has {size} cells, more than {LARGEST}"] if size > LARGEST else [])
    return (_each(dict(zip(axes, values, strict=True))) for values in product(*axes.values()))


def _each(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every key, those that vary as one taken apart; what is given later stands."""
    values: dict[str, Any] = {}
    for key, value in chosen.items():
        values |= {key: value} if len(tied(key)) == 1 else dict(zip(tied(key), value, strict=True))
    return values


def without(axes: Axes, table: Nested) -> Axes:
    """Returns the axes that a table of plain settings does not fix."""
    return {key: values for key, values in axes.items() if not flatten(table).keys() & tied(key)}
