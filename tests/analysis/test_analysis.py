"""Analyzers: errors cover what is known, distances vanish where they should, algorithms are recognised."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import iclab
from iclab.analysis import (
    AlgorithmPanel,
    Family,
    answer,
    band,
    excess,
    families,
    identify,
    ilwd,
    implicit_weights,
    linearity,
    match_iterations,
    query_gradients,
    ratio,
    report,
    risk,
    sime,
    spd,
)
from iclab.analysis.algorithms.iterations import slope, total, working
from iclab.analysis.risk import bootstrap_weights, estimate, squared
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import (
    GradientDescent,
    Landweber,
    LeastSquares,
    NearestNeighbours,
    Newton,
    Ridge,
    StochasticGradientDescent,
    Zero,
)
from iclab.tasks import (
    DecisionTree,
    FinitePool,
    LinearRegression,
    NoisyLabels,
    NormalisedLabels,
    OppositeOrthant,
    ScaledInputs,
    ScaledWeights,
    TruePrior,
)
from iclab.theory.posterior import same_posterior
from tests.conftest import generator

TASK = LinearRegression(4, 9, noise=0.5)


def prompts(batch, seed=0, task=TASK):
    return task.sample(batch, generator(seed), torch.float64)


# ---- risk ----------------------------------------------------------------------------------------------------------


def assert_errors_cover(found, truth):
    """Of independent estimates 68 % lie within one standard error of the truth and 95 % within two."""
    away = (found.value - truth).abs() / found.stderr
    assert 0.61 < (away < 1).double().mean() < 0.75
    assert 0.91 < (away < 2).double().mean() < 0.98


def test_standard_errors_are_as_large_as_the_estimates_scatter():
    """The zero predictor's risk is d + noise²; 400 estimates from 300 prompts each."""
    ys = prompts(300 * 400).ys
    assert_errors_cover(risk(torch.zeros(300, 400), ys[:, 5].reshape(300, 400)), 4.25)
    assert_errors_cover(estimate(ys.square().mean(-1).reshape(300, 400)), 4.25)


@given(batch=st.integers(2, 50), seed=st.integers(0, 2**31))
def test_a_standard_error_is_the_deviation_over_the_root_of_the_prompts(batch, seed):
    terms = torch.randn(batch, 3, generator=generator(seed), dtype=torch.float64)
    variance = (terms - terms.mean(0)).square().sum(0) / (batch - 1)
    torch.testing.assert_close(estimate(terms).stderr, (variance / batch).sqrt())


def test_the_error_of_a_ratio_is_as_large_as_ratios_scatter():
    """risk(zero) / risk(Bayes), with the true ratio from all prompts and 400 estimates from 300 each."""
    drawn = prompts(300 * 400)
    above, below = drawn.ys.square().mean(-1), squared(iclab.bayes(TASK)(drawn.xs, drawn.ys), drawn.ys).mean(-1)
    found = ratio(above.reshape(300, 400), below.reshape(300, 400))
    assert_errors_cover(found, above.mean() / below.mean())


def test_excess_is_the_relative_risk_less_one_and_far_less_noisy():
    drawn, best = prompts(20_000), iclab.bayes(TASK)
    answers = answer({"bayes": best, "ridge": Ridge(1.0)}, drawn)
    distance = excess(answers["ridge"], answers["bayes"], drawn.ys)
    direct = ratio(squared(answers["ridge"], drawn.ys).mean(-1), squared(answers["bayes"], drawn.ys).mean(-1))
    assert abs(direct.value - 1 - distance.value) < 5 * direct.stderr
    assert distance.stderr < direct.stderr / 2
    assert excess(answers["bayes"], answers["bayes"], drawn.ys).value == 0


def test_bootstrap_bands_hold_ninety_percent_of_the_means():
    low, high = band(prompts(500).ys.square(), generator(), draws=400)
    means = torch.stack([prompts(500, 1000 + s).ys.square().mean(0) for s in range(200)])
    centred = means - means.mean(0) + prompts(500).ys.square().mean(0)
    assert 0.8 < ((low < centred) & (centred < high)).double().mean() < 0.97
    counts = bootstrap_weights(7, 50, generator()) * 7
    assert torch.equal(counts.sum(-1), torch.full((50,), 7.0, dtype=torch.float64))
    assert torch.equal(counts, counts.round())


