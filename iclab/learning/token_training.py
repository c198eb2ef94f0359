"""Gradient training of a model over tokens.

    minimise  E −1/m Σ_i log softmax(logits_i)[target_i]       over fresh prompts and their m target positions

The loss is a pure function of (parameters, prompts), as for prompts of examples, and all else is shared with
`iclab.learning.training`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from iclab.errors import refuse
from iclab.learning.training import AnyLearner, GradientTraining, OptimizerConfig, Parameters, Place, called
from iclab.renamed import old_names
from iclab.tasks import SizedTask, TokenPrompts, TokenTask

IGNORED = -100  # a target that `cross_entropy` passes over


@dataclass(frozen=True, kw_only=True)
class SizeCurriculum:
    """Starts with prompts of at most `size` and lets them grow by `step` every `every` steps, up to the task's own."""

    size: int
    step: int = 1
    every: int = 250

    def __post_init__(self) -> None:
        given = {k: getattr(self, k) for k in ("size", "step", "every")}
        refuse("SizeCurriculum", [f"{k} must be at least 1, given {v}" for k, v in given.items() if v < 1])

    def stage(self, task: TokenTask, step: int) -> TokenTask:
        """Returns the task of a step: the full one once the size has grown to it."""
        size = self.size + step // self.every * self.step
        return task.up_to(size) if isinstance(task, SizedTask) and size < task.largest else task


@dataclass(frozen=True, kw_only=True)
class TokenTrainingConfig(OptimizerConfig, AnyLearner):
    """Settings of gradient training on tokens; the defaults are this project's."""

    file_kind: ClassVar = "TokenRecipe"

    steps: int = 2000
    batch: int = 64
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = 0.05
    curriculum: SizeCurriculum | None = None

    @property
    def curved(self) -> bool:
        return True

    def learn(self, model: nn.Module, task: TokenTask, place: Place) -> None:
        training = TokenTraining(model, task, self, place.generator("train"))
        training.log = place.log
        place.follow(training)

    def problems_for(self, task: TokenTask, model: object = None) -> list[str]:
        grows = self.curriculum is None or isinstance(task, SizedTask)
        return [] if grows else [f"train.curriculum needs prompts that have sizes; {type(task).__name__} has none"]


def token_loss(model: nn.Module, parameters: Parameters | None, prompts: TokenPrompts) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy at the target positions, in nats, as a pure function of the parameters; without
    any, with those that the model has."""
    return _loss(model, parameters, prompts.tokens, prompts.targets, prompts.answer_mask)


def _loss(
    model: nn.Module, parameters: Parameters | None, tokens: Tensor, targets: Tensor, asked: Tensor
) -> Float[Tensor, ""]:
    logits = called(model, parameters, tokens)
    return cross_entropy(logits[asked], targets[asked])


def masked_losses(
    logits: Float[Tensor, "b n vocab"], targets: Int[Tensor, "b n"], asked: Bool[Tensor, "b n"], replicas: int = 1
) -> Float[Tensor, " replicas"]:
    """Returns the mean cross-entropy at the target positions of each replica, without a look at how many they are."""
    rest = ~asked.flatten()
    scores = logits.flatten(0, 1).masked_fill(rest.unsqueeze(1), 0.0)  # whatever is there, it has no gradient
    terms = cross_entropy(scores, targets.flatten().masked_fill(rest, IGNORED), reduction="none")
    return terms.view(replicas, -1).sum(1) / asked.reshape(replicas, -1).sum(1)


class TokenTraining(GradientTraining):
    """The training of one model on one task of tokens."""

    def __init__(self, model: nn.Module, task: TokenTask, recipe: TokenTrainingConfig, rng: torch.Generator) -> None:
        super().__init__(model, recipe, rng)
        refuse("TokenTraining", recipe.problems_for(task))
        self.task, self.curriculum = task, recipe.curriculum

    def _draw(self) -> Sequence[Tensor]:
        prompts = self._stage(self.step).sample(self.recipe.batch, self.rng)
        return prompts.tokens, prompts.targets, prompts.answer_mask

    def _loss(self, *drawn: Tensor) -> tuple[Float[Tensor, ""], float]:
        tokens, targets, asked = drawn
        with self._autocast():
            if self.replay is None:
                value = _loss(self.model, None, tokens, targets, asked)
            else:
                value = masked_losses(self.model(tokens), targets, asked)[0]
        return value, log(max(2, self.task.vocab))


__getattr__ = old_names(__name__, TokenRecipe="TokenTrainingConfig")
