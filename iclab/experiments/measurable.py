"""Measurable: what experiments yield, and whether the claims of a study refer to it. It is checked before anything is
trained, so that a slip of the pen in a claim does not cost a sweep.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from iclab.errors import unknown
from iclab.experiments.analysis import Analysis, expanded, known
from iclab.experiments.claims import TRAINED, Claim
from iclab.experiments.experiment import Experiment


def claim_problems(claim: Claim, experiments: Sequence[Experiment]) -> Iterator[str]:
    """Yields the problems of a claim that is judged on these experiments: a quantity, a predictor, a distribution
    or a layer that none of them yields. Returns nothing where there is none."""
    if not experiments:
        return
    yields = [(one, analysis) for one in experiments for analysis in one.analyses if analysis.meaning(claim.quantity)]
    if not yields:
        yield f"claim {claim.name!r}: {_unknown_quantity(claim.quantity, experiments)}"
        return
    predictors = [analysis.predictors(one) for one, analysis in yields]
    names = set().union(*(each for each in predictors if each is not None))
    if None not in predictors and claim.predictor not in names:
        yield f"claim {claim.name!r}: {unknown('predictor', claim.predictor, names)}"
    yield from (f"claim {claim.name!r}: {text}" for text in _place_problems(dict(claim.where), yields))


def _unknown_quantity(quantity: str, experiments: Iterable[Experiment]) -> str:
    """The sentence for a quantity that the experiments do not yield: another analysis may."""
    needed = [name for name, analysis in known().items() if analysis.meaning(quantity) and not analysis.always]
    measured = {name for one in experiments for analysis in one.analyses for name in names(analysis)}
    problem = unknown("quantity", quantity, measured)
    return f"{problem.split(' Known:')[0]} It needs eval.analyses {needed[0]!r}" if needed else problem


def _place_problems(where: dict[str, Any], yields: Sequence[tuple[Experiment, Analysis]]) -> Iterator[str]:
    names = {name for one, analysis in yields for name in analysis.distributions(one)}
    name = where.get("distribution", TRAINED)
    if name not in names:
        yield unknown("distribution", str(name), names)
    depths = [getattr(one.model, "n_layer", None) for one, _ in yields]
    layer, most = where.get("layer"), max((depth for depth in depths if depth is not None), default=None)
    if layer is not None and most is not None and not (isinstance(layer, int) and 0 <= layer <= most):
        yield f"layer must be an integer from 0 to {most}, given {layer!r}"


def names(analysis: Analysis) -> list[str]:
    """Returns the names of the quantities that an analysis yields, each written out; * stands for any letters."""
    return [name for pattern in analysis.quantities for name in expanded(pattern)]


def quantities(experiments: Sequence[Experiment] | None, word: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields quantity, analysis and meaning of all that these experiments yield, or of all there is (None); those alone
    that have a word in them."""
    analyses = (
        known().values() if experiments is None else dict.fromkeys(a for one in experiments for a in one.analyses)
    )
    seen = {analysis.name: analysis for analysis in analyses}
    for analysis in seen.values():
        for pattern, meaning in analysis.quantities.items():
            if word.lower() in f"{pattern} {' '.join(expanded(pattern))} {meaning} {analysis.name}".lower():
                yield pattern, analysis.name, meaning
