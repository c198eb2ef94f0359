"""Findings of one run about the algorithm of its model: sentences, and the tables that support them.

A parameter that was fitted at an end of its grid is written with ≤ or ≥ (the rows fit_low and fit_high say where a grid
ends), the nearest algorithm with how probable it is that none is nearer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from iclab.algorithm_names import algorithm, rivals, sentence, share
from iclab.digits import with_error
from iclab.experiments.claims import TRAINED

Row = Mapping[str, Any]
POINTS = 12  # how many positions, or points of a curve, a table shows
ROUNDING = 2.0**-23  # of labels in single precision: a Bayes risk below it is zero, and no unit
PROBES = ("probe_r2", "probe_r2_untrained", "probe_r2_bare")


@dataclass(frozen=True)
class Section:
    """A table before it is laid out."""

    title: str
    columns: Sequence[str]
    body: Sequence[Sequence[Any]]


def number(row: Row | None) -> str:
    """Returns a value with its error, as it is printed; empty where there is none."""
    return "" if row is None else with_error(row["value"], row.get("stderr"))


def beaten(risks: Iterable[Row]) -> Iterator[str]:
    """Yields one line for each predictor whose risk is below that of the Bayes predictor."""
    for one in risks:
        if one["quantity"] == "below_bayes":
            text = f"{one['predictor']} beats bayes by {number(one)} in risk"
            yield f"{one['distribution']}: {text}: what is called so is not the Bayes predictor"


class Findings:
    """The rows of a run on the distribution that it was trained on."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows: dict[str, list[Row]] = {}
        for row in rows:
            if row.get("distribution") == TRAINED:
                self.rows.setdefault(row["quantity"], []).append(row)
        known = {row["predictor"] for row in self.rows.get("risk", ())}
        least = self.one("normalised_risk", "bayes")
        unit = "bayes" in known and not (least and least["value"] <= ROUNDING)
        self.scale = "Bayes risk" if unit else "labels' mean square"

    def of(self, quantity: str, **place: Any) -> list[Row]:
        """Returns the rows of a quantity at a place: of the whole model, averaged over positions, unless it says
        otherwise."""
        wanted = {"layer": None, "position": None, "step": None, **place}
        rows = self.rows.get(quantity, ())
        return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]

    def one(self, quantity: str, predictor: str, **place: Any) -> Row | None:
        """Returns the row of a predictor, or none."""
        return next((row for row in self.of(quantity, **place) if row["predictor"] == predictor), None)

    def values(self, key: str, quantity: str, keep: Callable[[Row], bool] = lambda row: True) -> list[Any]:
        """Returns what a column holds among the rows of a quantity, in order."""
        return sorted({r[key] for r in self.rows.get(quantity, ()) if r.get(key) is not None and keep(r)})

    # ---- the nearest algorithm -------------------------------------------------------------------------------------

    def nearest(self, quantity: str = "fit_distance", **place: Any) -> Row | None:
        """Returns the row of the least distance at a place."""
        return min(self.of(quantity, **place), key=lambda row: row["value"], default=None)

    def words(self, family: str, **place: Any) -> str:
        """Returns a family with the parameter that was fitted at a place, marked where that is an end of the grid."""
        fitted = self.one("fit_parameter", family, **place)
        return algorithm(family, fitted["value"] if fitted else None, self.grid_bound_mark(family, fitted))

    def grid_bound_mark(self, family: str, fitted: Row | None) -> str:
        """Returns "≤" or "≥" where a parameter lies at an end of its grid."""
        for quantity, sign in (("fit_low", "≤"), ("fit_high", "≥")):
            end = self.one(quantity, family)
            if end and fitted and end["value"] == fitted["value"]:
                return sign
        return ""

    def sentences(self) -> Iterator[str]:
        """Yields the nearest algorithm of the output and of each layer, and how it came about in training."""
        yield from self._sentence("output")
        for layer in self.values("layer", "fit_distance"):
            yield from self._sentence(f"after layer {layer}", layer=layer)
        for name, growth in (("newton", "steps_per_layer"), ("landweber", "doublings_per_layer")):
            if row := self.one(growth, name):
                yield f"middle layers: {number(row)} {growth.replace('_', ' ')} of {algorithm(name)}"
        yield from self._history()

    def _sentence(self, where: str, **place: Any) -> Iterator[str]:
        if row := self.nearest(**place):
            chance = self.one("fit_probability", row["predictor"], **place)
            words = self.words(row["predictor"], **place)
            value = chance["value"] if chance else float("nan")
            yield sentence(where, words, row["value"], value, self.scale, self._alike(row["predictor"], **place))

    def _alike(self, family: str, **place: Any) -> Sequence[str]:
        """The families that cannot be told apart from one at a place."""
        chances = {row["predictor"]: row["value"] for row in self.of("fit_probability", **place)}
        return rivals(chances, family) if family in chances else ()

    def _history(self) -> Iterator[str]:
        entries = sorted((row for row in self.of("transition") if isfinite(row["value"])), key=lambda row: row["value"])
        for place, row in enumerate(entries):
            name = algorithm(row["predictor"])
            yield f"step {number(row)}: nearest to {name}" if place else f"at first nearest to {name}"
        yield from (f"step {number(row)}: the risk falls fastest" for row in self.of("plateau_exit"))

    # ---- tables ----------------------------------------------------------------------------------------------------

    def sections(self) -> Iterator[Section]:
        """Yields those tables for which there is something to show."""
        tables = (self.by_examples, self.by_layer, self.iterations, self.probes, self.weights, self.evolution)
        yield from (section for section in (make() for make in (*tables, self.pasting, self.stitching)) if section.body)

    def by_examples(self) -> Section:
        """Shows the nearest algorithm after each number of examples."""
        body = []
        for i in self.values("position", "fit_distance_at", lambda row: row.get("layer") is None):
            row = self.nearest("fit_distance_at", position=i)
            if row:
                chance = self.one("fit_probability", row["predictor"], position=i)
                alike = sum(each["value"] == row["value"] for each in self.of("fit_distance_at", position=i))
                words = f"{alike} alike" if alike > 1 else self.words(row["predictor"], position=i)
                body.append([i, words, number(row), number(chance)])
        return Section(
            "the nearest algorithm by number of examples", ["examples", "algorithm", "E(Δŷ)²", "probability"], body
        )

    def by_layer(self) -> Section:
        """Shows the algorithm that each layer is nearest to, when it is read out by a fitted linear map."""
        body = []
        for layer in self.values("layer", "fit_distance"):
            row = self.nearest(layer=layer)
            if row:
                chance = self.one("fit_probability", row["predictor"], layer=layer)
                body.append([layer, self.words(row["predictor"], layer=layer), number(row), number(chance)])
        columns = ["after layer", "algorithm", "distance", "probability"]
        return Section("the algorithm that each layer is nearest to", columns, body)

    def iterations(self) -> Section:
        """Shows the numbers of steps that each layer is worth."""
        names = ("newton", "landweber")
        body = [
            [
                layer,
                *(text for n in names for text in self._matched(n, layer)),
            ]
            for layer in self.values("layer", "matched_steps")
        ]
        columns = ["after layer", *(text for n in names for text in (f"{n} steps", f"SimE with {n}"))]
        return Section("the number of steps whose errors are most like those of each layer", columns, body)

    def _matched(self, name: str, layer: int) -> Iterator[str]:
        """A layer's number of steps, marked where more were not tried, and SimE."""
        steps = self.one("matched_steps", name, layer=layer)
        yield f"{self.grid_bound_mark(name, steps)} {number(steps)}".strip()
        yield number(self.one("sime", name, layer=layer))

    def probes(self) -> Section:
        """Shows the best R² over positions of each target in each layer, and the controls at that position."""
        body = []
        for target in self.values("predictor", "probe_r2"):
            for layer in self.values("layer", "probe_r2"):
                best = max(self._probed(target, layer), key=lambda row: row["value"], default=None)
                if best:
                    controls = (self._control(q, target, layer, best["position"]) for q in PROBES[1:])
                    body.append([target, layer, best["position"], number(best), *map(number, controls)])
        columns = ["target", "layer", "examples", "R²", "untrained model", "bare prompt"]
        return Section("what a linear map reads out of the layers: the best R² over positions", columns, body)

    def _probed(self, target: str, layer: int) -> list[Row]:
        rows = (row for row in self.rows["probe_r2"] if row["layer"] == layer and row["predictor"] == target)
        return [row for row in rows if isinstance(row["position"], int)]

    def _control(self, quantity: str, target: str, layer: int, position: int) -> Row | None:
        """The bare prompt is no model and has a single layer."""
        return self.one(quantity, target, layer=0 if quantity == "probe_r2_bare" else layer, position=position)

    def weights(self) -> Section:
        """Shows implicit weights beside those of linear predictors, and how linear the model is in its query."""
        names = self.values("predictor", "ilwd")
        positions = [i for i in self.values("position", "linearity") if isinstance(i, int)]
        body = [
            [
                i,
                number(self.one("linearity", "transformer", position=i)),
                *(number(self.one("ilwd", name, position=i)) for name in names),
            ]
            for i in thinned(positions)
        ]
        title = "implicit weights: R² of a linear map in the query, and E‖w − w'‖² from linear predictors"
        return Section(title, ["examples", "linearity", *names], body)

    def evolution(self) -> Section:
        """Shows the nearest algorithm along the training curve."""
        body = []
        for step in thinned(self.values("step", "evolution_distance")):
            row = self.nearest("evolution_distance", step=step)
            risks = (number(self.one(f"evolution_{q}", "transformer", step=step)) for q in ("risk", "excess"))
            body.append([step, *risks, algorithm(row["predictor"]), share(row["value"])] if row else [step, *risks])
        return Section("in training", ["step", "risk", "excess", "nearest algorithm", "distance"], body)

    def pasting(self) -> Section:
        """Shows what input projections and their controls reach at each cut."""
        chosen = self.one("pasting_cut", "representation")
        at = f"; probes choose cut {number(chosen)}" if chosen else ""
        return self._by_cut(f"pasting: risk on linear regression, relative to Bayes{at}", "pasting_risk_ratio")

    def stitching(self) -> Section:
        """Shows what partners make of the layers below each cut."""
        return self._by_cut("stitching: excess of lower blocks under a partner's upper ones", "stitching_excess")

    def _by_cut(self, title: str, quantity: str) -> Section:
        """A quantity by the number of blocks that are below; in the last column of what has no cut."""
        cuts, body = self.values("layer", quantity), []
        for name in dict.fromkeys(row["predictor"] for row in self.rows.get(quantity, ())):
            values = [self.one(quantity, name, layer=cut) for cut in cuts]
            body.append([name, *map(number, values), "" if any(values) else number(self.one(quantity, name))])
        return Section(title, ["predictor", *(f"cut {cut}" for cut in cuts), "no cut"], body)


def thinned(values: Sequence[Any]) -> list[Any]:
    """Returns at most a dozen and one of them, the last among them."""
    kept = list(values[:: max(1, -(-len(values) // POINTS))])
    return kept + [value for value in values[-1:] if value not in kept]
