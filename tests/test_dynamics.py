"""Dynamical systems: states follow upon each other by one Φ for all prompts; ridge on it is Bayes for a coordinate."""

import pytest
import torch
from conftest import generator
from hypothesis import given
from hypothesis import strategies as st
from test_models import assert_causal

import iclab
from iclab.constructed.guo import Representation as Network
from iclab.constructed.guo import dynamics_decoder
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.experiments.run import perform
from iclab.features import Representation, Windowed, windows
from iclab.models import Transformer, TransformerConfig
from iclab.tasks import DynamicalSystem, RepresentationMixture, ScaledInputs
from iclab.training import Recipe

TASK = DynamicalSystem(3, 7, 0.4, prior=1.5, representation=Representation(width=4, depth=2, seed=5), window=2)


def window(states, i, k):
    """The last k states up to number i, zeros before the first, in a loop."""
    zero = torch.zeros_like(states[0])
    return torch.cat([states[j] if j >= 0 else zero for j in range(i - k + 1, i + 1)])


@given(n=st.integers(1, 5), d=st.integers(1, 3), k=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_windows_hold_the_last_rows_oldest_first(n, d, k, seed):
    xs = torch.randn(2, n, d, generator=generator(seed), dtype=torch.float64)
    made = windows(xs, k)
    for x, row in zip(xs, made, strict=True):
        assert torch.equal(row, torch.stack([window(x, i, k) for i in range(n)]))
    features = Windowed(Representation(width=3), k)
    assert features.size(d) == 3
    torch.testing.assert_close(features(xs), Representation(width=3)(made))


def test_states_follow_upon_each_other_and_labels_are_the_first_coordinate_of_the_next():
    quiet = DynamicalSystem(3, 7, 0.0, representation=TASK.representation, window=2)
    drawn = quiet.sample(4, generator(), torch.float64)
    torch.testing.assert_close(drawn.ys[:, :-1], drawn.xs[:, 1:, 0])
    for states, w, ys in zip(drawn.xs, drawn.truth.ws, drawn.ys, strict=True):
        fs = torch.stack([quiet.representation(window(states, i, 2)) for i in range(7)])
        torch.testing.assert_close(ys, fs @ w)
        W = torch.linalg.lstsq(fs[:-1], states[1:]).solution  # the other coordinates, too, are linear in Φ
        torch.testing.assert_close(fs[:-1] @ W, states[1:])


def test_noise_and_first_states_have_the_stated_variance():
    drawn = TASK.sample(20_000, generator(), torch.float64)
    assert (drawn.ys - drawn.fs).std().item() == pytest.approx(0.4, rel=0.02)
    assert drawn.xs.abs().max() < 50, "normalised features keep states bounded"
    first = drawn.xs[:, 0]
    torch.testing.assert_close(first.mT @ first / len(first), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.05)


def plain_ridge(states, ys, i, task):
    """The posterior mean after i labels, in loops over examples."""
    D = task.representation.width
    A, b = (task.noise / task.prior) ** 2 * torch.eye(D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)
    for j in range(i):
        f = task.representation(window(states, j, task.window))
        A, b = A + torch.outer(f, f), b + ys[j] * f
    return torch.linalg.solve(A, b) @ task.representation(window(states, i, task.window))


def test_bayes_is_ridge_on_the_features_of_the_last_states_as_loops_have_it():
    drawn = TASK.sample(5, generator(), torch.float64)
    got = iclab.bayes(TASK)(drawn.xs, drawn.ys)
    wanted = [[plain_ridge(x, y, i, TASK) for i in range(7)] for x, y in zip(drawn.xs, drawn.ys, strict=True)]
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_what_the_other_coordinates_did_tells_nothing_more():
    """The posterior of all of W, given all coordinates of all states: one Gaussian of d·D weights."""
    (states,), (ys,) = (drawn := TASK.sample(1, generator(1), torch.float64)).xs, drawn.ys
    F = torch.stack([TASK.representation(window(states, i, 2)) for i in range(6)])
    X = torch.kron(torch.eye(3, dtype=torch.float64), F)  # coordinate by coordinate
    lam = (TASK.noise / TASK.prior) ** 2
    whole = torch.linalg.solve(X.mT @ X + lam * torch.eye(12, dtype=torch.float64), X.mT @ states[1:].mT.flatten())
    said = whole[:4] @ TASK.representation(window(states, 6, 2))
    torch.testing.assert_close(iclab.bayes(TASK)(states[None], ys[None])[0, 6], said, rtol=1e-10, atol=1e-10)


def test_ridge_on_states_alone_or_on_a_shorter_window_is_worse():
    drawn = TASK.sample(4000, generator(2), torch.float64)
    short = DynamicalSystem(3, 7, 0.4, prior=1.5, representation=TASK.representation, window=1)
    for other in (iclab.bayes(short), iclab.analysis.references(TASK)["ridge"]):
        gap = (other(drawn.xs, drawn.ys) - drawn.ys).square() - (
            iclab.bayes(TASK)(drawn.xs, drawn.ys) - drawn.ys
        ).square()
        gap = gap.mean(-1)
        assert gap.mean() > 5 * gap.std() / len(gap) ** 0.5


def test_the_bayes_predictor_is_causal_in_its_windows():
    assert_causal(iclab.bayes(DynamicalSystem(3, 6, 0.5, window=3)))


def test_a_decoder_of_the_paper_approaches_bayes():
    """Theorem 2 (its penalty is of the mean objective): at the last position both have the same minimiser."""
    task = DynamicalSystem(
        2, 6, 0.5, representation=Representation(width=3, depth=2, slope=0.1, normalised=False), window=2
    )
    drawn = task.sample(20, generator(), torch.float64)
    lam = 0.5**2 / 5  # of the mean over the five examples before the last
    phi = Network(task.representation.weights(4), 0.1)
    largest = float(task.features(drawn.xs).norm(dim=-1).max()) ** 2
    said = dynamics_decoder(phi, 2, 6, 400, 1 / (largest + lam), lam)(drawn.xs, drawn.ys)
    torch.testing.assert_close(said[:, -1], iclab.bayes(task)(drawn.xs, drawn.ys)[:, -1], atol=1e-4, rtol=1e-3)


def test_a_run_keeps_the_representation_of_windows(tmp_path):
    shape = TransformerConfig(n_layer=1, n_head=1, d_model=8, layout="shifted")
    experiment = Experiment(TASK, shape, Recipe(steps=2, batch=2), Evaluation(prompts=4), device="cpu")
    perform(experiment, tmp_path, lambda point: None, lambda line: None)
    assert TASK.constants()["B_1"].shape == (4, 6) and (tmp_path / "constants.safetensors").exists()


def test_a_shifted_token_of_a_dynamical_system_is_a_state_and_no_more():
    drawn = TASK.sample(4, generator(), torch.float64)
    tokens = Transformer(3, 7, TransformerConfig(layout="shifted")).layout.tokens(drawn.xs, drawn.ys)
    assert torch.equal(tokens[:, 1:, 3], drawn.xs[:, 1:, 0]) and torch.equal(tokens[..., :3], drawn.xs)


def test_nothing_is_derived_from_states_and_a_window_is_positive():
    with pytest.raises(ValueError, match="base cannot be a DynamicalSystem"):
        ScaledInputs(TASK, 2.0)
    with pytest.raises(ValueError, match="drawn with its functions"):
        RepresentationMixture(TASK, 2).sample(2, generator())
    with pytest.raises(ValueError, match="window must be at least 1, given 0"):
        DynamicalSystem(3, 7, window=0)
