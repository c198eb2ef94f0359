"""Von Oswald et al. 2022 (arXiv 2212.07677), Propositions 1 to 3 and GD++: linear attention that is gradient descent.

Tokens e_j = (x_j, r_j) for the i examples, with r_j = y_j at first, and e_q = (x_q, 0) for the query. One layer is

    e_t ← e_t + P Σ_j (W_V e_j) (W_K e_j)·(W_Q e_t),    j over the examples and never the query,

with  W_K = W_Q = diag(I, 0),  W_V = diag(I, −1),  P = diag(−γ I, lr). Hence (W_K e_j)·(W_Q e_t) = x_j·x_t and

    r_t ← r_t − lr Σ_j r_j x_j·x_t,       x_t ← x_t − γ Σ_j x_j x_j·x_t      for all t, both from the old x and r.

Claim (γ = 0). After k layers r_j = y_j − w_k·x_j and r_q = −w_k·x_q, where w_k are k steps of size lr from w = 0.
Proof. It holds for k = 0. If it holds for k, the layer subtracts Δ·x_t with Δ = lr Σ_j (y_j − w_k·x_j) x_j, which is
minus lr times the gradient of ½‖Xw − y‖² at w_k, so that w_{k+1} = w_k + Δ. The weights are the same in every layer,
since a layer needs nothing of the step but the residuals, and the answer is −r_q.                                   ∎

The query must not be among the keys. Its own r_q is 0 in the first layer and adds nothing there, but −w_1·x_q in the
second, so that with the query in sight the claim is true of one layer only. The paper says that the mask can be dropped
where W_0 ≈ 0. To have the query among the keys is to give it once more, as an example with the label 0: that token and
the query's hold the same in every layer.

GD++ (γ ≠ 0). The same with the inputs as they stand in layer k, all moved by I − γ X Xᵀ: the proof goes through with
M_k x_t in the place of x_t, and w_{k+1}·x = w_k·x + Δ·M_k x for every input x.

Features (Proposition 2). An MLP that acts first writes m(x) = O gelu(W x + b) into channels of its own, in examples and
query alike; layers that read m in the place of x descend on ½Σ (w·m(x_j) − y_j)². The first step from w = 0 answers

    ŷ = lr Σ_j y_j m(x_j)·m(x),    kernel regression with the kernel m·m.

The paper's (13) is without lr. It puts m(x) in the place of x, which leaves no room for more features than inputs.

Separate tokens (Proposition 3). Where x_j and y_j are tokens after each other, a layer brings them together. With p_t
one-hot in the position t, q_t = p_{s(t)} and k_t = p_t, the score is 1 at the source s(t) and 0 elsewhere: linear
attention takes over the source's value and nothing else. The paper lets each token read the next one. A decoder cannot:
here the token y_j reads the token before it and the token x_j reads itself, so that both hold x_j in the end, and no
second head has to take off what y_j would read of x_{j+1}. The next layer is one step of descent, for every prefix.

That a softmax leaves one-hot scores as they are, as the paper has it, is wrong: of t tokens the source has the weight
e/(e + t − 1). With the scores times β every other token has e^(−β) of it, and an entry of x is off by 2(t − 1) e^(−β)
times the largest entry at most.

Vectors of labels. W_V and P hold −1 and lr once for each of them; scores do not ask for labels, so that each is
answered as if it were alone. Prompts of this project have one label; all but the last stand beside x in the inputs,
with 0 in the query, and answers are then read from the stream.

The paper writes η/N for lr, and W_V = [[0, 0], [W_0, −I]] with a start at weights W_0; here W_0 = 0. Tokens of this
project hold one channel more, which is 1 in examples and 0 in the query: all weights on it are 0. Its layers divide
sums over tokens by the length n of the longest prompt, so that P holds n lr and −n γ.
"""

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from iclab.constructed.theorem import DTYPE, PROMPTS, Case, Integers, Reals, Theorem
from iclab.errors import refuse
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import GradientDescent, GradientDescentPlusPlus

PAPER = "von Oswald et al. 2022 (arXiv 2212.07677)"


