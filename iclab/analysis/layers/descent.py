"""Steps of gradient descent with the best constants, and the constants that a model's weights spell out.

The best. For k steps of GD++ (von Oswald et al. 2022, arXiv 2212.07677, §3) on the n − 1 examples before the query,

    (lr, γ) = argmin E (w_k(lr, γ)·x_q − y_q)²,      γ = 0 for plain gradient descent,

over prompts that are drawn for this alone. A risk is a polynomial in both, and one search (L-BFGS) from the best single
step and γ = 0 finds its minimum.

Read off. Where a model is one layer t ← t + Σ_j (tᵀ S t_j) O t_j, repeated, on tokens t = (x, y, ·), and β is the mean
of S_cc over the channels c of x,

    lr = −O_yy β,        γ_c = −O_cc β,        γ = the mean of γ_c over the channels of x:

what the construction of that paper has there, in any scale of S and O. The spread of the γ_c shows how far γ I is what
the weights hold. Both are in the units of a sum over the examples.

Preconditioned. With w ~ N(0, Λ⁻¹) and normal inputs every direction is alike in the coordinates Λ^(−½) x, and the best
matrices of k steps on the mean objective are A_l = a_l Λ⁻¹ (Ahn et al. 2023, arXiv 2306.00297, Thm 3: such are critical
points):

    w ← w + a_l Λ⁻¹ (1/m) Σ_j (y_j − w·x_j) x_j,      (a_1, …, a_k) = argmin E (w·x_q − y_q)².

The same search starts below the best single step, and from different a_l, since they are alike and would stay equal.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.layers.interpolation import products
from iclab.analysis.risk import Estimate, estimate
from iclab.errors import refuse
from iclab.models import Transformer
from iclab.predictors import GradientDescent, GradientDescentPlusPlus
from iclab.predictors.gradient import descended
from iclab.tasks import Prompts, Task, WhitenedLinearRegression
from iclab.theory.one_layer import best_step


@dataclass(frozen=True)
class Constants:
    """The step size and the contraction of GD++, in the units of a sum over examples."""

    lr: Estimate
    gamma: Estimate


def read_off(model: Transformer) -> Constants:
    """Returns lr and γ as read off the weights of a model, with the standard error of a mean over the channels of x.
    Raises ``ValueError`` for a model that is not one layer of linear attention on bare tokens, repeated."""
    d, matrices = model.d, products(model).rescaled(model.d)
    sign = 1 if model.config.negated else -1
    examples = model.n - 1
    count = {"none": 1, "seen": examples, "longest": model.longest}[model.config.normaliser]
    O = matrices.O.diagonal() / count  # noqa: E741
    return Constants(Estimate(-sign * O[d], (O[d] * matrices.S.diagonal()[:d].std() / d**0.5).abs()), estimate(-O[:d]))


def tuned_descent(
    task: Task, steps: int, rng: torch.Generator, contracting: bool = False, prompts: int = 16384
) -> GradientDescentPlusPlus:
    """Returns `steps` steps with the constants that are best at the query of a task: plain gradient descent (γ = 0), or
    GD++ where `contracting`. They are fitted to `prompts` prompts."""
    drawn = task.sample(prompts, rng, torch.float64)
    unit = float(best_step(task, torch.tensor(task.n - 1.0)))
    gram, h = _context(drawn)
    shares = torch.tensor([1.0, 0.0][: 1 + contracting], dtype=torch.float64, requires_grad=True)

    def constants() -> tuple[Tensor, Tensor]:
        return unit * shares[0], unit * (shares[1] if contracting else torch.zeros(()))

    def risk() -> Tensor:
        ws = descended(gram, h, steps, *constants())
        return ((ws * drawn.xs[:, -1]).sum(-1) - drawn.ys[:, -1]).square().mean()

    _minimise(risk, shares)
    lr, gamma = constants()
    return GradientDescentPlusPlus(steps, lr.item(), gamma.item())


def _context(drawn: Prompts) -> tuple[Float[Tensor, "batch d d"], Float[Tensor, "batch d"]]:
    """G = XᵀX and h = Xᵀy of the examples before the last."""
    xs, ys = drawn.xs[:, :-1], drawn.ys[:, :-1]
    return xs.mT @ xs, (ys.unsqueeze(1) @ xs).squeeze(1)


def best_descent(task: Task, steps: int, rng: torch.Generator, prompts: int = 8192) -> GradientDescent:
    """Returns k steps with the best A_l = a_l Λ⁻¹ for prompts whose query is last, fitted to `prompts` of them. Raises
    ``ValueError`` where functions are not whitened: nothing is known there of the best matrices."""
    whitened = isinstance(task, WhitenedLinearRegression)
    refuse("best_descent", [] if whitened else [f"needs a WhitenedLinearRegression, given {type(task).__name__}"])
    drawn, inverse = task.sample(prompts, rng, torch.float64), torch.linalg.inv(task.input_second_moment())
    unit = best_step(task, torch.tensor(task.n - 1.0)) * task.input_second_moment().trace() / task.d
    spread = torch.linspace(0.5, 1.0, steps, dtype=torch.float64)
    sizes = ((task.n - 1) * unit * spread).requires_grad_()
    xs, ys, queries = drawn.xs[:, :-1], drawn.ys[:, :-1], drawn.xs[:, -1]

    def risk() -> Tensor:
        return ((_preconditioned(xs, ys, sizes, inverse) * queries).sum(-1) - drawn.ys[:, -1]).square().mean()

    _minimise(risk, sizes)
    lr = 1 / torch.arange(task.n, dtype=torch.float64).clamp(min=1)
    return GradientDescent(steps, lr, sizes.detach()[:, None, None] * inverse)


def _preconditioned(
    xs: Float[Tensor, "batch m d"], ys: Float[Tensor, "batch m"], sizes: Float[Tensor, " k"], P: Float[Tensor, "d d"]
) -> Float[Tensor, "batch d"]:
    ws = torch.zeros_like(xs[:, 0])
    for a in sizes:
        residuals = ys - (xs @ ws.unsqueeze(-1)).squeeze(-1)
        ws = ws + a * (residuals.unsqueeze(1) @ xs).squeeze(1) @ P.mT / xs.shape[1]
    return ws


def _minimise(risk: Callable[[], Tensor], shares: Tensor) -> None:
    """Moves `shares` to the minimum nearest to where they are. A risk counts in units of the first one: when the search
    has come to its end must not depend on the unit of labels."""
    with torch.no_grad():
        first = risk()
        first = torch.where(first > 0, first, 1.0)
    search = torch.optim.LBFGS([shares], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        shares.grad = None
        value = risk() / first
        value.backward()
        return value

    search.step(closure)  # pyright: ignore[reportArgumentType]  (a tensor is as good as the float it asks for)
