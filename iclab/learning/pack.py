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
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from iclab.errors import refuse
from iclab.learning.graphs import Due, Graphs, Ledger, Replay, ahead, graphs_of
from iclab.learning.losses import terms
from iclab.learning.token_training import TokenTraining, TokenTrainingConfig, masked_losses
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
from iclab.tasks import Task, TokenTask

FREE = ("lr", "betas", "eps", "weight_decay", "clip", "warmup", "schedule")  # in which the recipes of a pack may differ


class PackTraining(ABC):
    """Trainings of models of one shape that take their steps together. `advance` takes one of each. A final class makes
    the pack of models, and returns the loss of each on its prompts; `pack_trainings` chooses it.

    A training that was resumed from a checkpoint before goes on from there. One that diverges, or is done, stands still
    while the others go on.
    """

    parts: ClassVar[tuple[str, ...]]  # of prompts, which the loss needs

    def __init__(self, trainings: Sequence[GradientTraining]) -> None:
        refuse("PackTraining", _problems(trainings))
        self.trainings = tuple(trainings)
        self.diverged: dict[int, Diverged] = {}  # by replica
        self.model = self._packed([one.model for one in trainings])
        self.names, self.parameters = zip(*self.model.named_parameters(), strict=True)
        self.held = held_entries(trainings[0].model)  # of one shape, so of all
        self.optimizer = PackedAdamW(self.model.theta, [one.recipe for one in trainings])
        graphs = graphs_of(trainings[0].rng.device)
        self.replay = None if graphs is None else self.replayed(graphs)
        for replica, one in enumerate(trainings):
            self._adopt(replica, one)
            one.pack = max(one.pack, len(trainings))

    @abstractmethod
    def _packed(self, models: Sequence[Any]) -> Pack:
        """The models as one."""

    @abstractmethod
    def _losses(self, *drawn: Tensor) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"] | float]:
        """The loss of each replica on what was drawn, and about what an untrained model's is."""

    @property
    def active(self) -> list[int]:
        """Returns the replicas that take steps: those that are not done and have not diverged."""
        steps = [one.recipe.steps - one.step for one in self.trainings]
        return [replica for replica, left in enumerate(steps) if left > 0 and replica not in self.diverged]

    def advance(self) -> dict[int, float]:
        """Takes one step of every active replica and returns their losses, by replica. One that diverges in this step
        is in `diverged` afterwards, with the weights that it had before."""
        active = self.active
        if not active:
            return {}
        losses, usual = self._losses(*self._draw(active))
        values = losses.tolist()
        bounds = usual.tolist() if isinstance(usual, Tensor) else [usual] * len(values)
        for replica in active:
            self._check(replica, values[replica], bounds[replica])
        moving = self.active
        gradient, rates = self._gradient(losses), [one.recipe.rate(one.step) for one in self.trainings]
        self.optimizer.step(gradient, rates, [one.step + 1 for one in self.trainings], moving)
        for replica in moving:
            self.trainings[replica].step += 1
        return {replica: values[replica] for replica in moving}

    def _draw(self, active: Sequence[int]) -> list[Tensor]:
        """Fresh prompts of the active replicas; those that stand still have some too, whatever they make of them."""
        drawn = {replica: self._prompts(self.trainings[replica]) for replica in active}
        prompts = [drawn.get(replica, drawn[active[0]]) for replica in range(len(self.trainings))]
        return [_joined(prompts, name) for name in self.parts]

    def _prompts(self, one: Any) -> Any:
        return one.task.sample(one.recipe.batch, one.rng)

    def _check(self, replica: int, value: float, usual: float) -> None:
        try:
            self.trainings[replica].check(value, usual)
        except Diverged as error:
            self.diverged[replica] = error

    def _gradient(self, losses: Float[Tensor, " R"]) -> Float[Tensor, "R P"]:
        gradients = torch.autograd.grad(losses, self.parameters, torch.ones_like(losses))
        named = without_held(dict(zip(self.names, gradients, strict=True)), self.held)
        return torch.cat([part.flatten(1) for part in named.values()], dim=1)

    # ---- steps in a row --------------------------------------------------------------------------------------------

    def advance_until(self, due: Sequence[Due]) -> None:
        """Takes a step of every active replica, or on a GPU a row of them up to the first after which one of the
        replicas has a point of its curve `due`, and adds their losses to those of the trainings."""
        if self.active and (self.replay is None or not self._row(self.replay, due)):
            self.replay = None
            for replica, loss in self.advance().items():
                self.trainings[replica].losses.append(loss)

    def _row(self, replay: Replay, due: Sequence[Due]) -> bool:
        """Takes a row of steps; returns whether that can be."""
        active, steps = self.active, [one.step for one in self.trainings]
        chosen = [(self.trainings[replica], due[replica]) for replica in active]
        count = min(ahead(one.step, one.recipe.steps, each) for one, each in chosen)
        gone = [int(replica not in active) for replica in range(len(steps))]
        replay.open([self._numbers(i) for i in range(count)], steps, [one.wild for one in self.trainings], gone)
        if not replay.ready(active):
            return False
        for _ in range(count):
            replay.step()
        rows = replay.close()
        for replica in active:
            one, row = self.trainings[replica], rows[replica]
            one.step, one.wild = row.step, row.wild
            one.losses += row.losses
            if row.fatal is not None:
                self.diverged[replica] = Diverged(row.step, row.fatal)
        self.replay = replay if self.active else None  # and the memory of its graph is free
        return True

    def replayed(self, graphs: Graphs | None = None) -> Replay:
        """Returns the step as one that is taken in rows; without graphs it is called, as a GPU would replay it."""
        rngs, shape = [one.rng for one in self.trainings], (len(self.trainings), PackedAdamW.kinds)
        return Replay(
            lambda: self._draw(self.active), self._learn, lambda: self.optimizer.rows, rngs, self._log, shape, graphs
        )

    def _learn(self, drawn: Sequence[Tensor], ledger: Ledger) -> None:
        """The step after the draw, without a look at any number."""
        losses, usual = self._losses(*drawn)
        numbers, gone = ledger.record(losses, usual)
        self.optimizer.move(self._gradient(losses), numbers, ~gone)

    def _numbers(self, ahead: int) -> list[list[float]]:
        """What the optimizer needs of each replica in a step after so many."""
        steps = [one.step + ahead for one in self.trainings]
        rates = [one.recipe.rate(step) for one, step in zip(self.trainings, steps, strict=True)]
        return self.optimizer.numbers(rates, [step + 1 for step in steps])

    def _log(self, text: str) -> None:
        for one in self.trainings:
            one.log(text)

    def _adopt(self, replica: int, one: GradientTraining) -> None:
        """Lets a training go on in the rows of its replica, with the moments that it has."""
        rows, (flat,) = self.optimizer, one.flats
        flat.adopt(rows.theta[replica], [rows.means[replica], rows.squares[replica]], rows.counts[replica])


