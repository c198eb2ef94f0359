"""What must hold of the transformer, in every layout and with every kind of attention, trained or not."""

import itertools
import json
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.models import LAYOUTS, Transformer, TransformerConfig
from iclab.models.transformer import Attention
from iclab.predictors import Predictor
from iclab.tasks import DynamicalSystem, LinearRegression
from tests.conftest import generator

VECTORS = ", vectors"
LAYOUT_NAMES = [name for name in LAYOUTS if name != "states"] + [name + VECTORS for name in LAYOUTS]
SHAPES = {
    "softmax with MLP": {"attention": "softmax", "d_mlp": 12},
    "softmax, null scale": {"attention": "softmax", "scale": 0.0, "norm": False},
    "linear": {"attention": "linear"},
    "linear, bare": {"attention": "linear", "norm": False, "positions": False, "bias": False, "normaliser": "none"},
    "relu": {"attention": "relu", "normaliser": "seen", "d_mlp": 12, "activation": "relu"},
    "softmax with tanh GELU": {"attention": "softmax", "d_mlp": 8, "activation": "gelu_tanh"},
    "tied": {"attention": "linear", "tied": True, "n_layer": 3},
    "softmax, null slot": {"attention": "softmax", "null_slot": True, "d_mlp": 8, "norm_attention": False},
    "one wide head": {"attention": "softmax", "n_head": 1, "d_head": 16},
}


# Each layout with two shapes and each shape with some layouts at once, all others later.
LAID_OUT = [
    pytest.param(
        layout,
        shape,
        id=f"{name}-{layout}",
        marks=[] if (row - column) % len(SHAPES) in (0, 4) else [pytest.mark.slow],
    )
    for row, layout in enumerate(LAYOUT_NAMES)
    for column, (name, shape) in enumerate(SHAPES.items())
]


def model(layout, shape, d=3, n=6, seed=0, **more):
    """A transformer; of labels that are vectors of d coordinates where the name of the layout says so."""
    read = {"layout": layout.removesuffix(VECTORS)}
    config = TransformerConfig(**({"n_layer": 2, "n_head": 2, "d_model": 8} | read | shape | more))
    return Transformer(d, n, config, generator(seed), d if layout.endswith(VECTORS) else None).double()


def task_of(layout, d=3, n=6, noise=0.5):
    """One whose labels such a model answers."""
    return DynamicalSystem(d, n, noise) if layout.endswith(VECTORS) else LinearRegression(d, n, noise)


def assert_causal(predictor, task=LinearRegression(3, 6, 0.5)):
    """Replacing x_j for j > i and y_j for j ≥ i leaves prediction i as it is, to the last bit or nearly."""
    first, other = (task.sample(3, generator(s), torch.float64) for s in (1, 2))
    answers = predictor(first.xs, first.ys)
    for i in range(task.n):
        xs, ys = first.xs.clone(), first.ys.clone()
        xs[:, i + 1 :], ys[:, i:] = other.xs[:, i + 1 :], other.ys[:, i:]
        # Matrix products may be split differently for other values; 1e-13 is rounding, a leak is of order 1.
        torch.testing.assert_close(predictor(xs, ys)[:, i], answers[:, i], atol=1e-13, rtol=1e-13)


def assert_uses_the_past(predictor, layout=""):
    """Every label reaches every later prediction (else causality would hold of a model that sees nothing); as the next
    input, where the layout reads states alone."""
    prompts = task_of(layout, noise=0.0).sample(64, generator(1), torch.float64)  # a ReLU may be shut on some of them
    ys = prompts.ys.requires_grad_()
    xs = torch.cat([prompts.xs[:, :1], ys[:, :-1]], dim=1) if layout.startswith("states") else prompts.xs
    for i, answers in enumerate(predictor(xs, ys).unbind(1)):
        (gradient,) = torch.autograd.grad(answers.sum(), ys, retain_graph=True)
        assert gradient[:, :i].any(0).all() and not gradient[:, i:].any()


