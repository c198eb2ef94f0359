"""Two models between which one may interpolate: the attention products, and the rescaling that leaves a function alone.

A layer of one linear head sees its weights only as S = scale·W_Qᵀ W_K and O = W_out W_V,

    t ← t + Σ_j (tᵀ S t_j) O t_j,

and (S, O), (S/β, βO) are the same layer. With

    β = the mean of the diagonal of S over the channels of x,

S/β has a unit mean there, and the products of two models can be averaged. The weights themselves cannot: W_Q and W_K
may be turned by any invertible matrix and its inverse. Where both models are the same algorithm in other coordinates of
this kind, the average is that algorithm too; where they are not, its risk is higher.

Source: von Oswald et al. 2022, arXiv 2212.07677, §3 (β) and Fig. 2.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.layers import attention
from iclab.errors import refuse
from iclab.models import Transformer, TransformerConfig


@dataclass(frozen=True)
class Products:
    """S and O of the one layer that a model has, or that all its layers share."""

    S: Float[Tensor, "D D"]
    O: Float[Tensor, "D D"]  # noqa: E741

    def rescaled(self, d: int) -> "Products":
        """Returns the same layer with a unit mean diagonal of S over the d channels of x."""
        β = self.S.diagonal()[:d].mean()
        return Products(self.S / β, self.O * β)


def obstacles(config: TransformerConfig) -> list[str]:
    """Returns why a model of this shape is not one layer S, O, repeated."""
    problems = attention.obstacles(config)
    problems += [f"needs n_head = 1, given {config.n_head}"] if config.n_head != 1 else []
    if config.n_layer != 1 and not (config.tied and config.n_layer > 1):
        problems.append(f"needs one layer, or tied ones, given n_layer = {config.n_layer}, tied = {config.tied}")
    narrow = config.head_width < config.d_model
    return problems + ([f"needs d_head of {config.d_model} or more, given {config.head_width}"] if narrow else [])


@torch.no_grad()
def products(model: Transformer) -> Products:
    """Returns S and O, float64. Raises ``ValueError`` for a model that is not one layer of this kind, repeated."""
    refuse("products", obstacles(model.config))
    attn = model.attention(0)
    q, k, v, out = (part.weight.double() for part in (attn.q, attn.k, attn.v, attn.out))
    return Products(attn.scale * q.mT @ k, out @ v)


@torch.no_grad()
def with_products(model: Transformer, chosen: Products) -> Transformer:
    """Returns a float64 model of the same shape whose layer is S, O: W_K = I, W_Q = Sᵀ/scale, W_V = O, W_out = I."""
    refuse("with_products", obstacles(model.config))
    made = Transformer(model.d, model.n, model.config).double().to(chosen.S.device)
    attn = made.attention(0)
    eye = torch.eye(model.config.d_model).to(chosen.S)
    spare = (0, 0, 0, model.config.head_width - model.config.d_model)  # channels of the head that are left at zero
    for part, weight in ((attn.q, chosen.S.mT / attn.scale), (attn.k, eye), (attn.v, chosen.O)):
        part.weight.copy_(F.pad(weight, spare))
    attn.out.weight.copy_(F.pad(eye, spare).mT)
    return made


def interpolated(one: Transformer, other: Transformer, share: float = 0.5) -> Transformer:
    """Returns the model whose products are (1 − share) of the first's and share of the second's, both rescaled;
    float64.

    Raises ``ValueError`` for models of different shape and for those that are not one such layer, repeated.
    """
    problems = [f"the first {text}" for text in obstacles(one.config) + differences(one.config, other.config)]
    refuse("interpolated", problems + ([] if one.d == other.d else [f"given d = {one.d} and d = {other.d}"]))
    a, b = (products(model).rescaled(model.d) for model in (one, other))
    b = Products(b.S.to(a.S), b.O.to(a.O))
    return with_products(one, Products(torch.lerp(a.S, b.S, share), torch.lerp(a.O, b.O, share)))


def differences(config: TransformerConfig, wanted: TransformerConfig) -> list[str]:
    """Returns why the attention products of two configurations are not comparable. Scale and the width of the head are
    within S and O, and a single layer is tied or not."""
    free = {"scale", "d_head", "init_scale"} | ({"tied"} if config.n_layer == 1 else set())
    pairs = {k: (v, getattr(config, k)) for k, v in vars(wanted).items() if k not in free}
    return [f"needs {k} = {there}, given {here}" for k, (there, here) in pairs.items() if there != here]
