"""Packs: trainings of one shape that take their steps together.

    g_r = ∇ loss_r(θ_r),   g_r ← g_r · min(1, clip_r / |g_r|)
    m_r ← β₁ m_r + (1 − β₁) g_r,   v_r ← β₂ v_r + (1 − β₂) g_r²
    θ_r ← (1 − η_r λ_r) θ_r − η_r m̂_r / (√v̂_r + ε)                 m̂ = m / (1 − β₁^t),  v̂ = v / (1 − β₂^t)

θ, m and v are matrices [R, P] with a row for each replica, and so each number of a recipe is a column [R, 1]. Each
replica remains a training of its own: its model, moments and counts are views of the rows, so that it is looked at and
saved like any other, in the same file, and may go on alone or in another pack.

Law (independence): from two replicas on, a replica's bits depend neither on the others, nor on their number or order.
Law (single): to rounding, a replica's losses are those of its training alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, log
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from iclab.errors import refuse
from iclab.learning.losses import terms
from iclab.learning.token_training import TokenTraining, TokenTrainingConfig
from iclab.learning.training import (
    Diverged,
    GradientTraining,
    OptimizerConfig,
    TrainingConfig,
    held_entries,
    without_held,
)
from iclab.models import TokenTransformer, TokenTransformerConfig, Transformer, TransformerConfig
from iclab.models.packed import Pack, PackedTokenTransformer, PackedTransformer, shape_of
from iclab.renamed import kind_name
from iclab.tasks import Prompts, Task, TokenPrompts, TokenTask

FREE = ("lr", "betas", "eps", "weight_decay", "clip", "warmup", "schedule")  # in which the recipes of a pack may differ


class PackTraining(ABC):
    """Trainings of models of one shape that take their steps together. `advance` takes one of each. A final class makes
    the pack of models, and returns the loss of each on its prompts; `pack_trainings` chooses it.

    A training that was resumed from a checkpoint before goes on from there. One that diverges, or is done, stands still
    while the others go on.
    """

    def __init__(self, trainings: Sequence[GradientTraining]) -> None:
        refuse("PackTraining", _problems(trainings))
        self.trainings = tuple(trainings)
        self.diverged: dict[int, Diverged] = {}  # by replica
        self.model = self._packed([one.model for one in trainings])
        self.names, self.parameters = zip(*self.model.named_parameters(), strict=True)
        self.held = held_entries(trainings[0].model)  # of one shape, so of all
        self.optimizer = PackedAdamW(self.model.theta, [one.recipe for one in trainings])
        for replica, one in enumerate(trainings):
            self._adopt(replica, one)
            one.pack = max(one.pack, len(trainings))

    @abstractmethod
    def _packed(self, models: Sequence[Any]) -> Pack:
        """The models as one."""

    @abstractmethod
    def _losses(self, prompts: Sequence[Any]) -> tuple[Float[Tensor, " R"], Sequence[float]]:
        """The loss of each replica on its prompts, and about what an untrained model's is."""

    @property
    def active(self) -> list[int]:
        """Returns the replicas that take steps: those that are not done and have not diverged."""
        steps = [one.recipe.steps - one.step for one in self.trainings]
        return [replica for replica, left in enumerate(steps) if left > 0 and replica not in self.diverged]

    def advance(self) -> dict[int, float]:
        """Takes one step of every active replica and returns their losses, by replica. One that diverges in this step
        is in `diverged` afterwards, with the weights that it had before."""
        drawn = {replica: self._drawn(replica) for replica in self.active}
        spare = next(iter(drawn.values()), None)  # for those that stand still, whatever they make of it
        if spare is None:
            return {}
        losses, usual = self._losses([drawn.get(replica, spare) for replica in range(len(self.trainings))])
        values = losses.tolist()
        for replica in drawn:
            self._check(replica, values[replica], usual[replica])
        moving = self.active
        self._update(torch.autograd.grad(losses, self.parameters, torch.ones_like(losses)), moving)
        return {replica: values[replica] for replica in moving}

    def _drawn(self, replica: int) -> Any:
        one: Any = self.trainings[replica]
        return one.task.sample(one.recipe.batch, one.rng)

    def _check(self, replica: int, value: float, usual: float) -> None:
        try:
            self.trainings[replica].check(value, usual)
        except Diverged as error:
            self.diverged[replica] = error

    def _update(self, gradients: Sequence[Tensor], moving: Sequence[int]) -> None:
        rates = [one.recipe.rate(one.step) for one in self.trainings]
        named = without_held(dict(zip(self.names, gradients, strict=True)), self.held)
        gradient = torch.cat([part.flatten(1) for part in named.values()], dim=1)
        self.optimizer.step(gradient, rates, [one.step + 1 for one in self.trainings], moving)
        for replica in moving:
            self.trainings[replica].step += 1

    def _adopt(self, replica: int, one: GradientTraining) -> None:
        """Lets a training go on in the rows of its replica, with the moments that it has."""
        rows, (flat,) = self.optimizer, one.flats
        flat.adopt(rows.theta[replica], [rows.means[replica], rows.squares[replica]], rows.counts[replica])