@pytest.mark.parametrize(("layout", "shape"), LAID_OUT)
def test_a_transformer_is_a_causal_predictor_that_uses_the_past(layout, shape):
    one = model(layout, shape)
    assert isinstance(one, Predictor)
    assert_causal(one, task_of(layout))
    assert_uses_the_past(one, layout)


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_causality_can_fail(layout):
    honest, states = model(layout, {}), layout.startswith("states")
    with pytest.raises(AssertionError):  # reads each label one position early
        assert_causal(lambda xs, ys: honest(ys if states else xs, ys.roll(-1, dims=1)), task_of(layout))
    with pytest.raises(AssertionError):
        assert_causal(lambda xs, ys: honest(xs, ys) + 1e-9 * ys, task_of(layout))
    with pytest.raises(AssertionError):
        assert_uses_the_past(lambda xs, ys: honest(0 * xs if states else xs, 0 * ys), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_coordinate_is_told_of_every_other(layout):
    one = model(layout + VECTORS, {})
    prompts = task_of(VECTORS).sample(64, generator(1), torch.float64)
    path = torch.cat([prompts.xs, prompts.ys[:, -1:]], dim=1).requires_grad_()
    for answers in one(path[:, :-1], path[:, 1:])[:, -1].mT:
        (gradient,) = torch.autograd.grad(answers.sum(), path, retain_graph=True)
        assert gradient[:, :-1].any(0).all() and not gradient[:, -1].any()


def test_labels_of_another_kind_are_refused():
    prompts, other = (task_of(kind).sample(2, generator()) for kind in ("", VECTORS))
    with pytest.raises(ValueError, match="labels are vectors of 3 coordinates, the model was made for numbers"):
        model("lagged", {})(other.xs, other.ys)
    with pytest.raises(ValueError, match="labels are numbers, the model was made for vectors of 3"):
        model("lagged" + VECTORS, {})(prompts.xs, prompts.ys)
    for labels, told in ((None, "numbers"), (2, "of 2 coordinates")):
        with pytest.raises(ValueError, match=f"next input, of 3 coordinates; labels are {told}"):
            Transformer(3, 6, TransformerConfig(layout="states"), labels=labels)
    with pytest.raises(ValueError, match="identity answers a number"):
        Transformer(3, 6, TransformerConfig(layout="paired", read_in="identity"), labels=2)
    with pytest.raises(ValueError, match="labels must be at least 1"):
        Transformer(3, 6, labels=0)


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("shape", [{"attention": "softmax"}, {"attention": "linear"}], ids=["softmax", "linear"])
def test_a_shorter_prompt_gets_the_answers_of_its_prefix(layout, shape):
    one = model(layout, shape)
    prompts = task_of(layout).sample(4, generator(), torch.float64)
    torch.testing.assert_close(one(prompts.xs[:, :4], prompts.ys[:, :4]), one(prompts.xs, prompts.ys)[:, :4])


def test_layouts_place_tokens_as_their_definition_says():
    xs, ys = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]), torch.tensor([[7.0, 8.0, 9.0]])
    numbers = {name: layout for name, layout in LAYOUTS.items() if name != "states"}
    tokens = {name: layout.tokens(xs, ys)[0].tolist() for name, layout in numbers.items()}
    assert tokens["interleaved"] == [[0, 1, 2], [7, 0, 0], [0, 3, 4], [8, 0, 0], [0, 5, 6]]
    assert tokens["copied"] == [[0, 1, 2], [7, 1, 2], [0, 3, 4], [8, 3, 4], [0, 5, 6]]
    assert tokens["overlaid"] == [[1, 2], [7, 0], [3, 4], [8, 0], [5, 6]]
    assert tokens["lagged"] == [[1, 2, 0, 0, 0], [3, 4, 1, 2, 7], [5, 6, 3, 4, 8]]
    assert tokens["shifted"] == [[1, 2, 0], [3, 4, 7], [5, 6, 8]]
    assert tokens["paired"] == [[1, 2, 7, 1], [3, 4, 8, 1], [1, 2, 0, 0], [3, 4, 0, 0], [5, 6, 0, 0]]
    mask = LAYOUTS["paired"].mask(3, torch.device("cpu")).int().tolist()
    assert mask == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 1, 0], [1, 1, 0, 0, 1]]
    examples, nothing = [[1, 2, 7, 1], [3, 4, 8, 1]], torch.zeros(3, 3, dtype=torch.bool)
    sequences = LAYOUTS["encoder"].tokens(xs, ys).tolist()
    assert sequences == [[*examples, [x, x + 1, 0, 0]] for x in (1, 3, 5)]
    masks = LAYOUTS["encoder"].mask(3, torch.device("cpu"))[:, 0]
    assert (masks[0] == nothing).all() and (masks[1:].int().tolist() == [[[1, 0, 0]] * 3, [[1, 1, 0]] * 3])
    for layout in (one for name, one in LAYOUTS.items() if name != "encoder"):
        read = torch.arange(len(layout.positions(3, torch.device("cpu"))))[None, :, None].float()
        answering = layout.tokens(xs, ys)[0][layout.answers(read).flatten().long()]
        assert all(x in token for x, token in zip([1, 3, 5], answering, strict=True))
    for layout in numbers.values():
        labelled = layout.labels(layout.tokens(torch.cat([xs, 10 * xs]), torch.cat([ys, 10 * ys])))
        for k, row in zip((1, 10), labelled, strict=True):
            assert all(y in token for y, token in zip((7 * k, 8 * k), row, strict=True))


