"""Mixtures: each prompt is drawn from one of several tasks, which is hidden.

Every component is as likely, and all have the same input distribution, so that only the labels distinguish them.

    OneOf                      a list of tasks, such as regression beside classification
    NoiseMixture               one task at several noise levels
    RepresentationMixture      one task with several representations

Sources: Bai, Chen, Wang, Xiong, Mei 2023, arXiv 2306.04637, §4 (algorithm selection); Guo et al. 2023, arXiv
2310.10616, App. E (representations).
"""

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.limits import admit
from iclab.tasks.examples.derived import NoisyLabels
from iclab.tasks.examples.prompts import Functions, MixedFunctions
from iclab.tasks.examples.representation import RepresentationRegression
from iclab.tasks.task import FunctionClass, Task


@dataclass(frozen=True)
class TaskMixture(Task):
    """A mixture of tasks: one component for each prompt. Subclasses define the components."""

    def __post_init__(self) -> None:
        admit(self, lambda: self._problems() or self._unmixable())

    def held(self) -> dict[str, int]:
        """Returns nothing: each component reports what it needs."""
        return {}

    @abstractmethod
    def _problems(self) -> list[str]:
        """The problems of these settings."""

    def _unmixable(self) -> list[str]:
        """The problems of the components: inputs are drawn before it is known whose functions label them."""
        moving = sorted({type(task).__name__ for task in self.components if task.labels_are_next_inputs})
        return [f"no component can be a {name}, whose inputs are drawn with its functions" for name in moving]

    @property
    @abstractmethod
    def components(self) -> tuple[Task, ...]:
        """Returns the tasks that a prompt can be drawn from."""

    @property
    def d(self) -> int:
        return self.components[0].d

    @property
    def n(self) -> int:
        return self.components[0].n

    @property
    def noise(self) -> float:
        """Returns the root of the mean variance of the label noise."""
        return (sum(task.noise**2 for task in self.components) / len(self.components)) ** 0.5

    def noise_in(self, truth: Functions) -> float | Float[Tensor, "batch 1"]:
        assert isinstance(truth, MixedFunctions)
        levels = torch.tensor([task.noise for task in self.components], dtype=torch.float64)
        return levels.to(truth.chosen.device)[truth.chosen].unsqueeze(-1)

    def input_second_moment(self) -> Float[Tensor, "d d"]:
        return self.components[0].input_second_moment()

    def input_fourth_moment(self, form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        return self.components[0].input_fourth_moment(form)

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        return self.components[0].draw_inputs(batch, rng, dtype)

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> MixedFunctions:
        chosen = torch.randint(len(self.components), (batch,), generator=rng, device=rng.device)
        return MixedFunctions(tuple(task.draw_functions(batch, rng, dtype) for task in self.components), chosen)

    def constants(self) -> dict[str, Float[Tensor, "..."]]:
        each = enumerate(task.constants() for task in self.components)
        return {f"{k}.{name}": value for k, constants in each for name, value in constants.items()}


@dataclass(frozen=True)
class OneOf(TaskMixture):
    """A prompt is drawn from one of the `tasks`: classes of functions with the same inputs, d and n."""

    tasks: tuple[FunctionClass, ...]

    def _problems(self) -> list[str]:
        if len(self.tasks) < 2:
            return [f"tasks must be two or more, given {len(self.tasks)}"]
        facts = {name: [getattr(task, name) for task in self.tasks] for name in ("d", "n", "inputs")}
        return [f"tasks must have the same {k}, given {v}" for k, v in facts.items() if any(x != v[0] for x in v)]

    @property
    def components(self) -> tuple[Task, ...]:
        return self.tasks


@dataclass(frozen=True)
class NoiseMixture(TaskMixture):
    """The `base` with label noise of one of the standard deviations `stds`, in place of its own.

    >>> import torch
    >>> from iclab.tasks import LinearRegression
    >>> mixture = NoiseMixture(LinearRegression(d=2, n=4), stds=(0.1, 1.0))
    >>> [task.noise for task in mixture.components]
    [0.1, 1.0]
    >>> mixture.sample(5, torch.Generator().manual_seed(0)).ys.shape
    torch.Size([5, 4])
    """

    base: FunctionClass
    stds: tuple[float, ...] = (0.1, 0.5)

    def _problems(self) -> list[str]:
        problems = [] if len(self.stds) >= 2 else [f"stds must be two or more, given {len(self.stds)}"]
        unfit = [std for std in self.stds if not 0 <= std < float("inf")]
        return problems + ([f"stds must be standard deviations (0 or more, finite), given {unfit}"] if unfit else [])

    @property
    def components(self) -> tuple[Task, ...]:
        return tuple(NoisyLabels(self.base, std) for std in self.stds)


@dataclass(frozen=True)
class RepresentationMixture(TaskMixture):
    """The `base` with one of `count` representations: its own and those of the next seeds."""

    base: RepresentationRegression
    count: int = 3

    def held(self) -> dict[str, int]:
        return {f"all: {what}": self.count * size for what, size in self.base.held().items()}

    def _problems(self) -> list[str]:
        problems = [] if self.count >= 2 else [f"count must be at least 2, given {self.count}"]
        last = self.base.representation.seed + self.count - 1
        return problems + ([] if last < 2**32 else [f"the last seed must be below 2³², given {last}"])

    @property
    def components(self) -> tuple[RepresentationRegression, ...]:
        own = self.base.representation
        return tuple(replace(self.base, representation=replace(own, seed=own.seed + k)) for k in range(self.count))
