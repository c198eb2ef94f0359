"""One experiment from start to end: make the model, train it (from its checkpoint where there is one, or in one fit),
measure it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from iclab.analysis import Lineup, answer, excess, families, references, risk
from iclab.analysis.identify import LEAST
from iclab.analysis.references import right_penalty
from iclab.analysis.risk import squared, vanishes
from iclab.experiments import curves, tokens, words
from iclab.experiments.beside import Beside
from iclab.experiments.claims import TRAINED
from iclab.experiments.experiment import Experiment
from iclab.experiments.findings import beaten
from iclab.experiments.learning import Say, follow, keep_weights, learning_curve, take_weights
from iclab.experiments.measure import measure
from iclab.experiments.pasting import pasting_rows
from iclab.experiments.probes import r2_by_layer
from iclab.experiments.rows import Row, regions
from iclab.experiments.stitching import stitching_rows
from iclab.experiments.streams import resolve, stream
from iclab.experiments.token_experiment import TokenExperiment
from iclab.files import write_whole
from iclab.fitting import RidgeFit
from iclab.models import Transformer
from iclab.posterior import bayes
from iclab.predictors import Predictor
from iclab.regression import CurveLearner, FrozenLearner
from iclab.tasks import Prompts, Task
from iclab.training import Diverged, Recipe, Training

WATCHED = 512  # prompts of the learning curve
PROBED = 1024  # the same, where probes are fitted to half of them


def perform(
    experiment: Experiment | TokenExperiment,
    folder: Path,
    say: Say,
    log: Callable[[str], None],
    weights: Path | None = None,
) -> list[Row]:
    """Trains and measures; returns the result rows. Continues from `checkpoint.safetensors` in the folder; with the
    `weights` of a finished training only measures.

    `say` takes one dict per point of the learning curve. Raises `iclab.training.Diverged`.
    """
    if isinstance(experiment, TokenExperiment):
        return tokens.perform(experiment, folder, say, log, weights)
    device = resolve(experiment.device)
    if isinstance(experiment.train, FrozenLearner):
        made = curves.rows if isinstance(experiment.train, CurveLearner) else words.rows
        return list(made(experiment, device, log))
    keep_constants(experiment.task, folder)
    model = new_model(experiment, device)
    if why := unknown_bayes(experiment.task):
        log(f"no Bayes predictor: {why}")
    if experiment.eval.prompts < LEAST:
        log(f"no nearest algorithms: eval.prompts is {experiment.eval.prompts}, and they need {LEAST} or more")
    if weights:
        take_weights(model, weights, log)
    elif isinstance(experiment.train, RidgeFit):
        seen = experiment.train.fit(model, experiment.task, stream(experiment, "train", device))
        log(f"fitted {len(model.theta)} parameters to {seen.count} labels: mean loss {seen.loss(model.theta):.4g}")
    elif not isinstance(experiment.train, Recipe):  # of a user's own
        experiment.train.fit(model, experiment.task, stream(experiment, "train", device))  # pyright: ignore
    else:
        train(experiment, model, folder / "checkpoint.safetensors", say, log)
    keep_weights(model, folder / "weights.safetensors")
    log("measures")
    found = measure(experiment, model.eval(), device)
    for line in beaten(found):
        log(line)
    return [*found, *surgery(experiment, model, folder, device, log)]


def surgery(
    experiment: Experiment, model: nn.Module, folder: Path, device: torch.device | str, log: Callable[[str], None]
) -> Iterator[Row]:
    """Rows of the analyses for which something is trained beside the model, with checkpoints in the folder."""
    if not isinstance(model, Transformer):
        return
    beside, found = Beside(experiment, folder, device, log), []
    if "pasting" in experiment.eval.analyses:
        found.append(pasting_rows(model, beside))
    if "stitching" in experiment.eval.analyses:
        found.append(stitching_rows(model, new_model(experiment, device), partners(beside), beside))
    yield from ({"distribution": TRAINED, **one} for one in chain.from_iterable(found))


def partners(beside: Beside) -> Iterator[tuple[str, Transformer, Task]]:
    """The partners of an experiment, trained, and what on; but for those whose training diverged, as the log says."""
    for name, partner in beside.experiment.eval.partners:
        other = partner.experiment(beside.experiment)
        model, checkpoint = new_model(other, beside.device), beside.folder / f"checkpoint_{name}.safetensors"
        beside.log(f"trains the partner {name}")
        try:
            train(other, model, checkpoint, lambda point: None, beside.log)
        except Diverged as error:
            beside.log(f"{name} has no result: {error}")
        else:
            yield name, model.eval(), other.task


def keep_constants(task: Task, folder: Path) -> None:
    """Writes what was drawn once for all prompts of a task, where there is such a thing, to `constants.safetensors`."""
    if found := task.constants():
        write_whole(folder / "constants.safetensors", to_bytes(found))


def train(experiment: Experiment, model: nn.Module, checkpoint: Path, say: Say, log: Callable[[str], None]) -> None:
    """Trains a model in place by gradient descent, saving as it goes."""
    training = new_training(experiment, model)
    follow(training, checkpoint, curve(experiment, training), say, log)


def unknown_bayes(task: Task) -> str:
    """Why the Bayes predictor of a task is not known; empty where it is."""
    try:
        bayes(task)
    except ValueError as error:
        return str(error)
    return ""


def new_training(experiment: Experiment, model: nn.Module) -> Training:
    """The gradient training of an experiment before its first step."""
    assert isinstance(experiment.train, Recipe)
    rng = stream(experiment, "train", next(model.parameters()).device)
    return Training(model, experiment.task, experiment.train, rng)


def new_model(experiment: Experiment, device: torch.device | str = "cpu") -> Any:
    """The untrained model; its weights are drawn on the CPU, so that they are the same on every device, and those of a
    construction are laid over them where the experiment starts from one."""
    model: Any = experiment.build(stream(experiment, "init"))
    if experiment.start and isinstance(model, Transformer):
        experiment.start.put_into(model)
    return model.to(device)


def curve(experiment: Experiment, training: Training) -> Iterator[dict[str, Any]]:
    """The learning curve, with what `Watch` sees; where the evolution is followed, also on each shift."""
    watch = watched(experiment, training.rng.device)
    return learning_curve(
        training,
        lambda step: due(experiment, step, training.recipe.steps),
        lambda step: watch(training.model, early(experiment, step)),
    )


def watched(experiment: Experiment, device: torch.device) -> Callable[[Predictor, bool], dict[str, Any]]:
    """What a point of the curve says of a model on its own task and, where the evolution is followed, under "shifts" on
    each shift. With the second argument true it looks into the layers too, where probes are asked for."""
    own = Watch.of(experiment, device)
    followed = experiment.eval.shifts if "evolution" in experiment.eval.analyses else ()
    shifted = {name: Watch.of(experiment, device, name) for name, _ in followed}

    def see(model: Predictor, inside: bool) -> dict[str, Any]:
        found = own(model) | (own.probed(model) if inside else {})
        return found | ({"shifts": {name: watch(model) for name, watch in shifted.items()}} if shifted else {})

    return see


def due(experiment: Experiment, step: int, steps: int) -> bool:
    """Whether the curve is measured at a step: every so often, and where the evolution of the algorithm is followed
    also at every power of two, since most of it happens early."""
    every = experiment.eval.every or max(1, min(steps // 20, 1000))
    return step % every == 0 or early(experiment, step)


def early(experiment: Experiment, step: int) -> bool:
    """Whether the evolution is followed and the step is a power of two."""
    return "evolution" in experiment.eval.analyses and step & (step - 1) == 0


@dataclass(frozen=True, eq=False)
class Watch:
    """Measures a model in training on fixed prompts: its risk, the excess over Bayes where that is known, and where the
    evolution is followed its distance to each family of algorithms; at powers of two also what is written in it.

    `probed_with` is the penalty of ridge among the targets of probes, None where no probes are asked for.
    """

    answers: dict[str, torch.Tensor]
    lineup: Lineup | None
    prompts: Prompts
    part: slice
    probed_with: float | None

    @classmethod
    def of(cls, experiment: Experiment, device: torch.device, shift: str = "") -> "Watch":
        """Draws the prompts of the training distribution, or of a shift, and answers them by what a model is compared
        with."""
        task = dict(experiment.eval.shifts).get(shift, experiment.task)
        follows = "evolution" in experiment.eval.analyses
        lam = right_penalty(task) if follows and not shift and "probes" in experiment.eval.analyses else None
        prompts = task.sample(WATCHED if lam is None else PROBED, stream(experiment, "curve", device, shift))
        best = {name: f for name, f in references(task).items() if name == "bayes"}
        lineup = Lineup(task, prompts, families(task, experiment.task)) if follows else None
        return cls(answer(best, prompts), lineup, prompts, regions(task, experiment.at_query)[None], lam)

    def __call__(self, model: Predictor) -> dict[str, Any]:
        learned = answer({"model": model}, self.prompts)["model"]
        ys, part = self.prompts.ys[:, self.part], self.part
        found: dict[str, Any] = {"risk": risk(learned[:, part], ys).value.mean().item()}
        best = self.answers["bayes"][:, part] if "bayes" in self.answers else None
        if best is not None and not vanishes(squared(best, ys), ys):
            found["excess"] = excess(learned[:, part], best, ys).value.item()
        if self.lineup:
            found["distances"] = self.lineup.distances(model, self.part)
        return found

    def probed(self, model: Predictor) -> dict[str, Any]:
        """R² of each target by layer, averaged over positions."""
        if self.probed_with is None or not isinstance(model, Transformer):
            return {}
        return {"probes": r2_by_layer(model, self.prompts, self.probed_with)}
