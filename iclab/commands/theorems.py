"""Theorems tried on random cases (`iclab verify`) and searched for a counterexample (`iclab falsify`), and the page of
those that were published wrong (`iclab errata`)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from iclab.bar import Bar, bar, silent
from iclab.commands.terminal import table
from iclab.constructed import THEOREMS, Case, Choices, Integers, Reals, Tally, Theorem, named
from iclab.constructed.theorem import SEEDS, Range
from iclab.errors import UsageError, refuse, unknown
from iclab.experiments.plugins import bring_file, theorems_of
from iclab.files import write_json

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

COLUMNS = ["theorem", "paper", "statement", "worst case", "error", "bound", "margin", "cases", "outcome"]


def verify(names: Sequence[str], cases: int | None, path: Path | None, to: Console) -> bool:
    """Tries theorems (all unless named; of a Python file its own), prints a table and writes JSON to `path`; returns
    whether all came out as expected."""
    refuse("verify", [] if cases is None or cases >= 1 else [f"--cases must be at least 1, given {cases}"])
    files = [name for name in names if name.endswith(".py")]
    own = [each for name in files for each in theorems_of(bring_file(Path(name)).module)]
    others = [name for name in names if name not in files]
    chosen = own + (_meant(others) if others or not files else [])
    with bar(sum(cases or each.cases for each in chosen)) as at:
        rows = [_row(tally) for tally in _tallies(chosen, cases, at)]
    to.print(table("theorems", COLUMNS, [_table_row(row) for row in rows], to))
    for row in rows:
        if row["expected"] == "fails":
            to.print(f"{row['theorem']} passes by failing: {row['corrected']} holds")
    if path is not None:
        write_json(path, rows)
    return all(row["outcome"] == "PASS" for row in rows)


def _tallies(chosen: Sequence[Theorem], cases: int | None, at: Bar) -> Iterator[Tally]:
    """Tries theorems one after the other, case by case."""
    done = 0
    for each in chosen:

        def watched(each: Theorem = each) -> Iterator[Case]:
            nonlocal done
            for case in each.drawn(cases or each.cases):
                at(done, each.name)
                yield case
                done += 1

        yield each.tried(watched())


def _meant(names: Sequence[str]) -> list[Theorem]:
    """The theorem of each name, or all those whose names begin with it."""
    if not names:
        return THEOREMS
    known = [each.name for each in THEOREMS]
    matches = {name: [name] if name in known else [each for each in known if each.startswith(name)] for name in names}
    refuse("verify", [unknown("theorem", name, known) for name, meant in matches.items() if not meant])
    return [named(each) for each in dict.fromkeys(each for meant in matches.values() for each in meant)]


def _row(tally: Tally) -> dict[str, Any]:
    theorem, (case, error, bound) = tally.theorem, tally.worst
    return {
        "theorem": theorem.name,
        "paper": theorem.paper,
        "statement": theorem.statement,
        "reason": theorem.reason,
        "expected": theorem.expected,
        "corrected": theorem.corrected.name if theorem.corrected else None,
        "case": {"seed": case.seed, **{name: asdict(case)[name] for name in theorem.ranges}},
        "error": error,
        "bound": bound,
        "margin": bound / error if error else None,
        "cases": len(tally.results),
        "outcome": "PASS" if tally.passes() else "FAIL",
    }


def _table_row(row: dict[str, Any]) -> list[Any]:
    setting = " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row["case"].items())
    numbers = [
        f"{row['error']:.1e}",
        f"{row['bound']:.1e}",
        "exact" if row["margin"] is None else f"{row['margin']:.2g}",
    ]
    return [row["theorem"], row["paper"], row["statement"], setting, *numbers, row["cases"], row["outcome"]]


# ---- counterexamples ----------------------------------------------------------------------------------------------


def falsify(name: str, examples: int, to: Console) -> bool:
    """Searches for a case that breaks the bound, and prints it as Python; returns whether the outcome is the expected
    one about."""
    refuse("falsify", [] if examples >= 1 else [f"--examples must be at least 1, given {examples}"])
    theorem = _one(name)
    with bar(examples) as at:
        case, tried = counter_example(theorem, examples, at)
    if case is None:
        to.print(f"{theorem.name}: no counterexample among {tried} cases")
        return theorem.expected == "holds"
    verdict = f"as expected: {theorem.corrected.name} holds" if theorem.corrected else "the statement does not hold"
    to.print(f"{theorem.name}: a counterexample, {verdict}. The simplest, after {tried} cases:\n")
    to.print(reproduction(theorem, case), markup=False, soft_wrap=True)
    return theorem.expected == "fails"


def _one(name: str) -> Theorem:
    """The theorem of a name, or "FILE.py:NAME" for one that a file lists."""
    file, colon, own = name.rpartition(":")
    if not (colon and file.endswith(".py")):
        return named(name)
    listed = {each.name: each for each in theorems_of(bring_file(Path(file)).module)}
    refuse(file, [] if own in listed else [unknown("theorem", own, listed)])
    return listed[own]


def counter_example(theorem: Theorem, examples: int, at: Bar = silent) -> tuple[Case | None, int]:
    """Returns the simplest case that breaks the bound, and how many cases were looked at. Raises what the measure of a
    theorem raises, at the simplest case where it does, and ``ValueError`` where that measure is not the same twice."""
    from hypothesis import HealthCheck, find, settings
    from hypothesis.errors import Flaky, NoSuchExample

    tried, found = 0, False
    raised: dict[Case, Exception] = {}

    def broken(case: Case) -> bool:
        nonlocal tried, found
        at(min(tried, examples), f"{theorem.name}: {'simplifies a counterexample' if found else 'searches'}")
        tried += 1
        try:
            error, bound = theorem.measure(case)
        except Exception as problem:  # through the search it would come with the words of the searcher
            raised[case], found = problem, True
            return True
        found = found or not error <= bound
        return not error <= bound

    calm = [HealthCheck.too_slow, HealthCheck.data_too_large]
    plan = settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=calm)
    try:
        case = find(cases(theorem), broken, settings=plan)
    except NoSuchExample:
        return None, tried
    except Flaky:
        raise UsageError(f"{theorem.name}: its error or bound is not the same twice for one case") from None
    if case in raised:
        raise raised[case]
    return case, tried


def cases(theorem: Theorem) -> "SearchStrategy[Case]":
    """Returns the cases of a theorem as Hypothesis draws them; simpler ones have smaller numbers."""
    from hypothesis import strategies

    fields = {name: _strategy(space) for name, space in {"seed": SEEDS, **theorem.ranges}.items()}
    return strategies.builds(Case, **fields)


def _strategy(space: Range) -> Any:
    from hypothesis import strategies

    if isinstance(space, Choices):
        return strategies.sampled_from(list(space.values))
    if isinstance(space, Integers):
        return strategies.integers(space.low, space.high)
    return strategies.integers(0, 100).map(partial(_short, space))


def _short(space: Reals, hundredths: int) -> float:
    """A real number of three digits: as good as any other, soon found to be the simplest, and short in print."""
    return min(max(float(f"{space.at(hundredths / 100):.3g}"), space.low), space.high)


def reproduction(theorem: Theorem, case: Case) -> str:
    """Returns lines of Python that show how the case breaks the bound."""
    settings = ", ".join(f"{name}={json.dumps(getattr(case, name))}" for name in ("seed", *theorem.ranges))
    return (
        f"{_origin(theorem)}"
        f"case = Case({settings})\n"
        "print(theorem.error(case), theorem.bound(case))\n"
        "assert not theorem.error(case) <= theorem.bound(case)"
    )


def _origin(theorem: Theorem) -> str:
    """Lines of Python that name a theorem: the package's by name, one of a file from its list."""
    if theorem in THEOREMS:
        return f'from iclab.constructed import Case, named\n\ntheorem = named("{theorem.name}")\n'
    imports = f"from iclab.constructed import Case\nfrom {theorem.measure.__module__} import THEOREMS\n\n"
    return f'{imports}theorem = next(each for each in THEOREMS if each.name == "{theorem.name}")\n'


