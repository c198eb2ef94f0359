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
R being large; here the layout hides it, and the sum is divided by N. The encoders that their code trains attend to the
query token too and hide nothing.

Theorem 4. Let α ≤ λ(XᵀX/N) ≤ β, κ = (β + lam)/(α + lam), ‖x‖ ≤ B_x and ‖w*‖ ≤ B_w/2 for the ridge solution w*. Then

    L = ⌈2 κ log(B_x B_w/(2ε))⌉ + 1

layers answer within ε of w*·x. Proof: with η = 1/(β + lam) a step contracts w − w* by 1 − 1/κ ≤ e^(−1/κ), so that L − 1
steps leave at most B_x (B_w/2) e^(−2 log(B_x B_w/(2ε))) ≤ ε once B_x B_w ≥ 2ε.  ∎ (Half as many steps would do.)
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil, e, log, pi
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.constructed.bounded import Bounded
from iclab.constructed.heads import Block, Kinked, Rows, assemble
from iclab.constructed.theorem import DTYPE, PROMPTS, Case, Choices, Integers, Reals, Theorem
from iclab.errors import refuse, unknown
from iclab.predictors import GradientDescent, Lasso, Ridge

PAPER = "Bai et al. 2023 (arXiv 2306.04637)"


def _checked(what: str, steps: int, least: int = 0, lam: float = 0.0, **positive: float) -> None:
    """Refuses what is no descent, all of it at once."""
    problems = [
        f"{k} must be at least {low}, given {v}"
        for k, v, low in (("steps", steps, least), ("lam", lam, 0))
        if not v >= low
    ]
    problems += [f"{k} must be positive and finite, given {v}" for k, v in positive.items() if not 0 < v < float("inf")]
    refuse(what, problems)


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
    """Builds `steps` of gradient descent on the mean objective over the first i examples, for every i, in steps + 1
    layers.

    `lr` is η and `lam` the penalty of the mean objective. Raises ``ValueError`` for what is no gradient descent.
    """
    _checked("gradient_descent", steps, lam=lam, lr=lr)
    rows = Rows(d, {"w": d, "answer": 1})
    return assemble(rows, n, [*[_step(rows, lr, lam)] * steps, _answer(rows)], "answer", normaliser="seen")


def layers_for(kappa: float, largest_x: float, largest_w: float, epsilon: float) -> int:
    """Returns L of Theorem 4, with ‖x‖ ≤ B_x and ‖w*‖ ≤ B_w/2."""
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
    """Builds `steps` of proximal descent to the Lasso on the first i examples, for every i, in steps + 1 layers of two
    heads.

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
    """Returns ε of `pieces` straight pieces on [−reach, reach]."""
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
    """Builds `steps` of descent to the maximum of likelihood on the first i examples, for every i, in steps + 1 layers.

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


# ---- a network of two layers ---------------------------------------------------------------------------------------
#
# Theorem G.1. f(x) = Σ_k u_k r(v_k·x) on the squared error, with r(t) = t²/2 here, so that r′(t) = t. All weights are
# kept in the box [−B, B]. A step takes two layers, in which ĥ is r by M straight pieces:
#
#     attention   f_t = 1/N Σ_j Σ_k u_k ĥ(x_t·v_k)                       all tokens j hold the same weights
#     MLP         g_t = f_t − y_t
#     attention   v_k ← v_k − η/N Σ_j p(u_k g_j, v_k·x_j) x_j            p(s, t) = (ĥ(s + t) − ĥ(s − t))/2 ≈ s t
#                 u_k ← u_k − η/N Σ_j ĥ(v_k·x_j) g_j
#     MLP         into the box by w − relu(w − B) + relu(−w − B); g ← 0
#
# and a last layer answers f at the query. (Paper: any smooth r, with s r′(t) by ReLUs of two variables.)
#
# Sizes. |x| ≤ X in each entry and |y| ≤ Y give |v·x| ≤ T = dXB, |f| ≤ F = KBT²/2 and |g| ≤ G = F + Y. With T cut into M
# pieces ĥ is off by τ = (2T/M)²/8, f by φ = KBτ and p by π = (2Z/M)²/8 on |s| + |t| ≤ Z = B(G + φ) + T. The gradients
# in v_k and u_k are then off by (π + BφT)|x| and τ(G + φ) + φT²/2, and all of them together by
#
#     ε = √K √(((π + BφT)|x|)² + (τ(G + φ) + φT²/2)²),    |x| ≤ √d X.
#
# Claim. After L steps the weights are within ε((1 + ηΛ)^L − 1)/Λ of those of projected descent, and the answer within
# φ + λ times that, where λ bounds |∇f| and Λ the Hessian of the loss: λ² = K((BT|x|)² + (T²/2)²) and
# Λ = λ² + G(B|x|² + T|x|).
# Proof. A step of descent moves two points apart by a factor of 1 + ηΛ at most, and projection by none. The Hessian is
# the mean of ∇f∇fᵀ + g∇²f, and ∇²f has the blocks u_k x xᵀ and (v_k·x) x for each k.                                  ∎


