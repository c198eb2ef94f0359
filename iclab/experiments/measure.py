"""What is measured of a trained model: rows of one tidy table,

    distribution, predictor, quantity, layer, position, value, stderr

risk            E(ŷ − y)² of every predictor, with risk_low and risk_high, its 5 to 95 % bootstrap band
risk_ratio      the same relative to the Bayes risk             excess          E(ŷ − ŷ_Bayes)² / Bayes risk
spd             E(ŷ_model − ŷ)²                                 relative_spd    the same / Bayes risk
fit_distance    relative distance of the model to an algorithm with fitted parameters; fit_probability that it is the
                nearest; fit_parameter and fit_distance_at (absolute) by position
and, where the analyses of an experiment name them,
weights         ilwd: E‖w_model − w‖² by position; linearity: R² of the model's answers in the query
layers          the fit_ quantities and excess of every layer, read out by a fitted linear map
probes          probe_r2 of an algorithm's state by layer and position, with probe_r2_untrained and probe_r2_bare

`position` is a number of examples, a region (see `regions`), or none for the mean over all positions.
"""

from collections.abc import Iterator
from typing import Any

import torch

from iclab.analysis import (
    Estimate,
    Lineup,
    Match,
    algorithm_state,
    answer,
    band,
    bare_prompt,
    estimate,
    features,
    identify,
    ilwd,
    implicit_weights,
    layer_readouts,
    linearity,
    probe,
    ratio,
    references,
)
from iclab.analysis.risk import squared
from iclab.experiments.claims import TRAINED
from iclab.experiments.experiment import Experiment
from iclab.experiments.streams import stream
from iclab.models import Transformer
from iclab.predictors import Linear, Predictor
from iclab.tasks import Prompts, Task

Row = dict[str, Any]
Parts = dict[str | None, slice]


def measure(experiment: Experiment, model: Transformer, device: torch.device | str = "cpu") -> list[Row]:
    """All result rows of a trained model, on its own task and on every shifted one."""
    rng, fit = stream(experiment, "test", device), stream(experiment, "fit", device)
    tasks: dict[str, Task] = {TRAINED: experiment.task, **dict(experiment.eval.shifts)}
    rows: list[Row] = []
    for distribution, task in tasks.items():
        prompts = task.sample(experiment.eval.prompts, rng)
        found = [*compare(model, task, prompts, rng, experiment), *closer(model, task, prompts, fit, experiment)]
        rows += [{"distribution": distribution, **row} for row in found]
    return rows


def compare(
    model: Predictor, task: Task, prompts: Prompts, rng: torch.Generator, experiment: Experiment
) -> Iterator[Row]:
    """Rows for the model and every reference on the same prompts."""
    answers = answer({"transformer": model, **references(task)}, prompts)
    best, parts = answers.get("bayes"), regions(task.d, task.n)
    least = None if best is None else squared(best, prompts.ys)
    for name, f in answers.items():
        errors = squared(f, prompts.ys)
        yield from _averaged(name, "risk", errors, parts)
        yield from _bands(name, errors, rng, experiment.eval.bootstrap)
        if least is not None:
            yield from _rows(name, "risk_ratio", ratio(errors, least))
            yield from _relative(name, "risk_ratio", errors, least, parts)
            yield from _relative(name, "excess", squared(f, answers["bayes"]), least, parts)
        if name != "transformer":
            difference = squared(answers["transformer"], f)
            yield from _averaged(name, "spd", difference, parts)
            if least is not None:
                yield from _relative(name, "relative_spd", difference, least, parts)
    if len(prompts.xs) >= 20:
        for match in identify(model, task, prompts, rng, draws=experiment.eval.bootstrap):
            yield from _match_rows(match)


def closer(
    model: Transformer, task: Task, prompts: Prompts, rng: torch.Generator, experiment: Experiment
) -> Iterator[Row]:
    """Rows of the analyses that an experiment asks for."""
    if "weights" in experiment.eval.analyses:
        yield from _weight_rows(model, task, prompts, rng)
    if "layers" in experiment.eval.analyses:
        yield from _layer_rows(model, task, prompts, rng, experiment.eval.bootstrap)
    if "probes" in experiment.eval.analyses:
        yield from _probe_rows(model, task, prompts, experiment)


