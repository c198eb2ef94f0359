"""bayes(task) is optimal: on the same prompts no other predictor has less risk; and it follows derivations of tasks."""

import pytest
import torch

import iclab
from iclab.analysis import answer, references
from iclab.analysis.risk import estimate, squared
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.measures import measure
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import GradientDescent, Mixture, Ridge
from iclab.tasks import (
    DecisionTree,
    DynamicalSystem,
    FinitePool,
    HalfSubspace,
    LinearClassification,
    LinearRegression,
    NoiseMixture,
    NoisyLabels,
    Normal,
    NormalisedLabels,
    OneOf,
    ReLUNetwork,
    RepresentationMixture,
    RepresentationRegression,
    ScaledInputs,
    ScaledWeights,
    SkewedInputs,
    SparseLinearRegression,
    Sphere,
    TruePrior,
    Truncated,
    Uniform,
    WhitenedLinearRegression,
)
from iclab.tasks.features import Representation
from iclab.theory.posterior import components, gaussian_beliefs, oracle, posterior_variance, same_posterior
from tests.conftest import generator

BASE = LinearRegression(4, 9, noise=0.5)
REPRESENTED = RepresentationRegression(
    4, 9, noise=0.3, prior=2.0, representation=Representation(width=5, slope=0.2, normalised=False, seed=5)
)
TASKS = {
    "linear": BASE,
    "linear, wide prior": LinearRegression(4, 9, noise=0.5, prior=3.0),
    "linear, noiseless": LinearRegression(4, 9),
    "linear, uneven uniform inputs": LinearRegression(
        3, 9, noise=0.3, inputs=Uniform(half_width=0.5, spectrum=(4.0, 1.0, 0.1), rotation_seed=2)
    ),
    "linear, sphere": LinearRegression(4, 9, noise=0.5, inputs=Sphere()),
    "whitened": WhitenedLinearRegression(
        4, 9, noise=0.5, inputs=Normal(spectrum=(4.0, 1.0, 0.3, 0.1), rotation_seed=1)
    ),
    "whitened, scaled": ScaledWeights(WhitenedLinearRegression(3, 9, inputs=Uniform(spectrum=(4.0, 1.0, 0.3))), -2.0),
    "sparse": SparseLinearRegression(5, 9, noise=0.5, sparsity=2),
    "pool": FinitePool(BASE, size=6),
    "true prior of a pool": TruePrior(FinitePool(BASE, size=6)),
    "scaled weights": ScaledWeights(BASE, -2.0),
    "scaled weights of a pool": ScaledWeights(FinitePool(BASE, size=6), 2.0),
    "normalised labels": NormalisedLabels(LinearRegression(4, 9, noise=1.0, prior=2.0)),
    "noisy labels": NoisyLabels(BASE, 1.5),
    "truncated": Truncated(BASE, dims=2, points=6),
    "skewed, scaled inputs": ScaledInputs(SkewedInputs(BASE), 2.0),
    "half of the space": HalfSubspace(BASE),
    "noisier and larger": NoisyLabels(ScaledWeights(BASE, 3.0), 0.7),
    "representation": REPRESENTED,
    "representation, normalised": RepresentationRegression(4, 9, 0.3, representation=Representation(width=3, seed=2)),
    "representation, noiseless": RepresentationRegression(4, 9, representation=Representation(width=3)),
    "representation, noisier and larger": NoisyLabels(ScaledWeights(REPRESENTED, -3.0), 0.7),
    "dynamical system of a representation": DynamicalSystem(
        2, 9, 0.3, representation=Representation(width=3, seed=2), window=2
    ),
    "noise levels": NoiseMixture(BASE, (0.2, 2.0)),
    "noise levels, whitened, scaled": ScaledWeights(
        NoiseMixture(WhitenedLinearRegression(3, 9, inputs=Normal(spectrum=(4.0, 1.0, 0.3))), (0.2, 2.0)), 2.0
    ),
    "noise levels of a representation": NoiseMixture(REPRESENTED, (0.2, 2.0)),
    "representations": RepresentationMixture(REPRESENTED, count=3),
    "representations, noisier, skewed": SkewedInputs(NoisyLabels(RepresentationMixture(REPRESENTED, count=2), 0.7)),
    "linear in x or in features": OneOf((BASE, REPRESENTED)),
}