class Sizes(NamedTuple):
    """T, G + φ and Z above, the errors φ of f and ε of the gradient, λ and Λ."""

    t: float
    g: float
    z: float
    f_error: float
    gradient_error: float
    steepness: float
    curvature: float


def network_sizes(d: int, k: int, pieces: int, box: float, largest_x: float, largest_y: float) -> Sizes:
    """Returns bounds for a network of k hidden units."""
    x, t = d**0.5 * largest_x, d * largest_x * box
    tau = (2 * t / pieces) ** 2 / 8
    f_error = k * box * tau
    g = k * box * t**2 / 2 + largest_y + f_error
    z = box * g + t
    product = (2 * z / pieces) ** 2 / 8
    in_v, in_u = (product + box * f_error * t) * x, tau * g + f_error * t**2 / 2
    steepness = (k * ((box * t * x) ** 2 + (t**2 / 2) ** 2)) ** 0.5
    curvature = steepness**2 + g * (box * x**2 + t * x)
    return Sizes(t, g, z, f_error, (k * (in_v**2 + in_u**2)) ** 0.5, steepness, curvature)


def network_descent(
    v: Float[Tensor, "k d"],
    u: Float[Tensor, " k"],
    n: int,
    steps: int,
    lr: float,
    pieces: int,
    box: float = 1.0,
    largest_x: float = 1.0,
    largest_y: float = 1.0,
) -> Bounded:
    """Builds `steps` of projected descent of f(x) = Σ_k u_k (v_k·x)²/2 from v and u, in 2·steps + 1 layers.

    Needs an example: that f is the same in all tokens is read from those of the examples.
    """
    _checked("network_descent", steps, lr=lr, pieces=pieces, box=box, largest_x=largest_x, largest_y=largest_y)
    most = float(torch.cat([v.flatten(), u]).abs().max())
    refuse("network_descent", [] if most <= box else [f"weights must be within {box:.4g}, given {most:.4g}"])
    k, d = v.shape
    sizes = network_sizes(d, k, pieces, box, largest_x, largest_y)
    rows = Rows(d, {"v": k * d, "u": k, "f": 1, "g": 1, "answer": 1})
    form, write = rows.form, rows.write
    half_square = partial(Kinked.interpolating, lambda z: z.square() / 2, pieces=pieces)
    narrow, wide = half_square(reach=sizes.t), half_square(reach=sizes.z)
    units = [(slice(i * d, (i + 1) * d), slice(i, i + 1)) for i in range(k)]

    forward, backward, last = Block(), Block(), Block()
    for vs, us in units:
        for block, to in ((forward, "f"), (last, "answer")):
            block.attend_kinked(narrow, form("x"), form("v")[vs], form("u")[us], write(to))
        key = torch.cat([form("g"), form("x")])
        for sign in (1, -1):
            query = torch.cat([form("u")[us], sign * form("v")[vs]])
            backward.attend_kinked(wide, query, key, -sign * lr / 2 * form("x"), write("v")[:, vs])
        backward.attend_kinked(narrow, form("v")[vs], form("x"), -lr * form("g"), write("u")[:, us])
    forward.add(form("f") - form("y"), write("g")).add(-form("f"), write("f"))
    backward.add(-form("g"), write("g"))
    for name in ("v", "u"):
        w, edge = form(name), box * form("one")
        backward.unit(w - edge, -write(name)).unit(-w - edge, write(name))
    start = {"v": v.flatten().double(), "u": u.double()}
    model = assemble(rows, n, [*[forward, backward] * steps, last], "answer", normaliser="seen", start=start)
    model.largest_x, model.largest_y, model.answers_from = largest_x, largest_y, 1
    return model