def test_layouts_place_vectors_where_a_number_would_stand():
    xs, ys = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]), torch.tensor([[[7.0, 0.7], [8.0, 0.8], [9.0, 0.9]]])
    tokens = {name: layout.tokens(xs, ys)[0] for name, layout in LAYOUTS.items()}
    y, z = [7, 0.7], [8, 0.8]
    wanted = {
        "interleaved": [[0, 0, 1, 2], [*y, 0, 0], [0, 0, 3, 4], [*z, 0, 0], [0, 0, 5, 6]],
        "copied": [[0, 0, 1, 2], [*y, 1, 2], [0, 0, 3, 4], [*z, 3, 4], [0, 0, 5, 6]],
        "overlaid": [[1, 2], y, [3, 4], z, [5, 6]],
        "lagged": [[1, 2, 0, 0, 0, 0], [3, 4, 1, 2, *y], [5, 6, 3, 4, *z]],
        "shifted": [[1, 2, 0, 0], [3, 4, *y], [5, 6, *z]],
        "states": [[1, 2], [3, 4], [5, 6]],
        "paired": [[1, 2, *y, 1], [3, 4, *z, 1], [1, 2, 0, 0, 0], [3, 4, 0, 0, 0], [5, 6, 0, 0, 0]],
        "encoder": [[1, 2, *y, 1], [3, 4, *z, 1], [1, 2, 0, 0, 0]],
    }
    for name, layout in LAYOUTS.items():
        assert torch.equal(tokens[name], torch.tensor(wanted[name]).float()), name
        assert layout.width(2, 2) == tokens[name].shape[-1]
    wider = LAYOUTS["overlaid"].tokens(xs[:, :, :1], ys)  # labels than inputs
    assert torch.equal(wider, torch.tensor([[[1, 0], y, [3, 0], z, [5, 0]]]))
    states = torch.cat([xs, 2 * xs[:, -1:]], dim=1)  # of which each is the label of the one before
    held = LAYOUTS["states"].labels(LAYOUTS["states"].tokens(states[:, :-1], states[:, 1:]))
    assert torch.equal(held, states[:, 1:-1])


