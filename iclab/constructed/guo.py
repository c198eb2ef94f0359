"""Guo, Hu, Mei, Wang, Xiong, Savarese, Bai 2023 (arXiv 2310.10616), Theorems 1 and 2: ridge on a representation.

Labels are y_i = w·Φ(x_i) + noise, where Φ is a network that is the same for all prompts (s leaky ReLU of slope ρ),

    Φ(x) = s(B_L s(… s(B_1 x))),        s(t) = max(t, ρt) = relu(t) − ρ relu(−t),

and a decoder answers at every token p = 1, 2, …, by attention (1/p) Σ_{q ≤ p} relu(q_p·k_q) v_q. Two heads make a
linear one. The rows hold u, c, the weights v_p = p w_p, and p, p², p³:

    Φ        u ← s(B u) in each of L layers, by an MLP without biases; u stays 0 in tokens that hold a label
    copy     c_p ← u_{p−1}: a label's token takes over the representation of its input; c stays 0 where inputs are
    descent  v_p ← v_p − η (1/p) Σ_{q ≤ p} (v_p·c_q − p y_q) c_q − η lam (i/p) v_p, in each of T layers, i examples seen
    answer   (1/p) Σ_{q ≤ p} v_p·(u_q − c_q) = w_p·u_p, as the sum telescopes.

All of it is exact. An MLP that writes s(Bu) also takes the old u off. Copy and decay read one token alone: for integers

    a_p (1 − (p − m − q)²) = a_p at q = p − m, and 0 or less at every other q

is a product of (a_p − a_p (p − m)², 2 a_p (p − m), −a_p) and (1, q, q²), linear in the rows if a_p is linear in p. The
copy has m = 1 and a_p = p, against 1/p, the decay m = 0 and a_p = i. So w descends on the examples so far by

    w_p ← w_p − (η/p) [Σ_{q ≤ p} (w_p·c_q − y_q) c_q + i lam w_p].

The paper has one register for u and c, hides inputs from descent by a mark and a bound on |w·Φ|, and others from the
answer by a multiple of (p − q)². With D rows more there is nothing to hide, and no bound is needed.

Theorem 1. Tokens are x_1, y_1, x_2, …: p = 2i + 1 at the input that comes after i examples. Let ‖Φ(x_j)‖ ≤ B,
κ = 1 + B²/lam, and ‖w*‖ ≤ B_w/2 for ridge w* = argmin (1/2i) Σ_{j ≤ i} (w·Φ_j − y_j)² + (lam/2)‖w‖². With
η = 2/(B² + lam) and

    T = ⌈2κ log(B B_w/(2ε))⌉

layers of descent all answers are within ε of w*·Φ. Proof: a step is one of size ηi/p on that objective, whose curvature
lies between lam and B² + lam, and i/p between 1/3 and 1/2. So ηi/p (B² + lam) ≤ 1, and w − w* contracts by
1 − 2/(3κ). Then B (B_w/2) e^(−2T/(3κ)) ≤ ε. For i = 0 both are 0.                                                    ∎

Theorem 2, for one coordinate of the dynamical system x_{p+1} = Wᵀ Φ(x̄_p) + noise with x̄_p = (x_{p−k+1}, …, x_p), where
x_j = 0 for j < 1. Tokens are the states: c_p = Φ(x̄_{p−1}) has as label the coordinate of x_p itself, and i = p − 1.
Copies with m = 1, …, k − 1 make x̄ first. With η = 1/(B² + lam) the same T does: i/p lies between 1/2 and 1, w − w*
contracts by 1 − 1/(2κ), and B (B_w/2) e^(−T/(2κ)) ≤ ε.                                                              ∎
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import ceil, log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from iclab.constructed.heads import Block, Head, Rows, assemble
from iclab.constructed.theorem import Case, Integers, Reals, Theorem
from iclab.errors import refuse
from iclab.models import Transformer

PAPER = "Guo et al. 2023 (arXiv 2310.10616)"
POWERS = ("p", "p²", "p³")


class Representation:
    """Φ: matrices B_1, …, B_L without biases, each followed by a leaky ReLU of slope ρ."""

    def __init__(self, matrices: Sequence[Tensor], slope: float) -> None:
        self.matrices, self.slope = [each.double() for each in matrices], slope
        problems = [] if self.matrices else ["there must be a matrix at least"]
        pairs = pairwise(self.matrices)
        problems += [
            f"{tuple(b.shape)} cannot follow {tuple(a.shape)}" for a, b in pairs if b.shape != (len(a), len(a))
        ]
        refuse("Representation", problems + ([] if 0 < slope < 1 else [f"slope must lie in (0, 1), given {slope}"]))

    def __call__(self, xs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        for matrix in self.matrices:
            xs = F.leaky_relu(xs @ matrix.mT, self.slope)
        return xs

    @property
    def inputs(self) -> int:
        """Returns the dimensions of an input."""
        return self.matrices[0].shape[1]

    @property
    def size(self) -> int:
        """Returns D."""
        return len(self.matrices[-1])

    def blocks(self, rows: Rows, reads: Tensor) -> list[Block]:
        """Returns layers that leave Φ of what `reads` in the rows u; heads of the first may fill those before it
        reads."""
        made = []
        for i, matrix in enumerate(self.matrices):
            form, write = matrix @ (reads if i == 0 else rows.form("u")), rows.write("u")
            block = Block(hidden=[(form, write), (-form, -self.slope * write)])
            made.append(block.add(rows.form("u"), -write) if i else block)
        return made


def ridge_decoder(phi: Representation, n: int, steps: int, lr: float, lam: float) -> Transformer:
    """Builds Theorem 1: `steps` of descent of size η = lr on Φ and the first i examples, for every i, in L + steps + 2
    layers.

    lam is the penalty of the mean objective. Raises ``ValueError`` for what is no descent.
    """
    _checked("ridge_decoder", n, steps, lr, lam)
    rows = Rows(phi.inputs, {"u": phi.size, "c": phi.size, "v": phi.size, "answer": 1, **_powers()}, "interleaved")
    seen = (rows.form("p") - rows.form("one")) / 2
    return _assembled(rows, n, phi.blocks(rows, rows.form("x")), rows.form("y"), seen, steps, lr, lam)


def dynamics_decoder(
    phi: Representation, d: int, n: int, steps: int, lr: float, lam: float, coordinate: int = 0
) -> Transformer:
    """Builds Theorem 2: the prediction of one coordinate of the next state from every token on, in L + steps + 2
    layers.

    Φ takes the last k states, oldest first, k being its inputs over d. The inputs of a prompt are the states; its
    labels are not read, as the label of a state is the next one.
    """
    problems = [] if phi.inputs % d == 0 else [f"Φ takes {phi.inputs} numbers, which is no multiple of d = {d}"]
    problems += [] if 0 <= coordinate < d else [f"coordinate must lie in 0..{d - 1}, given {coordinate}"]
    _checked("dynamics_decoder", n, steps, lr, lam, problems)
    back = [f"x before by {m}" for m in range(phi.inputs // d - 1, 0, -1)]
    registers = {**dict.fromkeys(back, d), **dict.fromkeys("ucv", phi.size), "answer": 1, **_powers()}
    rows = Rows(d, registers, "lagged")
    blocks = phi.blocks(rows, torch.cat([*map(rows.form, back), rows.form("x")]))
    for m, name in enumerate(reversed(back), start=1):
        blocks[0].heads.append(_reading(rows, rows.form("p"), m, rows.form("x"), rows.write(name)))
    label, seen = rows.form("x")[[coordinate]], rows.form("p") - rows.form("one")
    return _assembled(rows, n, blocks, label, seen, steps, lr, lam)


def layers_for(kappa: float, largest_phi: float, largest_w: float, epsilon: float) -> int:
    """Returns T of both theorems, with ‖Φ‖ ≤ B and ‖w*‖ ≤ B_w/2."""
    return max(ceil(2 * kappa * log(largest_phi * largest_w / (2 * epsilon))), 0)


def _checked(what: str, n: int, steps: int, lr: float, lam: float, more: Sequence[str] = ()) -> None:
    least = {"n": (n, 1), "steps": (steps, 0), "lam": (lam, 0)}
    problems = [f"{k} must be at least {low}, given {v}" for k, (v, low) in least.items() if not v >= low]
    refuse(
        what, [*more, *problems] + ([] if 0 < lr < float("inf") else [f"lr must be positive and finite, given {lr}"])
    )


def _powers() -> dict[str, int]:
    return dict.fromkeys(POWERS, 1)


def _assembled(
    rows: Rows, n: int, phi: list[Block], label: Tensor, seen: Tensor, steps: int, lr: float, lam: float
) -> Transformer:
    """Φ, copy, descent and answer."""
    form, write = rows.form, rows.write
    copy = Block([_reading(rows, form("p"), 1, form("u"), write("c"))])
    step = Block().attend(
        torch.cat([form("v"), -form("p")]), torch.cat([form("c"), label]), -lr * form("c"), write("v")
    )
    step.heads.append(_reading(rows, seen, 0, -lr * lam * form("v"), write("v")))
    last = Block().attend(form("v"), form("u") - form("c"), form("one"), write("answer"))
    p = torch.arange(1, 2 * n, dtype=torch.float64)
    powers = torch.stack([p, p**2, p**3], dim=1)
    table = powers @ torch.cat([write(name) for name in POWERS], dim=1).mT
    return assemble(rows, n, [*phi, copy, *[step] * steps, last], "answer", normaliser="seen", table=table)


def _reading(rows: Rows, amplitude: Tensor, back: int, value: Tensor, write: Tensor) -> Head:
    """a_p/p times the value in token p − m, where a_p = αp + β."""
    one, powers = rows.form("one"), [rows.form(name) for name in POWERS]
    alpha, beta = (amplitude * powers[0]).sum(), amplitude[0, -1]
    times_p = alpha * powers[1] + beta * powers[0]
    times_p2 = alpha * powers[2] + beta * powers[1]
    square = times_p2 - 2 * back * times_p + back**2 * amplitude  # a_p (p − m)²
    queries = torch.cat([amplitude - square, 2 * (times_p - back * amplitude), -amplitude])
    return Head(queries, torch.cat([one, *powers[:2]]), value, write)


# ---- theorems ------------------------------------------------------------------------------------------------------


def _drawn(case: Case, inputs: int) -> Representation:
    """B_l with entries N(0, 1/fan-in)."""
    rng, sizes = case.rng(), [inputs, *[case.features] * case.depth]
    pairs = pairwise(sizes)
    return Representation([torch.randn(b, a, generator=rng).double() / a**0.5 for a, b in pairs], 0.1)


def _labelled(case: Case) -> tuple[Representation, Tensor, Tensor, Tensor, Tensor]:
    """Φ, inputs and labels of two prompts of n examples and a query; and what is regressed on what."""
    phi, rng = _drawn(case, case.d), torch.Generator().manual_seed(case.seed + 1)
    xs = case.size * torch.randn(2, case.n + 1, case.d, generator=rng).double()
    w, noise = (torch.randn(2, size, generator=rng).double() for size in (case.features, case.n + 1))
    fs = phi(xs)
    ys = (fs @ w.unsqueeze(-1)).squeeze(-1) + case.noise * noise
    return phi, xs, ys, fs, ys


def _moving(case: Case) -> tuple[Representation, Tensor, Tensor, Tensor, Tensor]:
    """The same of a dynamical system of n + 1 states with normalised features: ‖Wᵀ Φ/‖Φ‖‖ stays bounded."""
    phi, rng = _drawn(case, case.d * case.window), torch.Generator().manual_seed(case.seed + 1)
    w = torch.randn(2, case.d, case.features, generator=rng).double()
    states = [torch.zeros(2, case.d, dtype=torch.float64)] * (case.window - 1)
    states += [case.size * torch.randn(2, case.d, generator=rng).double()]
    noises = case.noise * torch.randn(case.n + 1, 2, case.d, generator=rng).double()
    for noise in noises:
        f = phi(torch.cat(states[len(states) - case.window :], dim=-1))
        f = case.size * f / f.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        states.append((w @ f.unsqueeze(-1)).squeeze(-1) + case.size * noise)
    path = torch.stack(states, dim=1)
    back = path.unfold(1, case.window, 1).transpose(2, 3).flatten(2)[:, : case.n + 1]
    xs, ys = path[:, case.window - 1 : -1], path[:, case.window :, 0]
    return phi, xs, ys, phi(back), ys


def _sums(fs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_{j<i} Φ_j Φ_jᵀ and Σ_{j<i} y_j Φ_j for every i."""
    pairs = torch.cat([fs.unsqueeze(-1) * fs.unsqueeze(-2), (fs * ys.unsqueeze(-1)).unsqueeze(-1)], dim=-1)
    before = F.pad(pairs.cumsum(1)[:, :-1], (0, 0, 0, 0, 1, 0))
    return before[..., :-1], before[..., -1:]


