"""Weight distance of two transformers, up to the symmetries of the architecture.

Different weights can be the same function. The architecture has these symmetries, whatever the weights are:

    inside a head    W_Q → A W_Q, W_K → A⁻ᵀ W_K and W_V → B W_V, W_O → W_O B⁻¹ for invertible A, B:
                     a head is S = s W_Qᵀ W_K and O = W_O W_V, with biases as one more row and column
    among heads      any order; ReLU: (S, O) → (c S, O/c), c > 0; linear: all that leaves F below alone
    softmax          what is added to all scores of a query: the last column of S. Where every token sees one, the
                     weights sum up to 1 and the bias of values is as good as one of the output
    MLP              any order of the hidden units (a, b), which add b g(a·h); ReLU: (a, b) → (c a, b/c), c > 0
    LayerNorm        its gain and bias are parts of the maps that read it, which may add any multiple of (1, …, 1)
    LayerNorm before all that reads a stream: whatever is written there may add any multiple of (1, …, 1)
    positions        a vector taken from all of them and given to the bias of the read-in

A layer of linear attention is the polynomial Σ_j F(h_t, h_j, h_j) with F = Σ_heads S ⊗ O, symmetric in the two entries
of h_j: two layers are compared by their coefficients, whatever their heads. All others are sums over units (heads or
hidden ones), which are assigned to each other so that their distance is least.

The read-in of `identity` has no other symmetry. A learned one may turn the whole stream, if everything that reads and
writes is turned with it; this is not undone, so that the distance between two such models is an upper bound.

    distance = √(mean over parts of Σ‖P − P′‖² / Σ ½(‖P‖² + ‖P′‖²)),

the sums over layers: 0 for the same function by one of the symmetries, √2 for weights that have nothing in common.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from iclab.analysis.layers.interpolation import differences
from iclab.errors import refuse
from iclab.models import Transformer
from iclab.models.transformer import Block

Term = tuple[str, float, float]  # a part of the model, ‖P − P′‖², ½(‖P‖² + ‖P′‖²)


class Units(NamedTuple):
    """The units of a layer: Σ_u right_u φ(left_u), and a constant vector that it adds."""

    left: Float[Tensor, "u p"]
    right: Float[Tensor, "u q"]
    bias: Float[Tensor, " D"]


def weight_distance(one: Transformer, other: Transformer) -> float:
    """Returns the distance above. Raises ``ValueError`` for models of different shape.

    Args:
        one: A transformer.
        other: A transformer of the same configuration.

    >>> import torch
    >>> from iclab.models import Transformer, TransformerConfig
    >>> config = TransformerConfig(n_layer=1, d_model=8)
    >>> one, other = (Transformer(2, 4, config, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    >>> round(weight_distance(one, one), 6)
    0.0
    >>> bool(0.5 < weight_distance(one, other) < 2**0.5 + 0.1)
    True
    """
    parts = list(weight_distances(one, other).values())
    return (sum(value**2 for value in parts) / max(1, len(parts))) ** 0.5


@torch.no_grad()
def weight_distances(one: Transformer, other: Transformer) -> dict[str, float]:
    """Returns the same for each part that is not zero in both: "attention", "mlp", "read-in" (and positions),
    "read-out". Where scale cannot be traded, what is read (the scores of softmax) and what is written are parts of
    their own. Raises ``ValueError`` for models of different shape."""
    given = {k: (getattr(one, k), getattr(other, k)) for k in ("d", "n", "labels")}
    sizes = [f"given {k} = {here} and {there}" for k, (here, there) in given.items() if here != there]
    refuse("weight_distance", sizes + [f"the first {text}" for text in differences(one.config, other.config)])
    sums: dict[str, list[float]] = {}
    for part, apart, size in _terms(one, other):
        before = sums.get(part, [0.0, 0.0])
        sums[part] = [before[0] + apart, before[1] + size]
    return {part: (max(apart, 0.0) / size) ** 0.5 for part, (apart, size) in sums.items() if size > 0}


def _terms(one: Transformer, other: Transformer) -> Iterator[Term]:
    config = one.config
    compare = {"linear": _polynomials, "relu": _homogeneous, "softmax": _rigid}[config.attention]
    for a, b in zip(one.blocks, other.blocks, strict=True):
        yield from compare("attention", _heads(one, cast(Block, a)), _heads(other, cast(Block, b)))
        if config.d_mlp:
            compare_mlp = _homogeneous if config.activation == "relu" else _rigid
            yield from compare_mlp("mlp", _hidden(one, cast(Block, a)), _hidden(other, cast(Block, b)))
    for a, b in zip(_ends(one), _ends(other), strict=True):
        yield _term(*a, b[1])


# ---- the parts of a model ------------------------------------------------------------------------------------------


def _heads(model: Transformer, block: Block) -> Units:
    """S and O of every head."""
    config, attn = model.config, block.attn
    q, k, v = (
        rearrange(_reading(part, block.norm_attn), "(a c) D -> a c D", a=config.n_head)
        for part in (attn.q, attn.k, attn.v)
    )
    S = attn.scale * q.mT @ k
    O = rearrange(_written(model, attn.out.weight), "D (a c) -> a D c", a=config.n_head) @ v  # noqa: E741
    bias = _bias(model, attn.out)
    if config.attention == "softmax" and not config.null_slot:
        S[..., -1] = 0
        if not model.layout.shared:  # there the first query sees nothing, and no value either
            bias = bias + O[..., -1].sum(0)
            O[..., -1] = 0
    return Units(S.flatten(1), O.flatten(1), bias)


def _hidden(model: Transformer, block: Block) -> Units:
    """What each hidden unit reads and writes."""
    left = _reading(block.mlp_in, block.norm_mlp)
    return Units(left, _written(model, block.mlp_out.weight).mT, _bias(model, block.mlp_out))


def _ends(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Read-in, positions and read-out, where they are learned."""
    config = model.config
    learned = config.read_in == "learned"
    start = _bias(model, model.read_in) if learned else torch.zeros(config.d_model, dtype=torch.float64)
    if learned:
        yield "read-in", _written(model, model.read_in.weight)
    if config.positions:
        yield "read-in", _written(model, model.position.mT) + start.unsqueeze(-1)
    elif learned:
        yield "read-in", start
    if learned:
        yield "read-out", _reading(model.read_out, model.norm)


def _reading(part: nn.Linear, norm: nn.Module) -> Float[Tensor, "outputs D_1"]:
    """A map with its bias as one more column, the LayerNorm before it folded in: what that passes on has mean zero."""
    weight = part.weight.double()
    bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.double()
    if isinstance(norm, nn.LayerNorm):
        bias, weight = bias + weight @ norm.bias.double(), weight * norm.weight.double()
        weight = weight - weight.mean(-1, keepdim=True)
    return torch.cat([weight, bias.unsqueeze(-1)], dim=-1)


def _written(model: Transformer, weight: Float[Tensor, "D *inputs"]) -> Float[Tensor, "D *inputs"]:
    """What is written to the stream, without its mean over channels where all that reads the stream takes that off."""
    config = model.config
    unseen = config.centred and config.read_in == "learned"
    return weight.double() - weight.double().mean(0, keepdim=True) if unseen else weight.double()


def _bias(model: Transformer, part: nn.Linear) -> Float[Tensor, " D"]:
    like = part.weight.new_zeros(len(part.weight))
    return _written(model, like if part.bias is None else part.bias)


# ---- comparing -----------------------------------------------------------------------------------------------------


def _term(name: str, a: Tensor, b: Tensor) -> Term:
    """The plain distance."""
    return name, _squares(a - b), (_squares(a) + _squares(b)) / 2


def _polynomials(name: str, a: Units, b: Units) -> Iterator[Term]:
    """By the coefficients of F, symmetric in the two entries of h_j."""
    aa, bb, ab = _product(a, a), _product(b, b), _product(a, b)
    yield _with_bias((name, aa + bb - 2 * ab, (aa + bb) / 2), a, b)


def _product(a: Units, b: Units) -> float:
    """The inner product of two F: Σ_hg ½ (⟨S_h, S_g⟩⟨O_h, O_g⟩ + tr(S_hᵀ S_g · O_hᵀ O_g)).

    The second term pairs the key's entry of the one with the value's entry of the other.
    """
    D = len(a.bias)
    (S, O), (T, P) = ((u.left.unflatten(1, (D + 1, D + 1)), u.right.unflatten(1, (D, D + 1))) for u in (a, b))  # noqa: E741
    straight = (a.left @ b.left.mT * (a.right @ b.right.mT)).sum()
    keys, values = torch.einsum("hab,gae->hgbe", S, T), torch.einsum("hce,gcb->hgeb", O, P)
    crossed = (keys * values.mT).sum()
    return ((straight + crossed) / 2).item()


def _homogeneous(name: str, a: Units, b: Units) -> Iterator[Term]:
    """By left ⊗ right, where φ(c·) = c φ for c > 0: units whose left sides point apart have nothing in common."""
    shared = (a.left @ b.left.mT).clamp(min=0) * (a.right @ b.right.mT)
    sizes = [(u.left.square().sum(1) * u.right.square().sum(1)) for u in (a, b)]
    pairs = _assigned(-shared)
    size = float(sum(each.sum() for each in sizes))
    yield _with_bias((name, size - 2 * shared[pairs].sum().item(), size / 2), a, b)


def _rigid(name: str, a: Units, b: Units) -> Iterator[Term]:
    """By left and right as they stand, each in units of its own mean square."""
    left, right = (_apart(p, q) for p, q in ((a.left, b.left), (a.right, b.right)))
    pairs = _assigned(left / _unit(a.left, b.left) + right / _unit(a.right, b.right))
    yield f"{name} reads", left[pairs].sum().item(), (_squares(a.left) + _squares(b.left)) / 2
    term = f"{name} writes", right[pairs].sum().item(), (_squares(a.right) + _squares(b.right)) / 2
    yield _with_bias(term, a, b)


def _with_bias(term: Term, a: Units, b: Units) -> Term:
    name, apart, size = _term(term[0], a.bias, b.bias)
    return name, term[1] + apart, term[2] + size


def _apart(a: Float[Tensor, "u p"], b: Float[Tensor, "v p"]) -> Float[Tensor, "u v"]:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def _unit(a: Tensor, b: Tensor) -> float:
    return _squares(a) + _squares(b) or 1.0


def _squares(a: Tensor) -> float:
    return a.square().sum().item()


def _assigned(cost: Float[Tensor, "u u"]) -> tuple[Tensor, Tensor]:
    """The pairs of units, each in one, whose cost is least in sum."""
    from scipy.optimize import linear_sum_assignment  # here and not above: it takes long to load

    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(rows).to(cost.device), torch.from_numpy(columns).to(cost.device)