class ExamplePack(PackTraining):
    """Trainings on examples that take their steps together."""

    def _packed(self, models: Sequence[Transformer]) -> Pack:
        return PackedTransformer(models)

    def _losses(self, prompts: Sequence[Prompts]) -> tuple[Float[Tensor, " R"], Sequence[float]]:
        xs, ys = _joined(prompts, "xs"), _joined(prompts, "ys")
        one: Any = self.trainings[0].recipe  # all ask for the same positions and have the same loss
        each = terms(one.loss, self.model(xs, ys, one.asked), ys)
        losses, usual = (every.reshape(len(prompts), -1).mean(1) for every in (each, ys.square()))
        return losses, usual.tolist()


class TokenPack(PackTraining):
    """Trainings on tokens that take their steps together."""

    def _packed(self, models: Sequence[TokenTransformer]) -> Pack:
        return PackedTokenTransformer(models)

    def _losses(self, prompts: Sequence[TokenPrompts]) -> tuple[Float[Tensor, " R"], Sequence[float]]:
        tokens, targets, asked = (_joined(prompts, name) for name in ("tokens", "targets", "answer_mask"))
        counts = asked.view(len(prompts), -1).sum(1).tolist()
        terms = cross_entropy(self.model(tokens)[asked], targets[asked], reduction="none")
        usual = [log(max(2, one.model.vocab)) for one in self.trainings]  # pyright: ignore[reportArgumentType]
        return torch.stack([each.mean() for each in terms.split(counts)]), usual


def _joined(prompts: Sequence[Any], name: str) -> Tensor:
    """The prompts of all replicas, one after the other; none may decide the shape or the precision of another's."""
    parts = [getattr(each, name) for each in prompts]
    kinds = {(part.shape, part.dtype) for part in parts}
    refuse("PackTraining", [] if len(kinds) == 1 else [f"the {name} of replicas are of different shapes or precisions"])
    return torch.cat(parts)


def pack_trainings(trainings: Sequence[GradientTraining]) -> PackTraining:
    """Returns the pack of some trainings, on examples or on tokens. Raises `UsageError` where they are none.

    >>> from iclab.learning.training import Training
    >>> from iclab.tasks import LinearRegression
    >>> def training(seed, lr):
    ...     rng = torch.Generator().manual_seed(seed)
    ...     task, recipe = LinearRegression(d=2, n=4, noise=0.5), TrainingConfig(steps=3, batch=8, lr=lr)
    ...     return Training(Transformer(2, 4, TransformerConfig(n_layer=1, d_model=8), rng), task, recipe, rng)
    >>> pack, alone = pack_trainings([training(0, 1e-2), training(1, 3e-3)]), training(1, 3e-3)
    >>> for _ in range(3):
    ...     together, single = pack.advance()[1], alone.advance()
    >>> abs(together - single) < 1e-5
    True
    """
    return (TokenPack if any(isinstance(one, TokenTraining) for one in trainings) else ExamplePack)(trainings)


class PackedAdamW:
    """AdamW after a bound on the norm of the gradient, for each row of θ by settings of its own, which no kernel of
    torch allows.

    `means` and `squares` are its moments [R, P], `counts` [R] the steps that each row has taken.
    """

    def __init__(self, theta: Float[Tensor, "R P"], recipes: Sequence[OptimizerConfig]) -> None:
        self.theta, self.decays = theta, [recipe.weight_decay for recipe in recipes]
        self.means, self.squares = torch.zeros_like(theta), torch.zeros_like(theta)
        self.counts = torch.zeros(len(theta), device=theta.device)
        self.betas, self.eps = [recipe.betas for recipe in recipes], self._column([recipe.eps for recipe in recipes])
        self.complements = [self._column([1 - recipe.betas[i] for recipe in recipes]) for i in range(2)]
        clips = [recipe.clip for recipe in recipes]
        self.clips = self._column([inf if clip is None else clip for clip in clips])
        self.clipped = self._column([clip is not None for clip in clips]).bool()

    def step(
        self, gradient: Float[Tensor, "R P"], rates: Sequence[float], counts: Sequence[int], moving: Sequence[int]
    ) -> None:
        """Moves some of the rows by a step of their rates, the `counts`-th (1-based) of each; the others keep their
        bits."""
        kept = [(rows, rows.clone()) for rows in self._rows()] if len(moving) < len(rates) else []
        self._step(gradient, rates, counts)
        moved = torch.zeros(len(rates), 1, dtype=torch.bool, device=gradient.device)
        moved[list(moving)] = True
        for rows, before in kept:
            rows.copy_(torch.where(moved.view(-1, *[1] * (rows.ndim - 1)), rows, before))

    def _rows(self) -> list[Tensor]:
        return [self.theta, self.means, self.squares, self.counts]

    def _step(self, gradient: Float[Tensor, "R P"], rates: Sequence[float], counts: Sequence[int]) -> None:
        norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        bound = (self.clips / (norms + 1e-6)).clamp(max=1)
        gradient = gradient * torch.where(self.clipped, bound, 1.0)
        self.means.lerp_(gradient, self.complements[0])
        self.squares.lerp_(gradient.square(), self.complements[1])
        first, second = ([1 - betas[i] ** t for betas, t in zip(self.betas, counts, strict=True)] for i in range(2))
        spread = self.squares.sqrt().div_(self._column([c**0.5 for c in second])).add_(self.eps)
        self.theta.mul_(self._column([1 - rate * decay for rate, decay in zip(rates, self.decays, strict=True)]))
        self.theta.sub_(self.means / spread * self._column([rate / c for rate, c in zip(rates, first, strict=True)]))
        self.counts.add_(1)

    def _column(self, numbers: Sequence[float]) -> Float[Tensor, "R 1"]:
        return torch.tensor(numbers, dtype=self.theta.dtype, device=self.theta.device).unsqueeze(1)