# ---- choosing a penalty by validation ------------------------------------------------------------------------------
#
# Theorem 16. Of N examples the first N₁ are for training, N₂ for validation (Proposition 15); a row that is 1 in the
# former, by its position, tells them apart. With K penalties,
#
#     steps        w_k by descent on the training examples with penalty lam_k (3K heads)
#     attention    f_k = w_k·x in all tokens (2K heads)
#     attention    L_k = 1/(2N₂) Σ_val (f_k − y)² in all tokens (2K heads);    MLP   c_k = Σ_l relu(L_k − L_l),  L_k ← 0
#     MLP          a_k = relu(1 − c_k/γ)
#     attention    Σ_k S_{k−1} (f_k − f_{k−1}),  S_k = relu(1 − Σ_{l≤k} a_l),  S_0 = 1,  f_0 = f_{K+1} = 0.
#
# Heads that read the one kind alone have −R(1 − t_j) more in the score, t_j = 1 in that kind: relu is then 0 in the
# other if R bounds |f| and |f − y|. A square is z² = relu(z) z + relu(−z)(−z), the relu from the score, z from the
# value; a product S f is relu((f_t + R) S_j) − relu(R S_j), as S_j ≥ 0 is the same in all tokens.
#
# Size. With ‖x‖ ≤ B_x, |y| ≤ B_y and η_k = 1/(B_x² + lam_k) descent from 0 does not pass the ridge solution in any
# eigendirection, and that is Σ σ/(σ² + lam) (uᵀy/√N₁) with σ/(σ² + lam) ≤ 1/(2√lam). Hence R = B_x B_y/(2√lam) + B_y.
#
# Claim. The answer is Σ_k p_k f_k with p_k = S_{k−1} − S_k ≥ 0, Σ p_k = 1, and p_k > 0 only where L_k ≤ min L + γ: its
# validation loss is at most min L + γ. Proof. S falls from 1 and, as a_k = 1 where L_k is least, to S_K = 0. p_k > 0
# needs a_k > 0, that is c_k < γ, which is at least L_k − min L. The loss is convex.                                  ∎
# (Of several within γ the first is taken, not the best.)


def validated_ridge(
    d: int,
    training: int,
    validation: int,
    steps: int,
    lams: Sequence[float],
    margin: float,
    largest_x: float = 1.0,
    largest_y: float = 1.0,
) -> Bounded:
    """Builds ridge by `steps` of descent for each of `lams`, and the one of least validation loss within `margin`, in
    steps + 4 layers. Prompts have training + validation examples, and the query alone is answered."""
    sizes = {"training": training, "validation": validation, "margin": margin, **_numbered("lam", lams)}
    _checked("validated_ridge", steps, **sizes, largest_x=largest_x, largest_y=largest_y)
    refuse("validated_ridge", [] if lams else ["lams must hold at least one penalty"])
    n, K, bound = training + validation, len(lams), d**0.5 * largest_x
    R = largest_y + bound * largest_y / (2 * min(lams) ** 0.5)
    registers = {f"{name} {k}": d if name == "w" else 1 for k in range(K) for name in ("w", "f", "loss", "c", "a")}
    rows = Rows(d, {**registers, "training": 1, "answer": 1})
    form, write, one = rows.form, rows.write, rows.form("one")
    step, predict, evaluate, relax = Block(), Block(), Block(), Block()
    for k, lam in enumerate(lams):
        lr, w, f = 1 / (bound**2 + lam), f"w {k}", f"f {k}"
        for sign in (1, -1):
            query = torch.cat([sign * form(w), -sign * one, -R * one])
            key = torch.cat([form("x"), form("y"), one - form("training")])
            step.relu(query, key, -sign * lr * n / training * form("x"), write(w))
            key = torch.cat([sign * (form(f) - form("y")), -R * form("training")])
            error = sign * n / (2 * validation) * (form(f) - form("y"))
            evaluate.relu(torch.cat([one, one]), key, error, write(f"loss {k}"))
        step.count(-lr * lam * form(w), write(w))
        predict.attend(form("x"), form(w), one, write(f))
        for other in range(K):
            evaluate.unit(form(f"loss {k}") - form(f"loss {other}"), write(f"c {k}"))
        evaluate.add(-form(f"loss {k}"), write(f"loss {k}"))
        relax.unit(one - form(f"c {k}") / margin, write(f"a {k}"))
    names = [f"f {k}" for k in range(K)]
    left = [one - sum((form(f"a {each}") for each in range(k)), 0 * one) for k in range(K + 1)]
    choose = _mixed(rows, [*zip(left, [*names, ""], ["", *names], strict=True)], R)
    table = rows.marked({"training": (torch.arange(n + 1) < training).double()})
    blocks = [*[step] * steps, predict, evaluate, relax, choose]
    model = assemble(rows, n + 1, blocks, "answer", normaliser="seen", table=table)
    model.largest_x, model.largest_y, model.answers_from = largest_x, largest_y, n
    return model


