"""What one layer of linear attention can do at best: formulas against simulation, published forms, and stationarity."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.analysis import estimate, linear_steps
from iclab.analysis.layers.attention import distance_to_identity, whitened
from iclab.analysis.risk import squared
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import GradientDescent
from iclab.tasks import LinearRegression, Normal, ScaledInputs, Sphere, Uniform, WhitenedLinearRegression
from iclab.theory import one_layer
from iclab.theory.one_layer import best_preconditioner, best_step, one_layer_optimum, one_layer_risk
from tests.conftest import generator

UNEVEN = {"spectrum": (1.0, 0.5, 2.0), "rotation_seed": 3}
TASKS = {
    "normal": LinearRegression(3, 9, noise=0.5, prior=1.3, inputs=Normal(**UNEVEN)),
    "uniform": LinearRegression(3, 9, inputs=Uniform(half_width=0.5)),
    "whitened": WhitenedLinearRegression(3, 9, noise=0.5, inputs=Uniform(**UNEVEN)),
    "sphere": LinearRegression(3, 9, inputs=Sphere(spectrum=(1.0, 0.5, 2.0))),
    "scaled": ScaledInputs(LinearRegression(3, 9, noise=0.3), 2.0),
}
EXAMPLES = torch.arange(1, 9, dtype=torch.float64)


@pytest.fixture(params=TASKS.values(), ids=TASKS.keys())
def task(request):
    return request.param


def gamma(task, m):
    """Γ of Zhang et al. and Wu et al., for normal inputs and w ~ N(0, τ² I)."""
    Λ, eye = task.input_second_moment(), torch.eye(task.d, dtype=torch.float64)
    return (1 + 1 / m) * Λ + (Λ.trace() + task.noise**2 / task.prior**2) / m * eye


def assert_risk(task, A):
    """The closed-form risk at every number of examples is the simulated one."""
    prompts = task.sample(100_000, generator(), torch.float64)
    lr = torch.cat([torch.ones(1, dtype=torch.float64), 1 / EXAMPLES])
    found = estimate(squared(GradientDescent(1, lr, A)(prompts.xs, prompts.ys), prompts.ys))
    assert ((found.value[1:] - one_layer_risk(task, A, EXAMPLES)).abs() <= 5 * found.stderr[1:]).all()


def test_the_closed_form_of_the_risk_is_the_simulated_risk(task):
    assert_risk(task, best_preconditioner(task, 8))
    assert_risk(task, torch.randn(3, 3, generator=generator(2), dtype=torch.float64))


def test_a_risk_that_forgets_the_fourth_moment_would_be_noticed(task, monkeypatch):
    gaussian = LinearRegression(3, 9, inputs=Normal()).input_fourth_moment
    wrong = (lambda S: 0 * S) if isinstance(task.inputs if hasattr(task, "inputs") else None, Normal) else gaussian
    Λ, ΛSΛ, _ = one_layer._moments(task)
    monkeypatch.setattr(one_layer, "_moments", lambda task: (Λ, ΛSΛ, wrong(Λ)))
    with pytest.raises(AssertionError):
        assert_risk(task, best_preconditioner(task, 8))


def assert_best(task, m, A):
    """No small change of A lowers the risk at m."""
    least = one_layer_risk(task, A, torch.tensor(float(m)))
    for seed in range(20):
        change = 0.03 * A.norm() * torch.randn(3, 3, generator=generator(seed), dtype=torch.float64)
        assert one_layer_risk(task, A + change, torch.tensor(float(m))) > least


@pytest.mark.parametrize("m", [1, 4, 40])
def test_no_change_of_the_best_preconditioner_lowers_the_risk(task, m):
    assert_best(task, m, best_preconditioner(task, m))


def test_the_inverse_covariance_without_the_terms_in_1_over_m_is_refuted():
    task = LinearRegression(3, 9, noise=2.0, inputs=Normal(**UNEVEN))
    with pytest.raises(AssertionError):
        assert_best(task, 8, torch.linalg.inv(task.input_second_moment()))
    with pytest.raises(AssertionError):  # Γ of the noiseless paper, where labels are noisy
        assert_best(task, 8, torch.linalg.inv(gamma(LinearRegression(3, 9, inputs=task.inputs), 8)))


@given(
    m=st.integers(1, 50),
    noise=st.just(0.0) | st.floats(1e-6, 2),
    prior=st.floats(0.3, 3),
    seed=st.integers(0, 99),
    d=st.integers(1, 6),
)
def test_for_normal_inputs_it_is_the_published_matrix(m, noise, prior, seed, d):
    spectrum = tuple((0.1 + torch.rand(d, generator=generator(seed))).tolist())
    task = LinearRegression(d, 2, noise, prior, inputs=Normal(spectrum=spectrum, rotation_seed=seed))
    torch.testing.assert_close(best_preconditioner(task, m), torch.linalg.inv(gamma(task, m)), atol=1e-10, rtol=1e-10)


def test_whitened_functions_are_preconditioned_by_the_inverse_covariance():
    task = WhitenedLinearRegression(3, 9, noise=0.5, inputs=Normal(**UNEVEN))
    product = best_preconditioner(task, 8) @ task.input_second_moment()
    torch.testing.assert_close(product, product[0, 0] * torch.eye(3, dtype=torch.float64))


def test_the_best_step_is_the_best_multiple_of_the_identity(task):
    eye = torch.eye(3, dtype=torch.float64)
    for m in (1, 4, 40):
        m = torch.tensor(float(m))
        lr = best_step(task, m)
        risks = [one_layer_risk(task, c * m * lr * eye, m) for c in (0.97, 1.0, 1.03)]
        assert risks[1] < min(risks[0], risks[2])


def test_published_numbers_of_the_best_step():
    """von Oswald et al. 2022: half of the risk is about 0.2 for d = N = 10, x uniform on (−½, ½); η = 6.06."""
    task, m = LinearRegression(10, 11, inputs=Uniform(half_width=0.5)), torch.tensor(10.0)
    lr = best_step(task, m).item()
    assert 10 * lr == pytest.approx(6.06, abs=0.005)
    risk = one_layer_risk(task, 10 * lr * torch.eye(10), m).item()
    assert risk / 2 == pytest.approx(0.2062, abs=5e-5)
    normal = LinearRegression(8, 11)  # Γ⁻¹ leaves d (d + 1) / (m + d + 1)
    assert one_layer_risk(normal, best_preconditioner(normal, 10), m).item() == pytest.approx(8 * 9 / 19)
    assert best_step(normal, torch.arange(11.0)).tolist() == pytest.approx([1 / (i + 9) for i in range(11)])


def test_the_optimum_as_a_predictor_has_the_least_risk_of_its_kind_at_its_length(task):
    prompts = task.sample(100_000, generator(), torch.float64)
    found = estimate(squared(one_layer_optimum(task, 8)(prompts.xs, prompts.ys), prompts.ys))
    stated = one_layer_risk(task, best_preconditioner(task, 8), EXAMPLES)
    assert ((found.value[1:] - stated).abs() <= 5 * found.stderr[1:]).all()


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="at least one example, given 0"):
        best_preconditioner(TASKS["normal"], 0)


# ---- read from weights ---------------------------------------------------------------------------------------------

BARE = {"layout": "encoder", "read_in": "identity", "norm": False, "positions": False, "bias": False}


@pytest.mark.parametrize("normaliser", ["seen", "longest", "none"])
@pytest.mark.parametrize("n_head", [1, 2])
def test_the_step_read_from_the_weights_is_the_one_that_the_layer_takes(normaliser, n_head):
    """With y alone in the values and x alone in the scores nothing leaks: the layer is one step with the matrix A."""
    config = TransformerConfig(n_layer=1, n_head=n_head, d_model=6, d_head=6, normaliser=normaliser, **BARE)
    model = Transformer(3, 9, config, generator(3)).double()
    prompts = LinearRegression(3, 9, 0.5).sample(6, generator(1), torch.float64)
    (leaking,) = linear_steps(model)
    assert leaking.leakage > 0.1
    with torch.no_grad():
        model.blocks[0].attn.v.weight[:, [0, 1, 2, 4, 5]] = 0
        model.blocks[0].attn.k.weight[:, 3:] = 0
    (step,) = linear_steps(model)
    assert step.leakage < 1e-7
    lr = torch.full((9,), 1 / 8, dtype=torch.float64)
    said = GradientDescent(1, lr, step.preconditioner)(prompts.xs, prompts.ys)[:, -1]
    torch.testing.assert_close(model(prompts.xs, prompts.ys, 1)[:, 0], said)
    turned = GradientDescent(1, lr, step.preconditioner.mT)(prompts.xs, prompts.ys)[:, -1]
    assert not torch.allclose(turned, said)


def test_layers_that_are_no_quadratic_forms_are_refused_with_all_reasons():
    with pytest.raises(ValueError, match=r"layout = encoder, given lagged.*norm = False, given True"):
        linear_steps(Transformer(3, 9))


def test_distances_to_the_identity():
    matrix = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    assert distance_to_identity(3 * torch.eye(2)) == pytest.approx(0)
    assert distance_to_identity(matrix) == pytest.approx((2 * 1.5**2 / 17) ** 0.5)
    assert distance_to_identity(whitened(matrix, matrix.inverse())) == pytest.approx(0)
