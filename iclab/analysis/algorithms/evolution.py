"""Algorithms in the course of training: transitions between nearest families, and the end of the plateau.

At the points t_1 < t_2 < … of a training curve let a_k be the family that the model is nearest to.

    A *transition* into family b happens between t_j and t_k where the model was nearest to another family up to t_j,
    is nearest to b at t_k and stays so at t_{k+1}: one point alone is noise. Its step is √(t_j t_k), and its error half
    the gap between the two, which is all that is known. (Between them there may be points of no lasting family.)

    The *exit from the plateau* lies between the two points where the risk falls fastest against log t, at the geometric
    mean of their steps with half their gap as its error. Points closer to each other than a factor √2 are thinned out
    first: late in training they differ by noise, which small steps of log t would magnify.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, sqrt

APART = sqrt(2)  # the least factor between two steps whose risks give a slope


@dataclass(frozen=True)
class Moment:
    """A step of training that lies between two points of the curve: their geometric mean, and half the gap."""

    step: float
    stderr: float

    @classmethod
    def between(cls, one: float, other: float) -> "Moment":
        """Returns the moment between two steps."""
        return cls(sqrt(one * other), (other - one) / 2)


@dataclass(frozen=True)
class Transition:
    """The model leaves one family of algorithms for another."""

    before: str
    after: str
    at: Moment


def nearest(distances: Mapping[str, float]) -> str:
    """Returns the family of the least distance."""
    return min(distances, key=distances.__getitem__)


def transitions(steps: Sequence[int], names: Sequence[str]) -> list[Transition]:
    """Returns the transitions along a curve, from the nearest family at each of its points. The first point needs no
    company: what a model is at first is where it starts from."""
    steps_of_change: list[Transition] = []
    current, left = (names[0], steps[0]) if names else ("", 0)
    for k in range(1, len(names)):
        lasts = names[k : k + 2] == [names[k]] * 2
        if names[k] == current:
            left = steps[k]
        elif lasts:
            steps_of_change.append(Transition(current, names[k], Moment.between(left, steps[k])))
            current, left = names[k], steps[k]
    return steps_of_change


def plateau_exit(steps: Sequence[int], risks: Sequence[float]) -> Moment | None:
    """Returns the steepest fall of the risk against the logarithm of the step; none where it never falls."""
    points = thinned(list(zip(steps, risks, strict=True)))
    falls = [
        ((risk - later_risk) / log(later / step), Moment.between(step, later))
        for (step, risk), (later, later_risk) in pairwise(points)
    ]
    fastest = max(falls, key=lambda fall: fall[0], default=(0.0, None))
    return fastest[1] if fastest[0] > 0 else None


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Returns the points that are at least a factor √2 apart, from the first on."""
    kept: list[tuple[int, float]] = []
    for step, value in points:
        if step > 0 and (not kept or step >= APART * kept[-1][0] * (1 - 1e-9)):
            kept.append((step, value))
    return kept


def half_way(steps: Sequence[float], values: Sequence[float]) -> Moment:
    """Returns when a curve last crossed the middle between its first and its last value: between two points of it."""
    return crossing(steps, values, 0.5)


def crossing(steps: Sequence[float], values: Sequence[float], share: float) -> Moment:
    """Returns when a curve last crossed the value that is such a share of the way from its first to its last one."""
    level = values[0] + share * (values[-1] - values[0])
    before = [i for i, value in enumerate(values) if (value - level) * (values[-1] - level) <= 0]
    last = min(max(before, default=0), len(steps) - 2)
    return Moment.between(steps[last], steps[last + 1])