# ---- what was published wrong --------------------------------------------------------------------------------------

HEADING = """# Errata

Statements that were published and do not hold as printed, each with what does hold and the simplest counterexample
that a search found. `iclab verify NAME` tries a check on random cases and `iclab falsify NAME` searches anew; the lines
of Python run as they stand. This page is what `iclab errata` prints.

| paper and place, as printed | what holds | check |
|---|---|---|
"""


def errata(examples: int) -> str:
    """Returns the page of statements that were published wrong, as Markdown."""
    refuse("errata", [] if examples >= 1 else [f"--examples must be at least 1, given {examples}"])
    wrong = [each for each in THEOREMS if each.corrected]
    with bar(len(wrong) * examples) as at:
        parts = [_erratum(each, examples, partial(_further, at, i * examples)) for i, each in enumerate(wrong)]
    lines = [f"| {each.paper} | {each.corrected.paper} | `{each.name}` |" for each in wrong if each.corrected]
    return HEADING + "\n".join(lines) + "\n" + "".join(parts)


def _further(at: Bar, before: int, done: int, phase: str = "", words: str = "") -> None:
    """Counts on from what was done before."""
    at(before + done, phase, words)


def _erratum(theorem: Theorem, examples: int, at: Bar) -> str:
    """What was printed, what holds, and a case that tells them apart."""
    assert theorem.corrected is not None
    case, tried = counter_example(theorem, examples, at)
    refuse(theorem.name, [] if case else [f"no counterexample among {tried} cases; look at more (--examples)"])
    assert case is not None
    error, bound = theorem.measure(case)
    return (
        f"\n## {theorem.name}\n\n"
        f"- Printed: {theorem.statement} ({theorem.paper}).\n"
        f"- Corrected: {theorem.corrected.statement} ({theorem.corrected.paper}): `{theorem.corrected.name}`.\n"
        f"- Bound: {theorem.reason}.\n"
        f"- Counterexample: the error is {error:.2g}, and {bound:.2g} would be allowed.\n\n"
        f"```python\n{reproduction(theorem, case)}\n```\n"
    )