def _positions(case: Case, moving: bool) -> tuple[Tensor, Tensor]:
    """i and p at the positions that answer."""
    i = torch.arange(case.n + 1, dtype=torch.float64)
    return i, (i + 1 if moving else 2 * i + 1)


def _descent(case: Case, moving: bool) -> tuple[float, float]:
    phi, xs, ys, fs, labels = (_moving if moving else _labelled)(case)
    largest = float(fs.norm(dim=-1).max())
    lr = case.lr / (largest**2 + case.lam)
    predictions = _model(case, phi, moving, case.layers, lr)(xs, ys)
    outer, inner = _sums(fs, labels)
    i, p = (each[:, None, None] for each in _positions(case, moving))
    w = [torch.zeros_like(inner)]
    for _ in range(case.layers):
        w.append(w[-1] - lr / p * (outer @ w[-1] - inner + i * case.lam * w[-1]))
    exact = (fs.unsqueeze(-2) @ w[-1]).flatten(1)
    sizes = largest, float(torch.stack(w).norm(dim=-2).max()), float(labels.abs().max())
    return (predictions - exact).abs().max().item(), _rounding(case, phi, xs, lr, *sizes)


def _rounding(case: Case, phi: Representation, xs: Tensor, lr: float, largest: float, w: float, y: float) -> float:
    """Errors in Φ are eps for each term and layer, relative to Π‖B_l‖‖x‖ ≥ ‖Φ‖. A step hands them on to w, and adds eps
    of its own terms; it expands no error of those before, as lr (B² + lam) ≤ 1."""
    norms = torch.stack([each.norm() for each in phi.matrices]).prod()
    bent = case.depth * float(norms * xs.norm(dim=-1).amax()) * case.window**0.5
    made = case.layers * lr * (bent + largest) * (2 * w * largest + y) + w
    terms = 2 * (case.features + case.d * case.window + 2 * case.n + 4)
    return terms * torch.finfo(torch.float64).eps * (largest * made + w * bent)


