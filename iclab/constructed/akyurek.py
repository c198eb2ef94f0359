"""Akyürek, Schuurmans, Andreas, Ma, Zhou 2022 (arXiv 2211.15661), Theorems 1 and 2: decoders that fit linear models.

The objective is Σ (w·x_i − y_i)² + lam‖w‖², whose gradient step of size α is a step of size lr = 2α here. The columns are
x_0, y_0, x_1, y_1, …, x_{n−1}; `operators` shows how each operator is a layer.

Theorem 1. One step on the example (x, y), from given weights w,

    w' = w − lr (x (w·x − y) + lam w),

and the answer w'·x_1 in the column of the query, by nine operators as published (App. A; rows and columns renamed):

    1 mov  x of x_0 into the column of y_0         6 aff  x(w·x − y) + lam w
    2 aff  w·x                                     7 aff  w' = w − lr (…)
    3 aff  w·x − y                                 8 mov  w' into the column of x_1
    4 mul  x (w·x − y)                             9 mul  w'·x_1
    5 aff  write w

Step 6 is printed with −lam (and with −2 lam in the verification that follows it). The chain then ends in
w − lr (x (w·x − y) − lam w), which is off by 2 lr lam w·x_1. With +lam it is the step above. The arguments of mov are
printed as (target, source), against their own definition.

Theorem 2. One Sherman-Morrison update from the prior A = lam I,

    w' = (lam I + x xᵀ)⁻¹ x y = (A⁻¹ − A⁻¹x xᵀA⁻¹/(1 + xᵀA⁻¹x)) x y,

by thirteen operators as published (App. B; a fourteenth, x·y, is never used, and the last product is printed with the
shape of an outer one).

n examples. The same operators, several to a layer, let column y_i take over the weights of column y_{i−1}: SGD by

    A  mov x_i, w into column y_i;  w·x                B  w' = (1 − lr lam) w + lr (y − w·x) x

and recursive least squares, P being the inverse of lam I + Σ x xᵀ, by

    A  mov x_i, w, P into column y_i;  P x,  w·x       C  k = P x / c
    B  c = 1 + x·P x                                   D  w' = w + k (y − w·x),   P' = P − k (P x)ᵀ

Every layer acts on all columns, and does again in an earlier column what it did there: w' and P' are functions of what
column y_i took over, so that it keeps them. At last every x_i takes over w' of y_{i−1} and answers w'·x_i. That is
2(n − 1) + 1 and 4(n − 1) + 1 layers, for all prefixes of the prompt at once.

Sizes. The operands of every product are divided by a bound on their size, which follows from bounds on inputs and labels:

    SGD    |w'| ≤ ρ|w| + lr |x||y|, where ρ = max(|1 − lr lam|, |1 − lr (d X² + lam)|) is the norm of the step
    RLS    P ≤ I/lam,  |Px|/c ≤ √q/(√lam (1 + q)) ≤ 1/(2√lam) with q = x·Px,  and |w| ≤ |y|/(2√lam)
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.constructed.bounded import Bounded
from iclab.constructed.operators import Product, Program, Stream, Value
from iclab.errors import refuse

PAPER = "Akyürek et al. 2022 (arXiv 2211.15661)"


@dataclass(frozen=True, kw_only=True)
class Build:
    """How a construction is built: the product, LayerNorm or not, the precision, and the prompts that it is for.
    """

    product: Product = field(default_factory=Product)
    norm: bool = False
    dtype: torch.dtype = torch.float64
    largest_x: float = 5.0
    largest_y: float = 20.0

    def problems(self) -> list[str]:
        """What stands against it."""
        given = {"largest_x": self.largest_x, "largest_y": self.largest_y}
        return [f"{k} must be positive and finite, given {v}" for k, v in given.items() if not 0 < v < float("inf")]


PLAIN, WITH_NORM = Build(), Build(norm=True)


def _checked(what: str, build: Build, **positive: float) -> None:
    found = [f"{k} must be positive and finite, given {v}" for k, v in positive.items() if not 0 < v < float("inf")]
    refuse(what, build.problems() + found)


# ---- one example, as published -------------------------------------------------------------------------------------


def sgd_step(
    w: Float[Tensor, " d"], lr: float, lam: float = 0.0, build: Build = PLAIN, printed: bool = False
) -> Bounded:
    """Theorem 1 by its nine operators: w'·x_1 at the second position (the first is not answered), n = 2.

    `printed` has the sign of the decay as the paper prints it, which is wrong.
    """
    refuse("sgd_step", build.problems())
    d, x, y, norm = len(w), build.largest_x, build.largest_y, float(w.norm())
    dot = d**0.5 * x * norm
    gradient = d**0.5 * x * (dot + y) + abs(lam) * norm
    stepped = norm + abs(lr) * gradient
    registers = {
        "dot": (1, d**0.5 * x * stepped),
        "residual": (1, dot + y),
        "product": (d, x * (dot + y)),
        "w": (d, stepped),
        "gradient": (d, gradient),
    }
    program = Program(Stream(d, 2, registers, x, y, build.norm), build.product, build.dtype)
    value, form = program.stream.value, program.stream.form
    program.layer().mov({1: 0}, "x", "x")
    program.layer().aff("dot", [w.double().unsqueeze(0) @ form("x")])
    program.layer().aff("residual", [form("dot"), -form("y")])
    program.layer().mul(value("x"), Value(form("residual"), dot + y), "product", (d, 1, 1))
    program.layer().aff("w", bias=w.double())
    program.layer().aff("gradient", [form("product"), (-lam if printed else lam) * form("w")])
    program.layer().aff("w", [-lr * form("gradient")], add=True)
    program.layer().mov({2: 1}, "w", "w")
    program.layer().mul(value("w"), value("x"), "dot", (1, d, 1))
    return program.model("dot", answers_from=1)


def sherman_morrison(d: int, lam: float, build: Build = WITH_NORM) -> Bounded:
    """Theorem 2 by its thirteen operators: the ridge answer from one example, at the second position, n = 2.

    It divides by a LayerNorm, so that there must be one.
    """
    _checked("sherman_morrison", build, lam=lam)
    x, y, root = build.largest_x, build.largest_y, d**0.5
    prior = torch.eye(d, dtype=torch.float64).flatten() / lam
    gained = min(root * x / lam, lam**-0.5 / 2)  # |A⁻¹x| after the update
    registers = {
        "inverse": (d * d, 1 / lam),
        "left": (d, root * x / lam),
        "right": (d, max(root * x / lam, gained * y)),
        "outer": (d * d, d * x**2 / lam**2),
        "c": (1, 1 + d * x**2 / lam),
        "quotient": (d * d, 1 / lam),
        "answer": (1, root * x * gained * y),
    }
    program = Program(Stream(d, 2, registers, x, y, norm=True), build.product, build.dtype)
    value, form = program.stream.value, program.stream.form
    program.layer().mov({1: 0}, "x", "x")
    program.layer().aff("inverse", bias=prior)
    program.layer().mul(value("inverse"), value("x"), "left", (d, d, 1))
    program.layer().mul(value("x"), value("inverse"), "right", (1, d, d))
    program.layer().mul(value("left"), Value(form("right"), root * x / lam), "outer", (d, 1, d))
    program.layer().mul(Value(form("right"), root * x / lam), value("x"), "c", (1, d, 1))
    program.layer().aff("c", bias=1.0, add=True)
    program.layer().div(value("outer"), value("c"), "quotient")
    program.layer().aff("inverse", [-form("quotient")], add=True)
    program.layer().mul(value("inverse"), value("x"), "left", (d, d, 1))
    program.layer().mul(Value(form("left"), gained), value("y"), "right", (d, 1, 1))
    program.layer().mov({2: 1}, "right", "right")
    program.layer().mul(Value(form("right"), gained * y), value("x"), "answer", (1, d, 1))
    return program.model("answer", answers_from=1)


# ---- n examples ----------------------------------------------------------------------------------------------------


def stochastic_gradient_descent(
    d: int, n: int, lr: float, lam: float = 0.0, build: Build = PLAIN, w: Float[Tensor, " d"] | None = None
) -> Bounded:
    """One pass of SGD over the first i examples from w (zero unless given), for every i, in 2(n − 1) + 1 layers."""
    refuse("stochastic_gradient_descent", build.problems() + ([] if n >= 1 else [f"n must be at least 1, given {n}"]))
    x, y = build.largest_x, build.largest_y
    start = torch.zeros(d, dtype=torch.float64) if w is None else w.double()
    norm, growth = float(start.norm()), max(abs(1 - lr * lam), abs(1 - lr * (d * x**2 + lam)))
    for _ in range(n - 1):
        norm = max(norm, growth * norm + abs(lr) * d**0.5 * x * y)
    dot = d**0.5 * x * norm or 1.0
    registers = {"w": (d, norm or 1.0), "stepped": (d, norm or 1.0), "dot": (1, dot)}
    program = Program(Stream(d, n, registers, x, y, build.norm), build.product, build.dtype)
    value, form = program.stream.value, program.stream.form
    residual = Value(form("y") - form("dot"), y + dot)
    for i in range(n - 1):
        first = program.layer().mov({2 * i + 1: 2 * i}, "x", "x")
        if i:
            first.mov({2 * i + 1: 2 * i - 1}, "stepped", "w")
        first.mul(value("w"), value("x"), "dot", (1, d, 1))
        second = program.layer().aff("stepped", [(1 - lr * lam) * form("w")])
        second.mul(residual, value("x"), "stepped", (1, 1, d), gain=lr)
    last = program.layer().mov({2 * i: 2 * i - 1 for i in range(1, n)}, "stepped", "w")
    last.mul(value("w"), value("x"), "dot", (1, d, 1))
    return program.model("dot", {(t, "w"): start for t in (0, 1)[: 2 * n - 1]})


def recursive_least_squares(d: int, n: int, lam: float, build: Build = WITH_NORM) -> Bounded:
    """Ridge with penalty lam on the first i examples, for every i, in 4(n − 1) + 1 layers."""
    sound = [] if n >= 1 else [f"n must be at least 1, given {n}"]
    refuse("recursive_least_squares", sound)
    _checked("recursive_least_squares", build, lam=lam)
    x, y, root = build.largest_x, build.largest_y, d**0.5
    gain = min(root * x / lam, lam**-0.5 / 2)
    norm = (n - 1) ** 0.5 * y * min(lam**-0.5 / 2, (n - 1) ** 0.5 * root * x / lam) or 1.0
    registers = {
        "w": (d, norm),
        "inverse": (d * d, 1 / lam),
        "left": (d, root * x / lam),
        "c": (1, 1 + d * x**2 / lam),
        "gain": (d, gain),
        "dot": (1, root * x * norm),
        "new w": (d, norm),
        "new inverse": (d * d, 1 / lam),
    }
    program = Program(Stream(d, n, registers, x, y, norm=True), build.product, build.dtype)
    value, form = program.stream.value, program.stream.form
    residual = Value(form("y") - form("dot"), y + root * x * norm)
    for i in range(n - 1):
        first = program.layer().mov({2 * i + 1: 2 * i}, "x", "x")
        if i:
            first.mov({2 * i + 1: 2 * i - 1}, "new w", "w").mov({2 * i + 1: 2 * i - 1}, "new inverse", "inverse")
        first.mul(value("inverse"), value("x"), "left", (d, d, 1)).mul(value("w"), value("x"), "dot", (1, d, 1))
        program.layer().aff("c", bias=1.0).mul(value("x"), value("left"), "c", (1, d, 1))
        program.layer().div(value("left"), value("c"), "gain")
        last = program.layer().aff("new w", [form("w")]).aff("new inverse", [form("inverse")])
        last.mul(value("gain"), residual, "new w", (d, 1, 1))
        last.mul(value("gain"), value("left"), "new inverse", (d, 1, d), gain=-1.0)
    end = program.layer().mov({2 * i: 2 * i - 1 for i in range(1, n)}, "new w", "w")
    end.mul(value("w"), value("x"), "dot", (1, d, 1))
    prior = torch.eye(d, dtype=torch.float64).flatten() / lam
    return program.model("dot", {(t, "inverse"): prior for t in (0, 1)[: 2 * n - 1]})