def _numbered(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name} {k}": value for k, value in enumerate(values)}


def _mixed(rows: Rows, terms: Sequence[tuple[Tensor, str, str]], R: float) -> Block:
    """Adds Σ relu(s)(f − f′) to the answer, s being the same in all tokens, f and f′ rows of size ≤ R ("" for none)."""
    block, one = Block(), rows.form("one")
    for s, *names in terms:
        for sign, name in zip((1.0, -1.0), names, strict=True):
            f = rows.form(name) if name else 0 * one
            block.relu(f + R * one, s, sign * one, rows.write("answer"))
    return block


# ---- testing before choosing ---------------------------------------------------------------------------------------
#
# Proposition 19. Whether labels are 0 and 1 or real is seen in Ψ = 1/N Σ_j ψ(y_j), where ψ is 1 at 0 and at 1 and falls
# to 0 at a distance of e < 1/2: six kinks, one head for each. An MLP makes S of it,
#
#     S = relu(2Ψ − 1) − relu(2Ψ − 2),    1 if all labels are 0 or 1, and 0 if Ψ ≤ 1/2 (so if none is within e of them),
#
# and the last layer answers S f + (1 − S) f′, with f by logistic regression and f′ by least squares, made side by side.


def tested(
    d: int,
    n: int,
    steps: int,
    lr: float,
    pieces: int,
    width: float = 0.1,
    largest_x: float = 1.0,
    largest_y: float = 1.0,
) -> Bounded:
    """Builds the transformer that takes `steps` of logistic regression where all labels are 0 and 1, by as many of
    least squares where at most half are nearly so, in steps + 2 layers; needs an example. `width` is e."""
    _checked("tested", steps, lr=lr, pieces=pieces, width=width, largest_x=largest_x, largest_y=largest_y)
    most = 1 / (d * largest_x**2)
    problems = [] if lr <= most else [f"lr must be at most 1/β = {most:.4g}, given {lr:.4g}"]
    refuse("tested", problems + ([] if width < 0.5 else [f"width must be below 0.5, given {width}"]))
    reach = _reach(d, steps, lr, largest_x, largest_y)
    f = Kinked.interpolating(LINKS["logistic"].g, reach, pieces)
    rows = Rows(d, {"v": d, "w": d, "s": 1, "likely": 1, "least": 1, "psi": 1, "sure": 1, "answer": 1})
    form, write, one = rows.form, rows.write, rows.form("one")
    step = _step(rows, lr).attend_kinked(f, form("v"), form("x"), -lr * form("x"), write("v"))
    step.attend(one, form("y"), lr * form("x"), write("v"))
    predict = Block().attend(form("x"), form("v"), one, write("s")).attend(form("x"), form("w"), one, write("least"))
    bumps = [(gain / width, at + k * width) for at in (0, 1) for k, gain in ((-1, 1), (0, -2), (1, 1))]
    predict.attend_kinked(Kinked(0.0, *zip(*bumps, strict=True)), one, form("y"), one, write("psi"))
    predict.add_kinked(f, form("s"), write("likely"))
    predict.unit(2 * form("psi") - one, write("sure")).unit(2 * form("psi") - 2 * one, -write("sure"))
    terms = [(form("sure"), "likely", ""), (one - form("sure"), "least", "")]
    model = assemble(
        rows, n, [*[step] * steps, predict, _mixed(rows, terms, max(1.0, reach))], "answer", normaliser="seen"
    )
    model.largest_x, model.largest_y, model.answers_from = largest_x, largest_y, 1
    return model


