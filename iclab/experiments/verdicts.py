"""Verdicts on claims: what the runs of a sweep say about them, with the training seed as the unit of inference.

Cells that differ in seeds alone are one *setting*. What a claim says, it says of each setting that it covers:

    typical     the mean over seeds, with its interval at 95 % (`SeedMean`), lies inside of the bound
    every       no run lies outside of the bound, beyond its prompt error
    share = q   of the runs that lie inside, the Clopper–Pearson interval lies above q

With slack s inside of the bound (`Claim.slack`) and h half of the interval, a typical claim *holds* where s ≥ h,
*fails* where s < −h, and is *inconclusive* in between. Over K settings it holds where it does in each, and fails where
it does in one, with the tail of each interval divided by K. The first is an intersection–union test, which needs no
correction (Berger 1982); the second is a union of K tests (Bonferroni). So neither wrong verdict is likelier than
2.5 %, however many settings there are.

With one seed a verdict is about this network: h is ten prompt errors. An error that is missing is unknown, not zero.
A share of 0 or 1 has the error of its Wilson interval, since its spread over prompts says nothing. A setting with a run
that has no result is not measured: a mean over those that came through would be too good.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite, isinf, isnan, nan
from typing import Any, Literal

from iclab.errors import unknown
from iclab.experiments.claims import Claim, entry
from iclab.experiments.intervals import NETWORK, TAIL, SeedMean, clopper_pearson, sure_errors, unanimous_error

Outcome = Literal["fails", "not measured", "inconclusive", "void", "holds"]

OUTCOMES: tuple[Outcome, ...] = ("fails", "not measured", "inconclusive", "void", "holds")  # the worst first
SEED = "seed"  # the training seed; settings below that end in it are seeds as well
NO_ERROR = "no error is known"


@dataclass(frozen=True)
class Cell:
    """A run as claims see it: its settings by dotted key, its state and its result rows."""

    run: str
    config: Mapping[str, Any]
    state: str
    rows: Sequence[Mapping[str, Any]] = ()

    @property
    def seed(self) -> Any:
        """Returns the training seed; the run itself where it has none."""
        return self.config.get(SEED, self.run)

    @property
    def setting(self) -> dict[str, str]:
        """Returns all settings but seeds, each as a text."""
        return {key: repr(value) for key, value in self.config.items() if key.rpartition(".")[2] != SEED}


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim, with what decided it.

    A typical claim has the mean over seeds, its standard error and its interval, in the setting that is nearest to
    the outcome; another kind the share of runs inside of the bound, and the value of the `worst` run.
    """

    claim: Claim
    outcome: Outcome
    value: float = nan
    stderr: float = nan
    low: float = nan
    high: float = nan
    seeds: int = 0
    worst: float = nan
    run: str = ""
    note: str = ""
    cells: Sequence[Cell] = field(default=(), repr=False)

    @property
    def measured(self) -> str:
        """Returns what was measured, as it is printed: a mean and its interval, a value of one network and its prompt
        error, or a count of runs."""
        if isnan(self.value):
            return ""
        if self.claim.kind != "typical":
            count = f"{round(self.value * len(self.cells))} of {len(self.cells)}"
            return f"{count} [{self.low:.0%}, {self.high:.0%}], worst {self.worst:.4g}"
        if self.seeds == 1:
            return f"{self.value:.4g} ± {self.stderr:.2g}" if isfinite(self.stderr) else f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]" if isfinite(self.low) else f"{self.value:.4g}"

    @property
    def of(self) -> str:
        """Returns what the verdict is about, as it is printed: so many seeds, or a network alone."""
        return "" if self.seeds == 0 else "this network" if self.seeds == 1 else f"{self.seeds} seeds"

    @property
    def distance(self) -> float:
        """Returns how far the mean lies inside of the bound, in halves of its interval: from 1 on a claim holds, below
        −1 it fails."""
        half, slack = self.high - self.value, self.claim.slack(self.value)
        if self.claim.kind != "typical" or not isfinite(half):
            return nan
        return slack / half if half else nan if slack == 0 else inf * slack

    @property
    def severity(self) -> tuple[int, float]:
        """Orders verdicts, the worst first: by outcome, then by how far the mean lies inside of the bound."""
        distance = self.distance
        return OUTCOMES.index(self.outcome), self.claim.slack(self.value) if isnan(distance) else distance

    def record(self) -> dict[str, Any]:
        """Returns the verdict as plain data."""
        claim, keys = self.claim, ("value", "stderr", "low", "high", "distance", "worst")
        numbers = {key: getattr(self, key) for key in keys}
        record: dict[str, Any] = {"claim": claim.name, "expected": claim.expected, "kind": claim.kind}
        record |= {"share": claim.share, "written": claim.written, "premise": claim.premise, "origin": claim.origin}
        record |= {"measured": self.measured, "outcome": self.outcome, "seeds": self.seeds, "of": self.of}
        record |= {key: value if isfinite(value) else None for key, value in numbers.items()}
        return record | {"run": self.run, "note": self.note, "cells": [c.run for c in self.cells], **self.labels}

    @property
    def labels(self) -> dict[str, str]:
        """Returns token layouts and training targets of the cells: an easier task or handed answers must be seen in a
        table."""
        keys = {"layout": "model.layout", "targets": "train.targets"}
        return {k: ", ".join(sorted({str(c.config.get(key, "")) for c in self.cells})) for k, key in keys.items()}


