"""Decoders for ridge on a representation hold in their rows what the proof says, and descend as a loop does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclab.constructed.guo import dynamics_decoder, layers_for, ridge_decoder
from tests.constructed.test_constructed import network, prompts


def by_layers(phi, x):
    """Φ(x) of one input."""
    for matrix in phi.matrices:
        x = torch.tensor([max(t, phi.slope * t) for t in matrix @ x]).double()
    return x


def descended(pairs, size, steps, lr, lam, p):
    """w after descent at token p on these (representation, label)."""
    w = torch.zeros(size).double()
    for _ in range(steps):
        gradient = sum(((w @ f - y) * f for f, y in pairs), torch.zeros(size).double())
        w = w - lr / p * (gradient + len(pairs) * lam * w)
    return w


@given(seed=st.integers(0, 2**31), n=st.integers(1, 5), steps=st.integers(0, 4), depth=st.integers(1, 3))
@settings(max_examples=10)
def test_a_decoder_descends_on_the_representation_as_a_loop_does(seed, n, steps, depth):
    phi, (xs, ys) = network(2, *[3] * depth), prompts(2, n, seed, batch=1)
    model = ridge_decoder(phi, n, steps, 0.02, 0.5)
    assert model.config.n_layer == depth + steps + 2
    said = model(xs, ys)[0]
    fs = [by_layers(phi, x) for x in xs[0]]
    for i in range(n):
        w = descended(list(zip(fs[:i], ys[0, :i], strict=True)), 3, steps, 0.02, 0.5, 2 * i + 1)
        torch.testing.assert_close(said[i], w @ fs[i], atol=1e-10, rtol=1e-10)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 5), k=st.integers(1, 3), coordinate=st.integers(0, 1))
@settings(max_examples=10)
def test_a_decoder_over_states_descends_on_windows_of_them_as_a_loop_does(seed, n, k, coordinate):
    phi, (xs, ys) = network(2 * k, 3, 3), prompts(2, n, seed, batch=1)
    model = dynamics_decoder(phi, 2, n, 4, 0.02, 0.5, coordinate)
    path = torch.cat([torch.zeros(k - 1, 2).double(), xs[0]])
    fs = [by_layers(phi, path[i : i + k].flatten()) for i in range(n)]
    for i, said in enumerate(model(xs, ys)[0]):
        pairs = [(fs[j], xs[0, j + 1, coordinate]) for j in range(i)]
        w = descended(pairs, 3, 4, 0.02, 0.5, i + 1)
        torch.testing.assert_close(said, w @ fs[i], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(model(xs, -ys), model(xs, ys), atol=0, rtol=0)


def test_after_its_layers_inputs_hold_the_representation_and_labels_a_copy_of_it():
    phi, (xs, ys) = network(2, 3, 3), prompts(2, 4, batch=3)
    *_, after, copied = list(ridge_decoder(phi, 4, 2, 0.1, 0.5).residual_stream(xs, ys))[:4]
    u, c = slice(3, 6), slice(6, 9)
    torch.testing.assert_close(after[:, ::2, u], phi(xs), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(copied[:, 1::2, c], phi(xs)[:, :-1], atol=1e-12, rtol=1e-12)
    assert not after[:, 1::2, u].any() and not copied[:, ::2, c].any()


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e3])
def test_inputs_of_any_size_are_told_from_labels(size):
    """The published construction hides inputs by a bound on |w·Φ|, beyond which it breaks; here there is none."""
    phi, (xs, ys) = network(2, 3), prompts(2, 5, batch=4)
    step = 0.1 / max(size, 1.0) ** 2
    said = ridge_decoder(phi, 5, 6, step, 0.0)(size * xs, ys)
    for x, y, answers in zip(size * xs, ys, said, strict=True):
        fs = phi(x)
        exact = [descended(list(zip(fs[:i], y[:i], strict=True)), 3, 6, step, 0.0, 2 * i + 1) @ fs[i] for i in range(5)]
        torch.testing.assert_close(answers, torch.stack(exact), atol=1e-9 * max(size, 1.0), rtol=1e-9)


def test_without_the_copy_or_with_another_representation_the_answers_are_others():
    phi, (xs, ys) = network(2, 3), prompts(2, 5, batch=4)
    model = ridge_decoder(phi, 5, 6, 0.1, 0.5)
    right = model(xs, ys)
    uncopied = model.replaced(xs, ys, {"blocks.1.attn_out": torch.tensor(0.0)})
    assert (uncopied - right).abs().max() > 0.1
    phi.slope = 0.5
    assert (ridge_decoder(phi, 5, 6, 0.1, 0.5)(xs, ys) - right).abs().max() > 0.01


def test_the_layers_that_both_theorems_ask_for():
    assert layers_for(2.0, 1.0, 2.0, 0.1) == 10  # 4 log 10 = 9.2
    assert layers_for(2.0, 1.0, 0.1, 0.1) == 0, "zero is near enough"