# ---- theorems ------------------------------------------------------------------------------------------------------


def _rounding(case: Case, xs: Tensor, ys: Tensor) -> float:
    """Each sum to eps of its terms, carried on by a norm of 1 + lr (tr XᵀX/N + lam) for each step."""
    first, second = xs[0, :-1].norm(2).square() / case.n, xs[0, :-1].norm(dim=-1).max() * ys[0, :-1].abs().max()
    grown = max(1.0, float(1 + case.lr * (first + case.lam))) ** case.layers
    terms = 8 * (case.d + case.n) * case.layers * case.eps
    return float(terms * case.layers * case.lr * second * xs[0].norm(dim=-1).max() * grown)


def _descent(case: Case, decay: bool = True) -> tuple[float, float]:
    (xs, ys), lam = case.prompt(), case.lam if decay else 0.0
    model = gradient_descent(case.d, case.n + 1, case.layers, case.lr, lam)
    exact = GradientDescent(case.layers, case.lr / case.n, lam=case.n * lam)(xs, ys)[:, -1:]
    error = (case.asked(model, xs, ys, 1) - exact).abs().item()
    return error if model.config.n_head == (3 if lam else 2) else float("inf"), _rounding(case, xs, ys)


def _shrunk(w: Tensor, threshold: float) -> Tensor:
    return w.sign() * (w.abs() - threshold).clamp(min=0)


def _proximal(case: Case, units: Units = "4d") -> tuple[float, float]:
    """Of too few units, the least error of the four ways to have them."""
    xs, ys = case.prompt()
    examples, labels = xs[0, :-1], ys[0, :-1]
    w = torch.zeros_like(xs[0, 0])
    for _ in range(case.layers):
        w = _shrunk(w - case.lr * examples.mT @ (examples @ w - labels) / case.n, case.lr * case.lam)
    ways = [(a, b) for a in (1, -1) for b in (1, -1)] if units == "2d" else [(1, 1)]
    models = [lasso(case.d, case.n + 1, case.layers, case.lr, case.lam, units, each) for each in ways]
    error = min((case.asked(model, xs, ys, 1)[0, 0] - w @ xs[0, -1]).abs().item() for model in models)
    return error, _rounding(case, xs, ys) + _threshold_rounding(case, xs)


def _threshold_rounding(case: Case, xs: Tensor) -> float:
    """A threshold that is added and taken off again costs eps of itself in each entry and step."""
    return float(8 * case.eps * case.layers * case.lr * case.lam * xs[0, -1].abs().sum())


def _minimised(case: Case) -> tuple[float, float]:
    """The objective above its minimum at the weights that answers to unit vectors show; ε is βB_w²/scale."""
    xs, ys = case.prompt()
    examples, labels = xs[0, :-1], ys[0, :-1]
    beta = float(torch.linalg.matrix_norm(examples, 2).square()) / case.n
    best = Lasso(case.lam).weights(xs, ys)[0, -1]
    model = lasso(case.d, case.n + 1, ceil(case.scale), 1 / beta, case.lam)
    queries = torch.cat([xs[:, :-1].expand(case.d, -1, -1), torch.eye(case.d, dtype=xs.dtype).unsqueeze(1)], dim=1)
    predictions = model(queries, ys.expand(case.d, -1), 1)[:, 0].detach()

    def objective(w: Tensor) -> Tensor:
        return (examples @ w - labels).square().mean() / 2 + case.lam * w.abs().sum()

    epsilon = beta * 4 * float(best.square().sum()) / case.scale
    rounding = 100 * case.n * torch.finfo(xs.dtype).eps * float(labels.square().mean())
    return float(objective(predictions) - objective(best)), epsilon + rounding


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
    (xs, scores), rng = case.prompt(), case.rng(1)
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


