"""Representations: what they are, that their weights belong to their settings, and that a run keeps them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.training import TrainingConfig
from iclab.models import TransformerConfig
from iclab.runs.perform import perform
from iclab.tasks import LinearRegression, RepresentationRegression, ScaledInputs
from iclab.tasks.features import Concatenated, Identity, Representation, orthogonal
from tests.conftest import generator

SETTINGS = st.fixed_dictionaries(
    {
        "width": st.integers(1, 6),
        "depth": st.integers(1, 4),
        "slope": st.sampled_from([0.0, 0.01, 0.5, 1.0]),
        "normalised": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def plain(features: Representation, x: np.ndarray) -> np.ndarray:
    """Unit by unit."""
    for B in features.weights(len(x)):
        sums = [sum(b * a for b, a in zip(row.tolist(), x, strict=True)) for row in B]
        x = np.array([s if s > 0 else features.slope * s for s in sums])
    return x / np.sqrt(sum(x**2)) if features.normalised and x.any() else x


def equals_the_plain_network(made, features: Representation, d: int, seed: int) -> None:
    xs = torch.randn(2, 3, d, generator=generator(seed), dtype=torch.float64)
    wanted = [plain(features, x) for x in xs.flatten(0, 1).numpy()]
    torch.testing.assert_close(made(xs).flatten(0, 1), torch.tensor(np.array(wanted)), rtol=1e-12, atol=1e-12)


@given(settings=SETTINGS, d=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_a_representation_is_the_network_that_its_settings_describe(settings, d, seed):
    features = Representation(**settings)
    equals_the_plain_network(features, features, d, seed)


@pytest.mark.parametrize("change", [{"slope": 0.02}, {"normalised": False}, {"depth": 3}, {"seed": 1}])
def test_another_network_is_told_apart(change):
    with pytest.raises(AssertionError):
        equals_the_plain_network(replace(Representation(width=4), **change), Representation(width=4), 3, 0)


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), seed=st.integers(0, 2**31))
def test_drawn_matrices_have_orthonormal_columns_or_rows(rows, columns, seed):
    B = orthogonal(rows, columns, generator(seed))
    gram = B.mT @ B if rows >= columns else B @ B.mT
    assert B.shape == (rows, columns)
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
def test_drawn_matrices_favour_no_direction(shape):
    """Haar: entries have mean 0 and variance 1/max(shape). QR alone, without the signs, fails this."""
    drawn = torch.stack([orthogonal(*shape, generator(seed)) for seed in range(1000)])
    assert ((drawn.mean(0) * len(drawn) ** 0.5 / drawn.std(0)).abs() < 5).all()
    squares = drawn.square()
    error = squares.std(0) / len(drawn) ** 0.5
    assert ((squares.mean(0) - 1 / max(shape)).abs() < 5 * error).all()
    bare = torch.stack([torch.linalg.qr(torch.randn(3, 3, generator=generator(seed)))[0] for seed in range(1000)])
    assert (bare.mean(0).abs() * 1000**0.5 / bare.std(0)).max() > 5


@given(settings=SETTINGS, d=st.integers(1, 6), scale=st.sampled_from([1e-3, 0.5, 7.0]))
def test_a_wide_network_makes_no_input_longer_and_a_normalised_one_sees_its_direction_alone(settings, d, scale):
    features = Representation(**settings)
    xs = torch.randn(20, d, generator=generator(d), dtype=torch.float64)
    if features.normalised:
        torch.testing.assert_close(features(scale * xs), features(xs))
        lengths = features(xs).norm(dim=-1)
        assert ((lengths - 1).abs() < 1e-9).logical_or(lengths == 0).all()
    elif features.width >= d:
        assert (features(xs).norm(dim=-1) <= xs.norm(dim=-1) * (1 + 1e-12)).all()


WEIGHTS = [
    [0.9923022172018852, 0.10991633310657259, 0.05705006093447936, 0.22891455034784292, 0.973446520687729],
    [0.0974354314603217, -0.4086091703844105, -0.9074937369337073, -0.973446520687729, 0.2289145503478427],
]


def test_weights_are_a_function_of_the_settings_and_every_setting_counts():
    """Literal numbers, so that another version of the generator would be noticed."""
    B1, B2 = Representation(width=2, seed=3).weights(3)
    assert B1.shape == (2, 3) and B2.shape == (2, 2)
    torch.testing.assert_close(torch.cat([B1, B2], -1), torch.tensor(WEIGHTS, dtype=torch.float64), rtol=0, atol=1e-12)
    first = Representation(width=5, depth=3, seed=3).weights(4)
    assert all(torch.equal(a, b) for a, b in zip(first, Representation(5, 3, 0.5, False, 3).weights(4), strict=True))
    assert not torch.equal(first[0], Representation(5, 3, seed=4).weights(4)[0])
    assert not torch.equal(first[1], first[2])


def test_features_stand_side_by_side():
    features = Representation(width=4)
    both = Concatenated((Identity(), features))
    xs = torch.randn(2, 5, 3, generator=generator())
    assert both.size(3) == 7 and Identity().size(3) == 3
    assert torch.equal(both(xs), torch.cat([xs, features(xs)], -1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Representation(0, 0, -1.0, seed=-1), ["width must", "depth must", "slope must lie in 0..1", "seed"]),
        (lambda: Concatenated(()), ["parts must not be empty"]),
        (lambda: RepresentationRegression(0, 2, prior=-1.0), ["d must be", "prior must be a positive"]),
    ],
)
def test_bad_settings_are_refused_with_everything_that_is_wrong(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert all(word in str(caught.value) for word in words)


# ---- a task owns its representation ----------------------------------------------------------------------------------

TASK = RepresentationRegression(3, 5, noise=0.1, representation=Representation(width=4, depth=3, seed=7))


def test_all_prompts_share_the_representation_whatever_the_generator():
    for seed in (0, 1):
        prompts = TASK.sample(6, generator(seed), torch.float64)
        wanted = (TASK.representation(prompts.xs) * prompts.truth.ws.unsqueeze(1)).sum(-1)
        torch.testing.assert_close(prompts.fs, wanted)
    other = replace(TASK, representation=replace(TASK.representation, seed=8))
    assert not torch.allclose(TASK.sample(6, generator()).fs, other.sample(6, generator()).fs)


def test_labels_have_the_variance_of_the_weights_where_features_are_normalised():
    ys = RepresentationRegression(20, 5, noise=0.1).sample(40_000, generator()).ys
    assert ys.square().mean().item() == pytest.approx(1.01, rel=0.02)


@pytest.mark.parametrize("task", [TASK, ScaledInputs(TASK, 2.0)])
def test_a_run_keeps_the_representation_beside_its_weights(task, tmp_path):
    shape = TransformerConfig(n_layer=1, n_head=1, d_model=8)
    experiment = Experiment(task, shape, TrainingConfig(steps=2, batch=2), Evaluation(prompts=4), device="cpu")
    perform(experiment, tmp_path, lambda point: None, lambda line: None)
    kept = load_file(tmp_path / "constants.safetensors")
    assert [kept[f"B_{k}"].tolist() for k in (1, 2, 3)] == [B.tolist() for B in TASK.representation.weights(3)]


def test_a_run_without_constants_has_no_file_of_them(tmp_path):
    experiment = Experiment(
        LinearRegression(2, 3), TransformerConfig(n_layer=0), TrainingConfig(steps=1, batch=2), Evaluation(prompts=4)
    )
    perform(replace(experiment, device="cpu"), tmp_path, lambda point: None, lambda line: None)
    assert not (tmp_path / "constants.safetensors").exists()
