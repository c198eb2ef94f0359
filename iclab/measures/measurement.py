"""Measurement: a model and the prompts of one distribution, the argument of every analysis.

What several analyses need is made once, at first use. Every stream of random numbers starts anew at each use, so that
no analysis depends on another.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclab.analysis import AlgorithmPanel, answer, families, layer_readouts
from iclab.analysis.layers.readout import LayerReadout
from iclab.analysis.next_token import continued, ended
from iclab.analysis.risk import Answers
from iclab.experiments.analysis import Row
from iclab.experiments.claims import TRAINED
from iclab.experiments.experiment import Experiment
from iclab.experiments.streams import experiment_generator
from iclab.learning.losses import mean_labels
from iclab.measures.rows import MODEL, Parts, regions
from iclab.models import Transformer
from iclab.tasks import AnyTask, TokenPrompts
from iclab.tasks.text import Text
from iclab.theory.references import references

Point = Mapping[str, Any]


class DrawnTokens(NamedTuple):
    """Inputs, the query first, with the labels of all targets (`iclab.tasks.QueryAndKeys.tokens`)."""

    xs: Float[Tensor, "batch n d"]
    ys: Float[Tensor, "batch targets"]
    fs: Float[Tensor, "batch targets"]


def silent(text: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, eq=False)
class Workspace:
    """The surroundings of a run: its device, its folder (none where nothing may be written), its log, the points of
    its training curve, and who hears what is done next."""

    device: torch.device | str = "cpu"
    folder: Path | None = None
    log: Callable[[str], None] = silent
    curve: Callable[[], Sequence[Point]] = tuple
    doing: Callable[[str], None] = silent


@dataclass(frozen=True, eq=False)
class Measurement:
    """A trained model before the prompts of one distribution. `among` are the rows of the analyses before."""

    experiment: Experiment
    model: Any
    name: str
    task: Any
    workspace: Workspace = field(default_factory=Workspace)
    among: list[Row] = field(default_factory=list)

    @property
    def own(self) -> bool:
        """Returns whether this is the training distribution."""
        return self.name == TRAINED

    @property
    def trained_on(self) -> Any:
        """Returns the task of the training."""
        return self.experiment.task

    def rng(self, name: str) -> torch.Generator:
        """Returns a stream of this distribution, from its start."""
        return experiment_generator(self.experiment, name, self.workspace.device, self.name)

    @property
    def draws(self) -> int:
        """Returns the number of resamples of the bootstrap."""
        return self.experiment.eval.bootstrap or 0

    @cached_property
    def prompts(self) -> Any:
        """Returns the prompts that everything is measured on, which training never saw; of frozen weights, which learn
        all targets from the same inputs, the inputs with the labels of every target, noisy and clean."""
        if self.experiment.train.frozen:
            return drawn_tokens(self.experiment, self.task, self.workspace.device)
        return self.task.sample(self.task.balanced_batch(self.experiment.eval.prompts), self.rng("test"))

    def untrained(self) -> Any:
        """Returns the model before its training."""
        return self.experiment.build(experiment_generator(self.experiment, "init")).to(self.workspace.device)

    # ---- prompts of examples ---------------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> Parts:
        """Returns the positions that are averaged over."""
        return regions(self.task, self.experiment.query_only)

    @cached_property
    def panel(self) -> AlgorithmPanel:
        """Returns the algorithms that the model and its layers are compared with."""
        return AlgorithmPanel(self.task, self.prompts, families(self.task, self.trained_on))

    @cached_property
    def references(self) -> dict[str, Any]:
        """Returns what every task is compared with, what the experiment names besides, and what its analyses add."""
        predictors = references(self.task, self.trained_on) | dict(self.experiment.eval.predictors) | self.constructions
        for analysis in self.experiment.analyses:
            predictors |= analysis.references(self)
        return predictors

    @cached_property
    def constructions(self) -> dict[str, Transformer]:
        """Returns the constructions that the experiment names, in the precision of the model."""
        task, device = self.trained_on, self.prompts.xs.device
        named = self.experiment.eval.constructions
        return {name: each.model(task.d, task.n).to(device) for name, each in named}

    @cached_property
    def answers(self) -> Answers:
        """Returns what the model and every reference answer."""
        return answer({MODEL: self.predictor, **self.references}, self.prompts)

    @property
    def predictor(self) -> Any:
        """Returns the model as a predictor of labels, which logits of classes are not yet."""
        return mean_labels(self.model, getattr(self.experiment.train, "loss", "squared"))

    @cached_property
    def readouts(self) -> list[LayerReadout]:
        """Returns each layer as a predictor, read out by a map that was fitted on other prompts."""
        return layer_readouts(self.model, self.task.sample(len(self.prompts.xs), self.rng("fit")))

    # ---- sequences of tokens ---------------------------------------------------------------------------------------

    @cached_property
    def continued(self) -> tuple[TokenPrompts, dict[str, Tensor]]:
        """Returns the prompts with the log-probabilities; of texts their ends alone."""
        if not isinstance(self.task, Text):
            return self.prompts, self.logs
        ends, logs = ended(self.model, self.prompts)
        return ends, {MODEL: logs}

    @cached_property
    def logs(self) -> dict[str, Tensor]:
        """Returns log probabilities of the model and of every reference."""
        return continued({MODEL: self.model, **references(self.task)}, self.prompts)


def drawn_tokens(experiment: Experiment, task: Any, device: torch.device | str) -> DrawnTokens:
    """Returns the inputs that frozen weights are measured on; those of several draws of a sample one after the
    other."""
    rng = experiment_generator(experiment, "test", device)
    draws = [task.tokens(experiment.eval.prompts, rng) for _ in range(getattr(experiment.train, "draws", 1))]
    return DrawnTokens(*map(torch.cat, zip(*draws, strict=True)))


def measure(
    experiment: Experiment, model: nn.Module | None, workspace: Workspace | torch.device | str = "cpu"
) -> list[Row]:
    """Returns all result rows of a trained model: on its own task, on the parts of that, and on every shift."""
    at = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    return [
        row
        for name, task in experiment.distributions.items()
        for row in _analysis_rows(experiment, model, name, task, at)
    ]


def _analysis_rows(experiment: Experiment, model: Any, name: str, task: AnyTask, workspace: Workspace) -> Iterator[Row]:
    """The rows of one distribution."""
    of = Measurement(experiment, model, name, task, workspace)
    for analysis in experiment.analyses:
        applies = analysis.applies(of)
        if applies:
            workspace.doing(f"measure {analysis.name}" + ("" if of.own else f" on {name}"))
        rows = list(analysis.rows(of)) if applies else []
        of.among.extend(rows)
        yield from ({"distribution": name, **row} for row in rows)
