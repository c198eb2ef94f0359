"""The distance of weights sees everything that changes the function, and nothing that is a symmetry."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iclab.analysis import weight_distance, weight_distances
from iclab.constructed import akyurek, bai, fu, vonoswald
from iclab.models import Transformer, TransformerConfig
from iclab.tasks import LinearRegression
from tests.conftest import generator

TASK = LinearRegression(3, 6, noise=0.3)
SHAPES = {
    "linear, bare": vonoswald.config(3, 2),
    "linear, two heads": replace(vonoswald.config(3, 2), n_head=2, d_head=7, tied=False, bias=True),
    "linear": TransformerConfig(n_layer=2, d_model=8),
    "softmax, GELU": TransformerConfig(n_layer=2, n_head=3, d_model=9, d_mlp=7, attention="softmax"),
    "softmax, interleaved": TransformerConfig(
        n_layer=1, n_head=3, d_model=9, d_mlp=5, attention="softmax", layout="interleaved", norm_attention=False
    ),
    "softmax, encoder": TransformerConfig(n_layer=2, n_head=2, d_model=8, attention="softmax", layout="encoder"),
    "softmax, null slot": TransformerConfig(n_layer=1, n_head=3, d_model=9, attention="softmax", null_slot=True),
    "relu, ReLU": TransformerConfig(
        n_layer=2, n_head=3, d_model=9, d_mlp=7, attention="relu", activation="relu", norm=False, positions=False
    ),
    "relu, normalised": TransformerConfig(n_layer=1, n_head=2, d_model=8, d_mlp=7, attention="relu", activation="relu"),
}
ZERO = 1e-6  # a difference of squares, each rounded to 1e-16 of itself


@torch.no_grad()
def model(shape, seed=0):
    """A model with no weight left at zero or one."""
    made = Transformer(3, 6, SHAPES[shape], generator(seed)).double()
    for weight in made.parameters():
        weight.add_(0.1 * torch.randn(weight.shape, generator=generator(seed + 1), dtype=torch.float64))
    return made


def copied(one):
    made = Transformer(one.d, one.n, one.config).to(next(one.parameters()).dtype)
    made.load_state_dict(one.state_dict())
    return made


def invertible(count, size, rng):
    """Matrices whose condition is at most 9."""
    turns = [torch.linalg.qr(torch.randn(count, size, size, generator=rng, dtype=torch.float64)).Q for _ in "ab"]
    return turns[0] @ torch.diag_embed(1 / 3 + (3 - 1 / 3) * torch.rand(count, size, generator=rng).double()) @ turns[1]


@torch.no_grad()
def disguised(one, seed=0):
    """The same function by other weights: every symmetry at once, each drawn at random."""
    made, rng, c = copied(one), generator(seed), one.config
    for block in made.blocks:
        turn_heads(block.attn, c, rng)
        if c.d_mlp:
            permute_units(block, c, rng)
        for norm, readers in ((block.norm_attn, [block.attn.q, block.attn.k, block.attn.v]),) + (
            ((block.norm_mlp, [block.mlp_in]),) if c.d_mlp else ()
        ):
            refold(norm, readers, rng)
    if c.read_in == "learned":
        refold(made.norm, [made.read_out], rng)
        if c.positions:
            shift = torch.randn(c.d_model, generator=rng).double()
            made.position.add_(shift)
            made.read_in.bias.sub_(shift)
        if c.norm and c.norm_attention:
            shift_means(made, rng)
    return made


def turn_heads(attn, c, rng):
    a, width = c.n_head, c.head_width
    A, B, order = invertible(a, width, rng), invertible(a, width, rng), torch.randperm(a, generator=rng)
    scale = 0.5 + torch.rand(a, 1, 1, generator=rng).double()
    if c.attention == "softmax":
        scale = torch.ones_like(scale)
    if c.attention == "linear":
        scale = -scale
    moves = {"q": A.mT * scale, "k": torch.linalg.inv(A), "v": B / scale}
    for letter, move in moves.items():
        part = getattr(attn, letter)
        part.weight.copy_((move @ part.weight.unflatten(0, (a, width)))[order].flatten(0, 1))
        if part.bias is not None:
            part.bias.copy_((move @ part.bias.view(a, width, 1))[order].flatten())
    out = attn.out.weight.unflatten(1, (a, width)).transpose(0, 1) @ torch.linalg.inv(B)
    attn.out.weight.copy_(out[order].transpose(0, 1).flatten(1))
    if c.attention == "softmax" and not c.null_slot:
        attn.k.bias.add_(torch.randn(a * width, generator=rng).double())
        if c.layout != "encoder":
            moved = torch.randn(a * width, generator=rng).double()
            attn.v.bias.add_(moved)
            attn.out.bias.sub_(attn.out.weight @ moved)


def permute_units(block, c, rng):
    order = torch.randperm(c.d_mlp, generator=rng)
    scale = 0.5 + torch.rand(c.d_mlp, generator=rng).double() if c.activation == "relu" else torch.ones(c.d_mlp)
    block.mlp_in.weight.copy_((scale.unsqueeze(1) * block.mlp_in.weight)[order])
    block.mlp_in.bias.copy_((scale * block.mlp_in.bias)[order])
    block.mlp_out.weight.copy_((block.mlp_out.weight / scale)[:, order])


def refold(norm, readers, rng):
    """Another gain and bias of a LayerNorm, taken off again by the maps that read it, and a multiple of ones."""
    if not isinstance(norm, nn.LayerNorm):
        return
    gain = 0.5 + torch.rand(norm.weight.shape, generator=rng).double()
    moved = torch.randn(norm.bias.shape, generator=rng).double()
    for part in readers:
        part.weight.div_(gain)
        part.bias.sub_(part.weight @ moved)
    norm.weight.mul_(gain)
    norm.bias.mul_(gain).add_(moved)
    for part in readers:
        ones = torch.randn(len(part.weight), 1, generator=rng).double()
        part.weight.add_(ones / norm.weight)
        part.bias.sub_((ones / norm.weight) @ norm.bias)


def shift_means(made, rng):
    """Adds to all that is written to the stream a multiple of (1, …, 1)."""
    names = ("read_in", "attn.out", "mlp_out")
    for name, part in made.named_modules():
        if name.endswith(names):
            part.weight.add_(torch.randn(1, part.weight.shape[1], generator=rng).double())
            part.bias.add_(torch.randn(1, generator=rng).double())


def answers(one):
    prompts = TASK.sample(32, generator(9), torch.float64)
    with torch.no_grad():
        return one(prompts.xs, prompts.ys)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=6)
@given(seed=st.integers(0, 999))
def test_a_symmetry_changes_no_answer_and_is_no_distance(shape, seed):
    one = model(shape)
    other = disguised(one, seed)
    torch.testing.assert_close(answers(other), answers(one), atol=1e-7, rtol=1e-7)
    plain = torch.cat([(a - b).flatten() for a, b in zip(one.parameters(), other.parameters(), strict=True)])
    assert plain.norm() > 1
    assert weight_distance(one, other) < ZERO


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=6)
@given(seed=st.integers(0, 999))
def test_the_distance_does_not_see_in_which_disguise_a_model_comes(shape, seed):
    one, other = model(shape), model(shape, 5)
    parts, again = weight_distances(one, other), weight_distances(disguised(other, seed), disguised(one, seed + 1))
    assert again == pytest.approx(parts, rel=1e-6)
    assert all(0.1 < part < 2 for part in parts.values())


CHEATS = {
    "values of another head": lambda m: m.blocks[0].attn.v.weight.copy_(m.blocks[0].attn.v.weight.roll(3, 0)),
    "queries of another head": lambda m: m.blocks[0].attn.q.weight.copy_(m.blocks[0].attn.q.weight.roll(3, 0)),
    "queries turned, keys not": lambda m: m.blocks[0].attn.q.weight.mul_(1.01),
    "scores and values negated": lambda m: (
        m.blocks[0].attn.q.weight.neg_(),
        m.blocks[0].attn.q.bias.neg_(),
        m.blocks[0].attn.out.weight.neg_(),
    ),
    "a hidden unit negated": lambda m: (
        m.blocks[0].mlp_in.weight[0].neg_(),
        m.blocks[0].mlp_in.bias[0].neg_(),
        m.blocks[0].mlp_out.weight[:, 0].neg_(),
    ),
    "hidden units reordered": lambda m: m.blocks[0].mlp_in.weight.copy_(m.blocks[0].mlp_in.weight.roll(1, 0)),
    "a bias of the output": lambda m: m.blocks[0].attn.out.bias[0].add_(0.3),
    "a bias of queries": lambda m: m.blocks[0].attn.q.bias.add_(0.3),
    "one position": lambda m: m.position[0, 0].add_(0.3),
    "a channel of the read-out": lambda m: m.read_out.weight[0, 0].add_(0.3),
    "one gain": lambda m: m.norm.weight[0].mul_(1.3),
    "layers in another order": lambda m: m.blocks[0].load_state_dict(m.blocks[1].state_dict()),
}


ABSENT = {("relu, ReLU", "one position"), ("relu, ReLU", "one gain")}


@pytest.mark.parametrize(
    ("shape", "cheat"), [(s, c) for s in ("softmax, GELU", "relu, ReLU") for c in CHEATS if (s, c) not in ABSENT]
)
def test_what_is_no_symmetry_changes_answers_and_is_seen(shape, cheat):
    one = model(shape)
    other = copied(one)
    with torch.no_grad():
        CHEATS[cheat](other)
    assert (answers(other) - answers(one)).abs().max() > 1e-4
    assert weight_distance(one, other) > 1e-3


def test_heads_of_linear_attention_may_share_their_work_in_any_way():
    """S ⊗ O once, or half of it twice; and what is read twice may be read in either order."""
    one, other = model("linear, two heads"), copied(model("linear, two heads"))
    with torch.no_grad():
        for made, shares in ((one, (1.0, 0.0)), (other, (0.3, 0.7))):
            for block in made.blocks:
                for part in (block.attn.q, block.attn.k, block.attn.v):
                    part.weight[7:], part.bias[7:] = part.weight[:7], part.bias[:7]
                first = block.attn.out.weight[:, :7].clone()
                block.attn.out.weight.copy_(torch.cat([share * first for share in shares], 1))
    torch.testing.assert_close(answers(other), answers(one), atol=1e-12, rtol=1e-12)
    assert weight_distance(one, other) < ZERO


def test_key_and_value_of_linear_attention_are_two_names_of_one_token():
    """One head with S = u pᵀ and O = w qᵀ is the one with S = u qᵀ and O = w pᵀ."""
    shape, rng = replace(vonoswald.config(3, 1), d_head=1), generator(3)
    u, p, w, q = (torch.randn(5, generator=rng).double() for _ in range(4))
    made = []
    for key, value in ((p, q), (q, p)):
        made.append(Transformer(3, 6, shape).double())
        state = {"q": u[None], "k": key[None], "v": value[None], "out": w[:, None]}
        made[-1].load_state_dict({f"blocks.0.attn.{k}.weight": v for k, v in state.items()})
    torch.testing.assert_close(answers(made[0]), answers(made[1]))
    assert weight_distance(*made) < ZERO
    with torch.no_grad():
        made[1].blocks[0].attn.q.weight.copy_(p[None])
    assert weight_distance(*made) > 0.1


CONSTRUCTIONS = {
    "vonoswald": lambda: vonoswald.gradient_descent(2, 4, 2, 0.1, 0.02),
    "bai": lambda: bai.gradient_descent(2, 4, 2, 0.1, 0.2),
    "fu": lambda: fu.newton(2, 4, 2, 0.01),
    "akyurek": lambda: akyurek.stochastic_gradient_descent(2, 3, 0.1),
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_a_construction_is_at_no_distance_from_itself_and_at_some_from_a_random_model(name):
    one = CONSTRUCTIONS[name]()
    drawn = Transformer(one.d, one.n, one.config, generator()).double()
    assert weight_distance(one, one) == 0
    assert weight_distance(one, drawn) == pytest.approx(weight_distance(drawn, one))
    assert 0.5 < weight_distance(one, drawn) <= 2**0.5 + ZERO


def test_the_distance_of_two_step_sizes_is_that_of_two_numbers():
    one, other = (vonoswald.gradient_descent(3, 8, 2, lr) for lr in (0.1, 0.3))
    assert weight_distances(one, other) == pytest.approx({"attention": 0.2 / (0.05) ** 0.5})


def test_models_of_different_shape_are_refused():
    one = model("linear")
    with pytest.raises(ValueError, match="the first needs n_layer = 3, given 2"):
        weight_distance(one, Transformer(3, 6, replace(one.config, n_layer=3)))
    with pytest.raises(ValueError, match="given d = 3 and 4; given n = 6 and 7"):
        weight_distance(one, Transformer(4, 7, one.config))
    with pytest.raises(ValueError, match="given labels = None and 2"):
        weight_distance(one, Transformer(3, 6, one.config, labels=2))
