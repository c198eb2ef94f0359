"""Task: a distribution over prompts. It knows facts (inputs, functions, noise) and never a model.

A prompt is drawn in a fixed order from one generator: inputs, then functions, then noise,

    x_i ~ inputs,   f ~ functions,   y_i = f(x_i) + noise · ε_i,   ε_i ~ N(0, 1).

A subclass may change any of it. So what theory knows of a class holds of that very class, unless `same_labels` declares
of another one that it changes the inputs alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.limits import admit
from iclab.renamed import adopt, attribute, method
from iclab.tasks.examples.inputs import Inputs, Normal
from iclab.tasks.examples.prompts import Functions, Prompts


class AnyTask(ABC):
    """A distribution over prompts, whatever they are made of: of examples (`Task`), or sequences of tokens
    (`iclab.tasks.TokenTask`)."""

    n: int

    def held(self) -> dict[str, int]:
        """Returns how many numbers a prompt takes and what is drawn or computed once for all, by what it is."""
        return {}

    @abstractmethod
    def sample(self, batch: int, rng: torch.Generator) -> Any:
        """Draws prompts on the generator's device; the same generator state gives the same prompts.

        Raises ``ValueError`` where `batch` is not positive.
        """

    def constants(self) -> dict[str, Float[Tensor, "..."]]:
        """Returns what was drawn once and is part of every prompt, by name: a run keeps it beside the model's
        weights."""
        return {}

    def parts(self) -> Mapping[str, "AnyTask"]:
        """Returns tasks by name on which a model that has learned this one is measured too, such as each length of a
        list."""
        return {}

    def monitored_parts(self) -> Mapping[str, "AnyTask"]:
        """Returns those of its parts on which accuracy is also reported in the course of training."""
        return {}

    def balanced_batch(self, batch: int) -> int:
        """Returns the least number of prompts, `batch` or more, in which every place is equally frequent."""
        return batch

    evenly = method("evenly", "balanced_batch")
    followed = method("followed", "monitored_parts")


_OLD = {"at_query": "query_only", "labels": "label_dim", "moving": "labels_are_next_inputs"}


class Task(AnyTask):
    """A distribution over prompts of n examples in d dimensions, with label noise of standard deviation `noise`."""

    d: int
    noise: float

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        adopt(cls, _OLD)

    @property
    def query_only(self) -> bool:
        """Returns whether the task is about the last position only."""
        return False

    @property
    def label_dim(self) -> int | None:
        """Returns the number of coordinates of a label; none where labels are numbers."""
        return None

    @property
    def labels_are_next_inputs(self) -> bool:
        """Returns whether the label of an input is the input after it."""
        return False

    @property
    def rank(self) -> int:
        """Returns the dimensions that inputs really have: the rank of Λ."""
        return int(torch.linalg.matrix_rank(self.input_second_moment(), rtol=1e-9))

    @abstractmethod
    def input_second_moment(self) -> Float[Tensor, "d d"]:
        """Returns Λ = E x xᵀ of an input of the context, float64."""

    @abstractmethod
    def input_fourth_moment(self, form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        """Returns E (xᵀ S x) x xᵀ of an input of the context, for a symmetric form S, float64."""

    @abstractmethod
    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        """Draws the inputs of each prompt, the query of the last position included."""

    @abstractmethod
    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Functions:
        """Draws one function per prompt, independent of the inputs."""

    def held(self) -> dict[str, int]:
        return {"a prompt": self.n * (self.d + 1), "the covariance of inputs": self.d**2}

    def factors(self) -> dict[str, float]:
        """Returns what labels are multiplied by, and how far inputs reach, by name."""
        return {}

    def sample(self, batch: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Prompts:
        """Draws prompts on the generator's device; the same generator state gives the same prompts.

        Raises ``ValueError`` where `batch` is not positive.

        Args:
            batch: The number of prompts.
            rng: The source of randomness; its device is that of the prompts.
            dtype: The precision of inputs and labels.

        >>> from iclab.tasks import LinearRegression
        >>> task = LinearRegression(d=2, n=4)
        >>> one, other = (task.sample(3, torch.Generator().manual_seed(7)) for _ in range(2))
        >>> torch.equal(one.ys, other.ys)
        True
        """
        refuse("sample", [] if batch > 0 else [f"batch must be positive, given {batch}"])
        xs = self.draw_inputs(batch, rng, dtype)
        truth = self.draw_functions(batch, rng, dtype)
        fs = truth(xs)
        noise = torch.randn(fs.shape, generator=rng, device=rng.device, dtype=dtype)
        return Prompts(xs=xs, ys=(fs + self.noise_in(truth) * noise).to(dtype), fs=fs, truth=truth)

    def noise_in(self, truth: Functions) -> float | Float[Tensor, "batch 1"]:
        """Returns the standard deviation of the label noise in the prompts of these functions."""
        return self.noise

    at_query = attribute("at_query", "query_only")
    labels = attribute("labels", "label_dim")
    moving = attribute("moving", "labels_are_next_inputs")


Kind = TypeVar("Kind", bound=type[Task])
_SAME_LABELS: set[type] = set()


def same_labels(kind: Kind) -> Kind:
    """Declares that the labels of a class of tasks have, given the inputs, the distribution of the class it derives
    from: what theory knows of that one, such as its Bayes predictor, holds of this one. A decorator, of this class
    alone."""
    _SAME_LABELS.add(kind)
    return kind


def law(task: Task) -> type:
    """Returns the class whose label distribution a task has: its own, or its parent where `same_labels` declares so."""
    return next(kind for kind in type(task).__mro__ if kind not in _SAME_LABELS)


@dataclass(frozen=True)
class FunctionClass(Task):
    """A task given by a distribution of inputs and a class of functions: what each final class adds is
    `draw_functions`."""

    d: int
    n: int
    noise: float = 0.0
    inputs: Inputs = field(default_factory=Normal, kw_only=True)

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def factors(self) -> dict[str, float]:
        return {"inputs": self.inputs.reach(self.d)}

    def _problems(self) -> list[str]:
        problems = [
            f"{name} must be at least 1, given {getattr(self, name)}" for name in "dn" if getattr(self, name) < 1
        ]
        if not 0 <= self.noise < float("inf"):
            problems.append(f"noise must be a standard deviation (0 or more, finite), given {self.noise}")
        return problems + self.inputs.problems_for(self.d)

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        return self.inputs.sample(batch, self.n, self.d, rng, dtype)

    def input_second_moment(self) -> Float[Tensor, "d d"]:
        return self.inputs.second_moment(self.d)

    def input_fourth_moment(self, form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        return self.inputs.fourth_moment(form)
