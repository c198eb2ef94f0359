"""Ahn, Cheng, Daneshmand, Sra 2023 (arXiv 2306.00297): linear attention that is preconditioned gradient descent.

With Z_l = [x_1 … x_n x; y_1 … y_n 0] and a mask M that hides the query's column, a layer is

    Z_{l+1} = Z_l + (1/n) P_l Z_l M Z_lᵀ Q_l Z_l,    P_l = diag(B_l, 1),    Q_l = −diag(A_l, 0),

and the answer is minus the last entry of Z_L. In tokens, the sums being over the examples,

    r_t ← r_t − (1/n) Σ_j r_j x_jᵀ A_l x_t,        x_t ← x_t − (1/n) B_l Σ_j x_j x_jᵀ A_l x_t.

Lemma 1 (B_l = 0). After l layers r_t = y_t − w_l·x_t and −w_l·x for the query, where w_0 = 0 and

    w_{l+1} = w_l − A_lᵀ ∇R(w_l),    R(w) = (1/2n) Σ (w·x_j − y_j)².

Proof. It holds for l = 0. The layer takes Δ·x_t from r_t, Δ = A_lᵀ (1/n) Σ_j (y_j − w_l·x_j) x_j = −A_lᵀ∇R(w_l), in
examples and query alike, so that w_{l+1} = w_l + Δ.                                                                ∎
The lemma has A_l in the place of A_lᵀ. That is the same for symmetric A_l, and those of the theorems are symmetric; for
others it is not.

With B_l (Theorem 4: A_l = a_l Σ⁻¹ and B_l = b_l I for inputs of covariance Σ; with A_l = a I, GD++ of von Oswald et al.
2022) the inputs in layer l are N_l x_t, N_0 = I, and the same argument gives, with G = XᵀX/n and h = Xᵀy/n,

    w_{l+1} = w_l + N_lᵀ A_lᵀ N_l (h − G w_l),        N_{l+1} = N_l − B_l N_l G N_lᵀ A_l N_l.

Here all prefixes are answered, and n is the number of examples in the prefix.
"""

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.constructed import vonoswald
from iclab.constructed.theorem import DTYPE, PROMPTS, Case, Integers, Reals, Theorem
from iclab.errors import refuse
from iclab.models import Transformer
from iclab.predictors import GradientDescent

PAPER = "Ahn et al. 2023 (arXiv 2306.00297)"


@torch.no_grad()
def preconditioned(n: int, A: Float[Tensor, "L d d"], B: Float[Tensor, "L d d"] | None = None) -> Transformer:
    """Builds a float64 transformer of L layers with these A_l and B_l (0 unless given), for prompts of at most n
    positions.

    Raises ``ValueError`` where there is no layer or a matrix is not finite.
    """
    B = torch.zeros_like(A) if B is None else B
    layers, d = A.shape[:2]
    problems = [] if layers >= 1 else ["there must be at least one A_l, given none"]
    problems += [f"{name} must be finite" for name, each in (("A", A), ("B", B)) if not each.isfinite().all()]
    refuse("preconditioned", problems)
    model = Transformer(d, n, replace(vonoswald.config(d, layers), tied=False, normaliser="seen")).double()
    for i in range(layers):
        attn = model.attention(i)
        for part in (attn.q, attn.k, attn.v, attn.out):
            part.weight.zero_()
        attn.q.weight[:d, :d] = A[i]
        attn.k.weight[:d, :d] = torch.eye(d)
        attn.v.weight[: d + 1, : d + 1] = torch.eye(d + 1)
        attn.out.weight[:d, :d] = -B[i]
        attn.out.weight[d, d] = -1.0
    return model


# ---- theorems ------------------------------------------------------------------------------------------------------


def _matrices(case: Case, symmetric: bool = False) -> tuple[Tensor, Tensor]:
    """A_l of norm lr and B_l of norm gamma, of another generator than the prompt."""
    shape = 2, case.layers, case.d, case.d
    drawn = torch.randn(*shape, generator=case.rng(1), dtype=torch.float64)
    drawn = drawn @ drawn.mT if symmetric else drawn
    A, B = drawn / torch.linalg.matrix_norm(drawn, 2, keepdim=True)
    return case.lr * A, case.gamma * B


