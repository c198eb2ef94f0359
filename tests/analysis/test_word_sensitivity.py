"""Word sensitivity: what one token does to features, against closed forms and bounds."""

import pytest
import torch

from iclab.analysis.word_sensitivity import sensitivity, word_sensitivity
from iclab.models import RandomAttention, RandomNetwork, RandomSelfAttention
from iclab.predictors.kernels import arc_cosine
from iclab.tasks import Sphere
from tests.conftest import generator


def words(n, d, batch=3, seed=0):
    return Sphere().sample(batch, n, d, generator(seed), torch.float64)


def test_self_attention_is_its_equation_as_plain_loops():
    xs = words(5, 4, 2)
    for activation in ("softmax", "relu"):
        model = RandomSelfAttention(4, 4, 3, activation, generator(1))
        found = model.features(xs).unflatten(1, (3, 5, 4))
        for b, x in enumerate(xs):
            for m, w in enumerate(model.weights):
                for i in range(5):
                    scores = torch.stack([2 * x[i] @ w @ x[j] for j in range(5)])
                    share = scores.softmax(0) if activation == "softmax" else scores.relu() / 5
                    torch.testing.assert_close(found[b, m, i], sum(share[j] * x[j] for j in range(5)))


def test_a_network_of_many_neurons_moves_by_its_kernel():
    """‖φ(X') − φ(X)‖² / M = κ(X,X) + κ(X',X') − 2 κ(X,X'), for a change that keeps the word's length."""
    xs = words(6, 3, 1)
    turned = torch.linalg.qr(torch.randn(3, 3, generator=generator(2), dtype=torch.float64))[0]
    delta = xs[:, 2] @ turned - xs[:, 2]
    found = sensitivity(RandomNetwork(3, 5, 200_000, rng=generator(1)), xs, delta, 2)
    cosine = 1 - delta.square().sum() / 2 / 7
    assert found.item() == pytest.approx((2 - 4 * arc_cosine(cosine)).sqrt().item(), rel=0.02)


def test_the_search_finds_more_than_any_of_many_random_directions_and_no_more_than_there_is():
    xs, model = words(6, 8), RandomNetwork(8, 5, 400, rng=generator(1))
    found = word_sensitivity(model, xs, generator(3))
    for _ in range(50):
        delta = torch.nn.functional.normalize(torch.randn(3, 8, generator=generator(4), dtype=torch.float64), dim=-1)
        assert (sensitivity(model, xs, delta) < found).all()
    steepest = torch.linalg.matrix_norm(model.weights[:, :8], 2)  # ReLU is 1-Lipschitz, and |Δ| ≤ 1
    assert (found <= steepest / model.features(xs).norm(dim=-1)).all()


def test_one_word_of_many_moves_softmax_attention_and_not_a_network():
    found = {}
    for n in (8, 32):
        xs = words(n, 64)
        soft = word_sensitivity(RandomSelfAttention(64, n - 1, 1, rng=generator(1)), xs, generator(2))
        plain = word_sensitivity(RandomNetwork(64, n - 1, 1000, rng=generator(1)), xs, generator(2))
        found[n] = soft.min().item(), plain.mean().item() * n**0.5
    assert min(soft for soft, _ in found.values()) > 1
    assert found[8][1] == pytest.approx(found[32][1], rel=0.2)  # a constant is among the inputs, one in 9 or 33


def test_of_pooled_attention_a_key_moves_a_share_of_one_over_their_number_and_the_query_all():
    few, many = (
        word_sensitivity(RandomAttention(16, n, 50, rng=generator(1)), words(n + 1, 16), generator(2), n).mean()
        for n in (8, 32)
    )
    assert few / many == pytest.approx(4, rel=0.4)
    assert word_sensitivity(RandomAttention(16, 32, 50, rng=generator(1)), words(33, 16), generator(2)).min() > 0.7


def test_a_word_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"word must lie in 0\.\.4"):
        word_sensitivity(RandomNetwork(3, 4, 10, rng=generator()), words(5, 3), generator(), 5)
