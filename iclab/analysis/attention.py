"""The quadratic form that a layer of linear attention is, where the residual stream is the bare tokens.

With scores t·S t′ (S = scale·W_Qᵀ W_K) and values O t′ (O = W_out W_V), summed over heads, the query token
t = [x_q, 0, 0] receives in its label channel, from the example tokens t′_j = [x_j, y_j, 1],

    (1/m) Σ_j (tᵀ S t′_j)(o·t′_j),    o the row of O that writes the label:

a form in x_q and in the products of two entries of t′_j. The part that is a step of gradient descent is

    x_qᵀ A (1/m) Σ_j y_j x_j,    A = S_xx o_y + S_xy o_xᵀ;

everything else (x_j x_jᵀ, y_j², the constant channel) is its `leakage`. In a deeper model the same A_l is the
preconditioner of step l, as long as the inputs in the stream are left alone (Ahn et al. 2023, arXiv 2306.00297,
Lemma 1).
"""

from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from iclab.errors import refuse
from iclab.models import Transformer, TransformerConfig
from iclab.models.transformer import Block


@dataclass(frozen=True)
class LinearStep:
    """What one layer adds to the label of the query: A, and the size of all other terms relative to A."""

    preconditioner: Float[Tensor, "d d"]
    leakage: float


def linear_steps(model: Transformer) -> list[LinearStep]:
    """The step that each layer takes, in the units of a mean over all examples of the longest prompt. Raises
    ``ValueError`` for a model that is no stack of plain linear attention on bare tokens of `encoder` layout."""
    refuse("linear_steps", obstacles(model.config))
    return [_step(form, model.d) for form in _forms(model)]


def obstacles(config: TransformerConfig) -> list[str]:
    """Why the layers of a model are no quadratic forms of its tokens."""
    wanted = {"layout": "encoder", "read_in": "identity", "attention": "linear", "d_mlp": 0}
    wanted |= {"norm": False, "bias": False, "positions": False}
    given = {key: getattr(config, key) for key in wanted}
    return [f"needs {key} = {wanted[key]}, given {value}" for key, value in given.items() if value != wanted[key]]


def _forms(model: Transformer) -> list[Float[Tensor, "D D D"]]:
    """F[u, v, w] of each layer: the label receives Σ_j F[u, v, w] t_u t′_jv t′_jw / m."""
    n, width, a = model.n, model.d + 2, model.config.n_head
    factor = {"seen": 1.0, "longest": (n - 1) / model.longest, "none": n - 1}[model.config.normaliser]
    blocks = [cast(Block, block) for block in model.blocks]
    found = []
    for attn in [block.attn for block in blocks] * (model.config.n_layer if model.config.tied else 1):
        q, k, v = (rearrange(_weight(p), "(a c) D -> a c D", a=a) for p in (attn.q, attn.k, attn.v))
        out = rearrange(_weight(attn.out), "D (a c) -> a D c", a=a)
        scores, values = attn.scale * q.mT @ k, (out @ v)[:, model.d]
        found.append(factor * torch.einsum("auv,aw->uvw", scores, values)[:width, :width, :width])
    return found


def _weight(linear: nn.Module) -> Float[Tensor, "outputs inputs"]:
    return cast(Tensor, linear.weight).detach().double()


def _step(form: Float[Tensor, "D D D"], d: int) -> LinearStep:
    both = (form + form.mT)[:d]  # t′_v t′_w does not tell v from w; a query has nothing but its x
    A = both[:, :d, d]
    rest = (both / 2).square().sum() - A.square().sum() / 2
    return LinearStep(A, (rest.clamp(min=0).sqrt() / A.norm()).item())


def distance_to_identity(matrix: Float[Tensor, "d d"]) -> float:
    """min_a ‖M − a I‖ / ‖M‖ in the Frobenius norm. Source: Ahn et al. 2023, arXiv 2306.00297, §4."""
    a = matrix.diagonal().mean()
    return ((matrix - a * torch.eye(len(matrix), dtype=matrix.dtype)).norm() / matrix.norm()).item()


def whitened(matrix: Float[Tensor, "d d"], covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Λ^½ M Λ^½: the step in coordinates in which inputs are isotropic; a multiple of I where M is one of Λ⁻¹."""
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    return root @ matrix @ root