# ---- what makes a pack ---------------------------------------------------------------------------------------------


@runtime_checkable
class Planned(Protocol):
    """What of an experiment decides with which others it can train."""

    @property
    def task(self) -> Any: ...
    @property
    def model(self) -> Any: ...
    @property
    def sizes(self) -> dict[str, Any]: ...
    @property
    def train(self) -> Any: ...
    @property
    def device(self) -> str: ...


@dataclass(frozen=True)
class _Plan:
    task: Any
    model: Any
    sizes: dict[str, Any]
    train: Any
    device: str

    @classmethod
    def of(cls, training: Any) -> "_Plan":
        model, device = training.model, str(training.rng.device)
        sizes = {name: getattr(model, name) for name in getattr(model, "sizes", ())}
        return cls(training.task, getattr(model, "config", None), sizes, training.recipe, device)


def packing_problems(experiments: Sequence[Planned]) -> list[str]:
    """Returns why experiments cannot train as one pack; nothing where they can.

    Those can that differ in numbers alone: the seed, what of a task leaves the shapes of prompts, the scale of the
    first weights, and of the recipe the rate, its warm-up and schedule, decay, clip, betas and eps.
    """
    problems = [problem for one in experiments for problem in _single_problems(one.task, one.model, one.train)]
    if problems:
        return list(dict.fromkeys(problems))
    shapes = [_shapes(one) for one in experiments]
    kinds = {what: {shape[what] for shape in shapes} for what in shapes[0]} if shapes else {}
    return [f"the {what} are of {len(found)} shapes" for what, found in kinds.items() if len(found) > 1]


def pack_key(experiment: Planned) -> str:
    """Returns what experiments have in common that can train as one pack; nothing for one that can in none."""
    if _single_problems(experiment.task, experiment.model, experiment.train):
        return ""
    return repr(_shapes(experiment))


def _shapes(one: Planned) -> dict[str, Any]:
    """What must be the same in a pack, by what it is of."""
    return {
        "prompts": _prompt_shape(one.task),
        "models": repr((one.sizes, shape_of(one.model))),
        "recipes": repr(_fixed(one.train)),
        "losses": getattr(one.train, "loss", None),
        "devices": one.device,
    }


def _problems(trainings: Sequence[GradientTraining]) -> list[str]:
    """Why trainings cannot take their steps together."""
    if not trainings:
        return ["no trainings"]
    if len({id(one.rng) for one in trainings} | {id(one.model) for one in trainings}) < 2 * len(trainings):
        return ["two of the trainings share a model or a generator"]
    planned = [_Plan.of(one) for one in trainings]
    frozen = any(len(one.parameters) < len(list(one.model.parameters())) for one in trainings)
    return packing_problems(planned) + (["some parameters are frozen"] if frozen else [])


def _single_problems(task: Any, model: Any, recipe: Any) -> list[str]:
    """Why an experiment trains in no pack at all."""
    if (type(model), type(recipe)) not in LEARNED or not isinstance(task, Task | TokenTask):
        kinds = f"{kind_name(type(recipe))} of {kind_name(type(model))}"
        return [f"{kinds} is not done in packs; Recipe of Transformer and TokenRecipe of TokenTransformer are"]
    reasons = {
        "train.curriculum, whose prompts grow": recipe.curriculum is not None,
        "train.targets = posterior_mean": getattr(recipe, "targets", "sampled") != "sampled",
        f"train.optimizer = {recipe.optimizer}": recipe.optimizer != "adamw",
        f"train.precision = {recipe.precision}": recipe.precision != "float32",
        "train.compile": getattr(recipe, "compile", False),
        "model.tied_embedding": getattr(model, "tied_embedding", False),
    }
    return [f"{reason} is not done in packs" for reason, holds in reasons.items() if holds]


LEARNED = {(TransformerConfig, TrainingConfig), (TokenTransformerConfig, TokenTrainingConfig)}


def _prompt_shape(task: Task | TokenTask) -> tuple[int | None, ...]:
    return (task.d, task.n, task.label_dim) if isinstance(task, Task) else (task.vocab, task.n, task.width)


def _fixed(recipe: Any) -> Any:
    """What the recipes of a pack must agree in."""
    return replace(recipe, **{name: getattr(type(recipe)(), name) for name in FREE})
