"""What must hold of the transformer over tokens, with every kind of attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclab.models import TokenTransformer, TokenTransformerConfig, Transformer
from tests.conftest import generator
from tests.models.test_models import SHAPES, blocks_by_hand

VOCAB, N = 5, 7
TOKEN_SHAPES = {**SHAPES, "two layers of attention": {}}


def model(shape, vocab=VOCAB, n=N, seed=0, **more):
    config = TokenTransformerConfig(**({"n_layer": 2, "n_head": 2, "d_model": 8} | shape | more))
    return TokenTransformer(vocab, n, config, generator(seed)).double()


def sequences(batch=4, vocab=VOCAB, n=N, seed=0):
    return torch.randint(vocab, (batch, n), generator=generator(seed))


def assert_tokens_causal(answers, vocab=VOCAB, n=N):
    """Replacing the tokens j > i leaves logits i as they are."""
    first, other = (sequences(3, vocab, n, seed) for seed in (1, 2))
    said = answers(first)
    for i in range(n):
        changed = torch.cat([first[:, : i + 1], other[:, i + 1 :]], dim=1)
        torch.testing.assert_close(answers(changed)[:, i], said[:, i], atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("shape", TOKEN_SHAPES.values(), ids=TOKEN_SHAPES.keys())
def test_logits_are_causal_and_use_every_token_before(shape):
    one, tokens = model(shape), sequences(64)
    assert_tokens_causal(one)
    said = one(tokens)
    for j in range(N):
        moved = (one(tokens.index_copy(1, torch.tensor([j]), (tokens[:, [j]] + 1) % VOCAB)) != said).any(-1).any(0)
        assert moved[j:].all()


def test_causality_of_tokens_can_fail():
    honest = model({})
    with pytest.raises(AssertionError):
        assert_tokens_causal(lambda tokens: honest(tokens.roll(-1, dims=1)))  # reads each token one position early
    with pytest.raises(AssertionError):
        assert_tokens_causal(lambda tokens: honest(tokens) + 1e-9 * tokens.sum(1)[:, None, None])


@pytest.mark.parametrize("shape", TOKEN_SHAPES.values(), ids=TOKEN_SHAPES.keys())
@given(seed=st.integers(0, 2**31), n=st.integers(1, N), vocab=st.integers(1, VOCAB))
@settings(max_examples=10)
def test_the_forward_pass_over_tokens_equals_plain_loops(shape, seed, n, vocab):
    one, tokens = model(shape, vocab=vocab, seed=seed), sequences(1, vocab, n, seed)
    rows = [
        one.read_in.weight[token] + (one.position[i] if one.config.positions else 0)
        for i, token in enumerate(tokens[0])
    ]
    last = blocks_by_hand(one, torch.stack(rows), torch.ones(n, n).tril().bool())
    expected = torch.stack([one.read_out(one.norm(h)) for h in last])
    torch.testing.assert_close(one(tokens)[0], expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(one(tokens, 1)[0], expected[-1:], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("shape", TOKEN_SHAPES.values(), ids=TOKEN_SHAPES.keys())
def test_every_activation_over_tokens_can_be_read_and_put_back_without_a_trace(shape):
    one, tokens = model(shape), sequences()
    plain = one(tokens)
    values = one.read(tokens, one.activations())
    assert list(values) == one.activations()
    torch.testing.assert_close(values["prediction"], plain)
    torch.testing.assert_close(one.replaced(tokens, values), plain)
    assert not torch.allclose(one.replaced(tokens, {"blocks.1.attn_out": torch.tensor(0.0)}), plain)
    assert torch.equal(one(tokens), plain)
    for here, name in zip(
        one.residual_stream(tokens), ["embed", "blocks.0.resid_post", "blocks.1.resid_post"], strict=False
    ):
        torch.testing.assert_close(here, values[name])


def test_a_saved_token_model_comes_back_and_is_not_taken_for_the_other_kind(tmp_path):
    one, path = model({"d_mlp": 6}), tmp_path / "weights.safetensors"
    one.save(path)
    again = TokenTransformer.load(path)
    assert (again.vocab, again.n, again.config) == (VOCAB, N, one.config)
    assert torch.equal(again(sequences()), one(sequences()))
    with pytest.raises(ValueError, match="no transformer was saved"):
        Transformer.load(path)


def test_weights_of_a_token_model_belong_to_their_generator_and_spare_the_global_one():
    before = torch.get_rng_state()
    one, same, other = (model({"d_mlp": 6}, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert all(value.isfinite().all() for value in one.values())
    assert not torch.equal(one["read_in.weight"], other["read_in.weight"])


def test_tokens_that_cannot_be_read_are_refused_with_everything_that_is_wrong():
    with pytest.raises(ValueError, match=r"numbers from 0 to 4, given -1 to 5.*n = 8.*n = 7"):
        model({})(torch.tensor([[0, 5, -1, 0, 0, 0, 0, 0]]))
    for tokens in (torch.rand(2, 4), torch.zeros(2, 4, 3).long()):
        with pytest.raises(ValueError, match=r"tokens are whole numbers \[batch n\], given torch"):
            model({})(tokens)
    with pytest.raises(ValueError, match=r"Did you mean 'blocks\.0\.attn\.pattern'"):
        model({}).read(sequences(), "blocks.0.attn.patern")
    with pytest.raises(ValueError, match=r"vocab must be at least 1, given 0; n must be at least 1, given 0"):
        TokenTransformer(0, 0)
    with pytest.raises(ValueError, match="TokenTransformerConfig: n_head"):
        TokenTransformerConfig(n_head=0)


def test_reading_with_fewer_logits_reads_the_same():
    one, tokens = model({}), sequences()
    names = ["blocks.1.attn.pattern", "prediction"]
    whole, last = one.read(tokens, names), one.read(tokens, names, m=2)
    assert torch.equal(whole[names[0]], last[names[0]])
    torch.testing.assert_close(last["prediction"], whole["prediction"][:, -2:])
