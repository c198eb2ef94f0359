"""Gradient training of a predictor on a task.

    minimise  E 1/n Σ_i (ŷ_i − y_i)²       over fresh prompts, the loss at every position (or at the last alone)

Of labels that are vectors the loss is the mean over coordinates; of classes it may be cross-entropy
(`iclab.learning.losses`).
The loss is a pure function of (parameters, prompts), so that a pack of replicas can be mapped over (`torch.func.vmap`).
With `targets = "posterior_mean"` the label y_i is replaced by E[y_i | past, x_i]: the expected gradient is the same and
its noise smaller (Rao-Blackwell), but the model is then handed the Bayes predictor's answers, so that agreement with
ridge is no discovery. `sampled` is the default.
"""

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import cos, inf, isfinite, pi
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.func import functional_call

from iclab.bar import bar
from iclab.errors import UsageError, refuse, unknown_choices
from iclab.files import atomic_write
from iclab.learning.compiled import graph_of, named
from iclab.learning.flat import AdamW, Flat, Muon, bound_norm, flattened
from iclab.learning.graphs import PATIENCE, Due, Graphs, Ledger, Replay, ahead, graphs_of
from iclab.learning.losses import Loss, label_problems, terms
from iclab.models import FrozenModelConfig, ModelConfig
from iclab.models.stored import open_weights
from iclab.models.transformer import Stack
from iclab.renamed import kind_name, old_names
from iclab.tasks import Prompts, Task, Truncated
from iclab.theory.posterior import bayes

Parameters = Mapping[str, Tensor]


@runtime_checkable
class Place(Protocol):
    """The interface between a run and a learner."""

    def generator(self, name: str) -> torch.Generator:
        """Returns the stream of random numbers of that name, from its start."""
        ...

    def log(self, text: str) -> None:
        """Writes a line to the log."""
        ...

    def follow(self, training: "GradientTraining") -> None:
        """Resumes from a checkpoint, if there is one, and trains to the end, one point of the curve at a time."""
        ...


@dataclass(frozen=True, kw_only=True)
class AnyLearner(ABC):
    """A way of learning a task, from prompts of examples or of tokens."""

    @property
    def query_only(self) -> bool:
        """Returns whether the loss counts the last position only."""
        return False

    @property
    def curved(self) -> bool:
        """Returns whether it learns step by step, so that there is a training curve."""
        return False

    @property
    def frozen(self) -> bool:
        """Returns whether the model keeps the weights that it was drawn with, and all learning is part of the
        measuring."""
        return False

    @abstractmethod
    def problems_for(self, task: Any, model: Any) -> list[str]:
        """Returns the problems of learning this task with such a model."""

    @abstractmethod
    def learn(self, model: Any, task: Any, place: Place) -> None:
        """Trains the model in place. Raises `Diverged`."""


