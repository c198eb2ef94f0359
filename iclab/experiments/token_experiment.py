"""TokenExperiment: everything that decides the numbers of one run on sequences of tokens, as an `Experiment` does for
prompts of examples. A file means one where its task is a `TokenTask`.

    task    what is asked            iclab.tasks
    model   what answers             iclab.models
    train   how it learns            iclab.token_training
    eval    how it is measured
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, cached_property
from typing import Any, Literal

import torch
from torch import nn

from iclab.errors import refuse
from iclab.experiments import config
from iclab.experiments.claims import TRAINED
from iclab.experiments.identity import Import, identity, machine_problems
from iclab.experiments.mappings import Nested
from iclab.models import TokenArchitecture, TokenTransformerConfig
from iclab.tasks import LaundryList, RepeatedSequence, Task, TokenTask
from iclab.token_training import TokenRecipe

TokenAnalysis = Literal["mechanism", "channels", "edits"]
ABOUT: dict[str, type[TokenTask]] = {"mechanism": LaundryList, "edits": RepeatedSequence}
LEAST = 8  # prompts that can be halved, with an error on either side


@dataclass(frozen=True)
class TokenEvaluation:
    """How a trained model is measured: on how many `prompts` of each distribution (more where a task is balanced and
    its places need it), and on which tasks besides its own and the parts that this has. `every` is the number of steps
    between two points of the training curve, chosen by the number of steps unless given. `analyses` are those of heads
    (`iclab.experiments.mechanisms`): "mechanism" (how a list is recalled), "channels" (which heads read which, by their
    weights), "edits" (what the heads that continue a repeated sequence lose if components are cut)."""

    prompts: int = 1024
    shifts: tuple[tuple[str, TokenTask], ...] = ()
    every: int | None = None
    analyses: tuple[TokenAnalysis, ...] = ()

    def __post_init__(self) -> None:
        given = {"prompts": (self.prompts, 2), "every": (1 if self.every is None else self.every, 1)}
        found = [f"{k} must be at least {least}, given {v}" for k, (v, least) in given.items() if v < least]
        taken = [name for name, _ in self.shifts if name == TRAINED]
        refuse("TokenEvaluation", found + [f"the name {name!r} is that of the training distribution" for name in taken])


@dataclass(frozen=True)
class TokenExperiment:
    """One run: a model trained on a task of tokens, then evaluated. `seed`, `device` and `recipe` mean what they mean
    for an `Experiment`. The model is made for the longest sequences that it is measured on."""

    task: TokenTask
    model: TokenArchitecture = field(default_factory=TokenTransformerConfig)
    train: TokenRecipe = field(default_factory=TokenRecipe)
    eval: TokenEvaluation = field(default_factory=TokenEvaluation)
    seed: int = 0
    device: str = "auto"
    recipe: str = ""
    imports: tuple[Import, ...] = field(default=(), metadata={"younger": True})

    def __post_init__(self) -> None:
        found = machine_problems(self.seed, self.device)
        found += self.model.problems_for(self.task.vocab, self.longest, self.task.width)
        found += self.train.problems_for(self.task) + self._shift_problems() + self._analysis_problems()
        found += [f"the recipe {self.recipe!r} is for prompts of examples"] if self.recipe else []
        refuse("TokenExperiment", found)

    def _shift_problems(self) -> list[str]:
        parts = self.task.parts()
        found = [
            f"shift {name!r} has a {size} of {getattr(shift, size)}, and the model one of {getattr(self.task, size)}"
            for name, shift in self.eval.shifts
            for size in ("vocab", "width")
            if getattr(shift, size) != getattr(self.task, size)
        ]
        taken = [name for name, _ in self.eval.shifts if name in parts]
        return found + [f"the name {name!r} is that of a part of {type(self.task).__name__}" for name in taken]

    def _analysis_problems(self) -> list[str]:
        """What an analysis of heads would stumble over after the training."""
        asked, model = self.eval.analyses, self.model
        if not asked:
            return []
        few = [f"need eval.prompts of {LEAST} or more, given {self.eval.prompts}"] if self.eval.prompts < LEAST else []
        if type(model) is not TokenTransformerConfig:
            return [
                f"analyses {each}" for each in [*few, f"need a TokenTransformerConfig, given {type(model).__name__}"]
            ]
        found = [f"analyses {each}" for each in few]
        for name in asked:
            kind = ABOUT.get(name, TokenTask)
            if not isinstance(self.task, kind):
                found.append(f"the analysis {name!r} needs task.kind {kind.__name__}, given {type(self.task).__name__}")
            if name == "mechanism" and model.attention != "softmax":
                found.append(f"the analysis {name!r} needs softmax attention, given {model.attention}")
            layers = 1 if name == "mechanism" else 2
            if model.n_layer < layers:
                found.append(f"the analysis {name!r} needs model.n_layer of {layers} or more, given {model.n_layer}")
        return found + ([f"the analysis 'edits' {text}" for text in _uneditable(model)] if "edits" in asked else [])

    @property
    def warnings(self) -> list[str]:
        """What may be measured but is not what it seems to be."""
        beyond = {name: shift.n for name, shift in self.eval.shifts if self.model.bounded and shift.n > self.task.n}
        return [
            f"shift {name!r} has sequences of {n} tokens, training of {self.task.n} at most: the {n - self.task.n} "
            "positions beyond stay as they were drawn"
            for name, n in beyond.items()
        ]

    @property
    def distributions(self) -> dict[str, TokenTask]:
        """What the model is measured on: its own task, the parts of this, and the shifts."""
        return {TRAINED: self.task, **self.task.parts(), **dict(self.eval.shifts)}

    @property
    def longest(self) -> int:
        """The length of the longest sequence."""
        return max(task.n for task in self.distributions.values())

    def build(self, rng: torch.Generator | None = None) -> nn.Module:
        """The untrained model."""
        return self.model.build(**self.sizes, rng=rng)

    @property
    def sizes(self) -> dict[str, int]:
        """What a model of this task is built for."""
        return {"vocab": self.task.vocab, "n": self.longest}

    @cached_property
    def id(self) -> str:
        """Twelve digits that stand for everything that can change the numbers."""
        return identity(self.mapping())

    def mapping(self) -> dict[str, Any]:
        """The settings as a file holds them, every default spelled out."""
        return config.to_mapping(self)


def _uneditable(model: TokenTransformerConfig) -> Iterator[str]:
    """Why components of a head cannot be told, or not be changed alone."""
    if model.attention != "softmax" or model.null_slot:
        yield "needs softmax attention without a null slot, so that biases of values can be moved"
    if model.rotary:
        yield "needs keys that do not depend on the distance, and positions are rotary"
    if model.tied:
        yield "needs layers of their own weights, and they are tied"


def about_tokens(settings: Nested) -> bool:
    """Whether the settings are those of a task over tokens: by its kind, or the known one that is nearest to it."""
    task = settings.get("task")
    kind = task.get("kind") if isinstance(task, Mapping) else type(task).__name__
    ours = config.kinds(TokenTask)
    nearest = _nearest(kind, (*config.kinds(Task), *ours)) if isinstance(kind, str) else None
    return nearest in ours


@cache
def _nearest(kind: str, known: tuple[str, ...]) -> str | None:
    """The name that is meant; the cells of a sweep ask for the same one again and again."""
    return next(iter(get_close_matches(kind, known, n=1, cutoff=0.5)), None)
