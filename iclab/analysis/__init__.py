"""What was learned: risk against the optimum, agreement with known algorithms, and which of them is nearest."""

from iclab.analysis.agreement import ilwd, implicit_weights, linearity, query_gradients, spd
from iclab.analysis.identify import Family, Match, families, identify
from iclab.analysis.references import references
from iclab.analysis.risk import Estimate, answer, band, estimate, excess, ratio, risk

__all__ = [
    "Estimate",
    "Family",
    "Match",
    "answer",
    "band",
    "estimate",
    "excess",
    "families",
    "identify",
    "ilwd",
    "implicit_weights",
    "linearity",
    "query_gradients",
    "ratio",
    "references",
    "risk",
    "spd",
]