def config(d: int, layers: int) -> TransformerConfig:
    """Returns the shape that von Oswald et al. train and construct: tied layers of one linear head on bare tokens,
    without LayerNorm, biases or positions. Sums are divided by the constant n, so that weights are of one size for
    all n."""
    return TransformerConfig(
        n_layer=layers,
        n_head=1,
        d_model=d + 2,
        layout="encoder",
        attention="linear",
        normaliser="longest",
        scale=1.0,
        norm=False,
        positions=False,
        bias=False,
        read_in="identity",
        tied=True,
        negated=True,
    )


def gradient_descent(d: int, n: int, steps: int, lr: float, gamma: float = 0.0, outputs: int = 1) -> Transformer:
    """Builds a float64 transformer of `steps` layers that answers as `GradientDescent(steps, lr)`, or with `gamma` as
    `GradientDescentPlusPlus(steps, lr, gamma)`, at every position. With several `outputs` its inputs are x and all
    labels but the last. Raises ``ValueError`` for fewer steps or outputs than one.

    Args:
        d: Dimensions of an input.
        n: The longest prompt, in examples.
        steps: Steps of gradient descent, one for each layer.
        lr: The step size on the sum objective (η/N in the paper).
        gamma: The step that moves the inputs, for GD++.
        outputs: Coordinates of a label.

    >>> from iclab.predictors import GradientDescent
    >>> from iclab.tasks import LinearRegression
    >>> prompts = LinearRegression(d=2, n=5).sample(3, torch.Generator().manual_seed(0), torch.float64)
    >>> model = gradient_descent(d=2, n=5, steps=2, lr=0.1)
    >>> exact = GradientDescent(steps=2, lr=0.1)(prompts.xs, prompts.ys)
    >>> torch.allclose(model(prompts.xs, prompts.ys), exact)
    True
    """
    least = {"steps": steps, "outputs": outputs}
    refuse("gradient_descent", [f"{k} must be at least 1, given {v}" for k, v in least.items() if v < 1])
    model = Transformer(d + outputs - 1, n, config(d + outputs - 1, steps)).double()
    attn = model.attention(0)
    _set(attn.q.weight, [1.0] * d + [0.0] * outputs + [0.0])
    _set(attn.k.weight, [1.0] * d + [0.0] * outputs + [0.0])
    _set(attn.v.weight, [1.0] * d + [-1.0] * outputs + [0.0])
    _set(attn.out.weight, [-gamma * model.longest] * d + [lr * model.longest] * outputs + [0.0])
    return model


@torch.no_grad()
def feature_descent(
    hidden: Float[Tensor, "k d"], bias: Float[Tensor, " k"], out: Float[Tensor, "m k"], n: int, steps: int, lr: float
) -> Transformer:
    """Builds a float64 transformer of steps + 1 layers that descends on the features m(x) =
    out·gelu(hidden·x + bias)."""
    refuse("feature_descent", [] if steps >= 1 else [f"steps must be at least 1, given {steps}"])
    (k, d), m = hidden.shape, len(out)
    shape = replace(config(d, steps + 1), tied=False, bias=True, d_model=d + 2 + m, d_mlp=k)
    model = Transformer(d, n, shape).double()
    weights = {name: each.zero_() for name, each in model.named_parameters()}
    weights["blocks.0.mlp_in.weight"][:, :d] = hidden
    weights["blocks.0.mlp_in.bias"].copy_(bias)
    weights["blocks.0.mlp_out.weight"][d + 2 :] = out
    for i in range(1, steps + 1):
        _set(model.attention(i).q.weight, [0.0] * (d + 2) + [1.0] * m)
        _set(model.attention(i).k.weight, [0.0] * (d + 2) + [1.0] * m)
        _set(model.attention(i).v.weight, [0.0] * d + [-1.0] + [0.0] * (1 + m))
        _set(model.attention(i).out.weight, [0.0] * d + [lr * model.longest] + [0.0] * (1 + m))
    return model


Attending = Literal["linear", "softmax"]


