"""Von Oswald et al. 2022 (arXiv 2212.07677), Proposition 1 and GD++: linear attention that is gradient descent.

Tokens e_j = (x_j, r_j) for the i examples, with r_j = y_j at first, and e_q = (x_q, 0) for the query. One layer is

    e_t ← e_t + P Σ_j (W_V e_j) (W_K e_j)·(W_Q e_t),    j over the examples and never the query,

with  W_K = W_Q = diag(I, 0),  W_V = diag(I, −1),  P = diag(−γ I, lr). Hence (W_K e_j)·(W_Q e_t) = x_j·x_t and

    r_t ← r_t − lr Σ_j r_j x_j·x_t,       x_t ← x_t − γ Σ_j x_j x_j·x_t      for all t, both from the old x and r.

Claim (γ = 0). After k layers r_j = y_j − w_k·x_j and r_q = −w_k·x_q, where w_k are k steps of size lr from w = 0.
Proof. It holds for k = 0. If it holds for k, the layer subtracts Δ·x_t with Δ = lr Σ_j (y_j − w_k·x_j) x_j, which is
minus lr times the gradient of ½‖Xw − y‖² at w_k, so that w_{k+1} = w_k + Δ. The weights are the same in every layer,
since a layer needs nothing of the step but the residuals, and the answer is −r_q.                                   ∎

The query must not be among the keys. Its own r_q is 0 in the first layer and adds nothing there, but −w_1·x_q in the
second, so that with the query in sight the claim is true of one layer only.

GD++ (γ ≠ 0). The same with the inputs as they stand in layer k, all moved by I − γ X Xᵀ: the proof goes through with
M_k x_t in the place of x_t, and w_{k+1}·x = w_k·x + Δ·M_k x for every input x.

The paper writes η/N for lr, and W_V = [[0, 0], [W_0, −I]] with a start at weights W_0; here W_0 = 0. Tokens of this
project hold one channel more, which is 1 in examples and 0 in the query: all weights on it are 0. Its layers divide
sums over tokens by the length n of the longest prompt, so that P holds n lr and −n γ.
"""

import torch
from torch import Tensor

from iclab.errors import refuse
from iclab.models import Transformer, TransformerConfig


def config(d: int, layers: int) -> TransformerConfig:
    """The shape that von Oswald et al. train and construct: tied layers of one linear head on bare tokens, without
    LayerNorm, biases or positions. Sums are divided by the constant n, so that weights are of one size for all n."""
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


def gradient_descent(d: int, n: int, steps: int, lr: float, gamma: float = 0.0) -> Transformer:
    """A float64 transformer of `steps` layers that answers as `GradientDescent(steps, lr)`, or with `gamma` as
    `GradientDescentPlusPlus(steps, lr, gamma)`, at every position. Raises ``ValueError`` for fewer steps than one."""
    refuse("gradient_descent", [] if steps >= 1 else [f"steps must be at least 1, given {steps}"])
    model = Transformer(d, n, config(d, steps)).double()
    attn = model.attention(0)
    _set(attn.q.weight, [1.0] * d + [0.0, 0.0])
    _set(attn.k.weight, [1.0] * d + [0.0, 0.0])
    _set(attn.v.weight, [1.0] * d + [-1.0, 0.0])
    _set(attn.out.weight, [-gamma * model.longest] * d + [lr * model.longest, 0.0])
    return model


@torch.no_grad()
def _set(weight: Tensor, diagonal: list[float]) -> None:
    weight.copy_(torch.tensor(diagonal, dtype=weight.dtype).diag())