def judge(claims: Iterable[Claim], cells: Sequence[Cell]) -> list[Verdict]:
    """Returns the verdict on each claim, with regard to its premise."""
    alone = [_judge(claim, [cell for cell in cells if claim.concerns(cell.config)]) for claim in claims]
    by_name = {verdict.claim.name: verdict for verdict in alone}
    return [_under_premise(verdict, by_name) for verdict in alone]


def _under_premise(verdict: Verdict, verdicts: Mapping[str, Verdict]) -> Verdict:
    """A claim holds or fails where its premise holds; it is void where that fails, and no surer than it otherwise."""
    if verdict.claim.premise is None:
        return verdict
    premise = _under_premise(verdicts[verdict.claim.premise], verdicts)
    if premise.outcome == "holds":
        return verdict
    told = "fails" if premise.outcome == "fails" else f"is {premise.outcome}"
    outcome: Outcome = "void" if premise.outcome in ("fails", "void") else premise.outcome
    return replace(verdict, outcome=outcome, note=f"its premise {told}: {premise.claim.name}")


def _judge(claim: Claim, cells: Sequence[Cell]) -> Verdict:
    if not cells:
        return Verdict(claim, "not measured", note="no cell of this sweep has these settings")
    runs = [_measured(claim, cell) for cell in cells]
    verdict = {"typical": _typical, "every": _every, "share": _share}[claim.kind](claim, runs)
    without = Counter(cell.state for cell in cells if cell.state != "done")
    missing = [f"{count} of {len(cells)} runs {state}" for state, count in sorted(without.items())]
    return replace(verdict, note="; ".join(missing) or verdict.note, cells=cells)


# ---- one run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What a run says about a claim: a value, and its prompt error; neither is a number where it is missing."""

    cell: Cell
    value: float = nan
    stderr: float = nan
    note: str = ""

    @property
    def prompt_error(self) -> float:
        """Returns the prompt error; of a share of 0 or 1 that of its Wilson interval, as far as the prompts are
        counted."""
        if self.stderr == 0 and self.value in (0.0, 1.0):
            prompts = self.cell.config.get("eval.prompts")
            return unanimous_error(prompts) if prompts else nan
        return self.stderr


def _measured(claim: Claim, cell: Cell) -> Measured:
    """The row of a cell on which a claim is judged; of several the one that is furthest outside of the bound."""
    if cell.state != "done":
        return Measured(cell, note=cell.state)
    found = [Measured(cell, _number(row, "value"), _number(row, "stderr")) for row in claim.rows(cell.rows)]
    known = [one for one in found if not isnan(one.value)]
    return min(known, key=lambda one: claim.slack(one.value)) if known else Measured(cell, note=_no_rows(claim, cell))


def _number(row: Mapping[str, Any], key: str) -> float:
    return nan if row.get(key) is None else float(row[key])


def _no_rows(claim: Claim, cell: Cell) -> str:
    """Why a run has no row for a claim."""
    wanted = {"quantity": claim.quantity, "predictor": claim.predictor, **dict(claim.where)}
    for key in ("quantity", "predictor", "distribution"):
        known = {str(entry(row, key)) for row in cell.rows}
        if key in wanted and wanted[key] not in known:
            return unknown(key, str(wanted[key]), known)
    return "no row has this quantity for these settings"


def _seeds(runs: Sequence[Measured]) -> int:
    return len({run.cell.seed for run in runs})


def _side(slack: float, inside: float, outside: float) -> Outcome:
    """Which side of a bound something lies on, that must be so far inside to hold and so far outside to fail."""
    if isinf(slack):
        return "holds" if slack > 0 else "fails"
    return "holds" if slack >= inside else "fails" if slack < -outside else "inconclusive"


# ---- three kinds of claim ------------------------------------------------------------------------------------------


