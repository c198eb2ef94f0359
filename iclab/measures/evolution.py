"""Training curves as rows, each point at its `step`; and of the whole curve, with a step as the value and no `step` of
their own, when something happened on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import inf, isfinite
from typing import Any, ClassVar

from iclab.analysis.algorithms.evolution import Moment, crossing, half_way, nearest, plateau_exit, transitions
from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.claims import TRAINED
from iclab.measures.measurement import Measurement
from iclab.tasks import TokenTask

Point = Mapping[str, Any]
POINTS = ("risk", "excess")
OF_TOKENS = "{accuracy,loss,divergence,prefix_matching,previous_token,accuracy_*}"


class TrainingCurve(Analysis):
    """Yields the quantities of the training curve, and the steps of their transitions."""

    name = "curve"
    always = True
    once = True
    quantities: ClassVar = {
        "evolution_risk": "the risk in training; squared units of the label",
        "evolution_excess": "its excess over Bayes; 0 is optimal",
        "plateau_exit": "the step at which the risk fell fastest",
    }

    def rows(self, of: Measurement) -> Iterator[Row]:
        return rows(of.workspace.curve())


class TokenCurve(TrainingCurve):
    """Yields the same for sequences of tokens: of a repeated sequence also the largest score of a head of each
    layer."""

    name = "token_curve"
    tasks = TokenTask
    quantities: ClassVar = {
        "evolution_accuracy": "accuracy on the way, between 0 and 1",
        "evolution_accuracy_*": "accuracy on a part of the task that is followed, between 0 and 1",
        "evolution_loss": "−log p of the right token on the way, in nats",
        "evolution_divergence": "KL(reference ‖ model) on the way, in nats",
        "evolution_{prefix_matching,previous_token}": "the largest score of a head of each layer, between 0 and 1",
        f"half_way_{OF_TOKENS}_over_loss": "the step at which it was half-way, relative to the loss's; above 0",
        f"half_way_{OF_TOKENS}": "the step at which it was half-way between its first and its last value",
        f"gain_{OF_TOKENS}": "its last value less its first; in its own unit",
        f"least_{OF_TOKENS}": "the smallest value that it ever had, in its own unit",
        f"rise_{OF_TOKENS}": "the steps from half-way to nine tenths of the way, relative to those to half-way: 0 for "
        "a jump, 0.8 for a straight line, 2.3 for an exponential approach",
    }


class Evolution(Analysis):
    """Adds the nearest algorithm to the training curve, on every distribution, and where probes are requested
    for also what is written in its layers. Its rows are among those of the curve."""

    name = "evolution"
    quantities: ClassVar[Mapping[str, str]] = {
        "evolution_distance": "the distance to each family of algorithms, relative to the Bayes risk or the mean "
        "square label; 0 or more",
        "evolution_probe_r2": "R² of each probe by layer, at most 1",
        "evolution_{risk,excess}": "on shifts too",
        "transition": "the step at which a family became the nearest and stayed so, a row for each time; at the first "
        "point for the family that the model starts from; infinite for one that it never went over to",
        "plateau_exit": "the step at which the risk fell fastest, on shifts too",
    }

    def problems(self, experiment: Any) -> Iterator[str]:
        if not experiment.train.curved:
            yield f"cannot be made: {type(experiment.train).__name__} has no training curve"

    def rows(self, of: Measurement) -> Iterator[Row]:
        yield from ()


def rows(curve: Sequence[Point]) -> Iterator[Row]:
    """Yields the rows of a curve; only of what its points carry."""
    shifts = dict.fromkeys(name for point in curve for name in point.get("shifts", {}))
    yield from _of_curve(curve, TRAINED)
    for name in shifts:
        seen = [{"step": point["step"], **point["shifts"][name]} for point in curve if name in point.get("shifts", {})]
        yield from _of_curve(seen, name)


def _of_curve(curve: Sequence[Point], distribution: str) -> Iterator[Row]:
    """The rows of a curve on one distribution."""
    points = ({**row, "step": point["step"]} for point in curve for row in _of_point(point))
    whole = chain(
        _exit_rows(curve),
        _transition_rows([point for point in curve if point.get("distances")]),
        _half_way_rows([point for point in curve if point.get("tokens")]),
    )
    yield from ({"distribution": distribution, **row} for row in chain(points, whole))


def _of_point(point: Point) -> Iterator[Row]:
    yield from (_row("transformer", f"evolution_{name}", point[name]) for name in POINTS if name in point)
    for family, distance in point.get("distances", {}).items():
        yield _row(family, "evolution_distance", distance)
    for quantity, name, layer, value in _token_entries(point):
        yield {**_row(name, f"evolution_{quantity}", value), "layer": layer}
    for target, by_layer in point.get("probes", {}).items():
        yield from (
            {**_row(target, "evolution_probe_r2", r2), "layer": layer}
            for layer, r2 in enumerate(by_layer)
            if r2 is not None and isfinite(r2)
        )


def _token_entries(point: Point) -> Iterator[tuple[str, str, int | None, float]]:
    """Quantity, predictor, layer and value."""
    for quantity, entries in point.get("tokens", {}).items():
        for name, value in entries.items():
            layers = enumerate(value) if isinstance(value, list) else [(None, value)]
            yield from ((quantity, name, layer, each) for layer, each in layers)


def _half_way_rows(curve: Sequence[Point]) -> Iterator[Row]:
    steps = [point["step"] for point in curve]
    series_of_points = zip(*(list(_token_entries(point)) for point in curve), strict=True)
    moments: dict[tuple[str, str, int | None], Moment] = {}
    for series in series_of_points if len(steps) > 1 else ():
        quantity, name, layer, _ = series[0]
        values = [value for *_, value in series]
        moments[series[0][:3]] = moment = half_way(steps, values)
        yield {**_row(name, f"half_way_{quantity}", moment.step, moment.stderr), "layer": layer}
        yield {**_row(name, f"gain_{quantity}", values[-1] - values[0]), "layer": layer}
        yield {**_row(name, f"least_{quantity}", min(values)), "layer": layer}
        later = crossing(steps, values, 0.9)
        error = (later.stderr**2 + (later.step / moment.step * moment.stderr) ** 2) ** 0.5 / moment.step
        yield {**_row(name, f"rise_{quantity}", later.step / moment.step - 1, error), "layer": layer}
    for (quantity, name, layer), moment in moments.items():
        loss = moments.get(("loss", name, None))
        if loss and quantity != "loss":
            error = (
                moment.step / loss.step * ((moment.stderr / moment.step) ** 2 + (loss.stderr / loss.step) ** 2) ** 0.5
            )
            yield {**_row(name, f"half_way_{quantity}_over_loss", moment.step / loss.step, error), "layer": layer}


def _exit_rows(curve: Sequence[Point]) -> Iterator[Row]:
    points = [point for point in curve if "risk" in point]
    if step := plateau_exit([point["step"] for point in points], [point["risk"] for point in points]):
        yield _row("transformer", "plateau_exit", step.step, step.stderr)


def _transition_rows(followed: Sequence[Point]) -> Iterator[Row]:
    if not followed:
        return
    names = [nearest(point["distances"]) for point in followed]
    steps = transitions([point["step"] for point in followed], names)
    yield _row(names[0], "transition", followed[0]["step"], 0.0)
    yield from (_row(each.after, "transition", each.at.step, each.at.stderr) for each in steps)
    never = followed[0]["distances"].keys() - {names[0], *(each.after for each in steps)}
    yield from (_row(family, "transition", inf) for family in sorted(never))


def _row(predictor: str, quantity: str, value: float, stderr: float | None = None) -> Row:
    return {
        "predictor": predictor,
        "quantity": quantity,
        "layer": None,
        "position": None,
        "value": value,
        "stderr": stderr,
    }
