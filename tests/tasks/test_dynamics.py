"""Dynamical systems: states follow upon each other by one Φ for all prompts; ridge on it is Bayes, by coordinate."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import iclab
from iclab.analysis import identify
from iclab.analysis.risk import squared
from iclab.constructed.guo import Representation as Network
from iclab.constructed.guo import dynamics_decoder
from iclab.experiments.claims import TRAINED
from iclab.experiments.experiment import Evaluation, Experiment, Partner
from iclab.learning.training import TrainingConfig
from iclab.models import LinearAttentionConfig, Transformer, TransformerConfig
from iclab.predictors import Averaging, Ridge
from iclab.runs.perform import perform
from iclab.tasks import DynamicalSystem, LinearRegression, NoiseMixture, OneOf, RepresentationMixture, ScaledInputs
from iclab.tasks.features import Representation, Windowed, windows
from tests.conftest import generator
from tests.models.test_models import assert_causal

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


def test_states_follow_upon_each_other_and_are_each_the_label_of_the_one_before():
    for noise in (0.0, 0.4):
        drawn = replace(TASK, noise=noise).sample(4, generator(), torch.float64)
        assert torch.equal(drawn.ys[:, :-1], drawn.xs[:, 1:])
        for states, W, fs in zip(drawn.xs, drawn.truth.W, drawn.fs, strict=True):
            features = torch.stack([TASK.representation(window(states, i, 2)) for i in range(7)])
            torch.testing.assert_close(fs, features @ W)
        assert torch.allclose(drawn.ys, drawn.fs) == (noise == 0)
    some = drawn[1:3]
    torch.testing.assert_close(some.truth(some.xs), some.fs)


def test_noise_and_first_states_have_the_stated_variance():
    drawn = TASK.sample(20_000, generator(), torch.float64)
    noise = (drawn.ys - drawn.fs).flatten(0, 1)
    torch.testing.assert_close(noise.mT @ noise / len(noise), 0.16 * torch.eye(3).double(), rtol=0.02, atol=0.002)
    assert drawn.truth.W.std().item() == pytest.approx(1.5, rel=0.02)
    assert drawn.xs.abs().max() < 50, "normalised features keep states bounded"
    first = drawn.xs[:, 0]
    torch.testing.assert_close(first.mT @ first / len(first), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.05)


def plain_ridge(states, ys, i, task):
    """The posterior mean of all coordinates after i labels, in loops over examples and coordinates."""
    D, said = task.representation.width, []
    for k in range(ys.shape[1]):
        A, b = (task.noise / task.prior) ** 2 * torch.eye(D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)
        for j in range(i):
            f = task.representation(window(states, j, task.window))
            A, b = A + torch.outer(f, f), b + ys[j, k] * f
        said.append(torch.linalg.solve(A, b) @ task.representation(window(states, i, task.window)))
    return torch.stack(said)


def test_bayes_is_ridge_on_the_features_of_the_last_states_as_loops_have_it():
    drawn = TASK.sample(5, generator(), torch.float64)
    got = iclab.bayes(TASK)(drawn.xs, drawn.ys)
    each = zip(drawn.xs, drawn.ys, strict=True)
    wanted = torch.stack([torch.stack([plain_ridge(x, y, i, TASK) for i in range(7)]) for x, y in each])
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    swapped = iclab.bayes(TASK)(drawn.xs, drawn.ys.flip(-1))  # a formula that mixes coordinates up is found out
    assert not torch.allclose(swapped, wanted, atol=0.01) and torch.allclose(swapped.flip(-1), wanted, atol=1e-10)


def test_what_the_other_coordinates_did_tells_nothing_more():
    """The posterior of all of W, given all coordinates of all states: one Gaussian of d·D weights."""
    (states,), (ys,) = (drawn := TASK.sample(1, generator(1), torch.float64)).xs, drawn.ys
    F = torch.stack([TASK.representation(window(states, i, 2)) for i in range(6)])
    X = torch.kron(torch.eye(3, dtype=torch.float64), F)  # coordinate by coordinate
    lam = (TASK.noise / TASK.prior) ** 2
    whole = torch.linalg.solve(X.mT @ X + lam * torch.eye(12, dtype=torch.float64), X.mT @ states[1:].mT.flatten())
    said = whole.unflatten(0, (3, 4)) @ TASK.representation(window(states, 6, 2))
    torch.testing.assert_close(iclab.bayes(TASK)(states[None], ys[None])[0, 6], said, rtol=1e-10, atol=1e-10)


def test_ridge_on_states_alone_or_on_a_shorter_window_is_worse():
    drawn = TASK.sample(4000, generator(2), torch.float64)
    short = DynamicalSystem(3, 7, 0.4, prior=1.5, representation=TASK.representation, window=1)
    for other in (iclab.bayes(short), iclab.analysis.references(TASK)["ridge"]):
        gap = squared(other(drawn.xs, drawn.ys), drawn.ys) - squared(iclab.bayes(TASK)(drawn.xs, drawn.ys), drawn.ys)
        gap = gap.mean(-1)
        assert gap.mean() > 5 * gap.std() / len(gap) ** 0.5


def test_the_bayes_predictor_is_causal_in_its_windows():
    task = DynamicalSystem(3, 6, 0.5, window=3)
    assert_causal(iclab.bayes(task), task)
    with pytest.raises(AssertionError):
        assert_causal(lambda xs, ys: iclab.bayes(task)(xs, ys) + 1e-9 * ys.mean(-1, keepdim=True), task)


def test_a_decoder_of_the_paper_approaches_bayes():
    """Theorem 2 (its penalty is of the mean objective): at the last position both have the same minimiser."""
    task = DynamicalSystem(
        2, 6, 0.5, representation=Representation(width=3, depth=2, slope=0.1, normalised=False), window=2
    )
    drawn = task.sample(20, generator(), torch.float64)
    lam = 0.5**2 / 5  # of the mean over the five examples before the last
    phi = Network(task.representation.weights(4), 0.1)
    largest = float(task.features(drawn.xs).norm(dim=-1).max()) ** 2
    best = iclab.bayes(task)(drawn.xs, drawn.ys)
    for k in range(2):
        said = dynamics_decoder(phi, 2, 6, 400, 1 / (largest + lam), lam, k)(drawn.xs, drawn.ys[..., k])
        torch.testing.assert_close(said[:, -1], best[:, -1, k], atol=1e-4, rtol=1e-3)


SHAPE = TransformerConfig(n_layer=2, n_head=1, d_model=8, layout="states")


def test_a_run_keeps_the_representation_of_windows_and_a_model_of_vectors(tmp_path):
    experiment = Experiment(TASK, SHAPE, TrainingConfig(steps=2, batch=2), Evaluation(prompts=4), device="cpu")
    perform(experiment, tmp_path, lambda point: None, lambda line: None)
    assert TASK.constants()["B_1"].shape == (4, 6) and (tmp_path / "constants.safetensors").exists()
    drawn = TASK.sample(2, generator())
    assert Transformer.load(tmp_path / "weights.safetensors")(drawn.xs, drawn.ys).shape == (2, 7, 3)


@pytest.mark.parametrize(
    "analyses",
    [("token_probes",), pytest.param(("token_probes", "evolution", "stitching"), marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_what_is_measured_of_numbers_is_measured_of_vectors(analyses, tmp_path):
    """Risks, curve, distances to algorithms, probes of tokens, stitching: a mean over coordinates, so that the floor of
    Bayes is noise² at any d."""
    task = replace(TASK, n=12)
    told = Evaluation(
        prompts=64,
        bootstrap=2,
        analyses=analyses,
        predictors=(("averaging_again", Averaging()), ("heavy_ridge", Ridge(50.0))),
        shifts=(("quiet", replace(task, noise=0.1)),),
        partners=(("other", Partner(1)),) if "stitching" in analyses else (),
    )
    experiment = Experiment(task, SHAPE, TrainingConfig(steps=2, batch=2), told, device="cpu")
    points = []
    made = perform(experiment, tmp_path, points.append, lambda line: None)
    found = {(r["distribution"], r["predictor"], r["quantity"], r["position"]): r["value"] for r in made}
    assert 0.14 < found[TRAINED, "bayes", "risk", 11] < 0.36 and 0.008 < found["quiet", "bayes", "risk", 11] < 0.024
    assert found[TRAINED, "averaging_again", "risk", 3] == found[TRAINED, "averaging", "risk", 3]
    assert found[TRAINED, "bayes", "spd", None] > 0 and "excess" in points[-1]
    wanted = {"fit_distance", "risk_ratio", "spd_margin", "token_probe_x_best"}
    wanted |= {"stitching_excess", "cka"} if "stitching" in analyses else set()
    assert wanted <= {quantity for _, _, quantity, _ in found}
    best = iclab.bayes(task)
    drawn = task.sample(64, generator(), torch.float64)
    (near,) = [one for one in identify(best, task, drawn, generator()) if one.family == "bayes"]
    assert near.relative < 1e-20


def test_what_is_about_numbers_is_refused_for_vectors():
    told = Evaluation(prompts=64, analyses=("weights", "layers", "iterations"))
    with pytest.raises(ValueError, match=r"'weights' is about labels.*'layers' is about.*'iterations' is about"):
        Experiment(TASK, SHAPE, eval=told)
    with pytest.raises(ValueError, match="LinearAttentionConfig answers numbers, and labels are vectors of 3"):
        Experiment(TASK, LinearAttentionConfig(), TrainingConfig())
    other = LinearRegression(3, 7)
    with pytest.raises(ValueError, match="the labels of 'still' are not of the task's kind"):
        Experiment(TASK, replace(SHAPE, layout="lagged"), eval=Evaluation(shifts=(("still", other),)))
    with pytest.raises(ValueError, match="layout = states is for labels that are the next input"):
        Experiment(other, SHAPE)
    with pytest.raises(ValueError, match="layout = states is for labels that are the next input; Shuffled has others"):
        Experiment(Shuffled(3, 7, 0.4), SHAPE)


class Shuffled(DynamicalSystem):
    """Vectors that are not the next input, as far as anybody says."""

    labels_are_next_inputs = False


def test_nothing_is_derived_from_states_and_a_window_is_positive():
    with pytest.raises(ValueError, match="base cannot be a DynamicalSystem"):
        ScaledInputs(TASK, 2.0)
    for mixed in (lambda: RepresentationMixture(TASK, 2), lambda: OneOf((TASK, TASK)), lambda: NoiseMixture(TASK)):
        with pytest.raises(ValueError, match="a DynamicalSystem, whose inputs are drawn with its functions"):
            mixed()
    with pytest.raises(ValueError, match="window must be at least 1, given 0"):
        DynamicalSystem(3, 7, window=0)
