"""GPT-2 and GPT-NeoX loaded into our transformer say what the library transformers says, weight for weight."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from iclab.analysis.heads.circuits import ov
from iclab.analysis.heads.composition import compositions
from iclab.analysis.heads.edits import with_components
from iclab.analysis.heads.folding import folded
from iclab.errors import UsageError
from iclab.models import TokenTransformer, TokenTransformerConfig
from iclab.models.pretrained import load_pretrained
from iclab.models.transformer import Attention
from tests.conftest import generator

transformers = pytest.importorskip("transformers")
TOKENS = torch.randint(37, (3, 20), generator=generator(1))
GPT2 = {"vocab_size": 37, "n_positions": 24, "n_embd": 48, "n_layer": 3, "n_head": 4}
NEOX = {
    "vocab_size": 37,
    "max_position_embeddings": 24,
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


def rotary(share, base=10000.0):
    return {"rope_parameters": {"rope_theta": base, "partial_rotary_factor": share, "rope_type": "default"}}


CONFIGS = {
    "gpt2": ("gpt2", {}),
    "gpt2, other widths": ("gpt2", {"n_inner": 50, "layer_norm_epsilon": 1e-3, "activation_function": "relu"}),
    "gpt2, untied": ("gpt2", {"tie_word_embeddings": False, "activation_function": "gelu"}),
    "neox, a sixth": ("gpt_neox", rotary(0.17)),
    "neox, all channels": ("gpt_neox", rotary(1.0, base=500.0)),
    "neox, sequential": ("gpt_neox", rotary(0.5) | {"use_parallel_residual": False, "hidden_act": "gelu_new"}),
    "neox, tied": ("gpt_neox", rotary(0.5) | {"tie_word_embeddings": True, "layer_norm_eps": 1e-2}),
}


@torch.no_grad()
def original(kind, settings, dtype=torch.float32, seed=0):
    """A random model of the library with nothing left at zero or one."""
    if kind == "gpt2":
        config = transformers.GPT2Config(**GPT2 | settings, attn_implementation="eager")
        made = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.GPTNeoXConfig(**NEOX | settings, attn_implementation="eager")
        made = transformers.GPTNeoXForCausalLM(config)
    rng = generator(seed)
    for name, weight in made.named_parameters():
        gain = "weight" in name and weight.ndim == 1
        weight.copy_((1.0 if gain else 0.0) + 0.2 * torch.randn(weight.shape, generator=rng))
    return made.to(dtype).eval()


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def saved(request, tmp_path):
    """A model of the library, float64, and the folder in which it was saved."""
    made = original(*request.param, torch.float64)
    made.save_pretrained(tmp_path)
    return made, tmp_path


def rewrite(folder, change, name="model.safetensors"):
    weights = load_file(folder / name)
    change(weights)
    save_file(weights, folder / name)


@torch.no_grad()
def test_logits_equal_those_of_the_library(saved):
    made, folder = saved
    expected = made(TOKENS).logits
    wide = load_pretrained(folder, torch.float64)
    # Whatever the model, the library takes angles of rotary positions, and here also the softmax, in float32.
    tolerance = 1e-6 if made.config.model_type == "gpt_neox" else 1e-12
    torch.testing.assert_close(wide(TOKENS), expected, atol=tolerance, rtol=tolerance)
    single = load_pretrained(folder)
    torch.testing.assert_close(single(TOKENS), made.float()(TOKENS).logits, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.3  # not all zero


@torch.no_grad()
def test_single_precision_within_the_library_is_all_that_the_two_differ_by(tmp_path, monkeypatch):
    made = original("gpt_neox", rotary(1.0), torch.float64)
    made.save_pretrained(tmp_path)
    made.set_attn_implementation("sdpa")  # with a softmax in float64

    def with_their_angles(self, x):
        cos, sin = (each[0, :, :6] for each in made.gpt_neox.rotary_emb(x, torch.arange(20).unsqueeze(0)))
        a, b = x.split(6, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    one = load_pretrained(tmp_path, torch.float64)
    before = (one(TOKENS) - made(TOKENS).logits).abs().max()
    monkeypatch.setattr(Attention, "turned", with_their_angles)
    torch.testing.assert_close(one(TOKENS), made(TOKENS).logits, atol=1e-12, rtol=1e-12)
    assert before > 1e-9


@torch.no_grad()
def test_patterns_and_the_residual_stream_equal_those_of_the_library(saved):
    made, folder = saved
    one = load_pretrained(folder, torch.float64)
    said = made(TOKENS, output_attentions=True, output_hidden_states=True)
    names = [f"blocks.{i}.attn.pattern" for i in range(3)]
    for found, expected in zip(one.read(TOKENS, names).values(), said.attentions, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    *stream, last = said.hidden_states  # the last of theirs is normalised
    for found, expected in zip(one.residual_stream(TOKENS), [*stream, None], strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(one.norm(list(one.residual_stream(TOKENS))[-1]), last, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_folding_refactoring_and_saving_change_no_logit_of_a_loaded_model(saved, tmp_path):
    made, folder = saved
    one = load_pretrained(folder, torch.float64)
    expected = one(TOKENS)
    torch.testing.assert_close(folded(one)(TOKENS), expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(with_components(one, (1, 2), torch.ones(12))(TOKENS), expected, atol=1e-10, rtol=1e-10)
    one.save(tmp_path / "own.safetensors")
    again = TokenTransformer.load(tmp_path / "own.safetensors")
    assert torch.equal(again(TOKENS), expected) and again.config == one.config
    tied = made.config.tie_word_embeddings
    assert (again.read_out.weight is again.read_in.weight) is tied
    ways = {"gpt2": {"Q", "K", "V"}, "gpt_neox": {"V"}}[made.config.model_type]
    assert set(compositions(folded(one), centred=True).scores) == ways


@torch.no_grad()
def test_heads_are_those_of_the_library(tmp_path):
    made = original("gpt2", {}, torch.float64)
    made.save_pretrained(tmp_path)
    attn = made.transformer.h[1].attn
    W_V = attn.c_attn.weight[:, 96:].reshape(48, 4, 12)[:, 2]
    W_O = attn.c_proj.weight.reshape(4, 12, 48)[2]
    found = ov(load_pretrained(tmp_path, torch.float64))[1, 2].dense()
    torch.testing.assert_close(found, W_V @ W_O, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_files_of_old_with_buffers_other_prefixes_and_half_precision_are_read(kind, tmp_path):
    made = original(kind, {} if kind == "gpt2" else rotary(0.5))
    made.half().save_pretrained(tmp_path)
    expected = load_pretrained(tmp_path)(TOKENS)

    def older(weights):
        for name in list(weights):
            weights[name.removeprefix("transformer.").removeprefix("gpt_neox.")] = weights.pop(name)
        if kind == "gpt2":
            weights["h.0.attn.bias"], weights["lm_head.weight"] = (
                torch.ones(1, 1, 24, 24),
                weights["wte.weight"].clone(),
            )
        else:
            weights["layers.0.attention.masked_bias"] = torch.tensor(-1e9)
            weights["layers.0.attention.rotary_emb.inv_freq"] = torch.ones(2)
            names = {"embed_out.weight", "lm_head.weight"} & weights.keys()
            weights["lm_head.weight" if "embed_out.weight" in names else "embed_out.weight"] = weights.pop(*names)

    rewrite(tmp_path, older)
    settings = json.loads((tmp_path / "config.json").read_text())
    if kind == "gpt_neox":
        del settings["rope_parameters"]
        (tmp_path / "config.json").write_text(json.dumps(settings | {"rotary_pct": 0.5, "rotary_emb_base": 10000}))
    assert torch.equal(load_pretrained(tmp_path)(TOKENS), expected)


def test_several_files_are_one_model(tmp_path):
    made = original("gpt2", {})
    made.save_pretrained(tmp_path)
    whole = load_pretrained(tmp_path)(TOKENS)
    made.save_pretrained(tmp_path / "parts", max_shard_size="60KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    assert torch.equal(load_pretrained(tmp_path / "parts")(TOKENS), whole)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
@torch.no_grad()
def test_any_weight_put_in_another_place_is_seen(kind, tmp_path):
    """Rows of a weight in another order change the logits: none is mapped and then not used."""
    made = original(kind, {} if kind == "gpt2" else rotary(0.5), torch.float64)
    made.save_pretrained(tmp_path)
    one = load_pretrained(tmp_path, torch.float64)
    expected = made(TOKENS).logits
    for name, weight in one.named_parameters():
        kept = weight.clone()
        weight.copy_(weight.roll(1, 0))
        # zeros; and what adds the same to all scores of a query
        blind = name == "read_out.bias" or (name.endswith("attn.k.bias") and kind == "gpt2")
        assert bool((one(TOKENS) - expected).abs().max() < 1e-6) is blind, name
        weight.copy_(kept)
    assert (one(TOKENS) - expected).abs().max() < 1e-6


ENDS = {"gpt2": ("transformer.wte.weight", ["lm_head.weight"])}
ENDS["gpt_neox"] = ("gpt_neox.embed_in.weight", ["embed_out.weight", "lm_head.weight"])


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("held", ["the embedding", "both, equal", "both, apart", "the read-out", "neither"])
@pytest.mark.parametrize("tied", [True, False, None])
@torch.no_grad()
def test_ends_are_read_as_the_library_reads_them(tied, held, kind, tmp_path):
    """Tied by the settings or not, or by default: where the library would draw what is missing, it is refused."""
    original(kind, {} if kind == "gpt2" else rotary(0.5)).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": tied}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    embedding, names = ENDS[kind]
    library = {"gpt2": transformers.GPT2LMHeadModel, "gpt_neox": transformers.GPTNeoXForCausalLM}[kind]
    weights = load_file(tmp_path / "model.safetensors")
    rest = {name: value for name, value in weights.items() if name not in [embedding, *names]}
    other = 0.2 * torch.randn(37, 48, generator=generator(3))  # as all weights are: a float32 logit is exact to 1e-5
    for name in names:
        head = weights[embedding].clone() if held == "both, equal" else other
        first = {embedding: weights[embedding]} if held in ("the embedding", "both, equal", "both, apart") else {}
        last = {name: head} if held in ("the read-out", "both, equal", "both, apart") else {}
        save_file(rest | first | last, tmp_path / "model.safetensors", {"format": "pt"})
        made, told = library.from_pretrained(tmp_path, output_loading_info=True)
        if told["missing_keys"]:
            with pytest.raises(ValueError, match="missing weights"):
                load_pretrained(tmp_path)
        else:
            one = load_pretrained(tmp_path)
            torch.testing.assert_close(one(TOKENS), made.eval()(TOKENS).logits, atol=1e-5, rtol=1e-5)
            assert (one.read_out.weight is one.read_in.weight) == one.config.tied_embedding
            assert torch.equal(one.read_out.weight, weights[embedding]) != ("apart" in held or held == "the read-out")


@torch.no_grad()
def test_files_that_keep_one_of_two_names_of_a_weight_are_read(tmp_path):
    made = original("gpt2", {})
    made.save_pretrained(tmp_path)
    save_model(made, str(tmp_path / "model.safetensors"))
    assert "transformer.wte.weight" not in load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(load_pretrained(tmp_path)(TOKENS), made(TOKENS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_layer": 10**9}, "n_layer must be at most 1024, given 1000000000"),
        ({"n_layer": 1024}, r"missing weights: h\.3\.ln_1\.weight.* and [0-9]+ more"),
        ({"n_embd": 10**6}, "n_embd must be at most 65536, given 1000000"),
        ({"n_embd": 2**16}, r"\(65536,\), given \(48,\)"),
        ({"n_positions": 10**12}, "n_positions must be at most 1048576, given 1000000000000"),
        ({"vocab_size": 2**20}, r"read_in\.weight must be of shape \(1048576, 48\), given \(37, 48\)"),
        ({"n_layer": "4"}, "n_layer must be an integer, given '4'"),
        ({"n_head": 3.0}, r"n_head must be an integer, given 3\.0"),
        ({"n_head": True}, "n_head must be an integer, given True"),
        ({"activation_function": None}, "activation_function must be a text, given None"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, given 1"),
        ({"n_inner": {}}, "n_inner must be an integer or none, given {}"),
        ({"num_attention_heads": 2}, "n_head = 4, and by its other name 2"),
        ({"per_layer_config": {"0": {"n_head": 2}}}, "needs per_layer_config = None, given"),
        ({"quantization_config": {"quant_method": "x"}}, "needs quantization_config = None, given"),
    ],
)
def test_settings_that_are_odd_are_refused_with_the_file_and_the_key(changes, told, tmp_path):
    original("gpt2", {}).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | changes))
    with pytest.raises(UsageError, match=f"^{tmp_path}.*: .*{told}"):
        load_pretrained(tmp_path)


def test_weights_that_are_not_finite_or_not_floating_point_are_refused_by_name(tmp_path):
    original("gpt2", {}).save_pretrained(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")["transformer.h.1.ln_1.bias"]
    infinite = torch.where(torch.arange(48) == 7, torch.inf, kept)
    whole = [torch.int8, torch.bool, torch.float8_e4m3fn]
    odd = [(infinite, "not finite"), (infinite.nan_to_num(torch.nan, torch.nan), "not finite")]
    for value, told in [*odd, (1e200 * kept.double(), "not finite"), *((kept.to(dtype), "is of") for dtype in whole)]:
        rewrite(tmp_path, lambda weights, value=value: weights.update({"transformer.h.1.ln_1.bias": value}))
        with pytest.raises(UsageError, match=rf"model\.safetensors: transformer\.h\.1\.ln_1\.bias .*{told}"):
            load_pretrained(tmp_path)


def test_weights_that_are_not_known_missing_or_of_another_shape_are_listed(tmp_path):
    original("gpt2", {}).save_pretrained(tmp_path)

    def change(weights):
        weights["transformer.h.0.attn.extra"] = torch.zeros(1)
        del weights["transformer.h.2.mlp.c_fc.bias"]

    rewrite(tmp_path, change)
    with pytest.raises(ValueError, match=r"unknown weights: h\.0\.attn\.extra; missing weights: h\.2\.mlp\.c_fc\.bias"):
        load_pretrained(tmp_path)

    def more(weights):
        del weights["transformer.h.0.attn.extra"]
        weights["transformer.h.2.mlp.c_fc.bias"] = torch.zeros(7)
        weights["transformer.h.1.attn.c_attn.weight"] = torch.zeros(48, 140)

    rewrite(tmp_path, more)
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.q\.weight must be .*\(48, 48\), given \(47, 48\).*mlp_in"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt3"}, "unknown model_type 'gpt3'"),
        ({"n_embd": None}, "config.json has no n_embd"),
        ({"scale_attn_by_inverse_layer_idx": True}, "needs scale_attn_by_inverse_layer_idx = False, given True"),
        ({"activation_function": "mish"}, "unknown activation 'mish'"),
        ({"n_layer": 4}, r"missing weights: h\.3\.ln_1\.weight, .* and 4 more"),
    ],
)
def test_models_of_another_kind_are_refused(changes, message, tmp_path):
    original("gpt2", {}).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path)


def test_scaled_rotary_positions_and_folders_without_weights_are_refused(tmp_path):
    original("gpt_neox", rotary(0.5)).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    scaled = settings["rope_parameters"] | {"rope_type": "linear", "factor": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(settings | {"rope_parameters": scaled}))
    with pytest.raises(ValueError, match="needs rope_type = default, given linear"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="no file of weights"):
        load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config"):
        load_pretrained(tmp_path)


# ---- what the class can do for them --------------------------------------------------------------------------------


def test_rotary_scores_depend_on_the_distance_alone():
    """The same queries and keys at every token: a score is a function of t − s."""
    config = TokenTransformerConfig(n_layer=1, d_model=16, rotary=4, positions=False, norm=False)
    one = TokenTransformer(3, 12, config, generator()).double()
    name = "blocks.0.attn.scores"
    scores = one.read(torch.zeros(1, 12, dtype=torch.long), name)[name][0]
    for distance in range(11):
        diagonal = scores.diagonal(-distance, -2, -1)
        torch.testing.assert_close(diagonal, diagonal[:, :1].expand_as(diagonal), atol=1e-12, rtol=1e-12)
    assert (scores[:, 5, 0] - scores[:, 5, 5]).abs().min() > 1e-6


@pytest.mark.parametrize("given", [3, 10, -2])
def test_rotary_channels_that_cannot_be_turned_in_pairs_are_refused(given):
    with pytest.raises(ValueError, match=f"rotary must be even, from 0 to the width of a head, 8, given {given}"):
        TokenTransformerConfig(d_model=16, rotary=given)


def test_constants_of_the_norm_and_of_rotary_positions_must_be_positive():
    with pytest.raises(ValueError, match=r"rotary_base must be positive and finite, given 0.*norm_eps .* given -1"):
        TokenTransformerConfig(rotary_base=0.0, norm_eps=-1.0)


def test_tied_ends_stay_one_weight():
    one = TokenTransformer(5, 4, TokenTransformerConfig(tied_embedding=True), generator())
    assert one.read_out.weight is one.read_in.weight
    with torch.no_grad():
        one.read_in.weight.zero_()
    assert not (one(torch.tensor([[1, 2]])) - one.read_out.bias).any()
    assert ov(one).A.shape == (2, 2, 32, 16)