@torch.no_grad()
def merging(d: int, n: int, layers: int = 1, attention: Attending = "linear", sharpness: float = 1.0) -> Transformer:
    """Builds a float64 decoder whose first layer writes x_j into the channels 1 + d to 2d of the tokens x_j and y_j.

    `sharpness` is β, which multiplies the scores. Further layers do nothing as yet.
    """
    problems = [] if 0 < sharpness < float("inf") else [f"sharpness must be positive and finite, given {sharpness}"]
    refuse("merging", problems + ([] if n >= 1 else [f"n must be at least 1, given {n}"]))
    columns, token = 2 * n - 1, 1 + d
    shape = replace(
        config(d, layers),
        d_model=token + d + columns,
        layout="interleaved",
        attention=attention,
        normaliser="none",
        positions=True,
        tied=False,
    )
    model = Transformer(d, n, shape).double()
    weights = {name: each.zero_() for name, each in model.named_parameters()}
    eye = torch.eye(columns, dtype=torch.float64)
    weights["position"][:, token + d :] = eye
    sources = torch.arange(columns) // 2 * 2  # of x_j and y_j: the column of x_j
    weights["blocks.0.attn.q.weight"][token + d :, token + d :] = sharpness * eye[sources].mT
    weights["blocks.0.attn.k.weight"][token + d :, token + d :] = eye
    weights["blocks.0.attn.v.weight"][1:token, 1:token] = torch.eye(d, dtype=torch.float64)
    weights["blocks.0.attn.out.weight"][token : token + d, 1:token] = torch.eye(d, dtype=torch.float64)
    return model


def separate_tokens(d: int, n: int, lr: float) -> Transformer:
    """Builds a float64 decoder of two layers over separate tokens that answers as `GradientDescent(1, lr)`."""
    model = merging(d, n, 2)
    attn, rest = model.attention(1), [0.0] * (2 * n - 1)
    _set(attn.q.weight, [0.0] * (1 + d) + [1.0] * d + rest)
    _set(attn.k.weight, [0.0] * (1 + d) + [1.0] * d + rest)
    _set(attn.v.weight, [1.0] + [0.0] * (2 * d) + rest)
    _set(attn.out.weight, [-lr] + [0.0] * (2 * d) + rest)
    return model


@torch.no_grad()
def _set(weight: Tensor, diagonal: list[float]) -> None:
    weight.copy_(torch.tensor(diagonal, dtype=weight.dtype).diag())


# ---- theorems ------------------------------------------------------------------------------------------------------

ROUNDING = "rounding of each sum to eps of its terms, carried on by a norm of 1 + lr ‖X‖² for each step"


def _rounding(case: Case, xs: Tensor, ys: Tensor, extra: int = 0) -> float:
    """ROUNDING, of sums with `extra` terms more; with `gamma`, of inputs that grow by at most 1 + γ‖X‖² in a layer,
    where ‖X‖² is first what it was and then at most (γ‖X‖² − 1)² times as much."""
    steps, lr, gamma = case.layers, case.lr / case.n, case.gamma / case.n
    power, query = xs[0, :-1].square().sum(), xs[0].norm(dim=-1).max()
    largest = steps * lr * power.sqrt() * ys[0, :-1].norm() * query
    for _ in range(steps):
        largest, grown = largest * (1 + lr * power) * (1 + gamma * power) ** 3, (gamma * power - 1) ** 2
        power = power * grown.clamp(min=1.0)
    terms = 8 * steps * (sum(xs.shape[1:]) + extra)
    return float(terms * case.eps * largest)


def _largest(difference: Tensor) -> float:
    return difference.detach().abs().max().item()


def _descent(case: Case, in_sight: bool = False) -> tuple[float, float]:
    """At the last position; `in_sight` has the query among the keys."""
    (xs, ys), lr = case.prompt(), case.lr / case.n
    exact = GradientDescentPlusPlus(case.layers, lr, case.gamma / case.n)(xs, ys)[:, -1]
    bound = _rounding(case, xs, ys)
    if in_sight:
        again = torch.zeros_like(ys[:, -1:])
        xs, ys = torch.cat([xs, xs[:, -1:]], dim=1), torch.cat([ys[:, :-1], again, again], dim=1)
    model = gradient_descent(case.d, xs.shape[1], case.layers, lr, case.gamma / case.n)
    return _largest(case.asked(model, xs, ys, 1)[:, -1] - exact), bound


