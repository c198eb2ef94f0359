"""Writes what HookedTransformers answer in float64: run where transformer_lens < 4 is installed.

python -m tests.models.originals.make_transformer_lens
"""

import torch
import transformer_lens

from tests.models.originals import HERE, weight, write

BASE = {"n_layers": 2, "d_model": 12, "n_ctx": 9, "d_head": 5, "n_heads": 3, "d_vocab": 11, "seed": 0}
CASES = {
    "LayerNorm and MLP": {"d_mlp": 20, "act_fn": "gelu_new", "normalization_type": "LN"},
    "attention alone": {"attn_only": True, "normalization_type": "LN"},
    "folded, unscaled": {
        **{"d_mlp": 20, "act_fn": "relu", "normalization_type": "LNPre", "use_attn_scale": False, "eps": 1e-3},
    },
    "no norm, exact GELU": {"d_mlp": 20, "act_fn": "gelu", "normalization_type": None},
    "rotary, RMS, parallel": {
        **{"d_mlp": 20, "act_fn": "silu", "normalization_type": "RMS", "positional_embedding_type": "rotary"},
        **{"rotary_dim": 4, "rotary_base": 500, "parallel_attn_mlp": True},
    },
}
TOLD = ("act_fn", "normalization_type", "eps", "use_attn_scale", "positional_embedding_type", "rotary_dim")
TOLD += ("rotary_base", "parallel_attn_mlp", "n_ctx", "attention_dir", "use_local_attn", "gated_mlp")


@torch.no_grad()
def said(options: dict) -> dict:
    """Returns the settings, the shapes of weights, and the logits of tokens."""
    config = transformer_lens.HookedTransformerConfig(**BASE | options, dtype=torch.float64, device="cpu")
    model = transformer_lens.HookedTransformer(config).double()
    weights = model.state_dict()
    for name, value in model.named_parameters():
        value.copy_(torch.from_numpy(weight(name, tuple(value.shape))))
    tokens = torch.arange(2 * 9).reshape(2, 9) * 7 % 11
    buffers = {name for name, _ in model.named_buffers()} & weights.keys()
    return {
        "settings": {name: config.to_dict()[name] for name in TOLD},
        "shapes": {name: list(value.shape) for name, value in weights.items() if name not in buffers},
        "buffers": {name: list(weights[name].shape) for name in sorted(buffers)},
        "tokens": tokens.tolist(),
        "logits": model(tokens).tolist(),
    }


if __name__ == "__main__":
    cases = {name: said(options) for name, options in CASES.items()}
    write(HERE / "transformer_lens.json", {"version": "transformer_lens 3.9.0", "cases": cases})
