"""Risks of the model and of every reference on the same prompts."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from iclab.analysis import band, margins, ratio
from iclab.analysis.risk import Answers, below, squared, vanishes
from iclab.experiments.analysis import Analysis, Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, Parts, averaged, fewer, relative, row, rows
from iclab.tasks import MixedFunctions
from iclab.theory.posterior import components, oracle
from iclab.theory.references import references

BEST = "bayes"


class Risks(Analysis):
    """Compares the model with every reference. "transformer" is the model, whatever its kind, and "oracle" receives
    which task of a mixture a prompt is from. Of labels that are vectors, risks are means over coordinates."""

    name = "risks"
    always = True
    quantities: ClassVar = {
        "risk": "E(ŷ − y)², the mean squared error against noisy labels; 0 or more, in squared units of the label",
        "risk_low": "the 5 % end of the bootstrap band of the risk, by position",
        "risk_high": "the 95 % end of the bootstrap band of the risk, by position",
        "normalised_risk": "the risk relative to the mean square label; 0 or more, 1 for the answer 0",
        "risk_ratio": "the risk relative to the Bayes risk; 1 or more but for chance",
        "excess": "E(ŷ − ŷ_Bayes)² / Bayes risk; 0 is optimal",
        "risk_peak": "the risk with as many examples as dimensions relative to that with half as many; above 1 where "
        "it descends twice",
        "risk_over_transformer": "the risk of a reference relative to the model's; 0 or more",
        "spd": "E(ŷ_model − ŷ)², squared units of the label; 0 for the same predictor",
        "relative_spd": "spd relative to the Bayes risk; 0 for the same predictor",
        "spd_over_bayes": "spd relative to that of the Bayes predictor; below 1 for one that is nearer to the model",
        "spd_margin": "of each predictor that the experiment names: the least spd of the others named, less its own; "
        "positive for the nearest",
        "below_bayes": "by how much less than the Bayes risk that of a predictor is, where that is beyond chance: what "
        "is called Bayes there is not; above 0",
        "errors": "the share of classes that are missed, between 0 and 1",
        "errors_over_logistic": "errors relative to those of logistic regression; 0 or more",
        "errors_over_transformer": "errors relative to the model's; 0 or more",
    }

    def predictors(self, experiment: Any) -> set[str]:
        tasks = experiment.distributions.values()
        names = {name for task in tasks for name in references(task, experiment.task)}
        named = [*experiment.eval.predictors, *experiment.eval.constructions]
        added = {name for one in experiment.analyses for name in one.reference_names(experiment)}
        return {MODEL, "oracle", *names, *(name for name, _ in named), *added}

    def rows(self, of: Measurement) -> Iterator[Row]:
        """Yields the rows of every predictor, position by position and over regions."""
        ys, parts, rng = of.prompts.ys, of.parts, of.rng("bootstrap")
        answers = {**of.answers, **_oracle_predictions(of)}
        least = squared(answers[BEST], ys) if BEST in answers else None
        if least is not None and vanishes(least, ys):  # nothing is relative to a Bayes risk of zero
            least = None
        gap = squared(answers[MODEL], answers[BEST]) if BEST in answers else None
        learned = squared(answers[MODEL], ys)
        single: Parts = {i: slice(i, i + 1) for i in range(of.task.n)}
        compared = parts | fewer(of.task, of.experiment.query_only)
        yield from _margins(of, answers, single | compared)
        yield from _below_bayes(of, answers)
        if (ys.abs() == 1).all():
            yield from _errors(of, answers)
        for name, f in answers.items():
            errors, difference = squared(f, ys), squared(answers[MODEL], f)
            yield from averaged(name, "risk", errors, parts)
            yield from relative(name, "normalised_risk", errors, squared(ys, torch.zeros_like(ys)), single | parts)
            yield from _peak(name, errors, of.task.rank)
            yield from _bands(name, errors, rng, of.draws)
            if name != MODEL:
                yield from averaged(name, "spd", difference, compared)
                yield from relative(name, "spd_over_bayes", difference, gap, parts) if gap is not None else ()
                yield from relative(name, "risk_over_transformer", errors, learned, single | parts)
            if least is None:
                continue
            yield from relative(name, "risk_ratio", errors, least, single | parts)
            yield from relative(name, "excess", squared(f, answers[BEST]), least, parts)
            if name != MODEL:
                yield from relative(name, "relative_spd", difference, least, parts)


def _below_bayes(of: Measurement, answers: Answers) -> Iterator[Row]:
    """Who has less risk than the Bayes predictor, averaged over positions; the oracle receives more and may. Labels are
    rounded, which leaves 1e-8 of them open (see `relative`)."""
    if BEST in answers:
        part, ys = of.parts[None], of.prompts.ys
        errors = {k: squared(f, ys)[:, part].mean(-1) for k, f in answers.items() if k != "oracle"}
        rounding = 1e-8 * squared(ys, torch.zeros_like(ys)).mean().item()
        for name, gain in below(errors, errors.pop(BEST), rounding).items():
            yield from rows(name, "below_bayes", gain)


def _oracle_predictions(of: Measurement) -> Answers:
    """The predictions given what is hidden from the model: the mixture component of each prompt."""
    several = isinstance(of.prompts.truth, MixedFunctions) and len(components(of.task)) > 1
    return {"oracle": oracle(of.task, of.prompts).double()} if several and BEST in of.references else {}


def _errors(of: Measurement, answers: Answers) -> Iterator[Row]:
    """How often each predictor misses the class."""
    missed = {name: ((f > 0) != (of.prompts.ys > 0)).double() for name, f in answers.items()}
    for name, wrong in missed.items():
        yield from averaged(name, "errors", wrong, of.parts)
        for unit in ("logistic_regression", MODEL):
            if unit in missed and name != unit:
                quantity = f"errors_over_{unit.removesuffix('_regression')}"
                yield from relative(name, quantity, wrong, missed[unit], of.parts)


def _peak(name: str, errors: torch.Tensor, rank: int) -> Iterator[Row]:
    """The risk where least squares on noisy labels has its peak, relative to that with half of the examples; none where
    there are too few, or nothing is left to err by rounding."""
    if rank < errors.shape[1] and errors[:, rank // 2].mean() > 1e-8 * errors.mean():
        yield from rows(name, "risk_peak", ratio(errors[:, rank], errors[:, rank // 2]))


def _margins(of: Measurement, answers: Answers, parts: Parts) -> Iterator[Row]:
    """Which of the named predictors is the nearest, where there are several."""
    distances = {k: squared(answers[MODEL], answers[k]) for k, _ in of.experiment.eval.predictors}
    for region, part in parts.items() if len(distances) > 1 else ():
        for name, margin in margins({k: terms[:, part].mean(-1) for k, terms in distances.items()}).items():
            yield from rows(name, "spd_margin", margin, region)


def _bands(name: str, errors: torch.Tensor, rng: torch.Generator, draws: int) -> Iterator[Row]:
    for end, values in zip(("risk_low", "risk_high"), band(errors, rng, draws), strict=True):
        yield from (row(name, end, position, value) for position, value in enumerate(values.tolist()))
