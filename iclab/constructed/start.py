"""Constructions as settings, and the weights that training starts from.

A `Construction` names a proof and its numbers; for prompts of d dimensions and n examples it is a transformer. `Start`
puts its weights into an untrained model,

    θ = θ_construction + perturbation · θ_random,

θ_random being what the model would have started from without it, gains of LayerNorm left alone.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch

from iclab.constructed import akyurek, bai, fu, vonoswald
from iclab.errors import refuse
from iclab.models import ModelConfig, Transformer, TransformerConfig
from iclab.predictors import GradientDescent, GradientDescentPlusPlus, Predictor, Ridge, StochasticGradientDescent


@dataclass(frozen=True, kw_only=True)
class Construction(ABC):
    """The weights of a proof, for any size of prompts."""

    @abstractmethod
    def layers(self, n: int) -> int:
        """Returns how many layers it has for prompts of n examples."""

    @abstractmethod
    def model(self, d: int, n: int, dtype: torch.dtype = torch.float32) -> Transformer:
        """Builds the transformer. Raises ``ValueError`` where numbers or sizes are not those of the proof."""

    def algorithm(self, n: int) -> Predictor | None:
        """Returns what it answers the query of n examples with, as its proof says; none where no predictor is that."""
        return None

    def problems_for(self, d: int, n: int, model: ModelConfig) -> list[str]:
        """Returns why a model of this shape is not the construction's."""
        name, layers = type(self).__name__, self.layers(n)
        if not isinstance(model, TransformerConfig):
            return [f"{name} is a transformer, given {type(model).__name__}"]
        if layers > 0 and layers != model.n_layer:  # told before what may have a million layers is built
            return [f"{name} needs model.n_layer = {layers}, given {model.n_layer}"]
        try:
            wanted = _decisive(shape(self, d, n))
        except ValueError as error:
            return [str(error)]
        pairs = zip(wanted.items(), _decisive(model).values(), strict=True)
        return [f"{name} needs model.{k} = {there}, given {here}" for (k, there), here in pairs if there != here]


@lru_cache(64)
def shape(construction: Construction, d: int, n: int) -> TransformerConfig:
    """Returns the shape of a construction for prompts of d dimensions and n examples. Raises ``ValueError`` as `model`
    does."""
    return construction.model(d, n).config


def _decisive(config: TransformerConfig) -> dict[str, object]:
    """What the weights mean depends on; what was left to be chosen by other settings is spelled out."""
    width = config.head_width
    settings = {**vars(config), "d_head": width, "scale": width**-0.5 if config.scale is None else config.scale}
    return {key: value for key, value in settings.items() if key != "init_scale"}


def plain(model: Transformer, dtype: torch.dtype) -> Transformer:
    """Returns a transformer with the same weights that accepts any prompt, in the given precision."""
    made = Transformer(model.d, model.n, model.config).to(dtype)
    made.load_state_dict(model.state_dict())
    return made


@dataclass(frozen=True, kw_only=True)
class VonOswald2022(Construction):
    """`steps` of gradient descent, or with `gamma` of GD++, by tied layers of linear attention: `vonoswald`."""

    steps: int = 1
    lr: float
    gamma: float = 0.0

    def layers(self, n: int) -> int:
        return self.steps

    def model(self, d: int, n: int, dtype: torch.dtype = torch.float32) -> Transformer:
        return plain(vonoswald.gradient_descent(d, n, self.steps, self.lr, self.gamma), dtype)

    def algorithm(self, n: int) -> Predictor:
        plain_steps = GradientDescent(self.steps, self.lr)
        return GradientDescentPlusPlus(self.steps, self.lr, self.gamma) if self.gamma else plain_steps


@dataclass(frozen=True, kw_only=True)
class Bai2023(Construction):
    """`steps` of gradient descent on the mean objective of ridge regression, by ReLU attention: `bai`."""

    steps: int = 1
    lr: float
    lam: float = 0.0

    def layers(self, n: int) -> int:
        return self.steps + 1

    def model(self, d: int, n: int, dtype: torch.dtype = torch.float32) -> Transformer:
        return plain(bai.gradient_descent(d, n, self.steps, self.lr, self.lam), dtype)

    def algorithm(self, n: int) -> Predictor:
        examples = n - 1
        return GradientDescent(self.steps, self.lr / examples, lam=examples * self.lam)


@dataclass(frozen=True, kw_only=True)
class Fu2023(Construction):
    """`steps` of Newton's iteration from M_0 = `first`·S, by ReLU attention: `fu`."""

    steps: int
    first: float

    def layers(self, n: int) -> int:
        return self.steps + 2

    def model(self, d: int, n: int, dtype: torch.dtype = torch.float32) -> Transformer:
        return plain(fu.newton(d, n, self.steps, self.first), dtype)

    def algorithm(self, n: int) -> Predictor:
        return fu.Iteration(self.steps, self.first)


@dataclass(frozen=True, kw_only=True)
class Akyurek2022(Construction, ABC):
    """A decoder of softmax attention and GELU, for entries of inputs and labels that are bounded: `akyurek`."""

    norm: bool = False
    largest_x: float = 5.0
    largest_y: float = 20.0

    def build(self, dtype: torch.dtype) -> akyurek.Build:
        """Returns the settings that its constructions share."""
        return akyurek.Build(norm=self.norm, dtype=dtype, largest_x=self.largest_x, largest_y=self.largest_y)


@dataclass(frozen=True, kw_only=True)
class Akyurek2022Descent(Akyurek2022):
    """One pass of stochastic gradient descent: Theorem 1, n steps."""

    lr: float
    lam: float = 0.0

    def layers(self, n: int) -> int:
        return 2 * (n - 1) + 1

    def model(self, d: int, n: int, dtype: torch.dtype = torch.float32) -> Transformer:
        return plain(akyurek.stochastic_gradient_descent(d, n, self.lr, self.lam, self.build(dtype)), dtype)

    def algorithm(self, n: int) -> Predictor:
        return StochasticGradientDescent(self.lr, self.lam)


@dataclass(frozen=True, kw_only=True)
class Akyurek2022Ridge(Akyurek2022):
    """Ridge regression by recursive least squares: Theorem 2, n updates. It divides by a LayerNorm."""

    lam: float
    norm: bool = True

    def layers(self, n: int) -> int:
        return 4 * (n - 1) + 1

    def model(self, d: int, n: int, dtype: torch.dtype = torch.float32) -> Transformer:
        refuse("Akyurek2022Ridge", [] if self.norm else ["it divides by a LayerNorm, so that norm must be true"])
        return plain(akyurek.recursive_least_squares(d, n, self.lam, self.build(dtype)), dtype)

    def algorithm(self, n: int) -> Predictor:
        return Ridge(self.lam)


@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights that training starts from: those of a construction, and `perturbation` times random ones."""

    construction: Construction
    perturbation: float = 0.0

    def __post_init__(self) -> None:
        sound = 0 <= self.perturbation < float("inf")
        refuse("Start", [] if sound else [f"perturbation must be at least 0 and finite, given {self.perturbation}"])

    @torch.no_grad()
    def put_into(self, model: Transformer) -> None:
        """Writes the construction over the random weights of a model of its shape."""
        wanted = self.construction.model(model.d, model.n).state_dict()
        for name, drawn in model.named_parameters():
            kept = 0.0 if "norm" in name else self.perturbation
            drawn.copy_(wanted[name] + kept * drawn)
