"""Prompting: what experiments on prompts of examples and on sequences of tokens do not have in common. Each kind says
which models and learners are meant where none is named, how its models are sized, and what must fit together.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from iclab.experiments import config
from iclab.experiments.mappings import Nested
from iclab.learning.token_training import TokenTrainingConfig
from iclab.learning.training import AnyLearner, Learner
from iclab.models import AnyModelConfig, ModelConfig, TokenModelConfig, TransformerConfig
from iclab.tasks import AnyTask, Task, TokenTask

NAME = re.compile(r"[A-Za-z_][\w-]*")  # of what an experiment names, such as shifts, predictors and partners


class Prompting(ABC):
    """A kind of prompts."""

    words: ClassVar[str]  # what they are called
    tasks: ClassVar[type[AnyTask]]
    models: ClassVar[type[AnyModelConfig]]
    learners: ClassVar[type[AnyLearner]]
    usual: ClassVar[Mapping[str, str]]  # the kinds that are meant where a section names none
    evaluation: ClassVar[Mapping[str, int]]  # the settings of eval that have a usual value
    unasked: ClassVar[tuple[str, ...]] = ()  # the settings of eval that have nothing to say

    @abstractmethod
    def sizes(self, experiment: Any) -> dict[str, Any]:
        """Returns what a model of the task is built for."""

    @abstractmethod
    def problems(self, experiment: Any) -> Iterator[str]:
        """Yields the problems of the task, the model and the shifts of an experiment together."""

    def warnings(self, experiment: Any) -> Iterator[str]:
        """Yields what may be measured but is not what it seems to be."""
        yield from ()


class Examples(Prompting):
    """Prompts of labelled examples."""

    words = "prompts of examples"
    tasks = Task
    models = ModelConfig
    learners = Learner
    usual: ClassVar = {"model": "TransformerConfig", "train": "Recipe"}
    evaluation: ClassVar = {"prompts": 2048, "bootstrap": 200}

    def sizes(self, experiment: Any) -> dict[str, Any]:
        task = experiment.task
        labels = {"labels": task.label_dim} if isinstance(experiment.model, TransformerConfig) else {}
        return {"d": task.d, "n": task.n, **labels}

    def problems(self, experiment: Any) -> Iterator[str]:
        yield from experiment.model.problems_for(experiment.task.d, experiment.task.label_dim)
        unfit = [name for name, _ in experiment.eval.shifts if not NAME.fullmatch(name)]
        yield from (f"a shift needs a name of letters, digits, - and _, given {name!r}" for name in unfit)
        yield from self._shift_problems(experiment)
        yield from self._label_problems(experiment)

    def _shift_problems(self, experiment: Any) -> Iterator[str]:
        """A shift must fit into the model: as many dimensions, and no more examples than it has positions for."""
        shifts, d = experiment.eval.shifts, experiment.task.d
        tasks = experiment.distributions.values()
        n = experiment.task.n if experiment.model.bounded else max(task.n for task in tasks)
        for name, shift in shifts:
            if shift.d != d or shift.n > n:
                reason = f"the model is made for d = {d} and at most n = {n}"
                yield f"shift {name!r} has d = {shift.d}, n = {shift.n}; {reason}"

    def _label_problems(self, experiment: Any) -> Iterator[str]:
        """All labels must be of one kind, and of that which a layout or a construction is about."""
        task, model = experiment.task, experiment.model
        partners = {name: partner.task or task for name, partner in experiment.eval.partners}
        for name, other in [*experiment.eval.shifts, *partners.items()]:
            if other.label_dim != task.label_dim:
                yield f"the labels of {name!r} are not of the task's kind"
        if task.label_dim is None:
            return
        tasks = (*experiment.distributions.values(), *partners.values())
        still = [type(one).__name__ for one in tasks if not one.labels_are_next_inputs]
        if still and isinstance(model, TransformerConfig) and model.layout == "states":
            yield f"model.layout = states is for labels that are the next input; {still[0]} has others"
        if experiment.start or experiment.eval.constructions:
            reason = f"is about labels that are numbers; those of {type(task).__name__} are vectors"
            yield f"a construction {reason}"


class Tokens(Prompting):
    """Sequences of tokens."""

    words = "sequences of tokens"
    tasks = TokenTask
    models = TokenModelConfig
    learners = TokenTrainingConfig
    usual: ClassVar = {"model": "TokenTransformerConfig", "train": "TokenRecipe"}
    evaluation: ClassVar = {"prompts": 1024}
    unasked = ("bootstrap", "predictors", "probe", "constructions", "surgery", "partners")

    def sizes(self, experiment: Any) -> dict[str, Any]:
        """Returns what a model is built for: the longest sequences that it is measured on."""
        longest = max(task.n for task in experiment.distributions.values())
        return {"vocab": experiment.task.vocab, "n": longest}

    def problems(self, experiment: Any) -> Iterator[str]:
        """Yields the problems of the model and the shifts, each of which must fit the task's vocabulary."""
        task = experiment.task
        yield from experiment.model.problems_for(task.vocab, self.sizes(experiment)["n"], task.width)
        for name, shift in experiment.eval.shifts:
            for size in ("vocab", "width"):
                if getattr(shift, size) != getattr(task, size):
                    reason = f"has a {size} of {getattr(shift, size)}, and the model one of {getattr(task, size)}"
                    yield f"shift {name!r} {reason}"
        for name, _ in experiment.eval.shifts:
            if name in task.parts():
                yield f"the name {name!r} is that of a part of {type(task).__name__}"
        if experiment.recipe:
            yield f"the recipe {experiment.recipe!r} is for prompts of examples"
        if experiment.start:
            yield "a construction is about prompts of examples, and start is given"

    def warnings(self, experiment: Any) -> Iterator[str]:
        own = experiment.task.n
        for name, shift in experiment.eval.shifts:
            if experiment.model.bounded and shift.n > own:
                yield (
                    f"shift {name!r} has sequences of {shift.n} tokens, training of {own} at most: the "
                    f"{shift.n - own} positions beyond stay as they were drawn"
                )


KINDS: tuple[Prompting, ...] = (Examples(), Tokens())


def prompting(task: AnyTask) -> Prompting:
    """Returns the kind of a task's prompts."""
    return next(kind for kind in KINDS if isinstance(task, kind.tasks))


def prompting_of(settings: Nested) -> Prompting:
    """Returns the kind that settings of an experiment describe, by the kind of their task; examples where that is not
    known."""
    task = settings.get("task")
    named = task.get("kind") if isinstance(task, Mapping) else type(task).__name__
    return next((kind for kind in KINDS if named in [*config.kinds(kind.tasks)]), KINDS[0])