def _either(case: Case) -> tuple[float, float]:
    """The larger error of the two; an error that is no number is the largest."""
    (hidden, bound), (seen, _) = _descent(case), _descent(case, in_sight=True)
    return _largest(torch.tensor([hidden, seen], dtype=torch.float64)), bound


def _outputs(case: Case) -> tuple[float, float]:
    """Of several labels at once, at the last position: each against descent on it alone."""
    (xs, _), lr, k, rng = case.prompt(), case.lr / case.n, case.outputs, case.rng(1)
    weights, noise = (torch.randn(rows, k, generator=rng).double() for rows in (case.d, case.n + 1))
    labels = (xs @ weights + case.noise * noise).to(case.precision).double()
    beside = labels[..., :-1] * (torch.arange(case.n + 1) < case.n)[:, None]  # the query shows none
    name = f"blocks.{case.layers - 1}.resid_post"
    model = gradient_descent(case.d, case.n + 1, case.layers, lr, case.gamma / case.n, k).to(case.precision)
    tokens = torch.cat([xs, beside], dim=-1).to(case.precision), labels[..., -1].to(case.precision)
    last = model.read(*tokens, name)[name][-1, -1, case.d : case.d + k]
    exact = GradientDescentPlusPlus(case.layers, lr, case.gamma / case.n)
    apart = torch.cat([exact(xs, labels[..., j])[:, -1] + last[j] for j in range(k)])
    return _largest(apart), max(_rounding(case, xs, labels[..., j], k) for j in range(k))