def rivals(task):
    """Every reference, and ridge with other penalties."""
    others = {f"ridge({lam})": Ridge(lam) for lam in (0.01, 0.1, 0.5, 1.0, 5.0)}
    return {**{k: f for k, f in references(task).items() if k != "bayes"}, **others}


def assert_optimal(task, best, others, prompts=4000):
    """No rival has less risk than `best`, by position and on the mean, beyond five standard errors of the gap."""
    drawn = task.sample(prompts, generator(3), torch.float64)
    answers = answer({"best": best, **others}, drawn)
    least = squared(answers.pop("best"), drawn.ys)
    for name, f in answers.items():
        for gap in (squared(f, drawn.ys) - least, (squared(f, drawn.ys) - least).mean(-1)):
            found = estimate(gap)
            assert (found.value >= -5 * found.stderr - 1e-12).all(), name


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_no_other_predictor_has_less_risk_than_bayes(task):
    assert_optimal(task, iclab.bayes(task), rivals(task))


@pytest.mark.parametrize(
    "task", [t for t in TASKS.values() if t.noise > 0], ids=[k for k, t in TASKS.items() if t.noise > 0]
)
def test_optimality_can_fail(task):
    with pytest.raises(AssertionError):
        assert_optimal(task, Ridge(30.0), {"bayes": iclab.bayes(task)})
    with pytest.raises(AssertionError):
        assert_optimal(task, iclab.bayes(task), {"peeks": lambda xs, ys: ys})


def test_a_prompt_shifted_back_has_the_same_posterior():
    """ScaledWeights(task, c) is task with labels c·f + noise·ε: the same as labels c·(f + (noise/c)·ε)."""
    prompts = BASE.sample(50, generator(), torch.float64)
    scaled = iclab.bayes(ScaledWeights(NoisyLabels(BASE, 0.25), 3.0))
    plain = iclab.bayes(NoisyLabels(BASE, 0.25 / 3))
    torch.testing.assert_close(scaled(prompts.xs, 3 * prompts.ys), 3 * plain(prompts.xs, prompts.ys))


UNKNOWN = [
    DecisionTree(3, 4),
    ReLUNetwork(3, 4),
    ScaledInputs(DecisionTree(3, 4), 2.0),
    LinearClassification(3, 4),
    OneOf((LinearRegression(3, 4, 0.5), LinearClassification(3, 4))),
    NoiseMixture(SparseLinearRegression(3, 4, sparsity=1), (0.1, 0.5)),
    NoiseMixture(LinearRegression(3, 4), (0.0, 0.5)),
    NoisyLabels(RepresentationMixture(RepresentationRegression(3, 4, 0.5)), 0.0),
]


@pytest.mark.parametrize("task", UNKNOWN)
def test_what_has_no_closed_form_is_said_to_have_none(task):
    reason = r"no closed form .* known for (DecisionTree|ReLUNetwork|LinearClassification|a mixture with labels w)"
    with pytest.raises(ValueError, match=f"{reason}|sparse weights are not Gaussian"):
        iclab.bayes(task)


@pytest.mark.parametrize("task", [*TASKS.values(), *UNKNOWN])
def test_references_answer_every_task(task):
    drawn = task.sample(5, generator())
    for name, f in answer(references(task), drawn).items():
        assert f.shape == drawn.ys.shape and f.isfinite().all(), name
    assert ("bayes" in references(task)) == (task not in UNKNOWN)


def of_its_class(task):
    return references(task).keys() - references(LinearRegression(3, 4)).keys()


def test_a_class_of_functions_has_references_of_its_own():
    """Also where the task is derived, and on no other class."""
    trees = {"greedy_tree", "greedy_tree_of_signs", "boosted_trees"}
    for task, names in (
        (SparseLinearRegression(3, 4, sparsity=1), {"lasso"}),
        (ReLUNetwork(3, 4), {"trained_network"}),
        (DecisionTree(3, 4), trees),
        (LinearClassification(3, 4), {"logistic_regression"}),
        (RepresentationRegression(3, 4, 0.1), {"features_least_squares", "input_and_features_ridge", "ridge"}),
        (RepresentationRegression(3, 4), {"features_least_squares"}),
        (RepresentationMixture(RepresentationRegression(3, 4, 0.1)), {"half_split", "concatenated_ridge", "ridge"}),
        (NoiseMixture(BASE, (0.1, 0.5)), {"half_split", "ridge"}),
    ):
        assert of_its_class(task) == of_its_class(ScaledInputs(task, 2.0)) == names
    assert references(ReLUNetwork(3, 4, width=50))["trained_network"].width == 50
    assert references(DecisionTree(3, 4, depth=3))["boosted_trees"].depth == 3


