"""Bai, Chen, Wang, Xiong, Mei 2023 (arXiv 2306.04637): statistics in context, by ReLU attention.

Ridge regression comes first, the Lasso follows below. On the N examples the objective of ridge regression is
(1/2N)‖Xw − y‖² + (lam/2)‖w‖²; lam is that of the mean objective here, as the paper has it, N·lam that of the sum. A step
of size η is one layer with three heads. All tokens carry the same w, 0 at first:

    w ← w − η (1/N Σ_j (w·x_j − y_j) x_j + lam w).

Two heads, q_t = ±(w, −1) and k_j = (x_j, y_j), have scores s_j = ±(w·x_j − y_j); with values ∓η x_j their sum over the
examples is −η Σ_j (relu(s_j) − relu(−s_j)) x_j = −η Σ_j s_j x_j, and ReLU attention divides by their number. In a third
q = k = 1 and the value is −η lam w_j: the mean over examples that all carry the same w (there is none without decay).
After the last step two heads with q = ±x of the query, k_j = w_j and value ±1 answer x·w.

The paper lets attention run over the query as well, divides by N + 1 and hides the query with −R(1 − t_j) in the score,
R being large; here the layout hides it, and the sum is divided by N.

Theorem 4. Let α ≤ λ(XᵀX/N) ≤ β, κ = (β + lam)/(α + lam), ‖x‖ ≤ B_x and ‖w*‖ ≤ B_w/2 for the ridge solution w*. Then

    L = ⌈2 κ log(B_x B_w/(2ε))⌉ + 1

layers answer within ε of w*·x. Proof: with η = 1/(β + lam) a step contracts w − w* by 1 − 1/κ ≤ e^(−1/κ), so that L − 1
steps leave at most B_x (B_w/2) e^(−2 log(B_x B_w/(2ε))) ≤ ε once B_x B_w ≥ 2ε.  ∎ (Half as many steps would do.)
"""

from functools import lru_cache
from math import ceil, log
from typing import Literal

import torch
from torch import Tensor

from iclab.constructed.bounded import Bounded
from iclab.constructed.heads import Block, Rows, assemble
from iclab.constructed.theorem import Case, Integers, Reals, Theorem
from iclab.errors import refuse
from iclab.predictors import GradientDescent, Lasso, Ridge

PAPER = "Bai et al. 2023 (arXiv 2306.04637)"


def _checked(what: str, steps: int, least: int = 0, lam: float = 0.0, **positive: float) -> None:
    """Refuses what is no descent, all of it at once."""
    found = [
        f"{k} must be at least {low}, given {v}"
        for k, v, low in (("steps", steps, least), ("lam", lam, 0))
        if not v >= low
    ]
    found += [f"{k} must be positive and finite, given {v}" for k, v in positive.items() if not 0 < v < float("inf")]
    refuse(what, found)


def _step(rows: Rows, lr: float, lam: float = 0.0) -> Block:
    """A step of descent on the squared error and a quadratic penalty, in all tokens."""
    form, write = rows.form, rows.write
    step = Block().attend(
        torch.cat([form("w"), -form("one")]), torch.cat([form("x"), form("y")]), -lr * form("x"), write("w")
    )
    return step.count(-lr * lam * form("w"), write("w")) if lam else step


def _answer(rows: Rows) -> Block:
    return Block().attend(rows.form("x"), rows.form("w"), rows.form("one"), rows.write("answer"))


def gradient_descent(d: int, n: int, steps: int, lr: float, lam: float = 0.0) -> Bounded:
    """`steps` of gradient descent on the mean objective over the first i examples, for every i, in steps + 1 layers.

    `lr` is η and `lam` the penalty of the mean objective. Raises ``ValueError`` for what is no gradient descent.
    """
    _checked("gradient_descent", steps, lam=lam, lr=lr)
    rows = Rows(d, {"w": d, "answer": 1})
    return assemble(rows, n, [*[_step(rows, lr, lam)] * steps, _answer(rows)], "answer", normaliser="seen")


def layers_for(kappa: float, largest_x: float, largest_w: float, epsilon: float) -> int:
    """L of Theorem 4, with ‖x‖ ≤ B_x and ‖w*‖ ≤ B_w/2."""
    return max(ceil(2 * kappa * log(largest_x * largest_w / (2 * epsilon))), 0) + 1


# ---- the Lasso -----------------------------------------------------------------------------------------------------
#
# Theorem 10. (1/2N)‖Xw − y‖² + lam‖w‖₁ by proximal steps: attention is the step of size η without decay, the MLP after
# it the soft threshold S at θ = η lam, for each entry
#
#     S(w) − w = relu(w − θ) − relu(−w − θ) − relu(w) + relu(−w)       4 hidden units   (Proposition C.1), or
#              = relu(w − θ) − relu(w + θ) + θ relu(1)                 2 hidden units, and one for all entries together.
#
# Theorem 10 counts 2d units in all. Those are too few. S(w) − w bends at ±θ in each of d directions, which takes a unit
# for each of these 2d hyperplanes and leaves none. A unit that bends at k is a multiple of relu(w − k) or of
# relu(k − w), the multiple being what the bend asks for. So there are four candidates for an entry,
#
#     −relu(±(w + θ)) + relu(±(w − θ)),    which are S(w) − w and, in addition,  −θ,  w,  −w  or  θ.
#
# (MLPs have no biases there, but for a row that is 1. An output bias of θ would do.)
#
# With η = 1/β, λ_max(XᵀX/N) ≤ β and ‖w*‖ ≤ B_w/2 for a minimiser w*, the objective after k steps is at most
# β‖w*‖²/(2k) above its minimum (Beck and Teboulle 2009), so that ⌈βB_w²/ε⌉ + 1 layers come within ε (within ε/8).