def _weight_rows(model: Transformer, task: Task, prompts: Prompts, rng: torch.Generator) -> Iterator[Row]:
    """Implicit weights against those of linear references, on some of the prompts: each costs n·q calls."""
    few, wanted = prompts[:128], 4 * task.d
    queries = task.sample(wanted // task.n + 1, rng).xs.flatten(0, 1)[:wanted]
    learned = implicit_weights(model, few, queries)
    for name, reference in references(task).items():
        if isinstance(reference, Linear):
            yield from _rows(name, "ilwd", ilwd(learned, reference.weights(few.xs, few.ys)))
    yield from _rows("transformer", "linearity", estimate(linearity(model, few, queries)))


def _layer_rows(model: Transformer, task: Task, prompts: Prompts, rng: torch.Generator, draws: int) -> Iterator[Row]:
    """Each layer, read out by a map that was fitted on other prompts, against families of algorithms."""
    lineup = Lineup(task, prompts)
    for readout in layer_readouts(model, task.sample(len(prompts.xs), rng)):
        for match in lineup.identify(readout, rng, draws):
            yield from ({**row, "layer": readout.layer} for row in _match_rows(match))


def _probe_rows(model: Transformer, task: Task, prompts: Prompts, experiment: Experiment) -> Iterator[Row]:
    """R² of each part of an algorithm's state by layer and position, beside its controls."""
    untrained = Transformer(task.d, model.n, experiment.model, stream(experiment, "init")).to(prompts.xs.device)
    sources = {"probe_r2": features(model, prompts), "probe_r2_untrained": features(untrained, prompts)}
    sources["probe_r2_bare"] = bare_prompt(prompts)
    for target, state in algorithm_state(prompts, task.noise**2).items():
        for quantity, source in sources.items():
            found = probe(source, state)
            for layer, (values, errors) in enumerate(zip(found.value, found.stderr, strict=True)):
                rows = _rows(target, quantity, Estimate(values, errors))
                yield from ({**row, "layer": layer} for row in rows if row["value"] == row["value"])


def regions(d: int, n: int) -> Parts:
    """Positions that are averaged over: all of them (None), and apart from each other those with fewer examples than
    dimensions, the threshold d−1..d+1 where noisy least squares has infinite variance, and those with more."""
    parts = {None: slice(n), "under": slice(d - 1), "threshold": slice(d - 1, d + 2), "over": slice(d + 2, n)}
    return {name: part for name, part in parts.items() if len(range(n)[part])}


def _averaged(name: str, quantity: str, terms: torch.Tensor, parts: Parts) -> Iterator[Row]:
    """A quantity at each position, and averaged over each region."""
    yield from _rows(name, quantity, estimate(terms))
    for region, part in parts.items():
        yield from _rows(name, quantity, estimate(terms[:, part].mean(-1)), region)


def _relative(name: str, quantity: str, terms: torch.Tensor, least: torch.Tensor, parts: Parts) -> Iterator[Row]:
    """A quantity averaged over each region, relative to the Bayes risk averaged over the same."""
    for region, part in parts.items():
        yield from _rows(name, quantity, ratio(terms[:, part].mean(-1), least[:, part].mean(-1)), region)


def _bands(name: str, errors: torch.Tensor, rng: torch.Generator, draws: int) -> Iterator[Row]:
    for end, values in zip(("risk_low", "risk_high"), band(errors, rng, draws), strict=True):
        yield from (_row(name, end, position, value) for position, value in enumerate(values.tolist()))


def _match_rows(match: Match) -> Iterator[Row]:
    yield _row(match.family, "fit_distance", None, match.relative, match.relative_stderr)
    yield _row(match.family, "fit_probability", None, match.probability)
    yield from _rows(match.family, "fit_distance_at", Estimate(match.distance, match.stderr))
    if match.parameter:
        yield from (_row(match.family, "fit_parameter", i, value) for i, value in enumerate(match.fitted.tolist()))


def _rows(predictor: str, quantity: str, found: Estimate, region: str | None = None) -> Iterator[Row]:
    """One row per position, or a single row for an average over a region."""
    if found.value.ndim == 0:
        yield _row(predictor, quantity, region, found.value.item(), found.stderr.item())
        return
    for position, (value, stderr) in enumerate(zip(found.value.tolist(), found.stderr.tolist(), strict=True)):
        yield _row(predictor, quantity, position, value, stderr)


def _row(predictor: str, quantity: str, position: int | str | None, value: float, stderr: float | None = None) -> Row:
    return {
        "predictor": predictor,
        "quantity": quantity,
        "layer": None,
        "position": position,
        "value": value,
        "stderr": stderr,
    }