# ---- mixtures --------------------------------------------------------------------------------------------------------

MIXED = {name: task for name, task in TASKS.items() if len(components(task)) > 1}
GAUSSIAN = {name: task for name, task in TASKS.items() if name in MIXED or "linear" in name or "repres" in name}


def assert_reported(task, variance, prompts=4000):
    """The squared error of Bayes has the reported variance as its mean, at every position and within 5 standard
    errors of the difference."""
    drawn = task.sample(prompts, generator(4), torch.float64)
    gap = estimate(squared(iclab.bayes(task)(drawn.xs, drawn.ys), drawn.ys) - variance(task, drawn))
    assert (gap.value.abs() <= 5 * gap.stderr + 1e-12).all()


@pytest.mark.parametrize("task", GAUSSIAN.values(), ids=GAUSSIAN.keys())
def test_bayes_risks_what_its_posterior_reports(task):
    assert_reported(task, posterior_variance)


def test_the_report_of_a_posterior_can_be_wrong():
    """The variance of one component, and the mean of all, which is what an oracle risks."""

    def mean(task, drawn):
        return torch.stack([posterior_variance(part, drawn) for part in components(task)]).mean(0)

    for cheat in (lambda task, drawn: posterior_variance(components(task)[0], drawn), mean):
        with pytest.raises(AssertionError):
            assert_reported(TASKS["representations"], cheat)


@pytest.mark.parametrize("name", MIXED)
def test_an_oracle_has_the_least_risk_and_answers_as_the_bayes_predictor_of_the_component(name):
    task = MIXED[name]
    drawn = task.sample(4000, generator(3), torch.float64)
    told = oracle(task, drawn)
    gap = estimate((squared(iclab.bayes(task)(drawn.xs, drawn.ys), drawn.ys) - squared(told, drawn.ys)).mean(-1))
    assert gap.value > 5 * gap.stderr
    for k, part in enumerate(components(task)):
        own = drawn.truth.chosen == k
        torch.testing.assert_close(told[own], iclab.bayes(part)(drawn.xs[own], drawn.ys[own]))
    with pytest.raises(ValueError, match="LinearRegression is no mixture"):
        oracle(BASE, BASE.sample(3, generator()))


@pytest.mark.parametrize("name", MIXED)
def test_a_mixture_is_the_average_of_its_components_by_their_evidence(name):
    """In plain loops over prompts, positions and components, each on its own features."""
    drawn = MIXED[name].sample(3, generator(5), torch.float64)
    got = iclab.bayes(MIXED[name])(drawn.xs, drawn.ys)
    for b in range(3):
        for i in range(MIXED[name].n):
            evidence, answers = [], []
            for part in components(MIXED[name]):
                features, (belief,) = gaussian_beliefs(part)
                F, y = features(drawn.xs[b, : i + 1]), drawn.ys[b, :i]
                K = F @ belief.covariance @ F.mT
                C = K[:i, :i] + belief.noise**2 * torch.eye(i, dtype=torch.float64)
                evidence.append(-(y @ torch.linalg.solve(C, y) + torch.logdet(C)) / 2)
                answers.append(K[i, :i] @ torch.linalg.solve(C, y))
            wanted = torch.stack(evidence).softmax(0) @ torch.stack(answers)
            assert abs(got[b, i] - wanted) < 1e-10 * (1 + abs(wanted))


def test_derivations_of_a_mixture_reach_its_components():
    task = ScaledWeights(NoiseMixture(BASE, (0.2, 2.0)), 3.0)
    assert components(task) == tuple(ScaledWeights(NoisyLabels(BASE, std), 3.0) for std in (0.2, 2.0))
    assert components(BASE) == (BASE,)
    assert isinstance(iclab.bayes(NoiseMixture(BASE, (0.2, 2.0))), Mixture)  # linear in x itself: weights can be seen