@dataclass(frozen=True, kw_only=True)
class Learner(AnyLearner):
    """A way of learning from examples: by gradient descent (`TrainingConfig`), or in closed form (`RidgeFit`).

    `positions` are those whose errors count: "all", or the "last" alone, as in papers whose prompts have one query.
    """

    positions: Literal["all", "last"] = "all"

    @property
    def query_only(self) -> bool:
        return self.positions == "last"


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Starts with `dims` active coordinates and `points` examples and adds some every `every` steps.

    Source: Garg et al. 2022, arXiv 2208.01066, App. A.
    """

    dims: int
    points: int
    dims_step: int = 1
    points_step: int = 2
    every: int = 2000

    def __post_init__(self) -> None:
        least = {"dims": 1, "points": 1, "dims_step": 0, "points_step": 0, "every": 1}
        given = {k: getattr(self, k) for k in least}
        refuse("Curriculum", [f"{k} must be at least {least[k]}, given {v}" for k, v in given.items() if v < least[k]])

    def stage(self, task: Task, step: int) -> Task:
        """Returns the task of a step: the full one once both numbers have grown to it."""
        grown = step // self.every
        dims = min(task.d, self.dims + grown * self.dims_step)
        points = min(task.n, self.points + grown * self.points_step)
        return task if (dims, points) == (task.d, task.n) else Truncated(task, dims=dims, points=points)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimisation settings for any loss.

    `lr` is the peak rate, reached after a share `warmup` of the steps and then kept or lowered to 0 at the last step
    (`schedule`);
    `clip` bounds the norm of the gradient. Muon updates the matrices inside the blocks and AdamW (same rate) the rest.
    """

    steps: int = 12000
    batch: int = 32
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 8e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = 1.0
    warmup: float = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        least = {"steps": 0, "batch": 1, "weight_decay": 0}
        given = {name: getattr(self, name) for name in least}
        problems = [f"{k} must be at least {least[k]}, given {v}" for k, v in given.items() if v < least[k]]
        positive = {"lr": self.lr, "eps": self.eps, "clip": 1.0 if self.clip is None else self.clip}
        problems += [f"{k} must be positive and finite, given {v}" for k, v in positive.items() if not 0 < v < inf]
        if not self.weight_decay < inf:
            problems.append(f"weight_decay must be finite, given {self.weight_decay}")
        if not 0 <= self.warmup < 1:
            problems.append(f"warmup is a share of the steps and must lie in [0, 1), given {self.warmup}")
        if not all(0 <= b < 1 for b in self.betas):
            problems.append(f"betas must lie in [0, 1), given {self.betas}")
        refuse(type(self).__name__, problems + unknown_choices(self))

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step (0-based)."""
        warm = round(self.warmup * self.steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.lr * {"constant": 1.0, "linear": 1 - done, "cosine": (1 + cos(pi * done)) / 2}[self.schedule]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(OptimizerConfig, Learner):
    """Settings of gradient training on examples. The defaults are the fastest recipe found that uses sampled labels
    alone.

    `loss` is the squared error, for classes −1 and 1 cross-entropy, or for prompts of both kinds what fits the labels
    of each (`iclab.learning.losses`).

    `compile` makes one graph of the loss and its gradient (`iclab.learning.compiled`): twice the steps a second for
    small models on a CPU, after a minute of compiling. Where nothing can be compiled the training goes on without.
    """

    file_kind: ClassVar = "Recipe"

    targets: Literal["sampled", "posterior_mean"] = "sampled"
    curriculum: Curriculum | None = None
    compile: bool = field(default=False, repr=False, metadata={"since": "0.2"})
    loss: Loss = field(default="squared", repr=False, metadata={"since": "0.2"})

    def __post_init__(self) -> None:
        super().__post_init__()
        growing = "train.compile needs prompts of one shape; those of train.curriculum grow"
        rounded = "train.compile is for train.precision = float32"
        sampled = f"train.loss = {self.loss} is of labels as they are drawn: train.targets = sampled"
        problems = [growing] if self.compile and self.curriculum else []
        problems += [rounded] if self.compile and self.precision != "float32" else []
        refuse("TrainingConfig", problems + ([sampled] if self.loss != "squared" and self.targets != "sampled" else []))

    @property
    def curved(self) -> bool:
        return True

    def learn(self, model: nn.Module, task: Task, place: Place) -> None:
        training = Training(model, task, self, place.generator("train"))
        training.log = place.log
        place.follow(training)

    @property
    def asked(self) -> int | None:
        """Returns the number of last positions whose errors count; none where all do."""
        return 1 if self.positions == "last" else None

    def problems_for(self, task: Task, model: ModelConfig) -> list[str]:
        if isinstance(model, FrozenModelConfig):
            return [f"Recipe trains what answers prompts; {type(model).__name__} takes a query with its keys"]
        if self.targets == "posterior_mean":
            try:
                bayes(task)
            except ValueError as error:
                return [f"train.targets is posterior_mean, but {error}"]
        return label_problems(self.loss, task)


class Diverged(ArithmeticError):
    """Training left every reasonable bound, and not for a moment: the run has no result."""

    def __init__(self, step: int, loss: float) -> None:
        advice = "lower train.lr, or set train.clip" if step else "the weights are too large before any step"
        super().__init__(f"training diverged at step {step}: loss {loss:.4g}; {advice}")
        self.step, self.loss = step, loss


def loss(
    model: nn.Module,
    parameters: Parameters | None,
    prompts: Prompts,
    targets: Float[Tensor, "batch n *labels"],
    m: int | None = None,
    kind: Loss = "squared",
) -> Float[Tensor, ""]:
    """Returns the mean loss over prompts, positions (the last m alone, where given) and coordinates, as a pure function
    of the parameters; without any, with those that the model has. `m` is handed to the model, which may save the work
    for the others."""
    return _loss(model, parameters, prompts.xs, prompts.ys, targets, m, kind)


def _loss(
    model: nn.Module,
    parameters: Parameters | None,
    xs: Tensor,
    ys: Tensor,
    targets: Tensor,
    m: int | None,
    kind: Loss,
) -> Float[Tensor, ""]:
    answers = called(model, parameters, *((xs, ys) if m is None else (xs, ys, m)))
    return terms(kind, answers, targets).mean()


def called(model: nn.Module, parameters: Parameters | None, *prompts: Any) -> Tensor:
    """Returns what a model answers with other parameters; with its own where there are none."""
    return model(*prompts) if parameters is None else functional_call(model, dict(parameters), prompts)


def held_entries(model: nn.Module) -> dict[str, Bool[Tensor, "..."]]:
    """Returns which entries of the parameters of a model are held at zero, by name (see `zero_blocks`)."""
    return model.held_entries() if isinstance(model, Stack) else {}


def without_held(gradients: Parameters, held: Mapping[str, Bool[Tensor, "..."]]) -> dict[str, Tensor]:
    """Returns the gradients with zeros for entries that are held; of replicas, for those of each.

    An entry at zero whose gradient is zero in every step has moments of zero, and so stays at zero: AdamW divides each
    entry by its own moment, Muon keeps rows and columns of zeros, decay shrinks nothing, and the bound on the norm
    counts what moves alone.
    """
    return {name: g.masked_fill(held[name], 0.0) if name in held else g for name, g in gradients.items()}


class GradientTraining(ABC):
    """A model being trained. `advance` takes a step, and `advance_until` on a GPU a row of them; `save` and `resume`
    make it survive a kill. A final class draws prompts and returns their loss.

    What learns are the parameters that require a gradient; the others are frozen, and no part of a checkpoint.

    On a CPU a resumed training ends with the same bits as an uninterrupted one: the checkpoint holds parameters,
    optimizer state, the state of the prompt generator, the step, and how many losses in a row were out of bounds.
    """

    task: Any  # the distribution of its prompts, of which a final class knows more
    curriculum: Any = None

    def __init__(self, model: nn.Module, recipe: OptimizerConfig, rng: torch.Generator) -> None:
        self.model, self.recipe, self.rng = model, recipe, rng
        self.step = self.wild = 0  # steps taken; losses out of bounds in a row
        self.losses: list[float] = []  # since the last point of the curve, whose mean the next one tells
        self.mark: str | None = None  # of the curve so far
        self.pack = 1  # the most replicas that took a step of it together
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        refuse("Training", [] if self.parameters else ["no parameter of the model requires a gradient"])
        self.optimizers = _optimizers(self.parameters, recipe)
        self.flats = [flat for flats in self.optimizers.values() for flat in flats]
        self.held = held_entries(model)
        self.log: Callable[[str], None] = warnings.warn
        graphs = graphs_of(rng.device)
        self.replay = None if graphs is None else self.replayed(graphs)

    @abstractmethod
    def _draw(self) -> Sequence[Tensor]:
        """What the loss needs of fresh prompts."""

    @abstractmethod
    def _loss(self, *drawn: Tensor) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | float]:
        """The loss on what was drawn, and about what an untrained model's is."""

    def advance(self) -> float:
        """Takes one step and returns its loss. Raises `Diverged`."""
        value, usual, gradients = self._graded(self._draw())
        loss = float(value)
        self.check(loss, float(usual))
        self._update(gradients, self.recipe.rate(self.step))
        self.step += 1
        return loss

    def _graded(self, drawn: Sequence[Tensor]) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | float, Sequence[Tensor]]:
        """The loss on what was drawn, about what an untrained model's is, and the gradient of each parameter."""
        value, usual = self._loss(*drawn)
        return value.detach(), usual, torch.autograd.grad(value, list(self.parameters.values()))

    def _autocast(self) -> torch.autocast:
        """Where the model runs in the precision of the recipe."""
        return torch.autocast(self.rng.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def check(self, value: float, usual: float) -> None:
        """Counts the losses out of bounds, of a batch on which an untrained model's is about `usual`. Raises
        `Diverged`."""
        # An untrained model answers with errors of the labels' own size; a hundred times that is no longer learning,
        # unless it is the odd prompt to which linear attention, a polynomial of high degree, has a wild answer.
        self.wild = self.wild + 1 if value > 100 * usual + 1 else 0
        if self.wild > (PATIENCE if self.step else 0) or not isfinite(value):
            raise Diverged(self.step, value)

    def _update(
        self, gradients: Sequence[Tensor], rate: float | Float[Tensor, ""], skip: Bool[Tensor, ""] | None = None
    ) -> None:
        """Moves the parameters by a rate, but not where `skip` holds."""
        named = without_held(dict(zip(self.parameters, gradients, strict=True)), self.held)
        for flat in self.flats:
            flat.gather(named)
        if self.recipe.clip is not None:
            bound_norm(self.flats, self.recipe.clip)
        for flat in self.flats:
            flat.step(rate, skip)

    # ---- steps in a row --------------------------------------------------------------------------------------------

    def advance_until(self, due: Due) -> None:
        """Takes a step, or on a GPU a row of them up to the first after which a point of the curve is due, and adds
        their losses to `losses`. Raises `Diverged`, after a row with the step that diverged."""
        if self.replay is None or not self._row(self.replay, due):
            self.replay = None
            self.losses.append(self.advance())

    def _row(self, replay: Replay, due: Due) -> bool:
        """Takes a row of steps; returns whether that can be."""
        first, stage = self.step, self._stage_name(self.step)
        count = ahead(first, self.recipe.steps, lambda step: due(step) or self._stage_name(step) != stage)
        steps = range(first, first + count)
        replay.open([[[self.recipe.rate(step)]] for step in steps], [first], [self.wild], [0])
        if not replay.ready((stage, self._places())):
            return False
        for self.step in steps:
            replay.step()
        (row,) = replay.close()
        self.step, self.wild = row.step, row.wild
        self.losses += row.losses
        if row.fatal is not None or self.step == self.recipe.steps:
            self.replay = None  # and the memory of its graph is free
        if row.fatal is not None:
            raise Diverged(row.step, row.fatal)
        return True

    def replayed(self, graphs: Graphs | None = None) -> Replay:
        """Returns the step as one that is taken in rows; without graphs it is called, as a GPU would replay it."""
        return Replay(self._draw, self._learn, self._changing, [self.rng], lambda text: self.log(text), (1, 1), graphs)

    def _learn(self, drawn: Sequence[Tensor], ledger: Ledger) -> None:
        """The step after the draw, without a look at any number."""
        value, usual, gradients = self._graded(drawn)
        numbers, gone = ledger.record(value.view(1), usual)
        self._update(gradients, numbers[0, 0], gone[0])

    def _changing(self) -> list[Tensor]:
        return [each for flat in self.flats for each in (flat.theta, *flat.moments.values(), flat.count)]

    def _places(self) -> list[int]:
        """Where the weights are in memory, and where they should be."""
        firsts = [next(iter(flat.parameters.values())) for flat in self.flats]
        return [each.data_ptr() for each in (*firsts, *(flat.theta for flat in self.flats))]

    def _stage(self, step: int) -> Any:
        """The task of a step, which a curriculum may make smaller."""
        return self.curriculum.stage(self.task, step) if self.curriculum else self.task

    def _stage_name(self, step: int) -> str:
        """What stage of a curriculum a step is in; empty where there is none."""
        return repr(self._stage(step)) if self.curriculum else ""

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, path: Path, mark: str | None = None) -> None:
        """Writes a checkpoint, whole or not at all. `mark` identifies the curve to which it belongs."""
        state = {f"parameter.{name}": p.detach() for name, p in self.parameters.items()}
        state |= {f"optimizer.{key}": value for key, value in self._moments() if self.step}
        state["rng"] = self.rng.get_state()
        self.mark = mark
        metadata = {"step": self.step, "wild": self.wild, "mark": mark, "recipe": self._described()}
        metadata |= {"losses": self.losses} if self.losses else {}
        metadata |= {"pack": self.pack} if self.pack > 1 else {}
        metadata["digest"] = _digest(state, metadata)
        kept = {name: json.dumps(value) for name, value in metadata.items()}
        atomic_write(path, to_bytes({k: v.contiguous() for k, v in state.items()}, kept))

    def _described(self) -> str:
        """The recipe in words, by the name that files have for its class."""
        kind = type(self.recipe)
        return repr(self.recipe).replace(kind.__qualname__, kind_name(kind), 1)

    def resume(self, path: Path) -> None:
        """Resumes from a checkpoint of the same model, task and recipe. Raises `BrokenCheckpoint`, and changes nothing,
        where a name, a shape, a type, the step or the digest is not what `save` writes here."""
        metadata, state = _read(path, self.rng.device)
        problems = self._metadata_problems(metadata) or self._state_problems(state, metadata["step"] > 0)
        problems = problems or self._sense_problems(metadata, state)
        if problems:
            raise BrokenCheckpoint(f"{path.name}: {'; '.join(problems[:3])}")
        self.step, self.wild = metadata["step"], metadata.get("wild", 0)
        self.losses, self.mark = list(metadata.get("losses", [])), metadata.get("mark")
        self.pack = _pack(metadata)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state[f"parameter.{name}"])
        self.rng.set_state(state["rng"].cpu())
        self._restore({k.removeprefix("optimizer."): v for k, v in state.items() if k.startswith("optimizer.")})

    def _metadata_problems(self, metadata: Mapping[str, Any]) -> list[str]:
        """The problems of the counts of a checkpoint."""
        most = {"step": self.recipe.steps, "wild": PATIENCE}
        given = {"wild": 0, **metadata}
        if given.get("recipe", self._described()) != self._described():
            return [f"it is of another recipe, {given['recipe']}"]
        fits = {k: type(given.get(k)) is int and 0 <= given[k] <= most[k] for k in most}
        problems = [f"{k} must be a whole number in 0..{most[k]}, given {given.get(k)}" for k in most if not fits[k]]
        losses = given.get("losses", [])
        fits = isinstance(losses, list) and all(isinstance(one, float) and isfinite(one) for one in losses)
        return problems + ([] if fits else ["losses must be a list of finite numbers"])

    def _state_problems(self, state: Parameters, begun: bool) -> list[str]:
        """The problems of the names, shapes and types of its tensors; moments come with the first step."""
        wanted = {f"parameter.{name}": p for name, p in self.parameters.items()} | {"rng": self.rng.get_state()}
        wanted |= {f"optimizer.{key}": value for key, value in self._moments()} if begun else {}
        differing = sorted(wanted.keys() ^ state.keys())
        problems = [f"{name} is {'missing' if name in wanted else 'unknown'}" for name in differing]
        for name in wanted.keys() & state.keys():
            kinds = [(tuple(each.shape), each.dtype) for each in (wanted[name], state[name])]
            problems += [f"{name} is {kinds[1]}, not {kinds[0]}"] if kinds[0] != kinds[1] else []
        return problems

    def _sense_problems(self, metadata: Mapping[str, Any], state: Parameters) -> list[str]:
        """The problems of the values: they are those that were written, or, where no digest says so, could be."""
        if "digest" in metadata and metadata["digest"] != _digest(
            state, {k: v for k, v in metadata.items() if k != "digest"}
        ):
            return ["its content is not what was written"]
        problems = [f"{k} is not finite" for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
        problems += [f"{k} is negative" for k, v in state.items() if k.endswith(".exp_avg_sq") and (v < 0).any()]
        counts = {k: v for k, v in state.items() if k.startswith("optimizer.") and k.endswith(".step")}
        problems += [f"{k} is not the step of the checkpoint" for k, v in counts.items() if v != metadata["step"]]
        try:
            torch.Generator(self.rng.device).set_state(state["rng"].cpu())
        except RuntimeError:
            problems.append("rng is no state of a generator")
        return problems

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        """The moments and the count of each parameter by names, of which there is something to keep from the first step
        on; all but the counts are views."""
        for kind, flats in self.optimizers.items():
            places = {name: i for i, name in enumerate(_owned(flats, self.parameters))}
            for flat in flats:
                for key, moment in flat.moments.items():
                    for name, part in zip(flat.parameters, flat.parts(moment), strict=True):
                        yield f"{kind}.{places[name]}.{key}", part
                for name in flat.parameters if flat.counted else ():
                    yield f"{kind}.{places[name]}.step", flat.count.clone()

    def _restore(self, moments: Mapping[str, Tensor]) -> None:
        for name, part in self._moments() if moments else ():
            part.copy_(moments[name])
        for flat in self.flats:
            flat.count.fill_(self.step)


class BrokenCheckpoint(UsageError):
    """A file that is no checkpoint of the training that should go on from it."""


def step_of(path: Path) -> int:
    """Returns the step of a checkpoint; 0 where there is none."""
    try:
        step = _read(path)[0].get("step")
    except (BrokenCheckpoint, FileNotFoundError):
        return 0
    return step if isinstance(step, int) else 0


def pack_of(path: Path) -> int:
    """Returns how many replicas took the steps of a checkpoint together; 1 where they were taken alone, or there is no
    checkpoint."""
    try:
        return _pack(_read(path)[0])
    except (BrokenCheckpoint, FileNotFoundError):
        return 1


def _pack(metadata: Mapping[str, Any]) -> int:
    pack = metadata.get("pack")
    return pack if isinstance(pack, int) else 1


def mark_of(path: Path) -> str | None:
    """Returns the mark of the curve to which a checkpoint belongs, if it has one."""
    try:
        mark = _read(path)[0].get("mark")
    except BrokenCheckpoint:
        return None
    return mark if isinstance(mark, str) else None


def _read(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata of a checkpoint, and its tensors. Raises `BrokenCheckpoint`."""
    try:
        with open_weights(path, str(device)) as file:
            metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (ValueError, RecursionError, RuntimeError) as error:
        raise BrokenCheckpoint(f"{path.name}: {error}") from None


def _digest(state: Parameters, metadata: Mapping[str, Any]) -> str:
    """Stands for all that a checkpoint holds."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Training(GradientTraining):
    """The training of one model on one task of examples."""

    def __init__(self, model: nn.Module, task: Task, recipe: TrainingConfig, rng: torch.Generator) -> None:
        super().__init__(model, recipe, rng)
        refuse("Training", label_problems(recipe.loss, task))
        self.task, self.asked, self.curriculum = task, recipe.asked, recipe.curriculum
        self.kind: Loss = recipe.loss
        # Made here, so that a task that has none is refused before the first step.
        self.teacher = bayes(task) if recipe.targets == "posterior_mean" else None
        self.graph = graph_of(model, self.flats, self.asked, self.kind) if recipe.compile else None
        self.replay = self.replay if self.graph is None else None  # a compiler has graphs of its own

    def _draw(self) -> Sequence[Tensor]:
        prompts = self._stage(self.step).sample(self.recipe.batch, self.rng)
        return prompts.xs, prompts.ys, self._targets(prompts)

    def _loss(self, *drawn: Tensor) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        xs, ys, targets = drawn
        with self._autocast():
            value = _loss(self.model, None, xs, ys, targets, self.asked, self.kind)
        return value, targets.square().mean()

    def _graded(self, drawn: Sequence[Tensor]) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | float, Sequence[Tensor]]:
        if self.graph is None:
            return super()._graded(drawn)
        try:
            vectors, value = self.graph([flat.theta for flat in self.flats], *drawn)
        except Exception as error:  # whatever a compiler raises, or what it is made of
            self.graph = None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.log(f"train.compile: goes on without, for nothing could be compiled: {reason}")
            return super()._graded(drawn)
        gradients = named(self.flats, vectors)
        return value, drawn[-1].square().mean(), [gradients[name] for name in self.parameters]

    def _described(self) -> str:
        return super()._described() + ("" if self.kind == "squared" else f", loss {self.kind}")

    def _targets(self, prompts: Prompts) -> Float[Tensor, "batch n *labels"]:
        return prompts.ys if self.teacher is None else self.teacher(prompts.xs, prompts.ys)


def _optimizers(parameters: Mapping[str, nn.Parameter], recipe: OptimizerConfig) -> dict[str, list[Flat]]:
    """The parameters by the name of the optimizer that has this share of them."""
    matrices = {name: p for name, p in parameters.items() if p.ndim == 2 and ".blocks." in f".{name}"}
    inside = matrices if recipe.optimizer == "muon" else {}
    rest = {name: p for name, p in parameters.items() if name not in inside}
    adamw = flattened(rest, lambda some: AdamW(some, recipe.betas, recipe.eps, recipe.weight_decay))
    muon = flattened(inside, lambda some: Muon(some, recipe.weight_decay), shaped=True)
    return {"adamw": adamw} | ({"muon": muon} if muon else {})


def _owned(flats: Sequence[Flat], parameters: Mapping[str, Tensor]) -> list[str]:
    """The parameters that an optimizer has, in the order in which a checkpoint counts them: that of the model, and
    that of the alphabet for matrices, which are grouped by shape."""
    names = {name for flat in flats for name in flat.parameters}
    return sorted(names) if isinstance(flats[0], Muon) else [name for name in parameters if name in names]


def train(
    model: nn.Module,
    task: Task,
    recipe: TrainingConfig | None = None,
    rng: torch.Generator | None = None,
    progress: Callable[[int, float], None] | bool = False,
) -> nn.Module:
    """Trains `model` in place for all steps of the recipe and returns it: the one-liner for notebooks.

    Args:
        model: The predictor, trained in place.
        task: The distribution of the training prompts.
        recipe: Steps, batch, learning rate and schedule; the default trains small models in seconds.
        rng: The source of the prompts; seed 0 by default.
        progress: True draws a bar with step, loss and time left; a function is called with the step and the loss after
            each step.

    >>> from iclab.analysis import answer, excess
    >>> from iclab.models import Transformer, TransformerConfig
    >>> from iclab.tasks import LinearRegression
    >>> from iclab.theory.posterior import bayes
    >>> task, rng = LinearRegression(d=1, n=3, noise=0.5), torch.Generator().manual_seed(0)
    >>> model = Transformer(1, 3, TransformerConfig(n_layer=1, d_model=8, n_head=1), rng)
    >>> prompts = task.sample(256, torch.Generator().manual_seed(1))
    >>> def distance():
    ...     answers = answer({"model": model, "bayes": bayes(task)}, prompts)
    ...     return excess(answers["model"], answers["bayes"], prompts.ys).value
    >>> before = distance()
    >>> model = train(model, task, TrainingConfig(steps=40), rng)
    >>> bool(distance() < before)
    True
    """
    training = Training(model, task, recipe or TrainingConfig(), rng or torch.Generator().manual_seed(0))
    with bar(training.recipe.steps) if progress is True else nullcontext() as drawn:
        while training.step < training.recipe.steps:
            step, loss = training.step, training.advance()
            if drawn is not None:
                drawn(training.step, "train", f"loss {loss:.4g}")
            elif callable(progress):
                progress(step, loss)
    return model


__getattr__ = old_names(__name__, Recipe="TrainingConfig", Descent="OptimizerConfig")
