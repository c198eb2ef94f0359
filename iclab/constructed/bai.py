"""Bai, Chen, Wang, Xiong, Mei 2023 (arXiv 2306.04637), Theorem 4: ridge regression in context, by ReLU attention.

On the N examples the objective is (1/2N)‖Xw − y‖² + (lam/2)‖w‖²; lam is that of the mean objective here, as the paper
has it, N·lam that of the sum. A step of size η is one layer with three heads. All tokens carry the same w, 0 at first:

    w ← w − η (1/N Σ_j (w·x_j − y_j) x_j + lam w).

Two heads, q_t = ±(w, −1) and k_j = (x_j, y_j), have scores s_j = ±(w·x_j − y_j); with values ∓η x_j their sum over the
examples is −η Σ_j (relu(s_j) − relu(−s_j)) x_j = −η Σ_j s_j x_j, and ReLU attention divides by their number. In a third
q = k = 1 and the value is −η lam w_j: the mean over examples that all carry the same w. After the last step two heads
with q = ±x of the query, k_j = w_j and value ±1 answer x·w.

The paper lets attention run over the query as well, divides by N + 1 and hides the query with −R(1 − t_j) in the score,
R being large; here the layout hides it, and the sum is divided by N.

Theorem 4. Let α ≤ λ(XᵀX/N) ≤ β, κ = (β + lam)/(α + lam), ‖x‖ ≤ B_x and ‖w*‖ ≤ B_w/2 for the ridge solution w*. Then

    L = ⌈2 κ log(B_x B_w/(2ε))⌉ + 1

layers answer within ε of w*·x. Proof: with η = 1/(β + lam) a step contracts w − w* by 1 − 1/κ ≤ e^(−1/κ), so that L − 1
steps leave at most B_x (B_w/2) e^(−2 log(B_x B_w/(2ε))) ≤ ε once B_x B_w ≥ 2ε.  ∎ (Half as many steps would do.)
"""

from functools import lru_cache
from math import ceil, log

import torch

from iclab.constructed.heads import Block, Rows, assemble
from iclab.constructed.theorem import Case, Integers, Reals, Theorem
from iclab.errors import refuse
from iclab.models import Transformer
from iclab.predictors import GradientDescent, Ridge

PAPER = "Bai et al. 2023 (arXiv 2306.04637)"


def gradient_descent(d: int, n: int, steps: int, lr: float, lam: float = 0.0) -> Transformer:
    """`steps` of gradient descent on the mean objective over the first i examples, for every i, in steps + 1 layers.

    `lr` is η and `lam` the penalty of the mean objective. Raises ``ValueError`` for what is no gradient descent.
    """
    refuse(
        "gradient_descent",
        [
            f"{k} must be at least {low}, given {v}"
            for k, v, low in (("steps", steps, 0), ("lam", lam, 0))
            if not v >= low
        ]
        + ([] if 0 < lr < float("inf") else [f"lr must be positive and finite, given {lr}"]),
    )
    rows = Rows(d, {"w": d, "answer": 1})
    form, write = rows.form, rows.write
    step = Block().attend(
        torch.cat([form("w"), -form("one")]), torch.cat([form("x"), form("y")]), -lr * form("x"), write("w")
    )
    step.count(-lr * lam * form("w"), write("w"))
    last = Block().attend(form("x"), form("w"), form("one"), write("answer"))
    return assemble(rows, n, [*[step] * steps, last], "answer", normaliser="seen")


def layers_for(kappa: float, largest_x: float, largest_w: float, epsilon: float) -> int:
    """L of Theorem 4, with ‖x‖ ≤ B_x and ‖w*‖ ≤ B_w/2."""
    return max(ceil(2 * kappa * log(largest_x * largest_w / (2 * epsilon))), 0) + 1


# ---- theorems ------------------------------------------------------------------------------------------------------


@lru_cache(64)
def _descent(case: Case) -> tuple[float, float]:
    xs, ys = case.prompt()
    said = gradient_descent(case.d, case.n + 1, case.layers, case.lr, case.lam)(xs, ys, 1)
    exact = GradientDescent(case.layers, case.lr / case.n, lam=case.n * case.lam)(xs, ys)[:, -1:]
    first, second = xs[0, :-1].norm(2).square() / case.n, xs[0, :-1].norm(dim=-1).max() * ys[0, :-1].abs().max()
    grown = max(1.0, float(1 + case.lr * (first + case.lam))) ** case.layers
    terms = 8 * (case.d + case.n) * case.layers * torch.finfo(torch.float64).eps
    largest = case.layers * case.lr * second * xs[0, -1].norm() * grown
    return (said - exact).abs().item(), float(terms * largest)


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
]
