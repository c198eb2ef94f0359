"""Claims of a task file, judged by what was measured.

A claim compares one quantity of one predictor with a bound. It is judged in every cell of the sweep that it speaks of,
with two standard errors as the margin of doubt:

    at_most b         slack = b − value
    at_least b        slack = value − b           holds where slack ≥ 2 stderr, fails where slack < −2 stderr
    within (e, t)     slack = t − |value − e|

and is inconclusive in between. The verdict is that of the worst cell. One cell that fails refutes a claim;
if none fails, a cell without a result leaves it not measured.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose, isfinite, isnan
from typing import Any, Literal

from iclab.errors import refuse, unknown

Scalar = bool | int | float | str
Outcome = Literal["fails", "not measured", "inconclusive", "holds"]

OUTCOMES: tuple[Outcome, ...] = ("fails", "not measured", "inconclusive", "holds")  # the worst first
TRAINED = "own"  # the distribution that the model was trained on
MEAN = "mean"  # the position that stands for the average over all positions
ROW_KEYS = {"distribution": TRAINED, "position": MEAN, "layer": None, "step": None}


@dataclass(frozen=True)
class Claim:
    """An expected value of a quantity of a predictor, in the cells that `where` selects (all, if empty).

    `where` holds settings of the experiment and may choose `distribution`, `position`, `layer` and `step` among the
    rows; without it the rows are those of the whole model after training on its training distribution, averaged over
    positions.
    """

    name: str
    quantity: str
    predictor: str
    where: tuple[tuple[str, Scalar], ...] = ()
    at_most: float | None = None
    at_least: float | None = None
    within: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        bounds = {k: getattr(self, k) for k in ("at_most", "at_least", "within")}
        given = [k for k, v in bounds.items() if v is not None]
        problems = (
            [] if len(given) == 1 else [f"give exactly one of {', '.join(bounds)}; given {', '.join(given) or 'none'}"]
        )
        if self.within and self.within[1] < 0:
            problems.append(f"within = [expected, tolerance] needs a tolerance of 0 or more, given {self.within[1]}")
        refuse(f"claim {self.name!r}", problems)

    @property
    def expected(self) -> str:
        """Returns the bound, as it is printed."""
        if self.within:
            return f"{self.within[0]:.4g} ± {self.within[1]:.4g}"
        return f"≤ {self.at_most:.4g}" if self.at_most is not None else f"≥ {self.at_least:.4g}"

    def slack(self, value: float) -> float:
        """Returns how far a value lies inside of the bound; negative outside."""
        if self.within:
            return self.within[1] - abs(value - self.within[0])
        return self.at_most - value if self.at_most is not None else value - (self.at_least or 0.0)

    def outcome(self, value: float, stderr: float) -> Outcome:
        """Returns the outcome of the claim for one measurement."""
        if isnan(value):
            return "not measured"
        slack, doubt = self.slack(value), 2 * stderr
        return "holds" if slack >= doubt else "fails" if slack < -doubt else "inconclusive"

    def unknown_keys(self, known: Iterable[str]) -> list[str]:
        """Returns the keys of `where` that are neither settings nor columns of the rows."""
        known = {*known, *ROW_KEYS}
        return [f"claim {self.name!r}: {unknown('key', key, known)}" for key, _ in self.where if key not in known]

    def concerns(self, config: Mapping[str, Any]) -> bool:
        """Returns whether a cell with these settings (dotted keys) is one that the claim speaks of."""
        return all(_same(config.get(key, "none"), value) for key, value in self.where if key not in ROW_KEYS)

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Returns the rows of a cell on which the claim is judged."""
        chosen = {key: dict(self.where).get(key, default) for key, default in ROW_KEYS.items()}
        wanted = {"predictor": self.predictor, "quantity": self.quantity, **chosen}
        return [row for row in rows if all(_same(_entry(row, key), value) for key, value in wanted.items())]


