"""The quadratic form that a layer of linear attention is, where the residual stream is the bare tokens.

With scores t·S t′ (S = scale·W_Qᵀ W_K) and values O t′ (O = W_out W_V), summed over heads, the query token
t = [x_q, 0, 0] receives in its label channel, from the example tokens t′_j = [x_j, y_j, 1],

    (1/m) Σ_j (tᵀ S t′_j)(o·t′_j),    o the row of O that writes the label:

a form in x_q and in the products of two entries of t′_j. The part that is a step of gradient descent is

    x_qᵀ A (1/m) Σ_j y_j x_j,    A = S_xx o_y + S_xy o_xᵀ;

everything else (x_j x_jᵀ, y_j², the constant channel) is its `leakage`. In a deeper model the same A_l is the
preconditioner of step l, up to the sign of the answer, as long as the inputs in the stream are left alone (Ahn et al.
2023, arXiv 2306.00297, Lemma 1). Where a layer moves them too, the step that the paper reports after training is

    r ← r + xᵀ A (1/m) Σ_j r_j x_j,    x ← x + B (1/m) Σ_j x_j x_jᵀ Aᵀ x      (ibid., Thm 4: A ∝ Λ⁻¹, B ∝ I),

B being the *contraction* of the inputs, O_xx o_y⁻¹ for a single head and its projection onto A for several. Leakage of
a deeper layer is all that is neither, in inputs and labels; in the last layer, in labels alone. What is written into
the constant channel counts in the layer that reads it: unread it changes nothing.
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
    """The update of labels and inputs by one layer: A and B, and the size of all other terms relative to A."""

    preconditioner: Float[Tensor, "d d"]
    contraction: Float[Tensor, "d d"]
    leakage: float


def linear_steps(model: Transformer) -> list[LinearStep]:
    """Returns the step that each layer takes, in the units of a mean over all examples of the longest prompt. Raises
    ``ValueError`` for a model that is no stack of plain linear attention on bare tokens of `encoder` layout."""
    refuse("linear_steps", obstacles(model.config))
    forms = _forms(model)
    return [_step(form, model.d, layer, len(forms)) for layer, form in enumerate(forms, 1)]


def obstacles(config: TransformerConfig) -> list[str]:
    """Returns why the layers of a model are no quadratic forms of its tokens."""
    wanted = {"layout": "encoder", "read_in": "identity", "attention": "linear", "d_mlp": 0}
    wanted |= {"norm": False, "bias": False, "positions": False}
    given = {key: getattr(config, key) for key in wanted}
    return [f"needs {key} = {wanted[key]}, given {value}" for key, value in given.items() if value != wanted[key]]


def _forms(model: Transformer) -> list[Float[Tensor, "D D D D"]]:
    """F[o, u, v, w] of each layer: channel o of token t receives Σ_j F[o, u, v, w] t_u t′_jv t′_jw / m."""
    n, width, a = model.n, model.d + 2, model.config.n_head
    factor = {"seen": 1.0, "longest": (n - 1) / model.longest, "none": n - 1}[model.config.normaliser]
    blocks = [cast(Block, block) for block in model.blocks]
    forms = []
    for attn in [block.attn for block in blocks] * (model.config.n_layer if model.config.tied else 1):
        q, k, v = (rearrange(_weight(p), "(a c) D -> a c D", a=a) for p in (attn.q, attn.k, attn.v))
        out = rearrange(_weight(attn.out), "D (a c) -> a D c", a=a)
        scores, values = attn.scale * q.mT @ k, out @ v
        forms.append(factor * torch.einsum("auv,aow->ouvw", scores, values)[:width, :width, :width, :width])
    return forms


def _weight(linear: nn.Module) -> Float[Tensor, "outputs inputs"]:
    return cast(Tensor, linear.weight).detach().double()


def _step(form: Float[Tensor, "D D D D"], d: int, layer: int, layers: int) -> LinearStep:
    both = form + form.mT  # t′_v t′_w does not tell v from w
    A = both[d, :d, :d, d]
    B = torch.einsum("ouvw,uv->ow", form[:d, :d, :d, :d], A) / A.square().sum()
    values = torch.block_diag(B, torch.ones(1, 1).to(A), torch.zeros(len(form) - d - 1, len(form) - d - 1).to(A))
    pure = torch.einsum("uv,ow->ouvw", torch.nn.functional.pad(A, (0, len(form) - d) * 2), values)
    rest = (both - pure - pure.mT) / 2
    rest = rest[d] if layer == layers else rest[: d + 1]
    rest = rest[:d] if layers == 1 else rest  # the query has nothing but its x
    return LinearStep(A, B, (rest.norm() / A.norm()).item())


def distance_to_identity(matrix: Float[Tensor, "d d"]) -> float:
    """Returns min_a ‖M − a I‖ / ‖M‖ in the Frobenius norm. Source: Ahn et al. 2023, arXiv 2306.00297, §4."""
    a = matrix.diagonal().mean()
    return ((matrix - a * torch.eye(len(matrix), dtype=matrix.dtype)).norm() / matrix.norm()).item()


def whitened(matrix: Float[Tensor, "d d"], covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Returns Λ^½ M Λ^½: the step in coordinates in which inputs are isotropic; a multiple of I where M is one of
    Λ⁻¹."""
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    return root @ matrix @ root