def _ridge(case: Case, moving: bool) -> tuple[float, float]:
    """The penalty is lam·B², so that κ = 1 + 1/lam; ε is 1/scale of the largest answer that the bounds allow."""
    phi, xs, ys, fs, labels = (_moving if moving else _labelled)(case)
    outer, inner = _sums(fs, labels)
    i, _ = _positions(case, moving)
    largest = float(fs.norm(dim=-1).max())
    lam = case.lam * largest**2
    eye = torch.eye(case.features, dtype=torch.float64)
    w = torch.linalg.solve(outer + (lam * i).clamp(min=lam)[:, None, None] * eye, inner)
    largest_w = 2 * float(w.norm(dim=-2).max())
    epsilon = largest * largest_w / (2 * case.scale)
    steps = layers_for(1 + 1 / case.lam, largest, largest_w, epsilon)
    lr = (1 if moving else 2) / (largest**2 + lam)
    predictions = _model(case, phi, moving, steps, lr, lam)(xs, ys)
    return (predictions - (fs.unsqueeze(-2) @ w).flatten(1)).abs().max().item(), epsilon


def _model(
    case: Case, phi: Representation, moving: bool, steps: int, lr: float, lam: float | None = None
) -> Transformer:
    lam = case.lam if lam is None else lam
    if moving:
        return dynamics_decoder(phi, case.d, case.n + 1, steps, lr, lam)
    return ridge_decoder(phi, case.n + 1, steps, lr, lam)