def _likely(case: Case) -> tuple[float, float]:
    """lr is a share of 2/β."""
    (xs, ys), largest_x = _binary(case, case.variant), 2 * case.size
    lr = case.lr * 2 / (case.d * largest_x**2 * LINKS[case.variant].steepness)
    model = generalized_linear(case.d, case.n + 1, case.layers, lr, int(case.scale), case.variant, largest_x)
    error = (model(xs, ys, 1)[0, 0] - _likeliest(xs, ys, case.layers, lr, case.variant)).abs().item()
    return error, _likely_bound(case, case.variant, lr, largest_x)


def _fitted(xs: Tensor, ys: Tensor, v: Tensor, u: Tensor, steps: int, lr: float, box: float) -> Float[Tensor, ""]:
    """Projected descent of the network on one prompt, and its answer."""
    examples, labels, query = xs[0, :-1], ys[0, :-1], xs[0, -1]
    for _ in range(steps):
        t = examples @ v.mT
        g = (t.square() / 2 @ u - labels) / len(labels)
        v, u = v - lr * u.unsqueeze(1) * ((g.unsqueeze(1) * t).mT @ examples), u - lr * (t.square() / 2).mT @ g
        v, u = v.clamp(-box, box), u.clamp(-box, box)
    return (v @ query).square() / 2 @ u


def _network(case: Case) -> tuple[float, float]:
    """Two hidden units; inputs are cut off at two standard deviations, labels at 1; weights are drawn from the box."""
    (xs, ys), largest_x, lr = case.prompt(), 2 * case.size, case.lr
    xs, ys = xs.clamp(-largest_x, largest_x), ys.clamp(-1, 1)
    drawn = torch.rand(2, case.d + 1, generator=case.rng(1), dtype=xs.dtype)
    v, u = 2 * drawn[:, :-1] - 1, 2 * drawn[:, -1] - 1
    model = network_descent(v, u, case.n + 1, case.layers, lr, int(case.scale), 1.0, largest_x)
    error = (model(xs, ys, 1)[0, 0] - _fitted(xs, ys, v, u, case.layers, lr, 1.0)).abs().item()
    sizes = network_sizes(case.d, 2, int(case.scale), 1.0, largest_x, 1.0)
    grown = ((1 + lr * sizes.curvature) ** case.layers - 1) / sizes.curvature
    rounded = 16 * (case.scale + case.n) * torch.finfo(xs.dtype).eps * sizes.z**2
    return error, sizes.f_error + rounded + sizes.steepness * (sizes.gradient_error + rounded) * grown


def _penalties(case: Case) -> list[float]:
    """Three, from lam on, each four times as large as the one before."""
    return [case.lam * 4**k for k in range(3)]


