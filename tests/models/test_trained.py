"""A trained model from a package: GlassLM (PyPI `glassllm`, MIT licence), a Llama of 850,000 weights over English.

It is written into a folder as the library transformers would have it. Its rotary positions turn neighbouring channels
where Llama turns halves, so that the channels of queries and keys change places.
"""

import json
from itertools import pairwise
from math import log

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from iclab.commands.channels import model_of, ranked
from iclab.commands.recall import study_of
from iclab.errors import UsageError
from iclab.models.formats import open_model

glassllm = pytest.importorskip("glassllm")
tokenizers = pytest.importorskip("tokenizers")
pytestmark = pytest.mark.slow
TEXT = "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do."


def halves(W, d_head):
    """Rows of W in which the even channels of each head come before the odd ones."""
    order = [*range(0, d_head, 2), *range(1, d_head, 2)]
    return W.unflatten(0, (-1, d_head))[:, order].flatten(0, 1).contiguous()


def weights_of(model):
    """Its weights by the names of Llama."""
    own = {name: torch.from_numpy(value.data.copy()) for name, value in model.named_parameters().items()}
    d_head = model.cfg.d_model // model.cfg.n_heads
    yield "model.embed_tokens.weight", own["E"]
    yield "model.norm.weight", own["norm_f.gamma"]
    maps = {"attn.W_V": "self_attn.v_proj", "attn.W_O": "self_attn.o_proj"}
    maps |= {"ffn.W1": "mlp.gate_proj", "ffn.W3": "mlp.up_proj", "ffn.W2": "mlp.down_proj"}
    for i in range(model.cfg.n_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        yield f"{theirs}.input_layernorm.weight", own[f"{ours}.norm1.gamma"]
        yield f"{theirs}.post_attention_layernorm.weight", own[f"{ours}.norm2.gamma"]
        for letter in "QK":
            yield f"{theirs}.self_attn.{letter.lower()}_proj.weight", halves(own[f"{ours}.attn.W_{letter}"].T, d_head)
        for given, name in maps.items():
            yield f"{theirs}.{name}.weight", own[f"{ours}.{given}"].T.contiguous()


@pytest.fixture(scope="module")
def glass():
    return glassllm.load_pretrained("en")


@pytest.fixture(scope="module")
def folder(glass, tmp_path_factory):
    """The model as a folder of Llama, with its tokenizer."""
    (model, split), folder, size = glass, tmp_path_factory.mktemp("glass"), glass[0].cfg
    save_file(dict(weights_of(model)), folder / "model.safetensors")
    settings = {
        **{"model_type": "llama", "vocab_size": size.vocab_size, "hidden_size": size.d_model},
        **{"intermediate_size": int(8 * size.d_model / 3), "num_hidden_layers": size.n_layers},
        **{"num_attention_heads": size.n_heads, "num_key_value_heads": size.n_kv_heads},
        **{"max_position_embeddings": size.max_len, "rms_norm_eps": size.eps, "rope_theta": size.rope_base},
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    words = tokenizers.models.BPE(vocab=dict(split.token_to_id), merges=[*split.merges], unk_token="<unk>")
    made = tokenizers.Tokenizer(words)
    made.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("▁", "merged_with_next")
    made.save(str(folder / "tokenizer.json"))
    return folder


@torch.no_grad()
def test_it_answers_as_its_own_package_and_reads_english(glass, folder):
    model, split = glass
    ids = split.encode(TEXT)
    for value in model.named_parameters().values():
        value.data = value.data.astype(np.float64)
    for block in model.blocks:  # its tables of angles were made in float32
        cos, sin = glassllm.nn.rope_angles(block.attn.d_k, model.cfg.max_len, model.cfg.rope_base)
        block.attn.cos, block.attn.sin = cos, sin
    logits = open_model(folder, torch.float64)(torch.tensor([ids]))
    assert np.abs(logits.numpy() - model(ids).data).max() < 1e-10
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], torch.tensor(ids[1:]))
    assert loss < 0.8 * log(split.vocab_size)  # of a uniform guess
    assert tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids == ids


def test_its_channels_are_ranked(folder):
    found = ranked(model_of(folder), 10, "z")
    assert len(found) == 10 and all(one.way == "V" and one.writer[0] < one.reader[0] for one in found)
    assert all(one.z >= other.z for one, other in pairwise(found))


def test_its_words_are_too_few_for_recall(folder):
    """No trained model that a package brings along has these words as tokens of their own."""
    with pytest.raises(UsageError, match=r"of the 22 objects are a token of their own .* lists need 10"):
        study_of(folder, 16, 1)