def _rounding(case: Case, xs: Tensor, ys: Tensor) -> float:
    """With p = ‖X‖²/n: each layer rounds its sums to eps of their terms, and carries on by a norm of 1 + ‖A‖p what came
    before, in w; where inputs move, by 1 + ‖A‖‖B‖p for each of the three that stand in a term, and p grows with it."""
    power = xs[0, :-1].square().sum() / case.n
    first = power.sqrt() * ys[0, :-1].norm() / case.n**0.5
    largest = case.layers * case.lr * first * xs[0].norm(dim=-1).max()
    for _ in range(case.layers):
        moved = 1 + case.lr * case.gamma * power
        largest, power = largest * (1 + case.lr * power) * moved**3, power * moved**2
    return float(8 * case.layers * (case.n + 2 * case.d) * case.eps * largest)


def _descent(case: Case, symmetric: bool = False, transposed: bool = True) -> tuple[float, float]:
    (xs, ys), (A, _) = case.prompt(), _matrices(case, symmetric)
    seen = torch.arange(case.n + 1, dtype=xs.dtype).clamp(min=1)
    exact = GradientDescent(case.layers, 1 / seen, A.mT if transposed else A)(xs, ys)[:, -1]
    predictions = case.asked(preconditioned(case.n + 1, A), xs, ys, 1)[:, -1]
    return (predictions - exact).abs().max().item(), _rounding(case, xs, ys)


def _moving(case: Case) -> tuple[float, float]:
    (xs, ys), (A, B) = case.prompt(), _matrices(case)
    examples, labels = xs[0, :-1], ys[0, :-1]
    G, h = examples.mT @ examples / case.n, examples.mT @ labels / case.n
    w, N = torch.zeros_like(h), torch.eye(case.d, dtype=h.dtype)
    for a, b in zip(A, B, strict=True):
        w, N = w + N.mT @ a.mT @ N @ (h - G @ w), N - b @ N @ G @ N.mT @ a @ N
    predictions = case.asked(preconditioned(case.n + 1, A, B), xs, ys, 1)[0, -1]
    return abs(float(predictions - w @ xs[0, -1])), _rounding(case, xs, ys)


_ANY = {
    **PROMPTS,
    "d": Integers(2, 5),  # with d = 1 every A is symmetric
    "dtype": DTYPE,
    "layers": Integers(1, 4),
    "lr": Reals(0.05, 0.5),
}
ROUNDING = "rounding of each sum to eps of its terms, carried on by a norm of 1 + ‖A_l‖‖X‖²/n in each layer"

LEMMA1 = Theorem(
    "ahn2023_lemma1",
    f"{PAPER}, Lemma 1, for any A_l, the step transposed",
    "L layers of linear attention with Q_l = −diag(A_l, 0) are L steps w ← w − A_lᵀ∇R(w) from w = 0",
    _ANY,
    _descent,
    ROUNDING,
)

THEOREMS: list[Theorem] = [
    LEMMA1,
    Theorem(
        "ahn2023_lemma1_symmetric",
        f"{PAPER}, Lemma 1, for symmetric A_l, as in its theorems",
        "L layers of linear attention with Q_l = −diag(A_l, 0) are L steps w ← w − A_l∇R(w) from w = 0",
        {**_ANY, "d": PROMPTS["d"]},
        partial(_descent, symmetric=True, transposed=False),
        ROUNDING,
    ),
    LEMMA1.as_printed(
        f"{PAPER}, Lemma 1 as printed, the step taken for any A_l",
        "L layers of linear attention with Q_l = −diag(A_l, 0) are L steps w ← w − A_l∇R(w) from w = 0",
        partial(_descent, transposed=False),
    ),
    Theorem(
        "ahn2023_moving",
        f"{PAPER}, the layers of Theorem 4, for any A_l and B_l",
        "with P_l = diag(B_l, 1) the inputs move as well, and the layers are preconditioned descent on moved inputs",
        {**_ANY, "size": Reals(0.1, 1.0, log=True), "gamma": Reals(0.0, 0.5)},
        _moving,
        ROUNDING + ", and by that of the moves",
    ),
]