def _validated(case: Case) -> tuple[float, float, float, float]:
    """Error and bound of the answer; excess validation loss and its bound. Half of at least two examples validate."""
    (xs, ys), largest_x, largest_y = case.prompt(), 2 * case.size, 2 * (case.size + case.noise)
    xs, ys = xs.clamp(-largest_x, largest_x), ys.clamp(-largest_y, largest_y)
    half, lams, squared = case.n // 2, _penalties(case), case.d * largest_x**2
    model = validated_ridge(case.d, half, case.n - half, case.layers, lams, case.scale, largest_x, largest_y)
    start = torch.cat([xs[:, :half], xs[:, -1:]], dim=1), torch.cat([ys[:, :half], ys[:, -1:]], dim=1)
    descents = [GradientDescent(case.layers, 1 / (squared + lam) / half, lam=half * lam) for lam in lams]
    weights = torch.stack([each.weights(*start)[0, -1] for each in descents])
    held, labels = xs[0, half:-1], ys[0, half:-1]
    losses = (held @ weights.mT - labels.unsqueeze(1)).square().mean(0) / 2
    near = (1 - (losses.unsqueeze(1) - losses).relu().sum(1) / case.scale).relu()
    left = torch.cat([torch.ones(1, dtype=xs.dtype), (1 - near.cumsum(0)).relu()])
    exact = (left[:-1] - left[1:]) @ weights @ xs[0, -1]
    error = (model(xs, ys, 1)[0, 0] - exact).abs().item()
    inputs = xs.repeat(len(held), 1, 1)
    inputs[:, -1] = held
    answers = model(inputs, ys.repeat(len(held), 1), 1)[:, 0].detach()
    excess = (answers - labels).square().mean() / 2 - losses.min()
    largest = largest_y + squared**0.5 * largest_y / (2 * case.lam**0.5)
    rounded = 64 * (case.layers + 1) * (case.n + case.d) * torch.finfo(xs.dtype).eps * largest
    return error, rounded * (1 + 2 * largest**2 / case.scale), float(excess), case.scale + 4 * rounded * largest


def _tested(case: Case) -> tuple[float, float]:
    """lr is a share of 1/β; real labels are moved out of the bumps."""
    largest_x, largest_y, width = 2 * case.size, 3.0, 0.1
    lr = case.lr / (case.d * largest_x**2)
    if case.variant == "binary":
        xs, ys = _binary(case, "logistic")
        exact = _likeliest(xs, ys, case.layers, lr, "logistic")
    else:
        xs, ys = case.prompt()
        xs, ys = xs.clamp(-largest_x, largest_x), ys.clamp(-2, 2)
        ys = torch.where((ys.abs() < width) | ((ys - 1).abs() < width), ys + 2 * width, ys)
        exact = GradientDescent(case.layers, lr / case.n)(xs, ys)[0, -1]
    model = tested(case.d, case.n + 1, case.layers, lr, int(case.scale), width, largest_x, largest_y)
    reach = _reach(case.d, case.layers, lr, largest_x, largest_y)
    rounded = 64 * (case.scale + case.n + case.d) * torch.finfo(xs.dtype).eps * (1 + reach) ** 2 / width
    epsilon = approximation("logistic", int(case.scale), reach) if case.variant == "binary" else 0.0
    return (model(xs, ys, 1)[0, 0] - exact).abs().item(), epsilon * (1 + case.layers * case.lr / 4) + rounded


_DESCENT = {**PROMPTS, "layers": Integers(1, 8), "lr": Reals(0.01, 0.3), "dtype": DTYPE}
_SPLIT = {
    **PROMPTS,
    "d": Integers(1, 4),
    "n": Integers(2, 12),
    "size": Reals(0.2, 1.0, log=True),
    "layers": Integers(0, 8),
    "lam": Reals(0.05, 1.0, log=True),
    "scale": Reals(1e-3, 1.0, log=True),
}
_SPARSE = {**_DESCENT, "lam": Reals(0.01, 1.0, log=True)}
ROUNDING = "rounding of each sum to eps of its terms, carried on by a norm of 1 + lr tr XᵀX/N for each step"

NARROW = Theorem(
    "bai2023_lasso_narrow",
    f"{PAPER}, Theorem 10, its hidden units corrected",
    "two ReLU heads and 2d + 1 hidden units are one proximal step to the Lasso, exactly",
    _SPARSE,
    partial(_proximal, units="2d + 1"),
    ROUNDING,
)