def by_hand(one, xs, ys):
    """The forward pass in plain loops over sequences, tokens and heads, for one prompt."""
    sequences, mask = one.layout.tokens(xs[None], ys[None]), one.layout.mask(len(xs), torch.device("cpu"))
    masks = [mask] if mask.ndim == 2 else [m[0] for m in mask]
    last = torch.stack([last_by_hand(one, t, m, len(xs)) for t, m in zip(sequences, masks, strict=True)])
    answers = one.layout.answers(last)[0]
    if one.config.read_in == "identity":
        label = answers[:, {"interleaved": 0, "paired": one.d, "encoder": one.d}[one.config.layout]]
        return -label if one.config.negated else label
    said = one.read_out(one.norm(answers))
    return said[:, 0] if one.labels is None else said


def last_by_hand(one, t, mask, n):
    """The residual stream of one sequence after the last block."""
    c = one.config
    h = torch.nn.functional.pad(t, (0, c.d_model - t.shape[1])) if c.read_in == "identity" else one.read_in(t)
    h = h + (one.position[one.layout.positions(n, torch.device("cpu"))] if c.positions else 0)
    return blocks_by_hand(one, h, mask)


def blocks_by_hand(one, h, mask):
    """The residual stream after the last block, from what was read in."""
    c, width = one.config, one.config.head_width
    for block in list(one.blocks) * (c.n_layer if c.tied else 1):
        u, out = block.norm_attn(h), torch.zeros(len(h), c.n_head * width, dtype=h.dtype)
        q, k, v = block.attn.q(u), block.attn.k(u), block.attn.v(u)
        for i, a in itertools.product(range(len(h)), range(c.n_head)):
            part = slice(a * width, (a + 1) * width)
            seen = [j for j in range(len(h)) if mask[i, j]]
            scores = torch.stack([q[i, part] @ k[j, part] for j in seen] or [q[i, part].sum()]) * (
                width**-0.5 if c.scale is None else c.scale
            )
            if not seen:
                continue
            if c.attention == "softmax":
                top = scores.max().clamp(min=0)
                weights = (scores - top).exp() / ((scores - top).exp().sum() + c.null_slot * (-top).exp())
            else:
                count = {"seen": len(seen), "longest": one.longest, "none": 1}
                weights = (scores if c.attention == "linear" else scores.clamp(min=0)) / count[c.normaliser]
            out[i, part] = sum(w * v[j, part] for w, j in zip(weights, seen, strict=True))
        h = h + block.attn.out(out)
        if c.d_mlp:
            z = block.mlp_in(block.norm_mlp(h))
            cubic = torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3))
            act = {
                "gelu": z * (1 + torch.erf(z / 2**0.5)) / 2,
                "gelu_tanh": z * (1 + cubic) / 2,
                "relu": z.clamp(min=0),
            }
            h = h + block.mlp_out(act[c.activation])
    return h


NUMBERS = [name for name in LAYOUT_NAMES if not name.endswith(VECTORS)]
# Of a model only the two ends are other where labels are vectors: one shape is enough there.
LOOPED = [
    pytest.param(
        name, shape, marks=[] if name not in NUMBERS or (row - column) % len(SHAPES) in (0, 4) else [pytest.mark.slow]
    )
    for row, name in enumerate(LAYOUT_NAMES)
    for column, shape in enumerate(SHAPES)
    if name in NUMBERS or shape == "softmax with MLP"
]


