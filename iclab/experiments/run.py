"""One experiment from start to end: make the model, train it (from its checkpoint where there is one), measure it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from iclab.analysis import Lineup, answer, excess, references, risk
from iclab.analysis.references import right_penalty
from iclab.experiments.experiment import Experiment
from iclab.experiments.measure import Row, measure, regions
from iclab.experiments.probes import r2_by_layer
from iclab.experiments.streams import resolve, stream
from iclab.models import Transformer
from iclab.posterior import bayes
from iclab.predictors import Predictor
from iclab.tasks import Prompts, Task
from iclab.training import Training

PROBED = 1024  # prompts of the learning curve, where probes are fitted to half of them


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
    seconds of training in this process, and what `Watch` sees."""
    watch = Watch.of(experiment, training.rng.device)
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
                **(watch.probed(training.model) if early(experiment, training.step) else {}),
            }
            losses = []


def due(experiment: Experiment, step: int) -> bool:
    """Whether the curve is measured at a step: every so often and at the end; where the evolution of the algorithm is
    followed, also at every power of two, since most of it happens early."""
    every = experiment.eval.every or max(1, min(experiment.train.steps // 20, 1000))
    return step % every == 0 or step == experiment.train.steps or early(experiment, step)


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
    def of(cls, experiment: Experiment, device: torch.device) -> "Watch":
        """Draws the prompts and answers them by what a model is compared with."""
        task = experiment.task
        probed = {"evolution", "probes"} <= set(experiment.eval.analyses)
        prompts = task.sample(PROBED if probed else 512, stream(experiment, "curve", device))
        best = {name: f for name, f in references(task).items() if name == "bayes"}
        lineup = Lineup(task, prompts) if "evolution" in experiment.eval.analyses else None
        return cls(answer(best, prompts), lineup, prompts, regions(task)[None], right_penalty(task) if probed else None)

    def __call__(self, model: Predictor) -> dict[str, Any]:
        learned = answer({"model": model}, self.prompts)["model"]
        ys, part = self.prompts.ys[:, self.part], self.part
        found: dict[str, Any] = {"risk": risk(learned[:, part], ys).value.mean().item()}
        if "bayes" in self.answers:
            found["excess"] = excess(learned[:, part], self.answers["bayes"][:, part], ys).value.item()
        if self.lineup:
            found["distances"] = self.lineup.distances(model)
        return found

    def probed(self, model: nn.Module) -> dict[str, Any]:
        """R² of each target by layer, averaged over positions."""
        if self.probed_with is None or not isinstance(model, Transformer):
            return {}
        return {"probes": r2_by_layer(model, self.prompts, self.probed_with)}
