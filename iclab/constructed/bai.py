"""Bai, Chen, Wang, Xiong, Mei 2023 (arXiv 2306.04637): statistics in context, by ReLU attention.

Ridge regression comes first; what follows it has its proofs above each part. The objective on N examples is
(1/2N)‖Xw − y‖² + (lam/2)‖w‖²; lam is that of the mean objective, as the paper has it, N·lam that of the sum. A step of
size η is one layer with three heads. All tokens carry the same w, 0 at first:

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

from collections.abc import Callable
from functools import lru_cache
from math import ceil, e, log, pi
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from iclab.constructed.bounded import Bounded
from iclab.constructed.heads import Block, Kinked, Rows, assemble
from iclab.constructed.theorem import Case, Choices, Integers, Reals, Theorem
from iclab.errors import refuse, unknown
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


# ---- generalised linear models -------------------------------------------------------------------------------------
#
# Theorem 13 and Corollary 9. The loss −y s + ∫₀ˢ g has the gradient g(w·x) − y in s, g increasing from 0 to 1. A sum of
# ReLUs ĝ is within ε = h²/8 max|g″| of g on [−R, R], with knots h = 2R/M apart. One head for each,
#
#     w ← w − η/N Σ_j (ĝ(w·x_j) − y_j) x_j,
#
# that is M + 1 for ĝ and two for y_j. The last layer answers ĝ(w·x), by its MLP.
#
# Claim. With ‖x‖ ≤ B_x, |y| ≤ B_y, η ≤ 2/(B_x² max g′) and R = (1 + B_y)LηB_x², the answer after L steps is within
#
#     ε + max g′ · L η ε B_x²        of g(w_L·x), where w_L are L steps with g itself.
#
# Proof. ĝ interpolates, so that it lies in [0, 1] on [−R, R] and a step moves w by at most (1 + B_y)ηB_x: |w·x| ≤ R.
# The Hessian is at most B_x² max g′, so that steps with g bring two points no further apart (Lemma 14), and each step
# with ĝ is off by at most ηεB_x. After L steps ‖ŵ − w_L‖ ≤ LηεB_x. The last ĝ adds ε.                                ∎
#
# The paper asks for a minimiser with ‖w*‖ ≤ B_w/2 and has R = B_x B_w; separable examples have none.


class Link(NamedTuple):
    """An increasing g from 0 to 1, and the largest values of g′ and |g″|."""

    g: Callable[[Tensor], Tensor]
    steepness: float
    curvature: float


LINKS = {
    "logistic": Link(torch.sigmoid, 1 / 4, 3**-0.5 / 6),
    "probit": Link(torch.special.ndtr, (2 * pi) ** -0.5, (2 * pi * e) ** -0.5),
}


def _reach(d: int, steps: int, lr: float, largest_x: float, largest_y: float = 1.0) -> float:
    """R, of any positive size where nothing is to be reached."""
    return (1 + largest_y) * steps * lr * d * largest_x**2 or 1.0


def approximation(link: str, pieces: int, reach: float) -> float:
    """ε of `pieces` straight pieces on [−reach, reach]."""
    return (2 * reach / pieces) ** 2 / 8 * LINKS[link].curvature


def generalized_linear(
    d: int,
    n: int,
    steps: int,
    lr: float,
    pieces: int,
    link: str = "logistic",
    largest_x: float = 1.0,
    largest_y: float = 1.0,
) -> Bounded:
    """`steps` of descent to the maximum of likelihood on the first i examples, for every i, in steps + 1 layers.

    Labels are 0 and 1 as a rule. Raises ``ValueError`` for a step above 2/(B_x² max g′), B_x² = d X².
    """
    _checked("generalized_linear", steps, lr=lr, pieces=pieces, largest_x=largest_x, largest_y=largest_y)
    refuse("generalized_linear", [] if link in LINKS else [unknown("link", link, LINKS)])
    largest = 2 / (d * largest_x**2 * LINKS[link].steepness)
    refuse("generalized_linear", [] if lr <= largest else [f"lr must be at most 2/β = {largest:.4g}, given {lr:.4g}"])
    f = Kinked.interpolating(LINKS[link].g, _reach(d, steps, lr, largest_x, largest_y), pieces)
    rows = Rows(d, {"w": d, "s": 1, "answer": 1})
    form, write = rows.form, rows.write
    step = Block().attend_kinked(f, form("w"), form("x"), -lr * form("x"), write("w"))
    step.attend(form("one"), form("y"), lr * form("x"), write("w"))
    last = Block().attend(form("x"), form("w"), form("one"), write("s")).add_kinked(f, form("s"), write("answer"))
    model = assemble(rows, n, [*[step] * steps, last], "answer", normaliser="seen")
    model.largest_x, model.largest_y = largest_x, largest_y
    return model


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


def _binary(case: Case, link: str) -> tuple[Tensor, Tensor]:
    """Labels 1 with the probability g(w·x), and 0; inputs cut off at two standard deviations."""
    (xs, scores), rng = case.prompt(), torch.Generator().manual_seed(case.seed + 1)
    drawn = torch.rand(scores.shape, generator=rng, dtype=scores.dtype)
    return xs.clamp(-2 * case.size, 2 * case.size), (drawn < LINKS[link].g(scores)).to(xs)


def _likeliest(xs: Tensor, ys: Tensor, steps: int, lr: float, link: str) -> Tensor:
    """Descent on the examples of one prompt with g itself, and the answer."""
    examples, labels, w = xs[0, :-1], ys[0, :-1], torch.zeros_like(xs[0, 0])
    for _ in range(steps):
        w = w - lr * examples.mT @ (LINKS[link].g(examples @ w) - labels) / len(examples)
    return LINKS[link].g(w @ xs[0, -1])


def _likely_bound(case: Case, link: str, lr: float, largest_x: float) -> float:
    """The claim above, and rounding: of M + 1 terms that sum up to at most 1 + 2R Σ|gains| ≤ 1 + 4R max g′."""
    reach, squared = _reach(case.d, case.layers, lr, largest_x), case.d * largest_x**2
    epsilon, steepness = approximation(link, int(case.scale), reach), LINKS[link].steepness
    rounded = 8 * (case.scale + case.d + case.n) * torch.finfo(torch.float64).eps * (1 + 4 * reach * steepness)
    return (epsilon + rounded) * (1 + steepness * case.layers * lr * squared)


@lru_cache(64)
def _likely(case: Case) -> tuple[float, float]:
    """lr is a share of 2/β."""
    (xs, ys), largest_x = _binary(case, case.variant), 2 * case.size
    lr = case.lr * 2 / (case.d * largest_x**2 * LINKS[case.variant].steepness)
    model = generalized_linear(case.d, case.n + 1, case.layers, lr, int(case.scale), case.variant, largest_x)
    error = (model(xs, ys, 1)[0, 0] - _likeliest(xs, ys, case.layers, lr, case.variant)).abs().item()
    return error, _likely_bound(case, case.variant, lr, largest_x)


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
    Theorem(
        "bai2023_generalized_linear",
        f"{PAPER}, Theorem 13 and Corollary 9, with R for L steps instead of B_x B_w",
        "M + 3 ReLU heads are a step of logistic or probit regression, within ε = h²/8 max|g″| of its gradient",
        {
            **_PROMPTS,
            "layers": Integers(0, 6),
            "lr": Reals(0.05, 1.0, log=True),
            "scale": Reals(8.0, 256.0, log=True),
            "variant": Choices(["logistic", "probit"]),
        },
        lambda case: _likely(case)[0],
        lambda case: _likely(case)[1],
        "steps on a convex objective carry errors on without magnifying them",
    ),
]