class ExamplePack(PackTraining):
    """Trainings on examples that take their steps together."""

    parts = ("xs", "ys")

    def _packed(self, models: Sequence[Transformer]) -> Pack:
        return PackedTransformer(models)

    def _losses(self, *drawn: Tensor) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        xs, ys = drawn
        one: Any = self.trainings[0].recipe  # all ask for the same positions and have the same loss
        each = terms(one.loss, self.model(xs, ys, one.asked), ys)
        losses, usual = (every.reshape(len(self.trainings), -1).mean(1) for every in (each, ys.square()))
        return losses, usual


class TokenPack(PackTraining):
    """Trainings on tokens that take their steps together."""

    parts = ("tokens", "targets", "answer_mask")

    def _packed(self, models: Sequence[TokenTransformer]) -> Pack:
        return PackedTokenTransformer(models)

    def _losses(self, *drawn: Tensor) -> tuple[Float[Tensor, " R"], float]:
        tokens, targets, asked = drawn
        usual, replicas = log(max(2, self.trainings[0].model.vocab)), len(self.trainings)  # pyright: ignore
        if self.replay is not None:
            return masked_losses(self.model(tokens), targets, asked, replicas), usual
        counts = asked.view(replicas, -1).sum(1).tolist()
        terms = cross_entropy(self.model(tokens)[asked], targets[asked], reduction="none")
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

    kinds: ClassVar = 3  # of the numbers that a step needs of a row

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
        numbers = torch.tensor(self.numbers(rates, counts), dtype=self.theta.dtype, device=self.theta.device)
        moved = None
        if len(moving) < len(rates):
            moved = torch.tensor([row in moving for row in range(len(rates))], device=self.theta.device)
        self.move(gradient, numbers, moved)

    def numbers(self, rates: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
        """Returns what the `counts`-th step (1-based) of each row needs: √(1 − β₂ᵗ), 1 − η λ and η / (1 − β₁ᵗ)."""
        first, second = ([1 - betas[i] ** t for betas, t in zip(self.betas, counts, strict=True)] for i in range(2))
        kept = [1 - rate * decay for rate, decay in zip(rates, self.decays, strict=True)]
        return [[c**0.5 for c in second], kept, [rate / c for rate, c in zip(rates, first, strict=True)]]

    def move(
        self, gradient: Float[Tensor, "R P"], numbers: Float[Tensor, "3 R"], moved: Bool[Tensor, " R"] | None
    ) -> None:
        """Moves all rows by a step with these numbers, or those that are `moved`."""
        before = [] if moved is None else [rows.clone() for rows in self.rows]
        self._step(gradient, *numbers.to(self.theta.dtype).unsqueeze(-1))
        if moved is not None:
            for rows, kept in zip(self.rows, before, strict=True):
                rows.copy_(torch.where(moved.view(-1, *[1] * (rows.ndim - 1)), rows, kept))

    @property
    def rows(self) -> list[Tensor]:
        """Returns what a step changes."""
        return [self.theta, self.means, self.squares, self.counts]

    def _step(
        self, gradient: Float[Tensor, "R P"], spread: Float[Tensor, "R 1"], kept: Float[Tensor, "R 1"], pace: Tensor
    ) -> None:
        norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        bound = (self.clips / (norms + 1e-6)).clamp(max=1)
        gradient = gradient * torch.where(self.clipped, bound, 1.0)
        self.means.lerp_(gradient, self.complements[0])
        self.squares.lerp_(gradient.square(), self.complements[1])
        self.theta.mul_(kept)
        self.theta.sub_(self.means / self.squares.sqrt().div_(spread).add_(self.eps) * pace)
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