def _network(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """W, b and O of random features, twice as many as inputs; of another generator than the prompt."""
    rng, k = case.rng(1), 2 * case.d
    hidden, bias, out = (torch.randn(*shape, generator=rng).double() for shape in ((k, case.d), (k,), (k, k)))
    return hidden * case.d**-0.5, bias, out * k**-0.5


def _features(case: Case, kernel: bool = False, printed: bool = False) -> tuple[float, float]:
    """Descent on features, or `kernel` regression by its formula; of an entry of m the terms are at most those of
    |O|(|W||x| + |b|), as |gelu(z)| ≤ |z|, and |gelu′| ≤ 9/8."""
    (xs, ys), (hidden, bias, out), lr = case.prompt(), _network(case), case.lr / case.n
    predictions = case.asked(feature_descent(hidden, bias, out, case.n + 1, case.layers, lr), xs, ys, 1)[:, -1]
    features = F.gelu(xs @ hidden.mT + bias) @ out.mT
    exact = GradientDescent(case.layers, lr)(features, ys)[:, -1]
    if kernel:
        exact = (1.0 if printed else lr) * ((features @ features[:, -1:].mT).squeeze(-1) * ys)[:, :-1].sum(-1)
    most = (xs.abs() @ hidden.abs().mT + bias.abs()) @ out.abs().mT
    return _largest(predictions - exact), _rounding(case, most, ys, 2 * case.d)


def _separate(case: Case) -> tuple[float, float]:
    (xs, ys), lr = case.prompt(), case.lr / case.n
    predictions = case.asked(separate_tokens(case.d, case.n + 1, lr), xs, ys)
    return _largest(predictions - GradientDescent(1, lr)(xs, ys)), _rounding(case, xs, ys)


def _merged(case: Case, attention: Attending = "softmax", sharpened: bool = True) -> tuple[float, float]:
    """How far the tokens x_j and y_j are from holding x_j after the first layer; β is `scale` where `sharpened`."""
    (xs, ys), place = case.prompt(), slice(1 + case.d, 1 + 2 * case.d)
    model = merging(case.d, case.n + 1, 1, attention, case.scale if sharpened else 1.0)
    held = model.read(xs, ys, "blocks.0.resid_post")["blocks.0.resid_post"][..., place]
    leaked = 2 * (2 * case.n) * torch.tensor(-case.scale, dtype=torch.float64).exp() if attention == "softmax" else 0.0
    eps = torch.finfo(xs.dtype).eps
    return _largest(held - xs.repeat_interleave(2, 1)[:, :-1]), float((leaked + 8 * eps) * xs.abs().max())


_STEPS = {**PROMPTS, "dtype": DTYPE, "layers": Integers(1, 5), "lr": Reals(0.05, 0.5)}
_ONE = {**PROMPTS, "dtype": DTYPE, "lr": Reals(0.05, 0.5)}
_MOVING = {**_STEPS, "size": Reals(0.1, 1.0, log=True), "gamma": Reals(0.0, 0.2)}
_SHARP = {**PROMPTS, "scale": Reals(5.0, 60.0)}

PROPOSITION1 = Theorem(
    "vonoswald2022_proposition1",
    f"{PAPER}, Proposition 1, with the query hidden from all",
    "k layers of linear attention with the same weights are k steps of gradient descent from w = 0",
    _STEPS,
    _descent,
    ROUNDING,
)
KERNEL = Theorem(
    "vonoswald2022_kernel",
    f"{PAPER}, (13), the step size put in",
    "an MLP and one layer of linear attention answer by kernel regression, ŷ = η/N Σ y_j m(x_j)·m(x)",
    _ONE,
    partial(_features, kernel=True),
    "rounding of each sum to eps of its terms, those of m included",
)
SOFTMAX = Theorem(
    "vonoswald2022_softmax_copy",
    f"{PAPER}, Proposition 3; the scores times β are this project's",
    "softmax attention to one-hot scores takes over the value of the source, where they are large",
    _SHARP,
    _merged,
    "each of t tokens but the source has at most e^(−β) of its weight",
)

THEOREMS: list[Theorem] = [
    Theorem(
        "vonoswald2022_one_step",
        f"{PAPER}, Proposition 1, for one layer with the query among its keys",
        "one layer of linear attention is one step of gradient descent from w = 0, whether or not the query is a key",
        _ONE,
        _either,
        ROUNDING,
    ),
    PROPOSITION1,
    PROPOSITION1.as_printed(
        f"{PAPER}, remark that the mask can be dropped where W_0 ≈ 0",
        "k layers of linear attention with the query among their keys are k steps of gradient descent from w = 0",
        partial(_descent, in_sight=True),
        name="vonoswald2022_dropped_mask_printed",
    ),
    Theorem(
        "vonoswald2022_plus_plus",
        f"{PAPER}, GD++",
        "k layers that also move the inputs by I − γ X Xᵀ are k steps of GD++",
        _MOVING,
        _descent,
        ROUNDING + ", and by that of the moves",
    ),
    Theorem(
        "vonoswald2022_outputs",
        f"{PAPER}, Proposition 1 and GD++ for vectors of labels",
        "k layers answer several labels at once, each by k steps of GD++ on it alone",
        {**_MOVING, "outputs": Integers(1, 4)},
        _outputs,
        ROUNDING + ", and by that of the moves",
    ),
    Theorem(
        "vonoswald2022_proposition2",
        f"{PAPER}, Proposition 2",
        "an MLP and k layers of linear attention are k steps of gradient descent on the MLP's features",
        {**_STEPS, "d": Integers(1, 4), "lr": Reals(0.01, 0.2)},
        _features,
        ROUNDING + " with X the features, whose own sums round too",
    ),
    KERNEL,
    KERNEL.as_printed(
        f"{PAPER}, (13) as printed, without the step size",
        "an MLP and one layer of linear attention answer by kernel regression, ŷ = Σ y_j m(x_j)·m(x)",
        partial(_features, kernel=True, printed=True),
    ),
    Theorem(
        "vonoswald2022_proposition3",
        f"{PAPER}, Proposition 3, each token reading the one before it",
        "a decoder layer of linear attention brings the separate tokens x_j and y_j together, exactly",
        PROMPTS,
        partial(_merged, attention="linear", sharpened=False),
        "sums of one term that is not zero; (h + z) rounds once",
    ),
    Theorem(
        "vonoswald2022_separate_tokens",
        f"{PAPER}, Propositions 1 and 3",
        "two decoder layers over separate tokens are one step of gradient descent on the first i examples, for every i",
        _ONE,
        _separate,
        ROUNDING,
    ),
    SOFTMAX,
    SOFTMAX.as_printed(
        f"{PAPER}, Proposition 3 as printed: a softmax leaves one-hot scores as they are",
        "softmax attention to one-hot scores takes over the value of the source, as it stands",
        partial(_merged, sharpened=False),
    ),
]
