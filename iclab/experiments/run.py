"""One experiment from start to end: make the model, train it (from its checkpoint where there is one), measure it.

Randomness comes in four streams, each with a generator of its own: initial weights, training prompts, the prompts of
the learning curve, and the prompts of the final measurement, which training never sees.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from iclab.analysis import Estimate, Match, answer, band, estimate, excess, identify, ratio, references, risk
from iclab.analysis.risk import squared
from iclab.experiments.claims import TRAINED
from iclab.experiments.experiment import Experiment
from iclab.models import Transformer
from iclab.predictors import Predictor
from iclab.tasks import Prompts, Task
from iclab.training import Training

Row = dict[str, Any]
Parts = dict[str | None, slice]
STREAMS = ("init", "train", "curve", "test")


def perform(experiment: Experiment, folder: Path, say: Callable[[dict], None], log: Callable[[str], None]) -> list[Row]:
    """Trains and measures; returns the result rows. Continues from `checkpoint.safetensors` in the folder.

    `say` takes one dict per point of the learning curve. Raises `iclab.training.Diverged`.
    """
    device = resolve(experiment.device)
    model = new_model(experiment, device)
    training = Training(model, experiment.task, experiment.train, stream(experiment, "train", device))
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.exists():
        training.resume(checkpoint)
        log(f"continues at step {training.step} of {experiment.train.steps}")
    for point in learning_curve(experiment, training):
        say(point)
        training.save(checkpoint)
    model.save(folder / "weights.safetensors")
    log("measures")
    return measure(experiment, model.eval(), device)


def resolve(device: str) -> torch.device:
    """The device meant by a name; "auto" is the GPU where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def stream(experiment: Experiment, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one stream. NumPy's SeedSequence spreads (seed, stream) over the 32 bits that a CPU generator
    keeps, so that neighbouring seeds share nothing."""
    seed = np.random.SeedSequence([experiment.seed, STREAMS.index(name)]).generate_state(1)[0]
    return torch.Generator(device).manual_seed(int(seed))


def new_model(experiment: Experiment, device: torch.device | str = "cpu") -> Transformer:
    """The untrained model; its weights are drawn on the CPU, so that they are the same on every device."""
    task = experiment.task
    return Transformer(task.d, task.n, experiment.model, stream(experiment, "init")).to(device)


def learning_curve(experiment: Experiment, training: Training) -> Iterator[dict]:
    """Trains to the end and yields a point each time the curve is measured: step, mean loss since the last, seconds
    of training in this process, and how far the model is from Bayes ("excess") where that is known."""
    steps, every = experiment.train.steps, experiment.eval.every or max(1, min(experiment.train.steps // 20, 1000))
    prompts = experiment.task.sample(512, stream(experiment, "curve", training.rng.device))
    best = references(experiment.task).get("bayes")
    seconds, losses = 0.0, []
    while training.step < steps:
        start = perf_counter()
        losses.append(training.advance())
        seconds += perf_counter() - start
        if training.step % every == 0 or training.step == steps:
            yield {
                "step": training.step,
                "steps": steps,
                "loss": sum(losses) / len(losses),
                "lr": experiment.train.rate(training.step - 1),
                "seconds": round(seconds, 3),
                **_progress(training.model, best, prompts),
            }
            losses = []


def _progress(model: Predictor, best: Predictor | None, prompts: Prompts) -> dict[str, float]:
    answers = answer({"model": model} | ({"bayes": best} if best else {}), prompts)
    found = {"risk": risk(answers["model"], prompts.ys).value.mean().item()}
    if best:
        found["excess"] = excess(answers["model"], answers["bayes"], prompts.ys).value.item()
    return found


# ---- the final measurement ------------------------------------------------------------------------------------------


def measure(experiment: Experiment, model: Predictor, device: torch.device | str = "cpu") -> list[Row]:
    """All result rows of a trained model, on its own task and on every shifted one."""
    rng = stream(experiment, "test", device)
    tasks: dict[str, Task] = {TRAINED: experiment.task, **dict(experiment.eval.shifts)}
    rows: list[Row] = []
    for distribution, task in tasks.items():
        prompts = task.sample(experiment.eval.prompts, rng)
        rows += [{"distribution": distribution, **row} for row in compare(model, task, prompts, rng, experiment)]
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