Units = Literal["4d", "2d + 1", "2d"]


def lasso(
    d: int, n: int, steps: int, lr: float, lam: float, units: Units = "4d", signs: tuple[int, int] = (1, 1)
) -> Bounded:
    """`steps` of proximal descent to the Lasso on the first i examples, for every i, in steps + 1 layers of two heads.

    `lr` is η and `lam` the penalty of the mean objective. "2d" hidden units are too few, in each of four `signs`.
    """
    _checked("lasso", steps, lam=lam, lr=lr)
    rows, theta = Rows(d, {"w": d, "answer": 1}), lr * lam
    w, one, write = rows.form("w"), rows.form("one"), rows.write("w")
    step = _step(rows, lr)
    if units == "4d":
        step.unit(w - theta * one, write).unit(-w - theta * one, -write).add(-w, write)
    else:
        step.unit(signs[0] * (w + theta * one), -write).unit(signs[1] * (w - theta * one), write)
    if units == "2d + 1":
        step.unit(one, theta * write.sum(1, keepdim=True))
    return assemble(rows, n, [*[step] * steps, _answer(rows)], "answer", normaliser="seen")


# ---- theorems ------------------------------------------------------------------------------------------------------


def _rounding(case: Case, xs: Tensor, ys: Tensor) -> float:
    """Each sum to eps of its terms, carried on by a norm of 1 + lr (tr XᵀX/N + lam) for each step."""
    first, second = xs[0, :-1].norm(2).square() / case.n, xs[0, :-1].norm(dim=-1).max() * ys[0, :-1].abs().max()
    grown = max(1.0, float(1 + case.lr * (first + case.lam))) ** case.layers
    terms = 8 * (case.d + case.n) * case.layers * torch.finfo(torch.float64).eps
    return float(terms * case.layers * case.lr * second * xs[0].norm(dim=-1).max() * grown)


@lru_cache(64)
def _descent(case: Case, decay: bool = True) -> tuple[float, float]:
    (xs, ys), lam = case.prompt(), case.lam if decay else 0.0
    model = gradient_descent(case.d, case.n + 1, case.layers, case.lr, lam)
    exact = GradientDescent(case.layers, case.lr / case.n, lam=case.n * lam)(xs, ys)[:, -1:]
    error = (model(xs, ys, 1) - exact).abs().item()
    return error if model.config.n_head == (3 if lam else 2) else float("inf"), _rounding(case, xs, ys)


def _shrunk(w: Tensor, threshold: float) -> Tensor:
    return w.sign() * (w.abs() - threshold).clamp(min=0)


@lru_cache(64)
def _proximal(case: Case, units: Units = "4d") -> tuple[float, float]:
    """Of too few units, the least error of the four ways to have them."""
    xs, ys = case.prompt()
    examples, labels = xs[0, :-1], ys[0, :-1]
    w = torch.zeros_like(xs[0, 0])
    for _ in range(case.layers):
        w = _shrunk(w - case.lr * examples.mT @ (examples @ w - labels) / case.n, case.lr * case.lam)
    ways = [(a, b) for a in (1, -1) for b in (1, -1)] if units == "2d" else [(1, 1)]
    models = [lasso(case.d, case.n + 1, case.layers, case.lr, case.lam, units, each) for each in ways]
    error = min((model(xs, ys, 1)[0, 0] - w @ xs[0, -1]).abs().item() for model in models)
    return error, _rounding(case, xs, ys) + _threshold_rounding(case, xs)


def _threshold_rounding(case: Case, xs: Tensor) -> float:
    """A threshold that is added and taken off again costs eps of itself in each entry and step."""
    return float(8 * torch.finfo(xs.dtype).eps * case.layers * case.lr * case.lam * xs[0, -1].abs().sum())


@lru_cache(64)
def _minimised(case: Case) -> tuple[float, float]:
    """The objective above its minimum at the weights that answers to unit vectors show; ε is βB_w²/scale."""
    xs, ys = case.prompt()
    examples, labels = xs[0, :-1], ys[0, :-1]
    beta = float(torch.linalg.matrix_norm(examples, 2).square()) / case.n
    best = Lasso(case.lam).weights(xs, ys)[0, -1]
    model = lasso(case.d, case.n + 1, ceil(case.scale), 1 / beta, case.lam)
    asked = torch.cat([xs[:, :-1].expand(case.d, -1, -1), torch.eye(case.d, dtype=xs.dtype).unsqueeze(1)], dim=1)
    found = model(asked, ys.expand(case.d, -1), 1)[:, 0].detach()

    def objective(w: Tensor) -> Tensor:
        return (examples @ w - labels).square().mean() / 2 + case.lam * w.abs().sum()

    epsilon = beta * 4 * float(best.square().sum()) / case.scale
    rounding = 100 * case.n * torch.finfo(xs.dtype).eps * float(labels.square().mean())
    return float(objective(found) - objective(best)), epsilon + rounding


