"""Fu, Chen, Jia, Sharan 2023 (arXiv 2310.17086), Theorem 5.1: Newton's iteration for least squares, by ReLU attention.

With S = Σ x_j x_jᵀ over the examples,

    M_0 = a S,    M_{k+1} = 2 M_k − M_k S M_k,    ŷ = x·M_k Σ y_j x_j.

No token holds a matrix: each holds u_t = M_k x_t, all that is ever asked of M_k. As M_k is symmetric,

    u_t ← 2 u_t − Σ_j (u_t·x_j) u_j,        u_t = a Σ_j (x_t·x_j) x_j at first,        ŷ = Σ_j (x·u_j) y_j.

Each is one layer of ReLU attention, two heads making a linear one. Attention takes Σ_j (u_t·x_j) u_j off; a second
register p keeps the old u_t, and the MLP, which reads u' = u − Σ after attention, adds p to u and u' to p, so that both
are 2u − Σ. That is k + 2 layers of width 3d + 3; the paper has k + 8 and finds a in further layers. Here a is given.

On an eigenvalue λ of S the residual 1 − m_k λ squares at each step, from 1 − a λ² at first. It tends to 0 if and only
if a λ² < 2 for all λ. The paper prints a = 2/‖S Sᵀ‖ (§4; ‖·‖ the spectral norm), which is the boundary: on the largest
eigenvalue the residual is −1 and then 1 for ever. With a = 1/‖S‖² it is (1 − λ²/‖S‖²)^(2^k), and

    |ŷ − ŷ_OLS| ≤ ‖x‖‖w_OLS‖ (1 − κ⁻²)^(2^k),    κ the condition of S.

Rounding doubles at each step in directions that S does not reach, and no faster: with M_k ≤ μ = min(2^k a‖S‖, 1/λ_min),
each step makes an error of eps·n·μ(1 + ‖S‖μ) in M, and k of them sum up to 2^k as much. What M multiplies, Σ y_i x_i,
rounds to eps of Σ |y_i||x_i|, which may be much more than the sum.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.constructed.bounded import Bounded
from iclab.constructed.heads import Block, Rows, assemble
from iclab.constructed.theorem import CONDITION, DTYPE, Case, Integers, Reals, Theorem
from iclab.errors import refuse
from iclab.predictors import LeastSquares, Newton
from iclab.predictors.prefixes import moments

PAPER = "Fu et al. 2023 (arXiv 2310.17086)"


def newton(d: int, n: int, steps: int, first: float) -> Bounded:
    """Builds `steps` of Newton's iteration from M_0 = `first`·S on the first i examples, for every i, in steps + 2
    layers."""
    problems = [] if steps >= 0 else [f"steps must be at least 0, given {steps}"]
    problems += [] if 0 < first < float("inf") else [f"first must be positive and finite, given {first}"]
    refuse("newton", problems)
    rows = Rows(d, {"u": d, "p": d, "answer": 1})
    form, write = rows.form, rows.write
    both = write("u") + write("p")
    start = Block().attend(form("x"), form("x"), first * form("x"), both)
    step = Block().attend(form("u"), form("x"), form("u"), -write("u"))
    step.add(form("p"), write("u")).add(form("u"), write("p"))
    last = Block().attend(form("x"), form("u"), form("y"), write("answer"))
    return assemble(rows, n, [start, *[step] * steps, last], "answer")


@dataclass(frozen=True)
class Iteration:
    """The iteration itself: w = M_k h on every prefix, k = `steps` of it from M_0 = `first`·S, multiplied out."""

    steps: int
    first: float

    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        S, h = moments(xs, ys)
        M = self.first * S
        for _ in range(self.steps):
            M = 2 * M - M @ S @ M
        return ((M @ h.unsqueeze(-1)).squeeze(-1) * xs).sum(-1)


# ---- theorems ------------------------------------------------------------------------------------------------------


def _answer(case: Case, xs: Tensor, ys: Tensor, first: float) -> Tensor:
    """What the construction answers the query."""
    return case.asked(newton(case.d, case.n + 1, case.layers, first), xs, ys, 1)


def _spectrum(xs: Tensor) -> Tensor:
    """The eigenvalues of S that are not zero."""
    singular = torch.linalg.svdvals(xs[0, :-1]).square()
    return singular[singular > singular[0] * len(singular) * torch.finfo(torch.float64).eps]


def _rounding(case: Case, xs: Tensor, ys: Tensor) -> float:
    """The last paragraph above."""
    spectrum, growth = _spectrum(xs), 2.0**case.layers
    largest, inverse = spectrum[0], torch.minimum(growth / spectrum[0], 1 / spectrum[-1])
    made = (case.n + case.d) * case.eps * inverse * (1 + largest * inverse)
    return float(8 * growth * made * xs[0, -1].norm() * (xs[0, :-1].abs().T @ ys[0, :-1].abs()).norm())


def _iterated(case: Case) -> tuple[float, float]:
    xs, ys = case.prompt()
    predictions = _answer(case, xs, ys, float(_spectrum(xs)[0] ** -2))
    exact = Newton(case.layers)(xs, ys)[:, -1:]
    return (predictions - exact).abs().item(), _rounding(case, xs, ys)


def _converged(case: Case, times: float = 1.0) -> tuple[float, float]:
    xs, ys = case.prompt()
    spectrum, exact = _spectrum(xs), LeastSquares()
    predictions = _answer(case, xs, ys, float(times * spectrum[0] ** -2))
    left = (1 - (spectrum[-1] / spectrum[0]) ** 2) ** 2**case.layers
    far = float(left * xs[0, -1].norm() * exact.weights(xs, ys)[0, -1].norm())
    return (predictions - exact(xs, ys)[:, -1:]).abs().item(), far + _rounding(case, xs, ys)


_PROMPTS = {
    "d": Integers(1, 4),
    "n": Integers(5, 16),
    "layers": Integers(0, 12),
    "size": Reals(0.3, 3.0, log=True),
    "noise": Reals(0.0, 1.0),
    "condition": CONDITION,
    "dtype": DTYPE,
}

CONVERGENCE = Theorem(
    "fu2023_convergence",
    f"{PAPER}, §4 and Theorem 5.1, with a = 1/‖S‖² for M_0 = aS",
    "k + 2 layers of ReLU attention answer as least squares, up to ‖x‖‖w‖(1 − κ⁻²)^(2^k)",
    _PROMPTS,
    _converged,
    "the residual squares at each step; rounding at most doubles",
)

THEOREMS: list[Theorem] = [
    Theorem(
        "fu2023_newton",
        f"{PAPER}, Theorem 5.1, with a = 1/‖S‖² for M_0 = aS",
        "k + 2 layers of ReLU attention answer as k steps of Newton's iteration",
        {**_PROMPTS, "n": Integers(1, 16)},
        _iterated,
        "rounding of each sum to eps of its terms, at most doubled at each step",
    ),
    CONVERGENCE,
    CONVERGENCE.as_printed(
        f"{PAPER}, §4 as printed: a = 2/‖SSᵀ‖",
        CONVERGENCE.statement,
        partial(_converged, times=2.0),
    ),
]