@pytest.mark.parametrize(("layout", "shape"), LOOPED)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 5), d=st.integers(1, 3))
def test_the_forward_pass_equals_plain_loops(layout, shape, seed, n, d):
    one = model(layout, SHAPES[shape], d=d, n=5, seed=seed)
    prompts = task_of(layout, d, n).sample(1, generator(seed), torch.float64)
    found, expected = one(prompts.xs, prompts.ys)[0], by_hand(one, prompts.xs[0], prompts.ys[0])
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)  # LayerNorm magnifies rounding up to 300 times
    for m in range(1, n + 1):
        torch.testing.assert_close(one(prompts.xs, prompts.ys, m)[0], expected[-m:], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("layout", ["interleaved", "encoder"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_plain_loops(layout, shape):
    assert furthest_gradient(layout, shape) < 1e-12


def test_attention_that_takes_keys_for_values_would_be_noticed(monkeypatch):
    heads = Attention.heads
    monkeypatch.setattr(Attention, "heads", lambda self, h: [heads(self, h)[i] for i in (0, 2, 1)])
    assert furthest_gradient("interleaved", "softmax with MLP") > 1e-3


def furthest_gradient(layout, shape):
    """The largest distance of a gradient from that of plain loops, relative to the largest gradient of the model."""
    one = model(layout, SHAPES[shape], d=2, n=4, seed=3)
    prompts = task_of(layout, 2, 4).sample(1, generator(3), torch.float64)

    def gradients(answers):
        given = torch.autograd.grad(
            (answers - prompts.ys[0]).square().mean(), list(one.parameters()), allow_unused=True
        )
        return [torch.zeros_like(p) if g is None else g for p, g in zip(one.parameters(), given, strict=True)]

    found = gradients(one(prompts.xs, prompts.ys)[0])
    expected = gradients(by_hand(one, prompts.xs[0], prompts.ys[0]))
    size = max(each.abs().max() for each in expected)
    return max(((p - q).abs().max() / size).item() for p, q in zip(found, expected, strict=True))


@pytest.mark.parametrize("layout", ["interleaved", "paired", "encoder"])
@pytest.mark.parametrize("shape", ["softmax with MLP", "linear, bare", "tied"])
def test_a_stream_of_bare_tokens_answers_in_its_label_channel(layout, shape):
    one = model(layout, SHAPES[shape], read_in="identity")
    prompts = LinearRegression(3, 6, 0.5).sample(4, generator(1), torch.float64)
    assert not {"read_in.weight", "read_out.weight"} & set(one.state_dict())
    assert_causal(one)
    embedded = one.read(prompts.xs, prompts.ys, "embed")["embed"] - (
        one.position[one.layout.positions(6, torch.device("cpu"))] if one.config.positions else 0
    )
    tokens = one.layout.tokens(prompts.xs, prompts.ys)
    torch.testing.assert_close(embedded[..., : tokens.shape[-1]], tokens)
    assert not embedded[..., tokens.shape[-1] :].any()
    for xs, ys, said in zip(prompts.xs, prompts.ys, one(prompts.xs, prompts.ys), strict=True):
        torch.testing.assert_close(said, by_hand(one, xs, ys), atol=1e-10, rtol=1e-10)


def test_an_identity_read_in_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="lagged has none"):
        TransformerConfig(read_in="identity")
    with pytest.raises(ValueError, match="d_model of 5 or more, given 4"):
        Transformer(3, 6, TransformerConfig(read_in="identity", layout="encoder", d_model=4))


def test_in_an_encoder_all_examples_see_each_other_and_none_sees_the_query():
    """Unlike `paired`, where an example sees those before it alone; one query's answer moves no other's."""
    shape = {"attention": "linear", "norm": False, "positions": False}
    prompts = LinearRegression(3, 6, 0.5).sample(4, generator(1), torch.float64)
    turned = torch.tensor([4, 3, 2, 1, 0, 5])
    encoder, paired = model("encoder", shape), model("paired", shape)
    for one, blind in ((encoder, True), (paired, False)):
        same = torch.allclose(one(prompts.xs, prompts.ys, 1), one(prompts.xs[:, turned], prompts.ys[:, turned], 1))
        assert same == blind


def test_a_null_slot_lets_a_token_attend_to_nothing():
    one = model("lagged", SHAPES["softmax, null slot"], n_layer=1)
    prompts = LinearRegression(3, 6).sample(2, generator(), torch.float64)
    seen = one.read(prompts.xs, prompts.ys, ["blocks.0.attn.pattern", "blocks.0.attn.v", "blocks.0.attn.z"])
    pattern = seen["blocks.0.attn.pattern"]
    assert pattern.shape[-1] == 7
    torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
    torch.testing.assert_close(pattern[..., 1:] @ seen["blocks.0.attn.v"], seen["blocks.0.attn.z"])
    with torch.no_grad():
        one.blocks[0].attn.k.weight.zero_()
        one.blocks[0].attn.k.bias.zero_()
        one.blocks[0].attn.q.bias.fill_(-1e6)
        one.blocks[0].attn.k.bias.fill_(1.0)
    assert not one.read(prompts.xs, prompts.ys, "blocks.0.attn.z")["blocks.0.attn.z"].any()
    with pytest.raises(ValueError, match="null_slot is of softmax attention"):
        TransformerConfig(null_slot=True)


def test_without_a_norm_before_attention_the_others_stay():
    names = set(model("lagged", {}, norm_attention=False, d_mlp=4).state_dict())
    assert "blocks.0.norm_mlp.weight" in names and "norm.weight" in names
    assert "blocks.0.norm_attn.weight" not in names


def test_tied_layers_are_one_layer_repeated():
    tied = model("lagged", SHAPES["tied"])
    free = model("lagged", {**SHAPES["tied"], "tied": False})
    assert len(tied.blocks) == 1 < len(free.blocks) == 3
    shared = {k.replace("blocks.0", f"blocks.{i}"): v for i in range(3) for k, v in tied.state_dict().items()}
    free.load_state_dict(shared)
    prompts = LinearRegression(3, 6, 0.5).sample(4, generator(1), torch.float64)
    torch.testing.assert_close(free(prompts.xs, prompts.ys), tied(prompts.xs, prompts.ys))
    assert tied.activations() == free.activations()


# ---- activations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "shape"), LAID_OUT)
def test_every_activation_can_be_read_and_put_back_without_a_trace(layout, shape):
    one = model(layout, shape)
    prompts = task_of(layout).sample(2, generator(), torch.float64)
    plain = one(prompts.xs, prompts.ys)
    values = one.read(prompts.xs, prompts.ys, one.activations())
    assert list(values) == one.activations()
    torch.testing.assert_close(values["prediction"], plain)
    torch.testing.assert_close(one.replaced(prompts.xs, prompts.ys, values), plain)
    assert torch.equal(one(prompts.xs, prompts.ys), plain)


def test_the_stream_is_the_embedding_and_what_each_block_leaves():
    one = model("lagged", SHAPES["softmax with MLP"])
    prompts = LinearRegression(3, 6).sample(2, generator(), torch.float64)
    stream = list(one.residual_stream(prompts.xs, prompts.ys))
    values = one.read(prompts.xs, prompts.ys, ["embed", "blocks.0.resid_post", "blocks.1.resid_post"])
    assert len(stream) == 3
    for here, named in zip(stream, values.values(), strict=True):
        assert torch.equal(here, named)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_replaced_activation_is_what_the_rest_of_the_model_goes_on_with(shape):
    one = model("lagged", shape)
    prompts = LinearRegression(3, 6).sample(2, generator(), torch.float64)
    plain = one(prompts.xs, prompts.ys)
    blind = (".q", ".k") if shape.get("scale") == 0 else ()  # scores that are multiplied by zero
    for name in one.activations():
        new = one.replaced(prompts.xs, prompts.ys, {name: lambda v: v + torch.randn(v.shape, generator=generator())})
        assert torch.allclose(new, plain) == name.endswith(blind), name
    zeroed = one.read(prompts.xs, prompts.ys, ["blocks.1.attn_out"], {"blocks.1.attn_out": torch.tensor(0.0)})
    assert not zeroed["blocks.1.attn_out"].any()


def test_an_unknown_activation_is_named_with_its_nearest_match():
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.patern.*Did you mean 'blocks\.0\.attn\.pattern'"):
        model("lagged", {}).read(torch.zeros(1, 2, 3), torch.zeros(1, 2), ["blocks.0.attn.patern"])


def test_attention_weights_sum_to_one_over_what_is_seen():
    one = model("paired", {"attention": "softmax"})
    prompts = LinearRegression(3, 6).sample(2, generator(), torch.float64)
    pattern = one.read(prompts.xs, prompts.ys, ["blocks.0.attn.pattern"])["blocks.0.attn.pattern"]
    torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
    assert not pattern[:, :, ~one.layout.mask(6, torch.device("cpu"))].any()


# ---- files and refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "shape"), LAID_OUT)
def test_a_saved_model_comes_back_with_the_same_answers(layout, shape, tmp_path):
    one = model(layout, shape)
    one.save(tmp_path / "weights.safetensors")
    again = Transformer.load(tmp_path / "weights.safetensors")
    prompts = task_of(layout).sample(2, generator(), torch.float64)
    assert (again.config, again.labels) == (one.config, one.labels)
    assert torch.equal(again(prompts.xs, prompts.ys), one(prompts.xs, prompts.ys))
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_a_file_from_before_labels_could_be_vectors_is_a_model_of_numbers(tmp_path):
    from safetensors.torch import save_file

    one, path = model("lagged", {}), tmp_path / "weights.safetensors"
    told = json.dumps({"d": 3, "n": 6, "config": asdict(one.config)})
    save_file(one.state_dict(), path, metadata={"transformer": told})
    prompts = task_of("lagged").sample(2, generator(), torch.float64)
    assert torch.equal(Transformer.load(path)(prompts.xs, prompts.ys), one(prompts.xs, prompts.ys))


def test_a_file_without_a_transformer_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors.*no transformer"):
        Transformer.load(tmp_path / "other.safetensors")
    (tmp_path / "junk").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"junk: no file of weights"):
        Transformer.load(tmp_path / "junk")


def test_initial_weights_belong_to_their_generator_and_spare_the_global_one():
    before = torch.get_rng_state()
    one, same, other = (model("lagged", {}, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["read_in.weight"], other["read_in.weight"])


def test_bare_attention_without_a_normaliser_starts_with_answers_of_the_size_of_labels():
    bare = {"norm": False, "positions": False, "bias": False, "normaliser": "none", "attention": "linear"}
    drawn = LinearRegression(10, 20).sample(64, generator())
    one = Transformer(10, 20, TransformerConfig(n_layer=2, **bare), generator())
    assert one(drawn.xs, drawn.ys).square().mean() < 10 * drawn.ys.square().mean()


def test_bad_shapes_are_refused_with_everything_that_is_wrong():
    with pytest.raises(ValueError, match=r"n_head.*d_mlp"):
        TransformerConfig(n_head=0, d_mlp=-1)
    with pytest.raises(ValueError, match=r"d_model = 8 is not a multiple of n_head = 3"):
        TransformerConfig(d_model=8, n_head=3)
    with pytest.raises(ValueError, match=r"d = 2.*d = 3.*n = 7.*n = 6"):
        model("lagged", {})(torch.zeros(1, 7, 2), torch.zeros(1, 7))


def test_a_negated_answer_is_minus_the_label_channel_and_belongs_to_bare_tokens():
    shape = {"layout": "encoder", "read_in": "identity", "d_model": 5, "n_head": 1, "n_layer": 2}
    plain = Transformer(3, 6, TransformerConfig(**shape), generator(1))
    negated = Transformer(3, 6, TransformerConfig(**shape, negated=True), generator(1))
    prompts = LinearRegression(3, 6).sample(4, generator(2))
    torch.testing.assert_close(negated(prompts.xs, prompts.ys), -plain(prompts.xs, prompts.ys))
    with pytest.raises(ValueError, match="negated is for read_in = identity"):
        TransformerConfig(negated=True)


def test_the_scale_of_the_start_multiplies_every_matrix_and_nothing_else():
    plain, small = (Transformer(3, 6, TransformerConfig(init_scale=c), generator(1)) for c in (1.0, 0.25))
    for (name, one), (_, other) in zip(plain.named_parameters(), small.named_parameters(), strict=True):
        matrix = one.ndim == 2 and name != "position"
        torch.testing.assert_close(other, 0.25 * one if matrix else one, msg=name)
    for scale in (0.0, float("inf")):
        with pytest.raises(ValueError, match="init_scale must be positive and finite"):
            TransformerConfig(init_scale=scale)