def test_mixtures_of_one_spread_of_noise_can_have_other_posteriors():
    """Both have a root mean square of 1.58, one with a single level."""
    mixed = NoiseMixture(BASE, (1.0, 2.0))
    assert not same_posterior(mixed, NoisyLabels(mixed, mixed.noise))
    assert same_posterior(mixed, SkewedInputs(mixed))


# ---- references ----------------------------------------------------------------------------------------------------

# The right penalty noise²/E w_j², and the variance v of inputs along each of their r dimensions.
FACTS = {
    "linear": (0.25, 1, 4),
    "linear, wide prior": (0.25 / 9, 1, 4),
    "linear, noiseless": (0, 1, 4),
    "linear, uneven uniform inputs": (0.09, None, 3),
    "linear, sphere": (0.25, None, 4),
    "sparse": (0.25 * 5 / 2, 1, 5),
    "whitened": (0.25 * 4 / (1 / 4 + 1 + 1 / 0.3 + 1 / 0.1), None, 4),
    "whitened, scaled": (0, None, 3),
    "pool": (0.25, 1, 4),
    "true prior of a pool": (0.25, 1, 4),
    "scaled weights": (0.25 / 4, 1, 4),
    "scaled weights of a pool": (0.25 / 4, 1, 4),
    "normalised labels": (1 / 4, 1, 4),
    "noisy labels": (1.5**2, 1, 4),
    "truncated": (0.25, 1, 2),
    "skewed, scaled inputs": (0.25, None, 4),
    "half of the space": (0.25, 2, 2),
    "noisier and larger": (0.7**2 / 9, 1, 4),
    "representation": (0.09 / 4, None, 4),
    "representation, normalised": (0.09, None, 4),
    "representation, noiseless": (0, None, 4),
    "representation, noisier and larger": (0.7**2 / 36, None, 4),
    "dynamical system of a representation": (0.09, None, 2),
    "noise levels": ((0.04 + 4) / 2, 1, 4),
    "noise levels, whitened, scaled": ((0.04 + 4) / 2 / (4 * (1 / 4 + 1 + 1 / 0.3) / 3), None, 3),
    "noise levels of a representation": ((0.04 + 4) / 2 / 4, None, 4),
    "representations": (0.09 / 4, None, 4),
    "representations, noisier, skewed": (0.7**2 / 4, None, 4),
    "linear in x or in features": ((0.25 + 0.09) / 2, 1, 4),
}


@pytest.mark.parametrize("name", TASKS)
def test_ridge_has_the_right_penalty_and_gradient_descent_the_best_step(name):
    task, (penalty, v, rank) = TASKS[name], FACTS[name]
    found = references(task, BASE)
    assert ("ridge" in found) == (penalty > 0)
    if penalty > 0:
        assert found["ridge"].lam == pytest.approx(penalty)
    examples = torch.arange(task.n, dtype=torch.float64)
    assert found["gradient_descent"].steps == 1
    if v is not None:  # isotropic normal inputs; the others are tested where the best step is
        torch.testing.assert_close(found["gradient_descent"].lr, 1 / (v * (examples + rank + 1) + penalty))


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_no_other_single_step_has_less_risk_at_any_position(noise):
    task = LinearRegression(3, 7, noise=noise)
    best = references(task)["gradient_descent"]
    assert_optimal(task, best, {c: GradientDescent(1, c * best.lr) for c in (0.8, 0.9, 1.1, 1.2)}, prompts=20_000)


def test_a_shift_is_measured_against_its_own_references_and_the_predictor_of_the_training():
    shift = NoisyLabels(BASE, 2.0)
    assert references(shift, BASE)["trained_bayes"] == Ridge(0.25) and references(shift)["bayes"] == Ridge(4.0)
    assert "trained_bayes" not in references(BASE, BASE)
    bare = TransformerConfig(n_layer=0)
    experiment = Experiment(task=BASE, model=bare, eval=Evaluation(prompts=200, shifts=(("noisy", shift),)))
    rows = measure(experiment, Transformer(BASE.d, BASE.n, bare))
    here = [r for r in rows if (r["distribution"], r["position"]) == ("noisy", None)]
    found = {(r["predictor"], r["quantity"]): r["value"] for r in here}
    assert found["bayes", "risk"] == found["ridge", "risk"] < found["trained_bayes", "risk"]
    assert found["bayes", "spd"] == found["ridge", "spd"] != found["trained_bayes", "spd"]
