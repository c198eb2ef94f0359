"""Induction heads with weights set by hand equal counting, and fail where a piece of them is taken away."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclab.constructed import named
from iclab.constructed.induction import bigram_logits, bigram_posterior, followers, induction_head, log_error
from iclab.models import TokenTransformer
from tests.conftest import generator
from tests.models.test_tokens import assert_tokens_causal

PRIOR = torch.tensor([0.5, 1.0, 2.0]).double()
MODELS = {
    "induction": lambda: induction_head(3, 9),
    "posterior": lambda: bigram_posterior(PRIOR, 9),
    "logits": lambda: bigram_logits(PRIOR, 9, 32),
}


def counted(tokens, prior):
    """The posterior mean for each prefix of one sequence, in fractions, by counting."""
    found = []
    for t in range(len(tokens)):
        followed = [tokens[s + 1] for s in range(t) if tokens[s] == tokens[t]]
        total = len(followed) + sum(prior)
        found.append([(followed.count(j) + a) / total if total else Fraction(0) for j, a in enumerate(prior)])
    return torch.tensor([[float(p) for p in row] for row in found], dtype=torch.float64)


@given(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=9))
@settings(max_examples=40)
def test_both_heads_equal_counting_in_fractions(tokens):
    given_tokens = torch.tensor([tokens])
    torch.testing.assert_close(MODELS["induction"]()(given_tokens)[0], counted(tokens, [Fraction(0)] * 3))
    exact = counted(tokens, [Fraction(1, 2), Fraction(1), Fraction(2)])
    torch.testing.assert_close(MODELS["posterior"]()(given_tokens)[0], exact, atol=1e-14, rtol=1e-14)
    said = MODELS["logits"]()(given_tokens)[0].log_softmax(-1)
    assert (said - exact.log()).abs().max() <= log_error(PRIOR, 9, 32) + 1e-10


def test_the_first_token_and_tokens_never_seen_get_the_prior():
    tokens = torch.tensor([[0, 1, 2]])
    torch.testing.assert_close(MODELS["posterior"]()(tokens)[0], (PRIOR / PRIOR.sum()).expand(3, 3))
    assert not MODELS["induction"]()(tokens).any()


def test_logits_are_nearer_with_more_knots_by_their_square():
    few, many = (log_error(PRIOR, 9, knots) for knots in (32, 64))
    assert few / many == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_no_logit_depends_on_a_later_token(build):
    assert_tokens_causal(build(), vocab=3, n=9)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_it_is_a_plain_token_transformer_of_two_layers_and_one_head(build, tmp_path):
    model, tokens = build(), torch.randint(3, (4, 9), generator=generator())
    model.save(tmp_path / "weights.safetensors")
    plain = TokenTransformer.load(tmp_path / "weights.safetensors")
    assert type(model) is type(plain) is TokenTransformer
    assert (plain.config.n_layer, plain.config.n_head) == (2, 1)
    assert torch.equal(plain(tokens), model(tokens))
    torch.testing.assert_close(model(tokens[:, :4]), model(tokens)[:, :4], atol=1e-14, rtol=1e-14)


def worst(model, exact):
    tokens = torch.randint(3, (32, 9), generator=generator())
    return (model(tokens) - exact(tokens)).abs().max()


def test_without_either_head_or_with_hard_matches_the_posterior_mean_is_missed():
    def exact(tokens):
        counts = followers(tokens, 3)
        return (counts + PRIOR) / (counts + PRIOR).sum(-1, keepdim=True)

    assert worst(MODELS["posterior"](), exact) < 1e-14
    for layer in (0, 1):
        silent = {f"blocks.{layer}.attn_out": torch.tensor(0.0)}
        model = MODELS["posterior"]()
        assert worst(lambda tokens, model=model, silent=silent: model.replaced(tokens, silent), exact) > 0.1
    hard = MODELS["posterior"]()
    with torch.no_grad():
        hard.blocks[1].attn.q.weight[:3, :3].fill_diagonal_(1000.0)  # no smoothing: c_j/N
    assert worst(hard, exact) > 0.1


def test_a_current_token_that_is_counted_before_it_has_a_successor_is_noticed():
    """The count of pairs must leave out what follows the current token, and must not count the token itself."""
    tokens = torch.tensor([[0, 0, 1, 0]])
    assert followers(tokens, 2)[0].tolist() == [[0, 0], [1, 0], [0, 0], [1, 1]]


def test_the_bound_on_logits_is_of_the_size_of_their_error():
    theorem = named("edelman2024_logits")
    error, bound = theorem.measure(next(iter(theorem.drawn(1))))
    assert error > bound / 100


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: induction_head(0, 0), "vocab must be at least 1, given 0; n must be at least 1, given 0"),
        (lambda: bigram_posterior(torch.tensor([1.0, 0.0]), 4), r"prior must be positive .* given \[1\.0, 0\.0\]"),
        (lambda: bigram_posterior(torch.tensor([1.0, float("inf")]), 4), "prior must be positive and finite"),
        (lambda: bigram_logits(PRIOR[:1], 4, 0), "knots must be at least 1, given 0; a choice among one token"),
    ],
)
def test_heads_that_cannot_be_built_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
