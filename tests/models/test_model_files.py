"""Files of our own models: what `save` wrote is loaded bit by bit, and what anyone may have changed in it is refused in
a line, before memory is taken."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from iclab.errors import UsageError
from iclab.models import (
    LinearAttention,
    PointerTransformer,
    PointerTransformerConfig,
    RandomAttention,
    RandomAttentionConfig,
    RandomNetwork,
    RandomSelfAttention,
    TokenTransformer,
    TokenTransformerConfig,
    Transformer,
    TransformerConfig,
    VectorTransformerConfig,
)
from tests.conftest import generator

TOKENS = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])


@pytest.fixture
def saved(tmp_path):
    """A model of tokens, tied, and its file."""
    one = TokenTransformer(5, 4, TokenTransformerConfig(d_model=8, d_mlp=12, tied_embedding=True), generator())
    one.save(tmp_path / "m")
    return one, tmp_path / "m"


def retold(path, change, weights=lambda found: None):
    """Writes the file again with another shape, or other weights."""
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["token transformer"])
    found = load_file(path)
    weights(found)
    save_file(found, path, {"token transformer": change(told)})


def test_a_file_is_loaded_bit_by_bit_and_ends_stay_tied(saved):
    one, path = saved
    again = TokenTransformer.load(path)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))
    assert again.read_out.weight is again.read_in.weight and again.config == one.config
    one.half().save(path)
    assert {p.dtype for p in TokenTransformer.load(path).parameters()} == {torch.float16}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n_layer": 10**9}, "n_layer must be at most 1024, given 1000000000"),
        ({"n_layer": 1000}, "weights of 1000 layers, the file has those of 2"),
        ({"n_layer": 0}, "weights of 0 layers, the file has those of 2"),
        ({"n_layer": "2"}, "n_layer must be an integer, given '2'"),
        ({"n_head": 2.0}, r"n_head must be an integer, given 2\.0"),
        ({"n_head": True}, "n_head must be an integer, given True"),
        ({"d_model": 10**6}, "d_model must be at most 65536, given 1000000"),
        ({"d_model": 2**16}, r"position must be of shape \(4, 65536\), given \(4, 8\)"),
        ({"d_mlp": None}, "d_mlp must be an integer, given None"),
        ({"scale": float("nan")}, "scale must be finite, given nan"),
        ({"scale": 10**400}, "scale must be a number or none, given 1000"),
        ({"attention": {}}, "attention must be a text, given {}"),
        ({"bias": 1}, "bias must be true or false, given 1"),
        ({"widht": 1}, "unknown setting 'widht'"),
    ],
)
def test_settings_that_are_odd_are_refused_with_the_file(change, told, saved):
    _, path = saved
    retold(path, lambda shape: json.dumps(shape | {"config": shape["config"] | change}))
    with pytest.raises(UsageError, match=f"^{path}: .*{told}") as caught:
        TokenTransformer.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda shape: shape | {"n": 10**12}, "n must be at most 1048576, given 1000000000000"),
        (lambda shape: shape | {"vocab": 0}, "vocab must be at least 1, given 0"),
        (lambda shape: shape | {"vocab": None}, "vocab must be an integer, given None"),
        (lambda shape: {"config": {}}, "vocab must be an integer, given None; n must be"),
        (lambda shape: shape | {"config": []}, r"config must be a table, given \[\]"),
        (lambda shape: [shape], "its shape is not a table"),
        (lambda shape: 0, "no token transformer was saved in this file"),
        (lambda shape: shape | {"n": 5}, r"position must be of shape \(5, 8\), given \(4, 8\)"),
    ],
)
def test_shapes_that_are_odd_are_refused_with_the_file(change, told, saved):
    _, path = saved
    retold(path, lambda shape: json.dumps(change(shape)))
    with pytest.raises(UsageError, match=f"^{path}: .*{told}"):
        TokenTransformer.load(path)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "9" * 5000])
def test_a_shape_that_is_no_json_is_refused(text, saved):
    _, path = saved
    retold(path, lambda shape: text)
    with pytest.raises(UsageError, match=f"^{path}: what it tells of the token transformer: not JSON"):
        TokenTransformer.load(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: found.pop("blocks.1.attn.q.bias"), r"missing weights: blocks\.1\.attn\.q\.bias"),
        (lambda found: found.update(more=torch.zeros(1)), "unknown weights: more"),
        (lambda found: found.update({"position": torch.zeros(1)}), r"position must be of shape \(4, 8\), given \(1,\)"),
        (lambda found: found.update({"norm.bias": torch.zeros(8, dtype=torch.int8)}), r"norm\.bias is of I8"),
        (lambda found: found.update({"norm.bias": torch.zeros(8).double()}), "weights of several types: F32, F64"),
        (lambda found: found["norm.bias"].fill_(torch.nan), r"norm\.bias holds numbers that are not finite"),
        (lambda found: found["read_out.weight"].add_(1), r"read_out\.weight is tied to other weights, and differs"),
        (lambda found: found.update({"read_out.bias": torch.zeros(0)}), r"read_out\.bias is empty"),
    ],
)
def test_weights_that_are_odd_are_refused_with_the_file(change, told, saved):
    _, path = saved
    retold(path, json.dumps, change)
    with pytest.raises(UsageError, match=f"^{path}: {told}"):
        TokenTransformer.load(path)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "m")
    with pytest.raises(UsageError, match=f"^{tmp_path}/m: not a regular file"):
        Transformer.load(tmp_path / "m")
    with pytest.raises(UsageError, match="no such file"):
        Transformer.load(tmp_path / "none")


# ---- the door ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TransformerConfig(n_layer=10**9), "n_layer must be at most 1024, given 1000000000"),
        (
            lambda: TransformerConfig(n_head=10**5, d_head=10**6, d_mlp=10**7),
            "n_head .* 65536.*d_head .*d_mlp must be at most",
        ),
        (
            lambda: PointerTransformerConfig(items=2**21, rank=2**17),
            "items must be at most 1048576.*rank must be at most",
        ),
        (lambda: PointerTransformerConfig(tied_embedding=True), "tied_embedding: what points reads nothing out"),
        (lambda: VectorTransformerConfig(d_classifier=2**19), "d_classifier must be at most 262144, given 524288"),
        (lambda: RandomAttentionConfig(heads=2**21), "heads must be at most 1048576, given 2097152"),
        (lambda: Transformer(10**6, 10**12), "d must be at most 65536.*n must be at most 1048576"),
        (lambda: LinearAttention(10**6, 5), "d must be at most 65536"),
        (lambda: LinearAttention(2**16, 5), "at most 2147483648 weights are drawn, 4295032832 are needed"),
        (lambda: RandomAttention(2**10, 5, 2**14), "weights are drawn"),
        (lambda: RandomSelfAttention(2**10, 2**10, 2**12), "weights are drawn"),
        (lambda: RandomNetwork(2**10, 2**10, 2**14), "weights are drawn"),
        (
            lambda: TokenTransformer(2**20, 4, TokenTransformerConfig(d_model=2**16)),
            "weights are drawn, 171800920064 are",
        ),
    ],
)
def test_sizes_beyond_all_bounds_are_refused_before_memory_is_taken(make, told):
    with pytest.raises(UsageError, match=told):
        make()


@pytest.mark.parametrize(
    ("config", "field", "given", "told"),
    [
        (TransformerConfig(), "d_model", 3.0, r"d_model must be an integer, given 3\.0"),
        (TransformerConfig(), "layout", {}, "layout must be a text, given {}"),
        (TransformerConfig(), "layout", "laged", "unknown layout 'laged'. Did you mean 'lagged'"),
        (TokenTransformerConfig(), "parallel", "yes", "parallel must be true or false, given 'yes'"),
        (TokenTransformerConfig(), "norm_eps", True, "norm_eps must be a number, given True"),
        (RandomAttentionConfig(), "heads", None, "heads must be an integer, given None"),
    ],
)
def test_settings_of_another_kind_are_refused_at_the_door(config, field, given, told):
    object.__setattr__(config, field, given)  # the constructor's own types are checked by beartype in tests alone
    with pytest.raises(UsageError, match=told):
        config.__post_init__()


def test_a_model_is_as_large_as_the_bound_allows_without_taking_memory():
    with torch.device("meta"):
        one = TokenTransformer(2**20, 2**10, TokenTransformerConfig(d_model=2**16, tied_embedding=True))
    assert all(weights.is_meta for weights in one.parameters())
    assert one.read_out.weight is one.read_in.weight


def test_a_model_laid_out_without_numbers_has_the_shapes_of_one_that_is_drawn():
    config = PointerTransformerConfig(n_layer=2, d_model=8, d_mlp=4, keys="positional", items=5)
    with torch.device("meta"):
        outline = PointerTransformer(7, 6, config)
    drawn = PointerTransformer(7, 6, config, generator())
    assert {k: v.shape for k, v in outline.state_dict().items()} == {k: v.shape for k, v in drawn.state_dict().items()}
    assert all(value.isfinite().all() for value in drawn.state_dict().values())