_SHAPES = {
    "d": Integers(1, 4),
    "n": Integers(0, 8),
    "features": Integers(1, 5),
    "depth": Integers(1, 3),
    "size": Reals(0.1, 10.0, log=True),
    "noise": Reals(0.0, 1.0),
}
_DESCENT = {**_SHAPES, "layers": Integers(0, 8), "lr": Reals(0.1, 1.0), "lam": Reals(0.0, 1.0)}
_RIDGE = {**_SHAPES, "n": Integers(1, 8), "lam": Reals(0.3, 3.0, log=True), "scale": Reals(10.0, 1e3, log=True)}
_WINDOW = {"window": Integers(1, 3)}
_ROUNDING = "rounding of Φ to eps of its terms, handed on by every step, which expands nothing"

THEOREMS: list[Theorem] = [
    Theorem(
        "guo2023_descent",
        f"{PAPER}, proof of Theorem 1; inputs and others told apart without bounds, which is this project's",
        "a decoder computes Φ, copies it to the labels and descends in w at every token at once, exactly",
        _DESCENT,
        partial(_descent, moving=False),
        _ROUNDING,
    ),
    Theorem(
        "guo2023_theorem1",
        f"{PAPER}, Theorem 1",
        "with ⌈2κ log(B B_w/(2ε))⌉ layers of descent a decoder answers within ε of ridge on Φ at every input",
        _RIDGE,
        partial(_ridge, moving=False),
        "ε, with B and B_w those of the prompts",
    ),
    Theorem(
        "guo2023_dynamics_descent",
        f"{PAPER}, proof of Theorem 2, for one coordinate of the states",
        "a decoder over states joins the last k of them, computes Φ, copies it by one token and descends, exactly",
        {**_DESCENT, **_WINDOW},
        partial(_descent, moving=True),
        _ROUNDING,
    ),
    Theorem(
        "guo2023_theorem2",
        f"{PAPER}, Theorem 2, for one coordinate of the states",
        "with ⌈2κ log(B B_w/(2ε))⌉ layers of descent a decoder predicts the next state within ε of ridge on Φ",
        {**_RIDGE, **_WINDOW},
        partial(_ridge, moving=True),
        "ε, with B and B_w those of the trajectories",
    ),
]