@given(chunk=st.integers(1, 40))
def test_answers_do_not_depend_on_how_prompts_are_cut(chunk):
    whole, cut = (answer({"f": Ridge(0.3)}, prompts(37), chunk=c)["f"] for c in (1000, chunk))
    torch.testing.assert_close(whole, cut)


# ---- agreement -----------------------------------------------------------------------------------------------------


def test_distances_are_symmetric_and_vanish_on_themselves():
    drawn = prompts(200)
    answers = answer({"f": Ridge(0.25), "g": LeastSquares()}, drawn)
    assert torch.equal(spd(answers["f"], answers["g"]).value, spd(answers["g"], answers["f"]).value)
    assert not spd(answers["f"], answers["f"]).value.any()
    assert spd(answers["f"], answers["g"]).value[3:].min() > 0


def test_for_linear_predictors_and_normal_inputs_spd_and_ilwd_agree():
    drawn = prompts(40_000)
    f, g = Ridge(0.25), GradientDescent(1, 0.05)
    answers = answer({"f": f, "g": g}, drawn)
    by_answers = spd(answers["f"], answers["g"])
    by_weights = ilwd(f.weights(drawn.xs, drawn.ys), g.weights(drawn.xs, drawn.ys))
    gap = (by_answers.value - by_weights.value).abs()
    assert (gap <= 5 * (by_answers.stderr**2 + by_weights.stderr**2).sqrt()).all()


