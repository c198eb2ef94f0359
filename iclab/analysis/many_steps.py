"""What several layers of linear attention do at best if each is one step of preconditioned gradient descent.

With w ~ N(0, Λ⁻¹) and normal inputs every direction is alike in the coordinates Λ^(−½) x, and the best matrices of k
steps on the mean objective are A_l = a_l Λ⁻¹ (Ahn et al. 2023, arXiv 2306.00297, Thm 3: such are critical points):

    w ← w + a_l Λ⁻¹ (1/m) Σ_j (y_j − w·x_j) x_j,      (a_1, …, a_k) = argmin E (w·x_q − y_q)².

The risk is a polynomial in the a_l, over prompts that are drawn for this alone. One search (L-BFGS) finds a minimum; it
starts below the best single step, and from different a_l, since they are alike and would stay equal.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.one_layer import best_step
from iclab.errors import refuse
from iclab.predictors import GradientDescent
from iclab.tasks import Task, WhitenedLinearRegression


def best_descent(task: Task, steps: int, rng: torch.Generator, prompts: int = 8192) -> GradientDescent:
    """k steps with the best A_l = a_l Λ⁻¹ for prompts whose query is last, fitted to `prompts` of them. Raises
    ``ValueError`` where functions are not whitened: nothing is known there of the best matrices."""
    whitened = isinstance(task, WhitenedLinearRegression)
    refuse("best_descent", [] if whitened else [f"needs a WhitenedLinearRegression, given {type(task).__name__}"])
    drawn, inverse = task.sample(prompts, rng, torch.float64), torch.linalg.inv(task.input_second_moment())
    unit = best_step(task, torch.tensor(task.n - 1.0)) * task.input_second_moment().trace() / task.d
    spread = torch.linspace(0.5, 1.0, steps, dtype=torch.float64)
    sizes = ((task.n - 1) * unit * spread).requires_grad_()
    xs, ys, asked = drawn.xs[:, :-1], drawn.ys[:, :-1], drawn.xs[:, -1]

    def risk() -> Tensor:
        return ((_descended(xs, ys, sizes, inverse) * asked).sum(-1) - drawn.ys[:, -1]).square().mean()

    _minimise(risk, sizes)
    lr = 1 / torch.arange(task.n, dtype=torch.float64).clamp(min=1)
    return GradientDescent(steps, lr, sizes.detach()[:, None, None] * inverse)


def _descended(
    xs: Float[Tensor, "batch m d"], ys: Float[Tensor, "batch m"], sizes: Float[Tensor, " k"], P: Float[Tensor, "d d"]
) -> Float[Tensor, "batch d"]:
    ws = torch.zeros_like(xs[:, 0])
    for a in sizes:
        residuals = ys - (xs @ ws.unsqueeze(-1)).squeeze(-1)
        ws = ws + a * (residuals.unsqueeze(1) @ xs).squeeze(1) @ P.mT / xs.shape[1]
    return ws


def _minimise(risk: Callable[[], Tensor], sizes: Float[Tensor, " k"]) -> None:
    search = torch.optim.LBFGS([sizes], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        value = risk()
        value.backward()
        return value

    search.step(closure)  # pyright: ignore[reportArgumentType]  (a tensor is as good as the float it asks for)
