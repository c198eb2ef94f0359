"""What is measured of a trained model: rows of one tidy table,

    distribution, predictor, quantity, layer, position, value, stderr

risk            E(ŷ − y)² of every predictor, with risk_low and risk_high, its 5 to 95 % bootstrap band
risk_ratio      the same relative to the Bayes risk             excess          E(ŷ − ŷ_Bayes)² / Bayes risk
below_bayes     by how much less than the Bayes risk that of a predictor is, where that is beyond chance: what is called
                Bayes here is not
spd             E(ŷ_model − ŷ)²                                 relative_spd    the same / Bayes risk
errors          the share of classes that are missed, and errors_over_logistic and errors_over_transformer: relative to
                the number that logistic regression misses, and to the model's
spd_margin      of each predictor that the experiment names: the least spd of the others named, less its own
fit_distance    distance of the model to an algorithm with fitted parameters, relative to the Bayes risk, or to the mean
                square label where that is not known or is zero; fit_probability that it is the nearest, also by
                position; fit_parameter by position, and its median; fit_distance_at (absolute) by position; fit_low and
                fit_high, the ends of its range beyond which nothing was tried
exact_risk      of linear attention at the last position, by its weights; of the predictor "asymptotic_theory" the limit
                that it tends to in large dimension, and theory_gap its relative distance from there (`theory`)
weight_distance of the weights to those of each construction that the experiment names, up to symmetries: √2 for weights
                that have nothing in common
and, where the analyses of an experiment name them,
weights         ilwd: E‖w_model − w‖² between implicit weights and those of a linear predictor; weight_cosine: of the
                angle between them; linearity: R² of the model's answers in the query
layers          the fit_ quantities of every layer, read out by a fitted linear map
iterations      matched_steps: the number of steps that a layer is most like, sime: how much so, and sime_lead of Newton
                over gradient descent; steps_per_layer of Newton and doublings_per_layer of gradient descent
probes, attention_probes    what is written in the layers, with its controls: see `iclab.experiments.probes`
token_probes    representations and answers in tokens of x and of y: see `iclab.experiments.token_probes`
preconditioners, descent    the steps that the weights of linear attention spell out: see `iclab.experiments.descent`

Rows of what is trained beside a model, pasting and stitching, come from `iclab.experiments.run.surgery`.

Of labels that are vectors, risks and distances are means over coordinates. "transformer" is the model, whatever its
kind, and "oracle" is told which task of a mixture a prompt is from. `position` is a number of examples, a region (see
`iclab.experiments.rows`), or none for the mean over all positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from iclab.analysis import (
    Estimate,
    Lineup,
    Match,
    answer,
    band,
    estimate,
    families,
    implicit_weights,
    layer_readouts,
    linearity,
    margins,
    match_iterations,
    references,
    weight_cosine,
    weight_distance,
)
from iclab.analysis.concepts import concepts
from iclab.analysis.identify import LEAST
from iclab.analysis.readout import LayerReadout
from iclab.analysis.references import right_penalty
from iclab.analysis.risk import Answers, below, squared, vanishes
from iclab.experiments import descent
from iclab.experiments.claims import TRAINED
from iclab.experiments.descent import Preconditioners
from iclab.experiments.experiment import Experiment
from iclab.experiments.probes import Probing
from iclab.experiments.rows import Parts, Row, averaged, by_layer, finite, regions, relative, row, rows
from iclab.experiments.streams import stream
from iclab.experiments.theory import exact, limit
from iclab.experiments.token_probes import token_probe_rows
from iclab.models import Transformer
from iclab.posterior import components, oracle
from iclab.predictors import Linear, Predictor
from iclab.tasks import MixedFunctions, Prompts, Task


def measure(experiment: Experiment, model: nn.Module, device: torch.device | str = "cpu") -> list[Row]:
    """All result rows of a trained model, on its own task and on every shifted one."""
    tasks: dict[str, Task] = {TRAINED: experiment.task, **dict(experiment.eval.shifts)}
    each = (Measurement.of(experiment, model, name, task, device) for name, task in tasks.items())
    return [{"distribution": one.name, **found} for one in each for found in one.rows()]


@dataclass(frozen=True, eq=False)
class Measurement:
    """A model before the prompts of one distribution."""

    experiment: Experiment
    model: nn.Module
    name: str
    task: Task
    prompts: Prompts

    @classmethod
    def of(
        cls, experiment: Experiment, model: nn.Module, name: str, task: Task, device: torch.device | str
    ) -> "Measurement":
        """Draws the prompts."""
        return cls(
            experiment,
            model,
            name,
            task,
            task.sample(experiment.eval.prompts, stream(experiment, "test", device, name)),
        )

    @cached_property
    def lineup(self) -> Lineup:
        """The algorithms that the model and its layers are compared with."""
        return Lineup(self.task, self.prompts, families(self.task, self.experiment.task))

    @property
    def transformer(self) -> Transformer:
        """The model as one that has layers; an experiment refuses analyses of them for any other."""
        assert isinstance(self.model, Transformer)
        return self.model

    @property
    def parts(self) -> Parts:
        """The positions that are averaged over."""
        return regions(self.task, self.experiment.at_query)

    @cached_property
    def references(self) -> dict[str, Predictor]:
        """What every task is compared with, what the experiment names besides, and what the analyses add."""
        found = references(self.task, self.experiment.task) | dict(self.experiment.eval.predictors) | self.constructions
        if "descent" in self.experiment.eval.analyses:
            found |= descent.references(self.experiment, self.transformer)
        return found

    @cached_property
    def constructions(self) -> dict[str, Transformer]:
        """The constructions that the experiment names, in the precision of the model."""
        task, device = self.experiment.task, self.prompts.xs.device
        named = self.experiment.eval.constructions
        return {name: each.model(task.d, task.n).to(device) for name, each in named}

    @property
    def draws(self) -> int:
        """Resamples of the bootstrap."""
        return self.experiment.eval.bootstrap

    def rng(self, name: str) -> torch.Generator:
        """A stream of this distribution."""
        return stream(self.experiment, name, self.prompts.xs.device, self.name)

    def rows(self) -> Iterator[Row]:
        """Risks and distances, then the analyses that the experiment asks for."""
        yield from self.compare()
        yield from self.theory()
        yield from self.construction_distances()
        if len(self.prompts.xs) >= LEAST:
            fits = self.lineup.fit(self.model)
            yield from _end_rows(self.lineup)
            for region, part in self.parts.items():
                for match in self.lineup.rank(fits, self.rng("bootstrap"), self.draws, part):
                    yield from _match_rows(match, region)
                    yield from _share_rows(match) if region is None else ()
        analyses = {
            "weights": self.weights,
            "layers": self.layers,
            "iterations": self.iterations,
            "probes": self.probes,
            "attention_probes": self.attention_probes,
            "token_probes": self.token_probes,
            "preconditioners": self.preconditioners,
            "descent": self.descent_constants,
        }
        for name, analysis in analyses.items():
            if name in self.experiment.eval.analyses:
                yield from analysis()

    def compare(self) -> Iterator[Row]:
        """The model and every reference on the same prompts."""
        ys, parts, rng = self.prompts.ys, self.parts, self.rng("bootstrap")
        answers = {**answer({"transformer": self.model, **self.references}, self.prompts), **self._told()}
        least = squared(answers["bayes"], ys) if "bayes" in answers else None
        if least is not None and vanishes(least, ys):  # nothing is relative to a Bayes risk of zero
            least = None
        learned = squared(answers["transformer"], ys)
        single: Parts = {i: slice(i, i + 1) for i in range(self.task.n)}
        yield from self._margins(answers, single | parts)
        yield from self._below_bayes(answers)
        if (ys.abs() == 1).all():
            yield from self._errors(answers)
        for name, f in answers.items():
            errors, difference = squared(f, ys), squared(answers["transformer"], f)
            yield from averaged(name, "risk", errors, parts)
            yield from relative(name, "normalised_risk", errors, squared(ys, torch.zeros_like(ys)), single | parts)
            yield from _bands(name, errors, rng, self.draws)
            if name != "transformer":
                yield from averaged(name, "spd", difference, parts)
                yield from relative(name, "risk_over_transformer", errors, learned, single | parts)
            if least is None:
                continue
            yield from relative(name, "risk_ratio", errors, least, single | parts)
            yield from relative(name, "excess", squared(f, answers["bayes"]), least, parts)
            if name != "transformer":
                yield from relative(name, "relative_spd", difference, least, parts)

    def _below_bayes(self, answers: Answers) -> Iterator[Row]:
        """Who has less risk than the Bayes predictor, averaged over positions; the oracle is told more and may. Labels
        are rounded, which leaves 1e-8 of them open (see `relative`)."""
        if "bayes" in answers:
            part, ys = self.parts[None], self.prompts.ys
            errors = {k: squared(f, ys)[:, part].mean(-1) for k, f in answers.items() if k != "oracle"}
            rounding = 1e-8 * squared(ys, torch.zeros_like(ys)).mean().item()
            for name, gain in below(errors, errors.pop("bayes"), rounding).items():
                yield from rows(name, "below_bayes", gain)

    def _told(self) -> Answers:
        """The answers of who is told what the model is not: which component of a mixture a prompt comes from."""
        several = isinstance(self.prompts.truth, MixedFunctions) and len(components(self.task)) > 1
        known = several and "bayes" in self.references
        return {"oracle": oracle(self.task, self.prompts).double()} if known else {}

    def _errors(self, answers: Answers) -> Iterator[Row]:
        """How often each predictor misses the class."""
        missed = {name: ((f > 0) != (self.prompts.ys > 0)).double() for name, f in answers.items()}
        for name, wrong in missed.items():
            yield from averaged(name, "errors", wrong, self.parts)
            for unit in ("logistic_regression", "transformer"):
                if unit in missed and name != unit:
                    quantity = f"errors_over_{unit.removesuffix('_regression')}"
                    yield from relative(name, quantity, wrong, missed[unit], self.parts)

    def _margins(self, answers: Answers, parts: Parts) -> Iterator[Row]:
        """Which of the named predictors is the nearest, where there are several."""
        distances = {k: squared(answers["transformer"], answers[k]) for k, _ in self.experiment.eval.predictors}
        for region, part in parts.items() if len(distances) > 1 else ():
            for name, found in margins({k: terms[:, part].mean(-1) for k, terms in distances.items()}).items():
                yield from rows(name, "spd_margin", found, region)

    def theory(self) -> Iterator[Row]:
        """The exact risk at the last position, and how far it is from its limit, where these are known."""
        risk, tends_to = exact(self.model, self.task), limit(self.experiment, self.model, self.task)
        if risk is not None:
            yield row("transformer", "exact_risk", None, risk)
        if risk is not None and tends_to is not None:
            yield row("asymptotic_theory", "exact_risk", None, tends_to)
            yield row("transformer", "theory_gap", None, risk / tends_to - 1)

    def construction_distances(self) -> Iterator[Row]:
        """How far the weights are from constructions; they are of the training."""
        for name, hand_set in self.constructions.items() if self.name == TRAINED else ():
            yield row(name, "weight_distance", None, weight_distance(self.transformer, hand_set))

    def weights(self) -> Iterator[Row]:
        """Implicit weights against those of linear references, on some of the prompts: each costs q calls for every
        position, of which what is about the query has one."""
        few, wanted, m = self.prompts[:128], 4 * self.task.d, len(range(self.task.n)[self.parts[None]])
        queries = self.task.sample(wanted // self.task.n + 1, self.rng("fit")).xs.flatten(0, 1)[:wanted]
        learned = implicit_weights(self.model, few, queries, m).double()
        for name, reference in self.references.items():
            if isinstance(reference, Linear):
                ws = reference.weights(few.xs, few.ys)[:, -m:].double()
                yield from self._last_rows(name, "ilwd", (learned - ws).square().sum(-1))
                yield from self._last_rows(name, "weight_cosine", weight_cosine(learned, ws))
        yield from self._last_rows("transformer", "linearity", linearity(self.model, few, queries, m))

    def _last_rows(self, name: str, quantity: str, terms: torch.Tensor) -> Iterator[Row]:
        """Rows of the last positions and of their mean, where there is something to measure."""
        first = self.task.n - terms.shape[1]
        at_last = ({**one, "position": first + one["position"]} for one in rows(name, quantity, estimate(terms)))
        yield from finite(at_last)
        yield from finite(rows(name, quantity, estimate(terms.nanmean(-1))))

    @cached_property
    def readouts(self) -> list[LayerReadout]:
        """Each layer as a predictor, read out by a map that was fitted on other prompts."""
        return layer_readouts(self.transformer, self.task.sample(len(self.prompts.xs), self.rng("fit")))

    def layers(self) -> Iterator[Row]:
        """Each layer against families of algorithms."""
        rng = self.rng("bootstrap")
        for readout in self.readouts:
            for match in self.lineup.identify(readout, rng, self.draws, self.parts[None]):
                yield from ({**found, "layer": readout.layer} for found in _match_rows(match))

    def iterations(self) -> Iterator[Row]:
        """The numbers of steps of Newton and of gradient descent that each layer is most like."""
        for region, part in self.parts.items():
            newton, plain = match_iterations(self.lineup, self.readouts, self.rng("bootstrap"), self.draws, part)
            for found in (newton, plain):
                yield from by_layer(found.family, "matched_steps", found.steps, region)
                yield from by_layer(found.family, "sime", found.similarity, region)
            yield from by_layer(newton.family, "sime_lead", estimate((newton.cosines - plain.cosines).mT), region)
            if newton.growth.value.isfinite():  # there are at least two middle layers
                yield from rows(newton.family, "steps_per_layer", newton.growth, region)
                yield from rows(plain.family, "doublings_per_layer", plain.growth, region)

    @cached_property
    def probing(self) -> Probing:
        """The model beside itself before training, for probes."""
        model, rng = self.transformer, stream(self.experiment, "init")
        untrained = Transformer(model.d, model.n, model.config, rng, model.labels).to(self.prompts.xs.device)
        return Probing(model, untrained, self.prompts, right_penalty(self.task))

    def probes(self) -> Iterator[Row]:
        """Exact ridge probes of an algorithm's state by layer and position."""
        yield from self.probing.exact()

    def attention_probes(self) -> Iterator[Row]:
        """Trained probes that attend to all tokens, by layer and number of examples."""
        yield from self.probing.attending(self.experiment.eval.probe, self.rng("fit"), self.draws)

    def token_probes(self) -> Iterator[Row]:
        """A representation and what is made of it, at tokens of x and of y, by layer."""
        found = concepts(self.task, self.prompts)
        yield from token_probe_rows(self.transformer, self.prompts, found, self.rng("bootstrap"), self.draws)

    def preconditioners(self) -> Iterator[Row]:
        """The step that each layer takes, read from its weights, and what theory says of the best one."""
        trained, rng = self.experiment.task, self.rng("fit")
        yield from Preconditioners(self.transformer, trained, self.task, self.prompts, self.parts).rows(rng)

    def descent_constants(self) -> Iterator[Row]:
        """The constants of descent; they are of the training, and told once."""
        if self.name == TRAINED:
            yield from descent.constants(self.experiment, self.transformer)


def _bands(name: str, errors: torch.Tensor, rng: torch.Generator, draws: int) -> Iterator[Row]:
    for end, values in zip(("risk_low", "risk_high"), band(errors, rng, draws), strict=True):
        yield from (row(name, end, position, value) for position, value in enumerate(values.tolist()))


def _match_rows(match: Match, region: int | str | None = None) -> Iterator[Row]:
    """What was averaged over a region; at each position once, with the average over all."""
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


def _end_rows(lineup: Lineup) -> Iterator[Row]:
    """The ends of each grid: a parameter that was fitted there is a bound and no estimate."""
    for family in lineup.families:
        ends = zip(("fit_low", "fit_high"), family.ends, strict=True)
        yield from (row(family.name, name, None, end) for name, end in ends if end is not None)
