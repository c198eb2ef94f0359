"""Akyürek, Schuurmans, Andreas, Ma, Zhou 2022 (arXiv 2211.15661), Theorems 1 and 2: decoders that fit linear models.

The objective is Σ (w·x_i − y_i)² + lam‖w‖², whose gradient step of size α is a step of size lr = 2α here. The columns
are x_0, y_0, x_1, y_1, …, x_{n−1}; `operators` shows how each operator is a layer.

Theorem 1. One step on the example (x, y), from given weights w,

    w' = w − lr (x (w·x − y) + lam w),

and the answer w'·x_1 in the column of the query, by nine operators as published (appendix; rows and columns renamed):

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

by thirteen operators as published (appendix; a fourteenth, x·y, is never used, and the last product is printed with the
shape of an outer one).

n examples. The same operators, several to a layer, let column y_i take over the weights of column y_{i−1}: SGD by

    A  mov x_i, w into column y_i;  w·x                B  w' = (1 − lr lam) w + lr (y − w·x) x

and recursive least squares, P being the inverse of lam I + Σ x xᵀ, by

    A  mov x_i, w, P into column y_i;  P x,  w·x       C  k = P x / c
    B  c = 1 + x·P x                                   D  w' = w + k (y − w·x),   P' = P − k (P x)ᵀ

Every layer acts on all columns, and does again in an earlier column what it did there: w' and P' are functions of what
column y_i took over, so that it keeps them. At last every x_i takes over w' of y_{i−1} and answers w'·x_i. That is
2(n − 1) + 1 and 4(n − 1) + 1 layers, for all prefixes of the prompt at once.

A step magnifies earlier errors in w by its norm, and for RLS by that of P_i P_j⁻¹ = (P_j⁻¹ + B)⁻¹P_j⁻¹, B ≥ 0, which is
at most √κ with κ = 1 + n d X²/lam; in P it acts twice. What would magnify rounding to the first digit is refused.

Sizes. Operands of a product are divided by a bound on their size, which follows from bounds on inputs and labels:

    SGD    |w'| ≤ ρ|w| + lr |x||y|, where ρ = max(|1 − lr lam|, |1 − lr (d X² + lam)|) is the norm of the step
    RLS    P ≤ I/lam,  |Px|/c ≤ √q/(√lam (1 + q)) ≤ 1/(2√lam) with q = x·Px,  and |w| ≤ |y|/(2√lam)
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.constructed.bounded import Bounded
from iclab.constructed.operators import Product, Stream, Value
from iclab.constructed.program import Program
from iclab.constructed.theorem import CONDITION, DTYPE, Case, Choices, Integers, Reals, Theorem
from iclab.errors import refuse
from iclab.predictors import Predictor, Ridge, StochasticGradientDescent

PAPER = "Akyürek et al. 2022 (arXiv 2211.15661)"


@dataclass(frozen=True, kw_only=True)
class Build:
    """Options of a construction: the product, LayerNorm or not, the precision, and the shape of its prompts."""

    product: Product = field(default_factory=Product)
    norm: bool = False
    dtype: torch.dtype = torch.float64
    largest_x: float = 5.0
    largest_y: float = 20.0

    def problems(self) -> list[str]:
        """Returns the problems of it."""
        given = {"largest_x": self.largest_x, "largest_y": self.largest_y}
        return [f"{k} must be positive and finite, given {v}" for k, v in given.items() if not 0 < v < float("inf")]


PLAIN, WITH_NORM = Build(), Build(norm=True)


def _checked(what: str, build: Build, n: int = 1, **numbers: float) -> None:
    """Refuses what is not finite, negative penalties and prompts without a position."""
    problems = [f"{k} must be finite, given {v}" for k, v in numbers.items() if not abs(v) < float("inf")]
    problems += [f"lam must be at least 0, given {v}" for k, v in numbers.items() if k == "lam" and v < 0]
    refuse(what, build.problems() + problems + ([] if n >= 1 else [f"n must be at least 1, given {n}"]))


def _invertible(what: str, lam: float) -> None:
    refuse(what, [] if 0 < lam < float("inf") else [f"lam must be positive and finite, given {lam}"])


# ---- one example, as published -------------------------------------------------------------------------------------


def sgd_step(
    w: Float[Tensor, " d"], lr: float, lam: float = 0.0, build: Build = PLAIN, printed: bool = False
) -> Bounded:
    """Builds Theorem 1 by its nine operators: w'·x_1 at the second position (the first is not answered), n = 2.

    `printed` has the sign of the decay as the paper prints it, which is wrong.
    """
    _checked("sgd_step", build, lr=lr, lam=lam, w=float(w.abs().sum()))
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
    refuse("sgd_step", program.too_coarse(d))
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
    """Builds Theorem 2 by its thirteen operators: the ridge answer from one example, at the second position, n = 2.

    It divides by a LayerNorm, so that there must be one.
    """
    _checked("sherman_morrison", build)
    _invertible("sherman_morrison", lam)
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
    refuse("sherman_morrison", program.too_coarse(d * (1 + d * x**2 / lam) ** 1.5))
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
    """Builds one pass of SGD over the first i examples from w (zero unless given), for every i, in 2(n − 1) + 1
    layers."""
    start = torch.zeros(d, dtype=torch.float64) if w is None else w.double()
    _checked("stochastic_gradient_descent", build, n, lr=lr, lam=lam, w=float(start.abs().sum()))
    x, y = build.largest_x, build.largest_y
    norm, growth = float(start.norm()), max(abs(1 - lr * lam), abs(1 - lr * (d * x**2 + lam)))
    for _ in range(n - 1):
        norm = max(norm, growth * norm + abs(lr) * d**0.5 * x * y)
    dot = d**0.5 * x * norm or 1.0
    registers = {"w": (d, norm or 1.0), "stepped": (d, norm or 1.0), "dot": (1, dot)}
    program = Program(Stream(d, n, registers, x, y, build.norm), build.product, build.dtype)
    value, form = program.stream.value, program.stream.form
    residual = Value(form("y") - form("dot"), y + dot)
    refuse("stochastic_gradient_descent", program.too_coarse(n * d * max(1.0, growth) ** (n - 1)))
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
    """Builds ridge with penalty lam on the first i examples, for every i, in 4(n − 1) + 1 layers."""
    _checked("recursive_least_squares", build, n)
    _invertible("recursive_least_squares", lam)
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
    refuse("recursive_least_squares", program.too_coarse(n * d * (1 + n * d * x**2 / lam) ** 1.5))
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


# ---- single operators ----------------------------------------------------------------------------------------------


def _single(build: Build, d: int, size: float, n: int = 1) -> tuple[Program, Callable[[str], Value]]:
    """A program for one operator, whose answer is the row "answer"."""
    stream = Stream(d, n, {"answer": (1, size)}, build.largest_x, build.largest_y, build.norm)
    return Program(stream, build.product, build.dtype), stream.value


def multiplier(build: Build = PLAIN) -> Bounded:
    """Builds one layer that answers x_i[0]·x_i[1] (d = 2), by `mul`."""
    program, value = _single(build, 2, build.largest_x**2)
    forms, size = value("x")
    program.layer().mul(Value(forms[:1], size), Value(forms[1:], size), "answer", (1, 1, 1))
    return program.model("answer")


def divider(build: Build = WITH_NORM) -> Bounded:
    """Builds layers that answer x_i[0]/|1 + x_i[1]²| (d = 2), by `mul` and `div`."""
    registers = {"c": (1, 1 + build.largest_x**2), "answer": (1, build.largest_x)}
    stream = Stream(2, 1, registers, build.largest_x, norm=True)
    program = Program(stream, build.product, build.dtype)
    forms, size = stream.value("x")
    second = Value(forms[1:], size)
    program.layer().aff("c", bias=1.0).mul(second, second, "c", (1, 1, 1))
    program.layer().div(Value(forms[:1], size), stream.value("c"), "answer")
    return program.model("answer")


def mover(n: int, d: int, source: int, target: int, dtype: torch.dtype = torch.float64) -> Bounded:
    """Builds one layer that copies x of column `source` into column `target`, over what is there, and answers with
    x[0]."""
    program, value = _single(Build(dtype=dtype), d, PLAIN.largest_x, n)
    program.layer().mov({target: source}, "x", "x").aff("answer", [value("x").forms[:1]])
    return program.model("answer")


def reader(build: Build, pads: float, balanced: bool = True, d: int = 1) -> Bounded:
    """Builds one layer that answers x_i[0], read through LayerNorm beside pads of size `pads`, balanced or as
    published."""
    program, value = _single(replace(build, norm=True), d, build.largest_x)
    program.big, program.pads = pads, "balanced" if balanced else "published"
    program.layer().aff("answer", [value("x").forms[:1]])
    return program.model("answer")


# ---- theorems ------------------------------------------------------------------------------------------------------

PRODUCTS = {"published": Product("published"), "even": Product("even"), "richardson": Product("richardson")}
VARIANTS = Choices(["richardson", "even", "published", "richardson norm", "published norm"])
FIRST_ORDER = "errors that the layers make (Taylor remainder of GELU, LayerNorm, rounding), carried on by gradients"


def _build(case: Case) -> Build:
    """Bounds of four standard deviations, at which the prompts are cut off."""
    kind, _, norm = case.variant.partition(" ")
    labels = 4 * (case.d**0.5 * case.size + case.noise)
    product = PRODUCTS[kind or "richardson"]
    return Build(product=product, norm=bool(norm), dtype=case.precision, largest_x=4 * case.size, largest_y=labels)


def _prompts(case: Case, build: Build, n: int, batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """w, xs and ys within the bounds."""
    rng = case.rng()
    shapes = (case.d,), (batch, n, case.d), (batch, n)
    w, xs, noise = (torch.randn(*shape, generator=rng).double() for shape in shapes)
    xs = (case.size * case.conditioned(xs)).clamp(-build.largest_x, build.largest_x)
    ys = (xs @ w + case.noise * noise).clamp(-build.largest_y, build.largest_y)
    return w, xs.to(case.precision), ys.to(case.precision)


def _distance(model: Bounded, predictor: Predictor, xs: Tensor, ys: Tensor) -> tuple[float, float]:
    """The largest error of the answers that are given, and the largest that is allowed."""
    given = slice(model.answers_from, None)
    error = (model(xs, ys).double() - predictor(xs.double(), ys.double())).abs()[:, given].max()
    return error.item(), model.tolerance(xs, ys).double()[:, given].max().item()


def _theorem1(case: Case, printed: bool = False) -> tuple[float, float]:
    build = _build(case)
    w, xs, ys = _prompts(case, build, 2)

    def stepped(xs: Tensor, ys: Tensor) -> Tensor:
        x, y = xs[:, 0], ys[:, 0]
        new = w - case.lr * ((x @ w - y).unsqueeze(-1) * x + case.lam * w)
        return (xs * new.unsqueeze(1)).sum(-1)

    return _distance(sgd_step(w, case.lr, case.lam, build, printed), stepped, xs, ys)


def _theorem2(case: Case) -> tuple[float, float]:
    build = replace(_build(case), norm=True)
    _, xs, ys = _prompts(case, build, 2)
    return _distance(sherman_morrison(case.d, case.lam, build), Ridge(case.lam), xs, ys)


def _sgd(case: Case) -> tuple[float, float]:
    build = _build(case)
    _, xs, ys = _prompts(case, build, case.n)
    model = stochastic_gradient_descent(case.d, case.n, case.lr, case.lam, build)
    return _distance(model, StochasticGradientDescent(case.lr, case.lam), xs, ys)


def _ridge(case: Case) -> tuple[float, float]:
    build = replace(_build(case), norm=True)
    _, xs, ys = _prompts(case, build, case.n)
    return _distance(recursive_least_squares(case.d, case.n, case.lam, build), Ridge(case.lam), xs, ys)


def _pairs(case: Case, least: float = 0.0) -> Float[Tensor, "batch one two"]:
    """Pairs of numbers of size least..1, times `size`, of both signs."""
    rng = case.rng()
    size = least + (1 - least) * torch.rand(16, 1, 2, generator=rng, dtype=torch.float64)
    signs = torch.randint(0, 2, size.shape, generator=rng) * 2 - 1
    return (case.size * signs * size).to(case.precision)


def _product(case: Case) -> Product:
    return replace(PRODUCTS[case.variant], scale=case.scale)


def _missed(case: Case, xs: Tensor, largest: float) -> Float[Tensor, " batch"]:
    """The errors of the product layer, in size."""
    model = multiplier(Build(product=_product(case), dtype=case.precision, largest_x=largest))
    return (model(xs, xs[..., 0]).double() - xs.double().prod(-1))[:, 0].abs()


def _multiplied(case: Case) -> tuple[float, float]:
    bound = case.size**2 * (_product(case).error(case.eps) + 4 * case.eps)
    return _missed(case, _pairs(case), case.size).max().item(), bound


def _order(case: Case, order: int) -> tuple[float, float]:
    """How far the error is from that power of the operands: the exponent measured from operands and their halves."""
    xs = _pairs(case, least=0.3)
    return ((_missed(case, xs, 1.0) / _missed(case, xs / 2, 1.0)).log2() - order).abs().max().item(), 0.05


def _falls(case: Case, balanced: bool, order: int) -> tuple[float, float]:
    """How far the error of reading through LayerNorm is from falling as N to the power of −order."""
    xs = _pairs(replace(case, size=1.0), least=0.3).abs()
    near, far = (
        (reader(Build(largest_x=1.0), pads, balanced, 2)(xs, xs[..., 0]) - xs[..., 0]).abs()
        for pads in (case.scale, 10 * case.scale)
    )
    return ((near / far).log10() - order).abs().max().item(), 0.05


def _moved(case: Case) -> tuple[float, float]:
    rng, n = case.rng(), case.n
    xs, ys = torch.randn(2, n, case.d, generator=rng).to(case.precision), torch.zeros(2, n, dtype=case.precision)
    target = int(torch.randint(0, n, (), generator=rng))
    source = int(torch.randint(0, target + 1, (), generator=rng))
    model = mover(n, case.d, 2 * source, 2 * target, case.precision)
    held = model.read(xs, ys, "blocks.0.resid_mid")["blocks.0.resid_mid"][:, ::2, 1 : case.d + 1]
    start = model.read(xs, ys, "embed")["embed"][:, ::2, 1 : case.d + 1].clone()
    start[:, target] = start[:, source]
    return (held - start).abs().max().item(), 2 * case.eps


def _passed(case: Case) -> tuple[float, float]:
    xs = _pairs(case)
    program, value = _single(Build(dtype=case.precision, largest_x=case.size), 2, 2 * case.size)
    program.layer().aff("answer", [value("x").forms.sum(0, keepdim=True)])
    error = (program.model("answer")(xs, xs[..., 0]).double() - xs.double().sum(-1)).abs().max().item()
    return error, 8 * case.size * case.eps


def _divided(case: Case) -> tuple[float, float]:
    xs = _pairs(case)
    model = divider(Build(norm=True, dtype=case.precision, largest_x=case.size))
    return _distance(model, lambda xs, ys: xs[..., 0] / (1 + xs[..., 1] ** 2), xs, xs[..., 0])


_STEP = {
    "d": Integers(1, 6),
    "lr": Reals(0.01, 0.5),
    "lam": Reals(0.01, 2.0, log=True),
    "size": Reals(0.1, 3.0, log=True),
    "noise": Reals(0.0, 1.0),
    "condition": CONDITION,
}
_UPDATE = {
    "d": Integers(1, 4),
    "lam": Reals(0.1, 10.0, log=True),
    "size": Reals(0.1, 1.0, log=True),
    "noise": Reals(0.0, 1.0),
    "condition": CONDITION,
}

THEOREM1 = Theorem(
    "akyurek2022_theorem1",
    f"{PAPER}, Theorem 1, the sign in step 6 corrected",
    "nine decoder layers answer w'·x_2 after one SGD step on one example, w' = w − lr (x (w·x − y) + lam w)",
    {**_STEP, "variant": VARIANTS, "dtype": DTYPE},
    _theorem1,
    FIRST_ORDER,
)
ORDER = Theorem(
    "akyurek2022_lemma4_order",
    f"{PAPER}, Lemma 4, the order corrected",
    "the error of the GELU product √(π/2)(g(x+y) − g(x) − g(y)) is of fourth order in (x, y)",
    {"scale": Reals(30.0, 300.0, log=True), "variant": Choices(["published"])},
    partial(_order, order=4),
    "the measured exponent, from operands and their halves; the next order is 1/c² of the leading one",
)
PADS = Theorem(
    "akyurek2022_lemma6_pads",
    f"{PAPER}, Lemma 6; balanced pads are this project's",
    "LayerNorm beside pads N − s/2 and −N − s/2 passes rows on with an error that falls as 1/N²",
    {"scale": Reals(100.0, 3000.0, log=True)},
    partial(_falls, balanced=True, order=2),
    "the measured exponent, from N and 10 N",
)

THEOREMS: list[Theorem] = [
    Theorem(
        "akyurek2022_lemma1_mov",
        f"{PAPER}, Lemma 1",
        "one decoder layer copies rows of a column into a later column and changes no other",
        {"d": Integers(1, 8), "n": Integers(1, 8), "dtype": DTYPE},
        _moved,
        "attention is one-hot to the last bit; (h + z) − h rounds once, values being at most 1",
    ),
    Theorem(
        "akyurek2022_lemma4_mul",
        f"{PAPER}, Lemma 4; even and Richardson forms are this project's",
        "one GELU layer multiplies: published, even and extrapolated forms keep their Taylor remainders",
        {
            "variant": Choices(list(PRODUCTS)),
            "scale": Reals(10.0, 1e6, log=True),
            "size": Reals(0.1, 100.0, log=True),
            "dtype": DTYPE,
        },
        _multiplied,
        "the leading Taylor term at the largest operands, doubled, and 5 to 15 c·eps of rounding",
        cases=40,
    ),
    ORDER,
    ORDER.as_printed(
        f"{PAPER}, Lemma 4 as printed, O(x³ + y³) being read as the order and not only as a bound",
        "the error of the GELU product is of third order in (x, y)",
        partial(_order, order=3),
    ),
    Theorem(
        "akyurek2022_lemma5_aff",
        f"{PAPER}, Lemma 5; by g(z) − g(−z) = z, which is this project's",
        "one GELU layer computes an affine function, exactly",
        {"size": Reals(1e-6, 1e6, log=True), "dtype": DTYPE},
        _passed,
        "the sum of two rounded numbers of at most 1, times a bound of 2·size",
    ),
    PADS,
    Theorem(
        "akyurek2022_lemma6_pads_published",
        f"{PAPER}, Lemma 6",
        "LayerNorm beside the published pads N and −N − s passes rows on with an error that falls as 1/N only",
        PADS.ranges,
        partial(_falls, balanced=False, order=1),
        PADS.reason,
    ),
    PADS.as_printed(
        f"{PAPER}, Lemma 6, its pads N and −N − s as printed; a second order is what this project asks of them",
        "LayerNorm beside pads N and −N − s passes rows on with an error that falls as 1/N²",
        partial(_falls, balanced=False, order=2),
    ),
    Theorem(
        "akyurek2022_lemma8_div",
        f"{PAPER}, Lemma 8; its pads balanced",
        "LayerNorm beside pads ±Nc divides a row by c = 1 + x² and leaves the stream as it was",
        {"size": Reals(0.1, 30.0, log=True)},
        _divided,
        FIRST_ORDER,
    ),
    THEOREM1,
    THEOREM1.as_printed(
        f"{PAPER}, Theorem 1, proof, step 6 as printed: −lam",
        THEOREM1.statement,
        partial(_theorem1, printed=True),
    ),
    Theorem(
        "akyurek2022_sgd",
        f"{PAPER}, Theorem 1, n steps",
        "2(n − 1) + 1 decoder layers answer as one pass of SGD over the first i examples, for every i",
        {**_STEP, "n": Integers(1, 6), "lr": Reals(0.001, 0.01), "variant": VARIANTS},
        _sgd,
        FIRST_ORDER,
    ),
    Theorem(
        "akyurek2022_theorem2",
        f"{PAPER}, Theorem 2",
        "thirteen decoder layers answer as ridge regression from one example, by one Sherman-Morrison update",
        _UPDATE,
        _theorem2,
        FIRST_ORDER,
    ),
    Theorem(
        "akyurek2022_ridge",
        f"{PAPER}, Theorem 2, n updates",
        "4(n − 1) + 1 decoder layers answer as ridge regression on the first i examples, for every i",
        {"d": _UPDATE["d"], "n": Integers(1, 6), **_UPDATE},
        _ridge,
        FIRST_ORDER,
    ),
]
