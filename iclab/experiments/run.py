"""One experiment from start to end: make the model, train it (from its checkpoint where there is one), measure it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from iclab.analysis import Lineup, answer, excess, families, references, risk
from iclab.analysis.identify import LEAST
from iclab.experiments.experiment import Experiment
from iclab.experiments.measure import Row, measure, regions
from iclab.experiments.streams import resolve, stream
from iclab.models import Transformer
from iclab.posterior import bayes
from iclab.predictors import Predictor
from iclab.tasks import Prompts, Task
from iclab.training import Training


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
    if why := unknown_bayes(experiment.task):
        log(f"no Bayes predictor: {why}")
    if experiment.eval.prompts < LEAST:
        log(f"no nearest algorithms: eval.prompts is {experiment.eval.prompts}, and they need {LEAST} or more")
    for point in learning_curve(experiment, training):
        say(point)
        training.save(checkpoint)
    model.save(folder / "weights.safetensors")
    log("measures")
    return measure(experiment, model.eval(), device)


def unknown_bayes(task: Task) -> str:
    """Why the Bayes predictor of a task is not known; empty where it is."""
    try:
        bayes(task)
    except ValueError as error:
        return str(error)
    return ""


def new_model(experiment: Experiment, device: torch.device | str = "cpu") -> Transformer:
    """The untrained model; its weights are drawn on the CPU, so that they are the same on every device."""
    task = experiment.task
    return Transformer(task.d, task.n, experiment.model, stream(experiment, "init")).to(device)


def learning_curve(experiment: Experiment, training: Training) -> Iterator[dict[str, Any]]:
    """Trains to the end and yields a point each time the curve is measured: step, mean loss since the last point,
    seconds of training in this process, and what `Watch` sees; where the evolution is followed, also on each shift."""
    watch = watched(experiment, training.rng.device)
    seconds, losses = 0.0, []
    while training.step < experiment.train.steps:
        start = perf_counter()
        losses.append(training.advance())
        seconds += perf_counter() - start
        if due(experiment, training.step):
            yield {
                "step": training.step,
                "steps": experiment.train.steps,
                "loss": sum(losses) / len(losses),
                "lr": experiment.train.rate(training.step - 1),
                "seconds": round(seconds, 3),
                **watch(training.model),
            }
            losses = []


def watched(experiment: Experiment, device: torch.device) -> Callable[[Predictor], dict[str, Any]]:
    """What a point of the curve says of a model on its own task and, where the evolution is followed, under "shifts" on
    each shift."""
    own = Watch.of(experiment, device)
    followed = experiment.eval.shifts if "evolution" in experiment.eval.analyses else ()
    shifted = {name: Watch.of(experiment, device, name) for name, _ in followed}
    return lambda model: own(model) | ({"shifts": {k: see(model) for k, see in shifted.items()}} if shifted else {})


def due(experiment: Experiment, step: int) -> bool:
    """Whether the curve is measured at a step: every so often and at the end; where the evolution of the algorithm is
    followed, also at every power of two, since most of it happens early."""
    every = experiment.eval.every or max(1, min(experiment.train.steps // 20, 1000))
    early = "evolution" in experiment.eval.analyses and step & (step - 1) == 0
    return step % every == 0 or step == experiment.train.steps or early


@dataclass(frozen=True, eq=False)
class Watch:
    """Measures a model in training on fixed prompts: its risk, the excess over Bayes where that is known, and where the
    evolution is followed its distance to each family of algorithms."""

    answers: dict[str, torch.Tensor]
    lineup: Lineup | None
    prompts: Prompts
    part: slice

    @classmethod
    def of(cls, experiment: Experiment, device: torch.device, shift: str = "") -> "Watch":
        """Draws the prompts of the training distribution, or of a shift, and answers them by what a model is compared
        with."""
        task = dict(experiment.eval.shifts).get(shift, experiment.task)
        prompts = task.sample(512, stream(experiment, "curve", device, shift))
        best = {name: f for name, f in references(task).items() if name == "bayes"}
        follows = "evolution" in experiment.eval.analyses
        lineup = Lineup(task, prompts, families(task, experiment.task)) if follows else None
        return cls(answer(best, prompts), lineup, prompts, regions(task, experiment.at_query)[None])

    def __call__(self, model: Predictor) -> dict[str, Any]:
        learned = answer({"model": model}, self.prompts)["model"]
        ys, part = self.prompts.ys[:, self.part], self.part
        found: dict[str, Any] = {"risk": risk(learned[:, part], ys).value.mean().item()}
        if "bayes" in self.answers:
            found["excess"] = excess(learned[:, part], self.answers["bayes"][:, part], ys).value.item()
        if self.lineup:
            found["distances"] = self.lineup.distances(model, self.part)
        return found
