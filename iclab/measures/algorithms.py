"""The nearest algorithm: the distance of a model to families of algorithms with fitted parameters."""

from collections.abc import Iterator
from typing import Any, ClassVar

from iclab.analysis import AlgorithmPanel, Estimate, Match, families
from iclab.analysis.algorithms.identify import LEAST
from iclab.experiments.analysis import Analysis, Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import row, rows

FITS = {
    "fit_distance": "distance of the model to an algorithm with fitted parameters, relative to the Bayes risk, or to "
    "the mean square label where that is not known or is zero; 0 or more",
    "fit_distance_at": "the same by position, absolute; squared units of the label",
    "fit_probability": "the probability that this family is the nearest, between 0 and 1",
    "fit_parameter": "the fitted parameter by position, and its median, in units of the parameter",
}


class NearestAlgorithms(Analysis):
    """Compares the model with families of algorithms (`iclab.analysis.algorithms.identify`)."""

    name = "algorithms"
    always = True
    quantities: ClassVar = FITS | {
        "fit_low": "the lower end of a family's range, below which nothing was tried",
        "fit_high": "the upper end of a family's range, above which nothing was tried",
    }

    def notes(self, experiment: Any) -> Iterator[str]:
        if experiment.eval.prompts < LEAST:
            yield f"no nearest algorithms: eval.prompts is {experiment.eval.prompts}, and they need {LEAST} or more"

    def predictors(self, experiment: Any) -> set[str]:
        return family_names(experiment)

    def applies(self, of: Measurement) -> bool:
        return super().applies(of) and of.experiment.eval.prompts >= LEAST

    def rows(self, of: Measurement) -> Iterator[Row]:
        fits = of.panel.fit(of.predictor)
        yield from _end_rows(of.panel)
        for region, part in of.parts.items():
            for match in of.panel.rank(fits, of.rng("bootstrap"), of.draws, part):
                yield from match_rows(match, region)
                yield from _share_rows(match) if region is None else ()


def family_names(experiment: Any) -> set[str]:
    """Returns the families that a model is compared with on any distribution."""
    tasks = experiment.distributions.values()
    return {family.name for task in tasks for family in families(task, experiment.task)}


def match_rows(match: Match, region: int | str | None = None) -> Iterator[Row]:
    """Yields what was averaged over a region; at each position once, with the average over all."""
    yield row(match.family, "fit_distance", region, match.relative, match.relative_stderr)
    yield row(match.family, "fit_probability", region, match.probability, match.probability_stderr)
    if match.parameter:
        yield row(match.family, "fit_parameter", region, match.typical, match.resolution)
    if region is not None:
        return
    yield from rows(match.family, "fit_distance_at", Estimate(match.distance, match.stderr))
    if match.parameter:
        yield from (row(match.family, "fit_parameter", i, value) for i, value in enumerate(match.fitted.tolist()))


def _share_rows(match: Match) -> Iterator[Row]:
    """How probable it is at each position that no other family is nearer."""
    yield from (row(match.family, "fit_probability", i, value) for i, value in enumerate(match.shares.tolist()))


def _end_rows(panel: AlgorithmPanel) -> Iterator[Row]:
    """The ends of each grid: a parameter that was fitted there is a bound and no estimate."""
    for family in panel.families:
        ends = zip(("fit_low", "fit_high"), family.ends, strict=True)
        yield from (row(family.name, name, None, end) for name, end in ends if end is not None)