def _entry(row: Mapping[str, Any], key: str) -> Any:
    value = row.get(key)
    return ROW_KEYS[key] if value is None and key in ROW_KEYS else value


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool) or not isinstance(value, int | float):
        return type(value) is type(wanted) and value == wanted
    return isinstance(wanted, int | float) and isclose(value, wanted, rel_tol=1e-9)


@dataclass(frozen=True)
class Cell:
    """A run as claims see it: its settings by dotted key, its state and its result rows."""

    run: str
    config: Mapping[str, Any]
    state: str
    rows: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim, with the cell that decided it."""

    claim: Claim
    outcome: Outcome
    value: float = float("nan")
    stderr: float = float("nan")
    run: str = ""
    note: str = ""
    cells: Sequence[Cell] = field(default=(), repr=False)

    @property
    def measured(self) -> str:
        """Returns the value and its error, as they are printed."""
        error = f" ± {self.stderr:.2g}" if isfinite(self.stderr) else ""
        return "" if isnan(self.value) else f"{self.value:.4g}{error}"

    @property
    def severity(self) -> tuple[int, float]:
        """Orders verdicts, the worst first: by outcome, then by how far the value lies inside of the bound."""
        return OUTCOMES.index(self.outcome), 0.0 if isnan(self.value) else self.claim.slack(self.value)

    def record(self) -> dict[str, Any]:
        """Returns the verdict as plain data."""
        numbers = {k: v if isfinite(v) else None for k, v in {"value": self.value, "stderr": self.stderr}.items()}
        record = {"claim": self.claim.name, "expected": self.claim.expected, "measured": self.measured}
        record |= {"verdict": self.outcome, **numbers}
        return record | {"run": self.run, "note": self.note, "cells": [cell.run for cell in self.cells], **self.setting}

    @property
    def setting(self) -> dict[str, str]:
        """Returns token layouts and training targets of the cells: an easier task or handed answers must be seen in a
        table."""
        keys = {"layout": "model.layout", "targets": "train.targets"}
        return {k: ", ".join(sorted({str(c.config.get(key, "")) for c in self.cells})) for k, key in keys.items()}


def judge(claims: Iterable[Claim], cells: Sequence[Cell]) -> list[Verdict]:
    """Returns the verdict on each claim."""
    return [_judge(claim, [cell for cell in cells if claim.concerns(cell.config)]) for claim in claims]


def _judge(claim: Claim, cells: Sequence[Cell]) -> Verdict:
    if not cells:
        return Verdict(claim, "not measured", note="no cell of this sweep has these settings")
    worst = min((_judge_cell(claim, cell) for cell in cells), key=lambda verdict: verdict.severity)
    without = Counter(cell.state for cell in cells if cell.state != "done")
    missing = [f"{count} of {len(cells)} runs {state}" for state, count in sorted(without.items())]
    return Verdict(claim, worst.outcome, worst.value, worst.stderr, worst.run, "; ".join(missing) or worst.note, cells)


def _judge_cell(claim: Claim, cell: Cell) -> Verdict:
    if cell.state != "done":
        return Verdict(claim, "not measured", run=cell.run)
    verdicts = [_judge_row(claim, cell.run, row) for row in claim.rows(cell.rows)]
    return min(verdicts, key=lambda v: v.severity) if verdicts else _no_rows(claim, cell)


def _judge_row(claim: Claim, run: str, row: Mapping[str, Any]) -> Verdict:
    value = float("nan") if row.get("value") is None else float(row["value"])
    stderr = 0.0 if row.get("stderr") is None else float(row["stderr"])
    return Verdict(claim, claim.outcome(value, stderr), value, stderr, run)


def _no_rows(claim: Claim, cell: Cell) -> Verdict:
    wanted = {"quantity": claim.quantity, "predictor": claim.predictor, **dict(claim.where)}
    for key in ("quantity", "predictor", "distribution"):
        known = {str(_entry(row, key)) for row in cell.rows}
        if key in wanted and wanted[key] not in known:
            return Verdict(claim, "not measured", run=cell.run, note=unknown(key, str(wanted[key]), known))
    return Verdict(claim, "not measured", run=cell.run, note="no row has this quantity for these settings")