class Opaque:
    """A predictor that does not tell that it is linear."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, xs, ys):
        return self.inner(xs, ys)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 4), n=st.integers(1, 6))
def test_implicit_weights_and_query_gradients_recover_the_weights_of_a_linear_predictor(seed, d, n):
    task = LinearRegression(d, n, noise=0.5)
    drawn, queries = prompts(5, seed, task), torch.randn(d + 2, d, generator=generator(seed), dtype=torch.float64)
    if torch.linalg.cond(queries) > 100:
        return
    ws = Ridge(0.3).weights(drawn.xs, drawn.ys)
    torch.testing.assert_close(implicit_weights(Opaque(Ridge(0.3)), drawn, queries), ws, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(query_gradients(Opaque(Ridge(0.3)), drawn), ws, atol=1e-9, rtol=1e-9)
    assert implicit_weights(Ridge(0.3), drawn, queries).equal(ws)
    torch.testing.assert_close(linearity(Opaque(Ridge(0.3)), drawn, queries), torch.ones(5, n).double())


def test_what_is_not_linear_in_the_query_is_seen_as_such():
    drawn, queries = prompts(5), torch.randn(40, 4, generator=generator(), dtype=torch.float64)
    assert linearity(NearestNeighbours(3), drawn, queries)[:, 4:].max() < 0.95
    assert not torch.allclose(
        query_gradients(Opaque(lambda xs, ys: xs.square().sum(-1)), drawn),
        implicit_weights(Opaque(lambda xs, ys: xs.square().sum(-1)), drawn, queries),
    )


@pytest.mark.parametrize("attention", ["softmax", "linear"])
@pytest.mark.parametrize("layout", ["interleaved", "lagged", "paired"])
def test_the_gradient_in_the_query_of_a_transformer_equals_finite_differences(attention, layout):
    config = TransformerConfig(n_layer=1, n_head=1, d_model=8, attention=attention, layout=layout)
    model, drawn, i, eps = Transformer(4, 9, config, generator()).double(), prompts(3), 5, 1e-5
    exact = query_gradients(model, drawn)[:, i]
    for c in range(4):
        up, down = drawn.xs.clone(), drawn.xs.clone()
        up[:, i, c] += eps
        down[:, i, c] -= eps
        slope = (model(up, drawn.ys) - model(down, drawn.ys))[:, i] / (2 * eps)
        torch.testing.assert_close(exact[:, c], slope.detach(), atol=1e-7, rtol=1e-6)


def test_too_few_queries_are_refused():
    with pytest.raises(ValueError, match="3 queries cannot fix 4 weights"):
        implicit_weights(Opaque(Zero()), prompts(2), torch.zeros(3, 4, dtype=torch.float64))


# ---- identify ------------------------------------------------------------------------------------------------------

UNIT = 1 / (torch.arange(9, dtype=torch.float64) + 5)
KNOWN = {
    "ridge": (Ridge(0.7), 0.7),
    "least_squares": (LeastSquares(), None),
    "gradient_descent_1": (GradientDescent(1, 0.8 * UNIT), 0.8),
    "gradient_descent_3": (GradientDescent(3, 0.8 * UNIT), 0.8),
    "one_pass_sgd": (StochasticGradientDescent(0.1), 0.1),
    "newton": (Newton(4), 4),
    "landweber": (Landweber(11), 11),
    "nearest_neighbours": (NearestNeighbours(2), 2),
}


@pytest.mark.parametrize("name", KNOWN)
def test_each_algorithm_is_recognised_with_its_parameter(name):
    predictor, parameter = KNOWN[name]
    best, second, *_ = identify(Opaque(predictor), TASK, prompts(600), generator())
    assert best.family == name
    assert best.probability > 0.99 and best.relative < 0.01 < second.relative
    if parameter is not None:  # within one step of the grid
        assert best.fitted[1:].median().item() == pytest.approx(parameter, rel=0.25)


def test_parameters_are_fitted_on_the_first_half_of_the_prompts_and_judged_on_the_second():
    drawn, grid = prompts(200), torch.tensor([0.1, 1.0, 10.0])
    first, second = (Ridge(lam)(drawn.xs, drawn.ys) for lam in (0.1, 10.0))
    torn = Opaque(lambda xs, ys: torch.cat([first[:100], second[100:]]))
    ridges = Family("ridge", "lam", grid, [Ridge(lam) for lam in grid.tolist()])
    fixed = [Family(f"ridge({lam})", "", torch.zeros(1), [Ridge(lam)]) for lam in (0.1, 10.0)]
    panel = AlgorithmPanel(TASK, drawn, [ridges, *fixed])
    by_name = {match.family: match for match in panel.identify(torn, generator())}
    gaps, least = squared(first, second)[100:], squared(iclab.bayes(TASK)(drawn.xs, drawn.ys), drawn.ys)[100:]
    found = by_name["ridge"]
    torch.testing.assert_close(found.fitted, torch.full((9,), 0.1))
    torch.testing.assert_close(found.distance, gaps.mean(0))
    torch.testing.assert_close(found.stderr, gaps.std(0) / 10)
    assert found.relative == pytest.approx((gaps.mean() / least.mean()).item())
    assert panel.distances(torn)["ridge"] == pytest.approx(found.relative)
    assert by_name["ridge(10.0)"].relative == pytest.approx(0) and by_name["ridge(10.0)"].probability == 1


def test_a_blend_is_near_neither_and_a_pool_brings_its_own_family():
    half = Opaque(lambda xs, ys: (Ridge(0.25)(xs, ys) + NearestNeighbours(1)(xs, ys)) / 2)
    assert identify(half, TASK, prompts(600), generator())[0].relative > 0.1
    pool = FinitePool(TASK, size=4)
    drawn = prompts(600, task=pool)
    assert identify(Opaque(iclab.bayes(pool)), pool, drawn, generator())[0].family == "bayes"


def test_two_predictors_that_cannot_be_told_apart_share_the_probability():
    noise = torch.randn(400, 9, generator=generator(5), dtype=torch.float64)
    blurred = Opaque(lambda xs, ys: Ridge(0.255)(xs, ys) + noise)  # in the middle, and far noisier than the gap
    twins = [Family(f"ridge({lam})", "", torch.zeros(1), [Ridge(lam)]) for lam in (0.25, 0.26)]
    matches = identify(blurred, TASK, prompts(400), generator(), among=twins)
    assert sum(m.probability for m in matches) == pytest.approx(1)
    assert all(0.02 < m.probability < 0.98 for m in matches)


def test_identify_works_where_bayes_is_not_known_and_refuses_too_few_prompts():
    tree = DecisionTree(3, 6)
    assert (
        identify(Opaque(NearestNeighbours(1)), tree, prompts(200, task=tree), generator())[0].family
        == "nearest_neighbours"
    )
    with pytest.raises(ValueError, match="at least 20 prompts, given 3"):
        identify(Zero(), TASK, prompts(3), generator())


@pytest.mark.parametrize("noise", [0.01, 0.5, 20.0])
@pytest.mark.parametrize("prior", [0.05, 3.0])
def test_the_bayes_predictor_is_ridge_with_the_right_penalty_at_any_scale_of_noise_and_weights(noise, prior):
    task = LinearRegression(3, 8, noise=noise, prior=prior)
    best = identify(Opaque(iclab.bayes(task)), task, prompts(400, task=task), generator())[0]
    assert best.family == "ridge" and best.relative < 1e-12
    assert best.typical == pytest.approx((noise / prior) ** 2)


def test_a_shift_adds_the_predictor_of_the_training_only_where_it_is_another():
    pool = FinitePool(TASK, size=4)

    def names(task, training):
        return [family.name for family in families(task, training)]

    assert "trained_bayes" in names(TruePrior(pool), pool) and "bayes" not in names(TruePrior(pool), pool)
    assert "trained_bayes" in names(NoisyLabels(TASK, 2.0), TASK)
    assert "trained_bayes" not in names(ScaledInputs(pool, 2.0), pool) and "bayes" in names(
        ScaledInputs(pool, 2.0), pool
    )
    assert "trained_bayes" not in names(
        NoisyLabels(LinearRegression(4, 9), 1.0), LinearRegression(4, 9)
    )  # least squares
    drawn = TruePrior(pool).sample(400, generator(), torch.float64)
    among = families(TruePrior(pool), pool)
    best = identify(Opaque(iclab.bayes(pool)), TruePrior(pool), drawn, generator(), among)[0]
    assert best.family == "trained_bayes" and best.probability == 1


def test_a_shift_of_the_query_is_identified_at_the_query():
    """Ridge in the context, one step of gradient descent at the query: on a query shift the second is what counts."""

    def two_faced(xs, ys):
        step = GradientDescent(1, UNIT)(xs, ys)
        return torch.cat([Ridge(0.25)(xs, ys)[:, :-1], step[:, -1:]], dim=1)

    shifted = OppositeOrthant(TASK)
    assert identify(Opaque(two_faced), TASK, prompts(400), generator())[0].family == "ridge"
    best = identify(Opaque(two_faced), shifted, prompts(400, task=shifted), generator())[0]
    assert best.family == "gradient_descent_1" and best.typical == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize("lam", [1e-3, 0.02, 3.0])
def test_ridge_is_recognised_far_from_the_right_penalty_and_its_parameter_known_to_half_a_step(lam):
    best = identify(Opaque(Ridge(lam)), TASK, prompts(400), generator())[0]
    assert best.family == "ridge"
    assert abs(best.typical - lam) < 2 * best.resolution


def test_two_tasks_with_the_same_ridge_have_the_same_posterior():
    assert same_posterior(TASK, NormalisedLabels(TASK)) and same_posterior(TASK, ScaledWeights(TASK, -1.0))
    assert not same_posterior(TASK, NoisyLabels(TASK, 2.0))
    assert same_posterior(ScaledInputs(DecisionTree(2, 3), 2.0), DecisionTree(2, 3))
    assert not same_posterior(DecisionTree(2, 3), DecisionTree(2, 3, depth=2))


@pytest.mark.parametrize(("predictor", "grid_bound_mark"), [(Ridge(1e9), "≥"), (Ridge(1e-9), "≤"), (Ridge(0.25), "")])
def test_a_parameter_at_an_end_of_its_grid_is_marked(predictor, grid_bound_mark):
    matches = identify(Opaque(predictor), TASK, prompts(200), generator())
    ridge = next(match for match in matches if match.family == "ridge")
    assert ridge.grid_bound_mark == grid_bound_mark and f"λ {grid_bound_mark or '≈'} " in str(ridge)
    counted = next(match for match in matches if match.family == "nearest_neighbours")
    assert counted.grid_bound_mark != "≤"  # there are no neighbours fewer than one


def changing(xs, ys):
    """Ridge with fewer than five examples, nearest neighbours from then on."""
    return torch.cat([Ridge(0.25)(xs, ys)[:, :5], NearestNeighbours(2)(xs, ys)[:, 5:]], dim=1)


def test_shares_at_each_position_tell_where_an_algorithm_is_the_nearest():
    by_name = {match.family: match.shares for match in identify(Opaque(changing), TASK, prompts(400), generator())}
    torch.testing.assert_close(torch.stack(list(by_name.values())).sum(0), torch.ones(9).double())
    assert by_name["ridge"][2:5].min() > 0.99 and by_name["nearest_neighbours"][5:].min() > 0.99
    assert by_name["ridge"][0] == by_name["zero"][0] < 0.2  # without examples all answer 0


def test_a_report_speaks_of_the_output_of_runs_of_examples_and_of_layers():
    lines = str(report(Opaque(changing), TASK, prompts(400), generator())).splitlines()
    assert lines[0].startswith("output: ") and "of the Bayes risk away; probability" in lines[0]
    assert lines[1].startswith("    after 0") and lines[1].endswith("no algorithm is the nearest beyond doubt")
    assert lines[-1] == "    after 5 to 8 examples: nearest neighbours (k ≈ 2)"
    model = Transformer(4, 9, TransformerConfig(n_layer=2), generator())
    said = report(model, TASK, TASK.sample(64, generator()), generator())
    assert list(said.layers) == [0, 1, 2] and str(said).splitlines()[-1].startswith("after layer 2: ")


# ---- iterations ----------------------------------------------------------------------------------------------------

EXACT = LinearRegression(4, 9)


def test_errors_are_as_alike_as_the_angle_between_them_says():
    f = torch.tensor([[1.0, 0.0], [2.0, 2.0], [5.0, 5.0]]).double()
    g = torch.tensor([[0.0, 3.0], [1.0, 1.0], [-1.0, -1.0]]).double()
    found = sime(f, g, torch.zeros(3, 2).double())
    assert found.value == pytest.approx(0.0, abs=1e-12)  # (0 + 1 − 1) / 3
    assert found.stderr == pytest.approx(1 / 3**0.5)
    assert sime(f, f, f - 1).value == pytest.approx(1.0)


def layers_that_make(step):
    """A read-in and eight layers, of which the l-th answers as an iteration after step(l) steps."""
    drawn = prompts(400, task=EXACT)
    panel = AlgorithmPanel(EXACT, drawn, [f for f in families(EXACT) if f.name in ("newton", "landweber")])
    return match_iterations(panel, [Opaque(step(layer)) for layer in range(9)], generator(), draws=50)


def test_layers_of_newton_grow_linearly_beside_newton_and_exponentially_beside_gradient_descent():
    newton, descent = layers_that_make(lambda layer: Newton(1 + 2 * layer))
    assert newton.steps.value.tolist() == [1 + 2 * layer for layer in range(9)]
    assert newton.growth.value == pytest.approx(2.0) and newton.similarity.value.min() > 1 - 1e-9
    assert descent.growth.value > 0.8
    assert (newton.cosines - descent.cosines).mean(-1)[2:7].min() > 0  # the lead is with what is done


def test_layers_of_gradient_descent_do_not_pass_for_newtons():
    newton, descent = layers_that_make(lambda layer: Landweber(1 + layer))
    assert descent.growth.value < 0.5 and newton.growth.value < 1.0
    assert (newton.cosines - descent.cosines).mean(-1)[2:7].max() < 0


def test_both_iterations_have_one_member_for_each_doubling():
    newton, descent = layers_that_make(lambda layer: Landweber(3 * 2**layer))  # between two powers of two
    assert all(k.log2() % 1 == 0 for k in descent.steps.value) and (newton.steps.value.diff() >= 0).all()
    assert descent.total.value == pytest.approx(8.0) and descent.working.value == 8


def test_steps_in_all_are_those_of_the_last_layer_less_those_of_the_input():
    newton, descent = layers_that_make(lambda layer: Newton(1 + 3 * min(max(layer - 2, 0), 4)))  # layers 3 to 6 work
    assert (newton.total.value, newton.working.value, newton.rate.value) == (12.0, 4.0, 3.0)
    assert newton.rate.stderr >= 0 and descent.total.value > 4
    values = torch.tensor([[1.0, 1.0, 3.0, 2.0, 6.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    assert total(values).tolist() == [5.0, 0.0] and working(values).tolist() == [2.0, 0.0]


def test_growth_is_the_slope_over_the_middle_half_of_the_layers():
    values = torch.tensor([100.0, 100.0, 2.0, 4.0, 6.0, 8.0, 10.0, 100.0, 100.0])  # layers 2 to 6 of 8
    assert slope(values) == pytest.approx(2.0)
    assert slope(torch.stack([values, 2 * values])).tolist() == pytest.approx([2.0, 4.0])
    assert slope(torch.zeros(2)).isnan()  # one layer has no growth