@lru_cache(64)
def _ridge(case: Case) -> tuple[float, float]:
    """ε is 1/scale of the largest answer that the bounds allow."""
    xs, ys = case.prompt()
    examples = xs[0, :-1]
    spectrum = torch.linalg.eigvalsh(examples.T @ examples / case.n)
    alpha, beta = float(spectrum[0].clamp(min=0)), float(spectrum[-1])
    exact = Ridge(case.n * case.lam)
    largest_x, largest_w = float(xs[0, -1].norm()), 2 * float(exact.weights(xs, ys)[0, -1].norm())
    epsilon = largest_x * largest_w / (2 * case.scale)
    layers = layers_for((beta + case.lam) / (alpha + case.lam), largest_x, largest_w, epsilon)
    model = gradient_descent(case.d, case.n + 1, layers - 1, 1 / (beta + case.lam), case.lam)
    return (model(xs, ys, 1) - exact(xs, ys)[:, -1:]).abs().item(), epsilon


_PROMPTS = {"d": Integers(1, 5), "n": Integers(1, 12), "size": Reals(0.1, 2.0, log=True), "noise": Reals(0.0, 1.0)}

_SPARSE = {**_PROMPTS, "layers": Integers(1, 8), "lr": Reals(0.01, 0.3), "lam": Reals(0.01, 1.0, log=True)}
ROUNDING = "rounding of each sum to eps of its terms, carried on by a norm of 1 + lr tr XᵀX/N for each step"

NARROW = Theorem(
    "bai2023_lasso_narrow",
    f"{PAPER}, Theorem 10, its hidden units corrected",
    "two ReLU heads and 2d + 1 hidden units are one proximal step to the Lasso, exactly",
    _SPARSE,
    lambda case: _proximal(case, "2d + 1")[0],
    lambda case: _proximal(case, "2d + 1")[1],
    ROUNDING,
)

THEOREMS: list[Theorem] = [
    Theorem(
        "bai2023_descent",
        f"{PAPER}, proof of Theorem 4; the query hidden by the layout",
        "one layer of three ReLU heads is one step of gradient descent on the ridge objective, exactly",
        {**_PROMPTS, "layers": Integers(1, 8), "lr": Reals(0.01, 0.3), "lam": Reals(0.0, 1.0)},
        lambda case: _descent(case)[0],
        lambda case: _descent(case)[1],
        "rounding of each sum to eps of its terms, carried on by a norm of 1 + lr (tr XᵀX/N + lam) for each step",
    ),
    Theorem(
        "bai2023_theorem4",
        f"{PAPER}, Theorem 4",
        "⌈2κ log(B_x B_w/(2ε))⌉ + 1 layers answer within ε of ridge regression",
        {**_PROMPTS, "lam": Reals(0.3, 3.0, log=True), "scale": Reals(10.0, 1e4, log=True)},
        lambda case: _ridge(case)[0],
        lambda case: _ridge(case)[1],
        "ε, with B_x, B_w, α and β those of the prompt",
    ),
    Theorem(
        "bai2023_two_heads",
        f"{PAPER}, Proposition C.2, for the squared error; the query hidden by the layout",
        "one layer of two ReLU heads is one step of gradient descent on the squared error, exactly",
        {**_PROMPTS, "layers": Integers(1, 8), "lr": Reals(0.01, 0.3)},
        lambda case: _descent(case, decay=False)[0],
        lambda case: _descent(case, decay=False)[1],
        ROUNDING,
    ),
    Theorem(
        "bai2023_lasso",
        f"{PAPER}, Proposition C.1",
        "two ReLU heads and 4d hidden units are one proximal step to the Lasso, exactly",
        _SPARSE,
        lambda case: _proximal(case)[0],
        lambda case: _proximal(case)[1],
        ROUNDING,
    ),
    NARROW,
    Theorem(
        "bai2023_lasso_narrow_printed",
        f"{PAPER}, Theorem 10, D′ = 2d as printed",
        "two ReLU heads and 2d hidden units are one proximal step to the Lasso, exactly",
        _SPARSE,
        lambda case: _proximal(case, "2d")[0],
        lambda case: _proximal(case, "2d")[1],
        ROUNDING,
        corrected=NARROW,
    ),
    Theorem(
        "bai2023_theorem10",
        f"{PAPER}, Theorem 10",
        "⌈βB_w²/ε⌉ + 1 layers come within ε of the least value of the Lasso's objective",
        {**_PROMPTS, "lam": Reals(0.01, 1.0, log=True), "scale": Reals(2.0, 60.0, log=True)},
        lambda case: _minimised(case)[0],
        lambda case: _minimised(case)[1],
        "ε, with β and B_w those of the prompt; rounding of the objective",
    ),
]