THEOREMS: list[Theorem] = [
    Theorem(
        "bai2023_descent",
        f"{PAPER}, proof of Theorem 4; the query hidden by the layout",
        "one layer of three ReLU heads is one step of gradient descent on the ridge objective, exactly",
        {**_DESCENT, "lam": Reals(0.0, 1.0)},
        _descent,
        "rounding of each sum to eps of its terms, carried on by a norm of 1 + lr (tr XᵀX/N + lam) for each step",
    ),
    Theorem(
        "bai2023_theorem4",
        f"{PAPER}, Theorem 4",
        "⌈2κ log(B_x B_w/(2ε))⌉ + 1 layers answer within ε of ridge regression",
        {**PROMPTS, "lam": Reals(0.3, 3.0, log=True), "scale": Reals(10.0, 1e4, log=True)},
        _ridge,
        "ε, with B_x, B_w, α and β those of the prompt",
    ),
    Theorem(
        "bai2023_two_heads",
        f"{PAPER}, Proposition C.2, for the squared error; the query hidden by the layout",
        "one layer of two ReLU heads is one step of gradient descent on the squared error, exactly",
        _DESCENT,
        partial(_descent, decay=False),
        ROUNDING,
    ),
    Theorem(
        "bai2023_lasso",
        f"{PAPER}, Proposition C.1",
        "two ReLU heads and 4d hidden units are one proximal step to the Lasso, exactly",
        _SPARSE,
        _proximal,
        ROUNDING,
    ),
    NARROW,
    NARROW.as_printed(
        f"{PAPER}, Theorem 10, D′ = 2d as printed",
        "two ReLU heads and 2d hidden units are one proximal step to the Lasso, exactly",
        partial(_proximal, units="2d"),
    ),
    Theorem(
        "bai2023_theorem10",
        f"{PAPER}, Theorem 10",
        "⌈βB_w²/ε⌉ + 1 layers come within ε of the least value of the Lasso's objective",
        {**PROMPTS, "lam": Reals(0.01, 1.0, log=True), "scale": Reals(2.0, 60.0, log=True)},
        _minimised,
        "ε, with β and B_w those of the prompt; rounding of the objective",
    ),
    Theorem(
        "bai2023_generalized_linear",
        f"{PAPER}, Theorem 13 and Corollary 9, with R for L steps instead of B_x B_w",
        "M + 3 ReLU heads are a step of logistic or probit regression, within ε = h²/8 max|g″| of its gradient",
        {
            **PROMPTS,
            "layers": Integers(0, 6),
            "lr": Reals(0.05, 1.0, log=True),
            "scale": Reals(8.0, 256.0, log=True),
            "variant": Choices(["logistic", "probit"]),
        },
        _likely,
        "steps on a convex objective carry errors on without magnifying them",
    ),
    Theorem(
        "bai2023_network",
        f"{PAPER}, Theorem G.1, for Σ_k u_k (v_k·x)²/2",
        "two layers are a step of projected gradient descent on a two-layer network, within a known error",
        {
            **PROMPTS,
            "d": Integers(1, 2),
            "n": Integers(1, 6),
            "size": Reals(0.1, 0.5, log=True),
            "noise": Reals(0.0, 0.5),
            "layers": Integers(0, 4),
            "lr": Reals(0.01, 0.3, log=True),
            "scale": Reals(8.0, 128.0, log=True),
        },
        _network,
        "errors of gradients grow by 1 + ηΛ at most in each step, Λ being a bound on the Hessian",
    ),
    Theorem(
        "bai2023_validation",
        f"{PAPER}, Proposition 15 and Theorem 16",
        "of three ridge regressions made side by side, layers answer by those of least validation loss within γ",
        _SPLIT,
        lambda case: _validated(case)[:2],
        "rounding of each sum to eps of its terms; weights of the mixture move by 1/γ of what losses do",
    ),
    Theorem(
        "bai2023_validation_loss",
        f"{PAPER}, Proposition 15",
        "the validation loss of the answers is at most γ above that of the best penalty",
        _SPLIT,
        lambda case: _validated(case)[2:],
        "γ, and rounding of the answers",
    ),
    Theorem(
        "bai2023_test",
        f"{PAPER}, Proposition 19",
        "layers answer by logistic regression where labels are 0 and 1, and by least squares where none is nearly so",
        {
            **PROMPTS,
            "layers": Integers(0, 4),
            "lr": Reals(0.1, 1.0, log=True),
            "scale": Reals(8.0, 128.0, log=True),
            "variant": Choices(["binary", "real"]),
        },
        _tested,
        "ε of the sum of ReLUs as for generalised linear models, none in least squares; rounding",
    ),
]
