"""Models of frozen random features: their equations, the law of their scores, and what the order of keys does."""

import pytest
import torch

from iclab.models import RandomAttention, RandomNetwork, random_features
from iclab.tasks import Sphere
from tests.conftest import generator

D, N, M = 4, 5, 7
MODELS = {
    "attention": lambda: RandomAttention(D, N, M, rng=generator(2)),
    "biased": lambda: RandomAttention(D, N, M, 1.5, rng=generator(2)),
    "softmax": lambda: RandomAttention(D, N, M, activation="softmax", rng=generator(2)),
    "network": lambda: RandomNetwork(D, N, 3 * M, rng=generator(2)),
    "averaged": lambda: RandomNetwork(D, N, 3 * M, orders=4, rng=generator(2)),
}
INVARIANT = ("attention", "biased", "softmax")


def inputs(batch=6, seed=0, dtype=torch.float64):
    return Sphere().sample(batch, N + 1, D, generator(seed), dtype)


def permuted(xs, *order):
    return xs[:, list(order)]


def learned(model, targets=3):
    model.values = torch.nn.Parameter(torch.randn(model.size, targets, generator=generator(5), dtype=torch.float64))
    model.intercept = torch.nn.Parameter(torch.arange(targets, dtype=torch.float64))
    return model


def test_attention_is_the_equation_of_the_paper_as_plain_loops():
    xs, one = inputs(3), torch.ones(1, dtype=torch.float64)
    for name in ("attention", "biased", "softmax"):
        model = MODELS[name]()
        found = model.features(xs).unflatten(1, (M, D + 1))
        for k, x in enumerate(xs):
            tokens = [torch.cat([y, one]) for y in x]
            for m, weight in enumerate(model.weights):
                scores = torch.stack([tokens[0] @ weight @ y for y in tokens[1:]])
                share = scores.softmax(0) if name == "softmax" else scores.relu() / N
                torch.testing.assert_close(found[k, m], sum(s * y for s, y in zip(share, tokens[1:], strict=True)))


def test_the_network_is_the_equation_of_the_paper_and_its_average_over_orders():
    xs = inputs(3)
    for name in ("network", "averaged"):
        model, wanted = MODELS[name](), 0
        for order in model.orders:
            seen = torch.cat([xs[:, :1], xs[:, 1:][:, order]], dim=1).flatten(1)
            wanted += torch.relu(torch.cat([seen, torch.ones(3, 1)], dim=1).double() @ model.weights.mT)
        torch.testing.assert_close(model.features(xs), wanted / len(model.orders))
    assert len(MODELS["averaged"]().orders) == 4


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_features_times_values_in_any_chunks(name, monkeypatch):
    model, xs = learned(MODELS[name]()), inputs()
    whole = model.features(xs) @ model.values + model.intercept
    gram = model.features(xs) @ model.features(xs[:2]).mT / model.heads
    for chunk in (1, 300, 2**22):
        monkeypatch.setattr(random_features, "CHUNK", chunk)
        torch.testing.assert_close(model(xs), whole)
        torch.testing.assert_close(model.kernel(xs, xs[:2]), gram)
        torch.testing.assert_close(model.kernel(xs)[:, :2], gram)


@pytest.mark.parametrize("name", MODELS)
def test_permuting_keys_changes_networks_alone_and_exchanging_the_query_changes_all(name):
    model, xs = MODELS[name](), inputs()
    keys = (model.features(permuted(xs, 0, 3, 1, 5, 2, 4)) - model.features(xs)).abs().max().item()
    query = (model.features(permuted(xs, 1, 0, 2, 3, 4, 5)) - model.features(xs)).abs().max()
    assert (keys < 1e-12) is (name in INVARIANT)
    assert query > 0.1


def test_an_average_over_all_orders_is_blind_to_them_and_a_part_of_them_nearly():
    xs, other = inputs(40), permuted(inputs(40), 0, 2, 3, 1, 5, 4)
    moved = []
    for orders in (0, 4, 64):
        model = RandomNetwork(D, N, 200, orders, generator(3))
        moved.append((model.features(xs) - model.features(other)).square().mean().item())
    assert moved[0] > 2.5 * moved[1] > 2.5 * 5 * moved[2]
    model = RandomNetwork(D, 2, 20, rng=generator(3))
    model.orders = torch.tensor([[0, 1], [1, 0]])
    few = inputs()[:, :3]
    torch.testing.assert_close(model.features(few), model.features(few[:, [0, 2, 1]]))


@pytest.mark.parametrize("bias", [0.0, 1.0, 4.0])
def test_scores_are_normal_with_unit_variance_and_the_mean_that_the_bias_sets(bias):
    """E σ(s) = G(mean) of N(mean, 1), and E σ(s)² = (1 + mean²) Φ + mean p: read from the constant channel of a key."""
    x = torch.tensor([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64).unsqueeze(0)
    found = RandomAttention(3, 1, 400_000, bias, rng=generator()).features(x).unflatten(1, (-1, 4))[0, :, 3]
    mean = torch.tensor(0.8 * bias, dtype=torch.float64)
    cdf, pdf = torch.special.ndtr(mean), (-mean * mean / 2).exp() / (2 * torch.pi) ** 0.5
    for power, wanted in ((1, mean * cdf + pdf), (2, (1 + mean**2) * cdf + mean * pdf)):
        terms = found**power
        assert abs(terms.mean() - wanted) < 4 * terms.std() / len(terms) ** 0.5
    preactivation = RandomNetwork(3, 1, 400_000, rng=generator()).features(x)[0]
    assert abs((preactivation**2).mean() - 0.5) < 4 * (preactivation**2).std() / 400_000**0.5


def test_a_network_can_be_made_as_large_as_attention():
    attention = RandomAttention(16, 16, 1000, targets=2)
    network = RandomNetwork.as_large_as(attention, orders=2)
    assert network.size == attention.size == network.values.shape[0] == 17_000
    assert network.values.shape[1] == 2 and (network.d, network.n_keys) == (16, 16)


def test_frozen_weights_are_no_parameters():
    for make in MODELS.values():
        assert {name for name, _ in make().named_parameters()} == {"values", "intercept"}


def test_single_precision_is_that_of_the_inputs():
    for make in MODELS.values():
        model, xs = make(), inputs()
        single = model.features(xs.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), model.features(xs), rtol=1e-5, atol=1e-6)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="d must be at least 1, given 0; n_keys must be at least 1, given -1"):
        RandomAttention(0, -1, 3)
    with pytest.raises(ValueError, match="neurons must be at least 1, given 0"):
        RandomNetwork(3, 3, 0)
    with pytest.raises(ValueError, match="orders must be at least 0, given -1"):
        RandomNetwork(3, 3, 3, orders=-1)
