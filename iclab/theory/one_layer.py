"""The optimum of one layer of linear attention: one step of gradient descent, with the best preconditioner.

Such a layer answers, up to terms that training removes, ŷ = x_qᵀ A (1/m) Σ_{j<m} y_j x_j. With h = Σ_{j<m} y_j x_j,
S = E w wᵀ, Λ = E x xᵀ and the fourth moment M(S) = E (xᵀSx) x xᵀ of the inputs,

    E h wᵀ = m Λ S,    E h hᵀ = m (M(S) + (m − 1) Λ S Λ + σ² Λ) =: m H_m,

and the risk E(ŷ − y)² = tr Λ(A H_m Aᵀ/m − A Λ S − S Λ Aᵀ + S) + σ² is least for

    A = m S Λ H_m⁻¹                              the matrix
    A = a I,  a = m tr(Λ² S) / tr(Λ H_m)         the single step size (lr = a/m on the gradient of ½‖Xw − y‖²).

For normal inputs and S = τ² I the first is Γ⁻¹, Γ = (1 + 1/m) Λ + (tr Λ + σ²/τ²)/m · I.

Sources: Zhang, Frei, Bartlett 2023, arXiv 2306.09927, Thm 4.1 (without noise); Wu et al. 2023, arXiv 2310.08391
(with noise); Mahankali et al. 2023, arXiv 2307.03576, and Ahn et al. 2023, arXiv 2306.00297 (S = Λ⁻¹: A ∝ Λ⁻¹);
von Oswald et al. 2022, arXiv 2212.07677 (the step size, found by search). The general input distribution is this
project's.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors import GradientDescent
from iclab.tasks import Task
from iclab.theory.posterior import weight_covariance


def best_step(task: Task, m: Float[Tensor, "*m"]) -> Float[Tensor, "*m"]:
    """Returns lr = tr(Λ² S) / tr(Λ H_m), the best size of a single step on the sum objective after m examples.

    >>> from iclab.tasks import LinearRegression
    >>> best_step(LinearRegression(d=3, n=9), torch.tensor([1.0, 4.0]))  # 1/(m + d + 1) without noise
    tensor([0.2000, 0.1250])
    """
    Λ, ΛSΛ, moment = _moments(task)
    return ΛSΛ.trace() / ((Λ @ moment).trace() + (m - 1) * (Λ @ ΛSΛ).trace())


def best_preconditioner(task: Task, m: int) -> Float[Tensor, "d d"]:
    """Returns A = m S Λ H_m⁻¹ (the pseudoinverse where inputs do not span the space). Raises ``ValueError`` for m <
    1."""
    refuse("best_preconditioner", [] if m >= 1 else [f"needs at least one example, given {m}"])
    Λ, ΛSΛ, moment = _moments(task)
    H = moment + (m - 1) * ΛSΛ
    return m * weight_covariance(task) @ Λ @ torch.linalg.pinv(H, hermitian=True)


def one_layer_optimum(task: Task, m: int, n: int | None = None) -> GradientDescent:
    """Returns the best predictor of one linear-attention layer that is trained with m examples, at every position i of
    prompts of n (the task's, unless given): ŷ_i = x_iᵀ A (1/i) Σ_{j<i} y_j x_j with the A that is best after m."""
    lr = 1 / torch.arange(n or task.n, dtype=torch.float64).clamp(min=1)
    return GradientDescent(1, lr, best_preconditioner(task, m))


def one_layer_risk(task: Task, A: Float[Tensor, "d d"], m: Float[Tensor, "*m"]) -> Float[Tensor, "*m"]:
    """Returns E(ŷ − y)² of ŷ = x_qᵀ A (1/m) Σ y_j x_j after m ≥ 1 examples, label noise included."""
    Λ, ΛSΛ, moment = _moments(task)
    S, A = weight_covariance(task), A.double()
    once, fixed = (A.mT @ Λ @ A * (moment - ΛSΛ)).sum(), (A.mT @ Λ @ A * ΛSΛ).sum()
    return once / m + fixed - 2 * (A * (Λ @ S @ Λ)).sum() + (Λ * S).sum() + task.noise**2


def _moments(task: Task) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Λ, Λ S Λ and M(S) + σ² Λ."""
    Λ, S = task.input_second_moment(), weight_covariance(task)
    return Λ, Λ @ S @ Λ, task.input_fourth_moment(S) + task.noise**2 * Λ