def _typical(claim: Claim, runs: Sequence[Measured]) -> Verdict:
    """The verdict of the setting that is worst."""
    settings: dict[str, list[Measured]] = {}
    for run in runs:
        settings.setdefault(repr(sorted(run.cell.setting.items())), []).append(run)
    verdicts = [_of_setting(claim, group, len(settings)) for group in settings.values()]
    worst = min(verdicts, key=lambda verdict: verdict.severity)
    if len(settings) > 1 and not worst.note:
        return replace(worst, note=f"decided by {_apart(worst.run, runs)}")
    return worst


def _apart(name: str, runs: Sequence[Measured]) -> str:
    """The settings that set a run apart from others."""
    chosen = next(run.cell for run in runs if run.cell.run == name)
    others = [run.cell.setting for run in runs]
    varied = [key for key, value in chosen.setting.items() if any(one.get(key) != value for one in others)]
    return ", ".join(f"{key}={chosen.config[key]}" for key in varied) or f"run {name}"


def _of_setting(claim: Claim, runs: Sequence[Measured], settings: int) -> Verdict:
    """The verdict of one setting, of so many that the claim covers."""
    first = runs[0].cell.run
    if missing := [run for run in runs if isnan(run.value)]:
        return Verdict(claim, "not measured", run=missing[0].cell.run, note=missing[0].note)
    mean = SeedMean.of(*_by_seed(runs))
    low, high = mean.interval()
    outcome: Outcome = "inconclusive"
    if not isinf(mean.stderr):
        outcome = _side(claim.slack(mean.value), mean.half_width(), mean.half_width(TAIL / settings))
    note = NO_ERROR if isnan(mean.stderr) and outcome == "inconclusive" else ""
    return Verdict(claim, outcome, mean.value, mean.stderr, low, high, mean.seeds, run=first, note=note)


def _by_seed(runs: Sequence[Measured]) -> tuple[list[float], list[float]]:
    """Values and prompt errors, one for each training seed: runs of one seed share prompts and first weights, and are
    averaged, the errors as if they were one."""
    seeds: dict[Any, list[Measured]] = {}
    for run in runs:
        seeds.setdefault(run.cell.seed, []).append(run)
    values = [sum(run.value for run in group) / len(group) for group in seeds.values()]
    return values, [sum(run.prompt_error for run in group) / len(group) for group in seeds.values()]


def _every(claim: Claim, runs: Sequence[Measured]) -> Verdict:
    """One run outside of the bound, beyond chance among so many, refutes."""
    alone = _seeds(runs) == 1
    errors = NETWORK if alone else sure_errors(len(runs))
    sides: list[Outcome] = [_missing_or_side(claim, run, errors, alone) for run in runs]
    outcome = min(sides, key=OUTCOMES.index)
    verdict = _counted(claim, runs, outcome)
    unknown_error = alone and outcome == "inconclusive" and any(isnan(run.stderr) for run in runs)
    return replace(verdict, note=NO_ERROR) if unknown_error else verdict


def _missing_or_side(claim: Claim, run: Measured, errors: float, alone: bool) -> Outcome:
    """The side of a single run. A count of several seeds needs no prompt error; one network does."""
    doubt = errors * run.stderr if isfinite(run.stderr) else inf if alone else 0.0
    return "not measured" if isnan(run.value) else _side(claim.slack(run.value), doubt, doubt)


def _share(claim: Claim, runs: Sequence[Measured]) -> Verdict:
    """The interval of the share of runs inside of the bound, compared with the share that is claimed."""
    verdict, least = _counted(claim, runs, "not measured"), claim.share or 0.0
    if isnan(verdict.low):
        return verdict
    outcome: Outcome = "holds" if verdict.low >= least else "fails" if verdict.high < least else "inconclusive"
    return replace(verdict, outcome=outcome)


def _counted(claim: Claim, runs: Sequence[Measured], outcome: Outcome) -> Verdict:
    """A verdict with the count of runs inside of the bound; without one where a run has no result."""
    known = [run for run in runs if not isnan(run.value)]
    if not known:
        return Verdict(claim, outcome, run=runs[0].cell.run, note=runs[0].note)
    worst = min(known, key=lambda run: claim.slack(run.value))
    found = Verdict(claim, outcome, run=worst.cell.run, worst=worst.value, seeds=_seeds(runs))
    if len(known) < len(runs):
        return replace(found, note=next(run.note for run in runs if isnan(run.value)))
    inside = sum(claim.slack(run.value) >= 0 for run in runs)
    low, high = clopper_pearson(inside, len(runs))
    note = "" if inside == len(runs) else f"outside are {len(runs) - inside}; {_apart(worst.cell.run, runs)} is worst"
    return replace(found, value=inside / len(runs), low=low, high=high, note=note)
