"""Ridge regression with an intercept, of features or in a kernel, for all targets and penalties at once.

    min ½ Σ (f(X) − y)² + ½ λ ‖f − b‖²_K,        K(X, X') = (1/M) φ(X)·φ(X'),  ‖f − b‖²_K = M |v|² for f = b + φ·v

    dual     f = b + K(·, X) α,   α = (HKH + λI)⁻¹ H y          H = I − 11ᵀ/n takes the mean away
    primal   f = b + φ·v,         v = (Φᵀ H Φ / M + λI)⁻¹ Φᵀ H y / M

which are the same function. This intercept is free of any penalty. With ``intercept="mean"`` it is the mean label and
the kernel stays as it is (H is left out but for Hy): functions of the kernel must then undo their own mean, which costs
many inputs where that is large beside their variation, as for BRFA on ⟨x_0, x_i⟩.

One eigendecomposition gives every penalty and every target. With fewer inputs than features the dual is the cheaper
one, else the primal; features are formed some heads (some inputs) at a time and never kept, so that memory is that of
one n × n or p × p matrix.

Penalties are given relative to tr(HKH)/n, so that they can be compared between numbers of inputs and of heads. For each
target the one with the least error on held-out inputs is chosen, and the fit is made again to all of them.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclab.errors import refuse, unknown_choices
from iclab.learning.training import Learner, Place
from iclab.models import FrozenModelConfig, ModelConfig, RandomFeatures
from iclab.predictors import Kernel
from iclab.tasks import QueryAndKeys, Task

PENALTIES = tuple(10 ** (k / 2) for k in range(-18, 5))
# Below so many inputs for each feature single precision moves errors by less than 2 %, and most by less than 0.1 %.
FLOAT32_BELOW = 0.25
Intercept = Literal["free", "mean"]
CHUNK = 2**24  # features that are formed at once where all heads of some inputs are


@dataclass(frozen=True, eq=False)
class Chosen:
    """The outcome of a fit for each target: a relative penalty, and the mean squared error on the inputs held out."""

    penalty: Float[Tensor, " targets"]
    error: Float[Tensor, " targets"]


@dataclass(frozen=True, eq=False)
class Solver:
    """The ridge solutions of all penalties: predictions are rows·w + b with w = U (e + λ)⁻¹ `moment`, and
    b = ȳ − mean_row·w. A row holds K(X, X_j) in the dual, and φ(X)/√M in the primal."""

    values: Float[Tensor, " p"]
    vectors: Float[Tensor, "p p"]
    moment: Float[Tensor, "p targets"]
    mean_row: Float[Tensor, " p"]
    mean_label: Float[Tensor, " targets"]
    unit: float

    @classmethod
    def dual(cls, gram: Float[Tensor, "n n"], ys: Float[Tensor, "n targets"], intercept: Intercept) -> "Solver":
        """Makes a solver from the kernel between the inputs of the fit."""
        means, mean = gram.mean(0) * (intercept == "free"), ys.mean(0)
        values, vectors = torch.linalg.eigh(gram - means - means.unsqueeze(1) + means.mean())
        return cls(values.clamp(min=0), vectors, vectors.mT @ (ys - mean), means, mean, _unit(values, len(gram)))

    @classmethod
    def primal(cls, sums: "Sums", intercept: Intercept) -> "Solver":
        """Makes a solver from sums over the inputs of the fit."""
        label, moment = sums.label / sums.count, sums.moment - torch.outer(sums.row, sums.label / sums.count)
        row = sums.row / sums.count * (intercept == "free")
        values, vectors = torch.linalg.eigh(sums.second - sums.count * torch.outer(row, row))
        return cls(values.clamp(min=0), vectors, vectors.mT @ moment, row, label, _unit(values, sums.count))

    def solve(
        self, penalties: Float[Tensor, " targets"]
    ) -> tuple[Float[Tensor, "p targets"], Float[Tensor, " targets"]]:
        """Returns w and b, each target with its own relative penalty."""
        ws = self.vectors @ (self.moment / (self.values.unsqueeze(1) + self.unit * penalties))
        return ws, self.mean_label - self.mean_row @ ws

    def squared_errors(
        self, rows: Float[Tensor, "m p"], ys: Float[Tensor, "m targets"], penalties: Sequence[float]
    ) -> Float[Tensor, "penalties targets"]:
        """Returns Σ (f(X) − y)² over other inputs, for each relative penalty."""
        turned = (rows - self.mean_row) @ self.vectors
        each = (turned @ (self.moment / (self.values.unsqueeze(1) + self.unit * penalty)) for penalty in penalties)
        return torch.stack([(answers + self.mean_label - ys).square().sum(0) for answers in each])


def _unit(values: Float[Tensor, " p"], count: int) -> float:
    """What penalties are relative to: tr(HKH)/n."""
    return values.sum().item() / count


@dataclass(eq=False)
class Sums:
    """Sums over inputs of a row r and labels y: Σ r rᵀ, Σ r yᵀ, Σ r, Σ y and their number."""

    second: Float[Tensor, "p p"]
    moment: Float[Tensor, "p targets"]
    row: Float[Tensor, " p"]
    label: Float[Tensor, " targets"]
    count: int = 0

    @classmethod
    def zero(cls, p: int, targets: int, device: torch.device) -> "Sums":
        """Returns the sums of no inputs yet."""
        shapes = ((p, p), (p, targets), (p,), (targets,))
        second, moment, row, label = (torch.zeros(*shape, dtype=torch.float64, device=device) for shape in shapes)
        return cls(second, moment, row, label)

    def add(self, rows: Float[Tensor, "m p"], ys: Float[Tensor, "m targets"]) -> None:
        """Counts more inputs in."""
        self.second.addmm_(rows.mT, rows)
        self.moment.addmm_(rows.mT, ys)
        self.row += rows.sum(0)
        self.label += ys.sum(0)
        self.count += len(rows)


# ---- models --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def fit(
    model: RandomFeatures,
    xs: Float[Tensor, "n tokens d"],
    ys: Float[Tensor, "n targets"],
    validation: float = 0.2,
    penalties: Sequence[float] = PENALTIES,
    intercept: Intercept = "free",
) -> Chosen:
    """Fits values and intercept of a frozen model in place. The last inputs, `validation` of them, choose the penalty.

    Raises ``ValueError`` where nothing would be left to fit, or to choose by.
    """
    kept = _split(len(xs), validation, penalties)
    ys = ys.double()
    xs = xs.to(_precision(model, len(xs)))
    solve = _fit_dual if len(xs) <= model.size else _fit_primal
    values, offset, chosen = solve(model, xs, ys, kept, penalties, intercept)
    model.values, model.intercept = nn.Parameter(values), nn.Parameter(offset)
    return chosen


Fitted = tuple[Float[Tensor, "p targets"], Float[Tensor, " targets"], Chosen]


def _fit_dual(
    model: RandomFeatures, xs: Tensor, ys: Tensor, kept: int, penalties: Sequence[float], intercept: Intercept
) -> Fitted:
    alphas, offset, chosen = _solve_dual(model.kernel(xs), ys, kept, penalties, intercept)
    values = torch.zeros(model.size, ys.shape[1], dtype=torch.float64, device=xs.device)
    for heads in model.chunks(len(xs)):
        values[model.rows(heads)] = model.features(xs, model.weights[heads]).double().mT @ alphas / model.heads
    return values, offset, chosen


def _solve_dual(
    gram: Float[Tensor, "n n"],
    ys: Float[Tensor, "n targets"],
    kept: int,
    penalties: Sequence[float],
    intercept: Intercept,
) -> Fitted:
    """α and b of all inputs, with the penalties that the first `kept` of them choose by the others."""
    part = Solver.dual(gram[:kept, :kept], ys[:kept], intercept)
    chosen = _choose(part.squared_errors(gram[kept:, :kept], ys[kept:], penalties), penalties, len(gram) - kept)
    return *Solver.dual(gram, ys, intercept).solve(chosen.penalty), chosen


def _fit_primal(
    model: RandomFeatures, xs: Tensor, ys: Tensor, kept: int, penalties: Sequence[float], intercept: Intercept
) -> Fitted:
    sums = Sums.zero(model.size, ys.shape[1], xs.device)
    for rows, some in _rows(model, xs[:kept], ys[:kept]):
        sums.add(rows, some)
    part = Solver.primal(sums, intercept)
    errors = torch.zeros(len(penalties), ys.shape[1], dtype=torch.float64, device=xs.device)
    for rows, some in _rows(model, xs[kept:], ys[kept:]):
        errors += part.squared_errors(rows, some, penalties)
        sums.add(rows, some)
    chosen = _choose(errors, penalties, len(xs) - kept)
    ws, offset = Solver.primal(sums, intercept).solve(chosen.penalty)
    return ws / model.heads**0.5, offset, chosen


def _rows(model: RandomFeatures, xs: Tensor, ys: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """φ(X)/√M of all heads and the labels, some inputs at a time."""
    step = max(1, CHUNK // (model.heads * model.cost))
    return (
        (model.features(some).double() / model.heads**0.5, labels)
        for some, labels in zip(xs.split(step), ys.split(step), strict=True)
    )


def _choose(errors: Float[Tensor, "penalties targets"], penalties: Sequence[float], count: int) -> Chosen:
    best, at = errors.min(0)
    return Chosen(torch.tensor(penalties, dtype=errors.dtype, device=errors.device)[at], best / count)


def _split(n: int, validation: float, penalties: Sequence[float]) -> int:
    """How many inputs are fitted before the penalty is chosen."""
    held = round(n * validation)
    problems = [] if 0 < held < n - 1 else [f"validation of {validation} holds {held} of {n} inputs out"]
    problems += [] if penalties and min(penalties) > 0 else [f"penalties must be positive, given {list(penalties)}"]
    refuse("fit", problems)
    return n - held


# ---- kernels -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class KernelRidge:
    """f(X) = b + Σ_j K(X, X_j) α_j for several targets: what a frozen model tends to with its number of heads."""

    kernel: Kernel
    xs: Float[Tensor, "n tokens d"]
    alphas: Float[Tensor, "n targets"]
    intercept: Float[Tensor, " targets"]
    chosen: Chosen

    @classmethod
    def fit(
        cls,
        kernel: Kernel,
        xs: Float[Tensor, "n tokens d"],
        ys: Float[Tensor, "n targets"],
        validation: float = 0.2,
        penalties: Sequence[float] = PENALTIES,
        intercept: Intercept = "free",
    ) -> "KernelRidge":
        """Fits as a frozen model is fitted."""
        kept = _split(len(xs), validation, penalties)
        return cls(kernel, xs, *_solve_dual(kernel(xs), ys.double(), kept, penalties, intercept))

    def __call__(self, xs: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch targets"]:
        """The answers for every target, float64."""
        return self.kernel(xs, self.xs) @ self.alphas + self.intercept


# ---- learning curves -----------------------------------------------------------------------------------------------


@torch.no_grad()
def answers_by_size(
    gram: Float[Tensor, "n n"],
    ys: Float[Tensor, "n targets"],
    rows: Float[Tensor, "m n"],
    sizes: Sequence[int],
    validation: float = 0.2,
    penalties: Sequence[float] = PENALTIES,
    intercept: Intercept = "free",
) -> Float[Tensor, "sizes m targets"]:
    """Returns f(X) on other inputs, whose kernel with the training inputs is `rows`, after the first n of these for
    each n of `sizes`: one Gram matrix serves all."""
    answers = []
    for n in sizes:
        kept = _split(n, validation, penalties)
        alphas, offset, _ = _solve_dual(gram[:n, :n], ys[:n].double(), kept, penalties, intercept)
        answers.append(rows[:, :n] @ alphas + offset)
    return torch.stack(answers)


@torch.no_grad()
def least_errors(
    gram: Float[Tensor, "n n"],
    ys: Float[Tensor, "n targets"],
    rows: Float[Tensor, "m n"],
    test_ys: Float[Tensor, "m targets"],
    sizes: Sequence[int],
    penalties: Sequence[float] = PENALTIES,
    intercept: Intercept = "free",
) -> Float[Tensor, "sizes targets"]:
    """Returns E(f(X) − y)² / Var y with the penalties that are best on the test inputs, which no learner could know: it
    flatters, and is meant for comparison with theory."""
    solvers = (Solver.dual(gram[:n, :n], ys[:n].double(), intercept) for n in sizes)
    errors = (
        solver.squared_errors(rows[:, :n], test_ys.double(), penalties).min(0).values
        for n, solver in zip(sizes, solvers, strict=True)
    )
    return torch.stack(list(errors)) / len(rows) / test_ys.double().var(0, correction=0)


@dataclass(frozen=True, kw_only=True)
class FrozenLearner(Learner):
    """Learning with frozen weights on `QueryAndKeys`. `beside` are further models, by name, with weights of their
    own. All is about one query and its keys, so that `positions` has no effect."""

    beside: tuple[tuple[str, FrozenModelConfig], ...] = ()

    def __post_init__(self) -> None:
        refuse(type(self).__name__, unknown_choices(self) + self._problems())

    @abstractmethod
    def _problems(self) -> list[str]:
        """The problems of these settings."""

    @property
    def frozen(self) -> bool:
        return True

    def learn(self, model: object, task: Task, place: Place) -> None:
        """Leaves the model as it was drawn: what is learned on its features is measured (`iclab.measures`)."""

    def problems_for(self, task: Task, model: ModelConfig) -> list[str]:
        name = type(self).__name__
        problems = (
            [] if isinstance(task, QueryAndKeys) else [f"{name} is about QueryAndKeys, given {type(task).__name__}"]
        )
        frozen = isinstance(model, FrozenModelConfig)
        return problems + ([] if frozen else [f"{name} needs a model of random features, given {type(model).__name__}"])


@dataclass(frozen=True, kw_only=True)
class Unlearned(FrozenLearner):
    """Nothing is learned: features are measured as they were drawn, for their sensitivity to a word."""

    def _problems(self) -> list[str]:
        return []


@dataclass(frozen=True, kw_only=True)
class CurveLearner(FrozenLearner):
    """Learns every target from the first n of a sample, for each n of `sizes`: a learning curve.

    The last inputs it has, a share `validation`, are held out to choose by. The curve is averaged over so many `draws`
    of the sample and of the models' weights. With `doublings` all is learned again where d, and where the number of
    keys, is twice as large.
    """

    sizes: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    validation: float = 0.2
    draws: int = 1
    doublings: bool = False

    def _problems(self) -> list[str]:
        rising = bool(self.sizes) and min(self.sizes) >= 5 and sorted(set(self.sizes)) == list(self.sizes)
        problems = [] if rising else [f"sizes must rise from 5 or more, given {list(self.sizes)}"]
        problems += [] if self.draws >= 1 else [f"draws must be at least 1, given {self.draws}"]
        fits = [0 < round(n * self.validation) < n - 1 for n in self.sizes]
        return problems + (
            [] if all(fits) else [f"validation of {self.validation} leaves nothing of {list(self.sizes)}"]
        )

    @property
    def for_others(self) -> "CurveLearner":
        """Returns the learner of the auxiliary models."""
        return self

    @abstractmethod
    def answers(
        self,
        model: RandomFeatures,
        xs: Float[Tensor, "n tokens d"],
        ys: Float[Tensor, "n targets"],
        others: Float[Tensor, "m tokens d"],
    ) -> Float[Tensor, "sizes m targets"]:
        """Returns the answers for other inputs, float64, by the number of inputs that were learned from."""


@dataclass(frozen=True, kw_only=True)
class FrozenRidge(CurveLearner):
    """Ridge regression on the features of frozen weights, its penalty chosen on the inputs held out and then fitted to
    all of them. In float32 where there are many more features than inputs."""

    intercept: Intercept = "free"

    def answers(
        self,
        model: RandomFeatures,
        xs: Float[Tensor, "n tokens d"],
        ys: Float[Tensor, "n targets"],
        others: Float[Tensor, "m tokens d"],
    ) -> Float[Tensor, "sizes m targets"]:
        xs, others = (x.to(_precision(model, len(xs))) for x in (xs, others))
        gram, rows = model.with_others(xs, others).split([len(xs), len(others)])
        return answers_by_size(gram, ys, rows, self.sizes, self.validation, intercept=self.intercept)


def _precision(model: RandomFeatures, n: int) -> torch.dtype:
    """That of the features of n inputs."""
    return torch.float32 if n < FLOAT32_BELOW * model.size else torch.float64
