"""Llama, Mistral and Qwen2 loaded into our transformer say what the library transformers says.

Whatever the model, the library takes norms and angles in float32; where these two are taken in float64, all else being
the library's, logits agree within 1e-10.
"""

import json

import pytest
import torch
from torch import nn

from iclab.analysis.heads.composition import compositions
from iclab.analysis.heads.folding import folded
from iclab.analysis.heads.roles import attribution
from iclab.errors import UsageError
from iclab.models import TokenTransformer, TokenTransformerConfig, load_pretrained
from iclab.models.formats import open_model
from tests.conftest import generator

transformers = pytest.importorskip("transformers")
TOKENS = torch.randint(37, (3, 16), generator=generator(1))
SIZES = {
    **{"vocab_size": 37, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"max_position_embeddings": 32, "num_key_value_heads": 4, "attn_implementation": "sdpa"},
}
LIBRARY = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
}
ROTARY = {"rope_parameters": {"rope_theta": 300.0, "rope_type": "default"}}
CASES = {
    "llama": ("llama", {}),
    "llama, groups of two, tied": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama, one group, wide heads": ("llama", {"num_key_value_heads": 1, "head_dim": 10} | ROTARY),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-2}),
    "mistral, groups": ("mistral", {"num_key_value_heads": 2, "sliding_window": None, "hidden_act": "gelu"}),
    "qwen2, groups": ("qwen2", {"num_key_value_heads": 2} | ROTARY),
}


@torch.no_grad()
def original(kind, settings, seed=0):
    """A random model of the library with nothing left at zero or one, float64."""
    config, model = LIBRARY[kind]
    made, rng = model(config(**SIZES | settings)), generator(seed)
    for name, weight in made.named_parameters():
        gain = "norm" in name
        weight.copy_((1.0 if gain else 0.0) + 0.3 * torch.randn(weight.shape, generator=rng))
    return made.double().eval()


class Norm(nn.Module):
    """x / √(mean x² + eps) · gain, in the precision of x."""

    def __init__(self, of):
        super().__init__()
        self.weight, self.eps = of.weight, of.variance_epsilon

    def forward(self, x):
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


class Angles(nn.Module):
    """cos and sin of t · base^(−2i/r), each twice, in float64."""

    def __init__(self, base, r):
        super().__init__()
        self.base, self.r = base, r

    def forward(self, x, position_ids, **_):
        speeds = self.base ** (-torch.arange(0, self.r, 2).double() / self.r)
        angles = position_ids.double().unsqueeze(-1) * torch.cat([speeds, speeds])
        return angles.cos(), angles.sin()


@torch.no_grad()
def in_float64(made):
    """The same model of the library with norms and angles in float64."""
    for owner in [*made.modules()]:
        for name, part in [*owner.named_children()]:
            if type(part).__name__.endswith("RMSNorm"):
                setattr(owner, name, Norm(part))
    base = made.config.rope_parameters["rope_theta"]
    made.model.rotary_emb = Angles(base, getattr(made.config, "head_dim", None) or 24 // 4)
    return made


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def saved(request, tmp_path):
    made = original(*request.param)
    made.save_pretrained(tmp_path)
    return made, tmp_path


@torch.no_grad()
def test_logits_equal_those_of_the_library(saved):
    made, folder = saved
    one, single = open_model(folder, torch.float64), made(TOKENS).logits
    assert 1e-10 < (one(TOKENS) - single).abs().max() < 1e-4
    expected = in_float64(made)(TOKENS).logits
    assert (one(TOKENS) - expected).abs().max() < 1e-10 and expected.std() > 0.3
    for norm in one.modules():
        if isinstance(norm, nn.RMSNorm):
            norm.eps = 1.1 * norm.eps
    assert (one(TOKENS) - expected).abs().max() > 1e-8  # the cheat: another small number


@torch.no_grad()
def test_any_weight_put_in_another_place_is_seen(saved):
    made, folder = saved
    one, expected = open_model(folder, torch.float64), in_float64(made)(TOKENS).logits
    for name, weight in one.named_parameters():
        kept = weight.clone()
        weight.copy_(weight.roll(1, 0))
        zero = bool((kept == 0).all())  # biases that the original does not have
        assert bool((one(TOKENS) - expected).abs().max() < 1e-9) is zero, name
        weight.copy_(kept)
    assert (one(TOKENS) - expected).abs().max() < 1e-10


@torch.no_grad()
def test_patterns_and_the_residual_stream_equal_those_of_the_library(saved):
    made, folder = saved
    made = in_float64(made)
    made.set_attn_implementation("eager")
    one, said = open_model(folder, torch.float64), made(TOKENS, output_attentions=True, output_hidden_states=True)
    for i, expected in enumerate(said.attentions):
        name = f"blocks.{i}.attn.pattern"
        torch.testing.assert_close(one.read(TOKENS, name)[name], expected, atol=1e-5, rtol=1e-5)
    *stream, _ = said.hidden_states  # the last of theirs is normalised
    for found, expected in zip(one.residual_stream(TOKENS), stream, strict=False):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_folding_and_saving_change_no_logit_and_parts_of_logits_sum_to_them(saved, tmp_path):
    _, folder = saved
    one = open_model(folder, torch.float64)
    expected, flat = one(TOKENS), folded(one)
    assert (flat(TOKENS) - expected).abs().max() < 1e-10
    assert all(bool((norm.weight == 1).all()) for norm in flat.modules() if isinstance(norm, nn.RMSNorm))
    one.save(tmp_path / "own.safetensors")
    again = TokenTransformer.load(tmp_path / "own.safetensors")
    assert torch.equal(again(TOKENS), expected) and again.config == one.config
    assert not one.config.centred and set(compositions(flat, centred=one.config.centred).scores) == {"V"}
    assert (torch.stack([*attribution(one, TOKENS).values()]).sum(0) - expected).abs().max() < 1e-10


def test_a_mean_over_channels_counts_where_norms_only_divide():
    """Folding keeps it; to centre what is written, as is right for LayerNorms, would change the logits."""
    config = TokenTransformerConfig(d_model=8, d_mlp=12, norm_kind="rms", gated=True, activation="silu")
    model = config.build(37, 16, generator(0)).double()
    model.read_in.weight.data -= model.read_in.weight.data.mean(-1, keepdim=True)
    centred = model(TOKENS)
    model.read_in.weight.data += 1.0
    assert (folded(model)(TOKENS) - model(TOKENS)).abs().max() < 1e-10 < (model(TOKENS) - centred).abs().max()


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3"}}, "needs rope_type = default"),
        ("llama", {"num_key_value_heads": 3}, "4 heads are not 3 groups of one size"),
        ("llama", {"num_key_value_heads": 0}, "4 heads are not 0 groups of one size"),
        ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps must be a number, given 'small'"),
        ("llama", {"head_dim": 5}, "rotary must be even"),
        ("llama", {"head_dim": 8}, r"blocks\.0\.attn\.q\.weight must be of shape \(32, 24\), given \(24, 24\)"),
        ("llama", {"attention_bias": True}, r"missing weights: layers\.0\.self_attn\.q_proj\.bias"),
        ("llama", {"model_type": "qwen3"}, "unknown model_type 'qwen3'. Did you mean 'qwen2'"),
        ("mistral", {"sliding_window": 8}, "tokens see 8 others, and sequences have up to 32"),
    ],
)
def test_what_our_class_does_not_have_is_refused(kind, changes, told, tmp_path):
    settings = {"sliding_window": None} if kind == "mistral" else {}
    original(kind, settings).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UsageError, match=told) as said:
        load_pretrained(tmp_path)
    assert "\n" not in str(said.value)
