"""What identification must hold to: a member of a family is found to be one, what cannot be told apart is said to be
so, and what is no answer is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import iclab
from iclab.analysis import AlgorithmPanel, Family, excess, families, identify, match_iterations, report
from iclab.analysis.algorithms.minima import minima
from iclab.analysis.algorithms.spectra import Spectra
from iclab.analysis.risk import squared
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.experiments.findings import Findings
from iclab.learning.fitting import RidgeFit
from iclab.learning.training import TrainingConfig
from iclab.measures import measure
from iclab.measures.monitor import ExampleMonitor
from iclab.models import LinearAttention, TransformerConfig
from iclab.predictors import (
    Averaging,
    GradientDescent,
    Landweber,
    LeastSquares,
    NearestNeighbours,
    Newton,
    Predictor,
    Ridge,
    StochasticGradientDescent,
    Zero,
)
from iclab.tasks import FinitePool, LinearRegression
from tests.conftest import generator

TASK = LinearRegression(4, 9, noise=0.5)
UNIT = 1 / (torch.arange(9, dtype=torch.float64) + 5)
NAMES = [family.name for family in families(TASK)]
MAKE = {
    "zero": lambda _: Zero(),
    "averaging": lambda _: Averaging(),
    "least_squares": lambda _: LeastSquares(),
    "ridge": Ridge,
    "one_pass_sgd": StochasticGradientDescent,
    "newton": lambda k: Newton(int(k)),
    "landweber": lambda k: Landweber(int(k)),
    "nearest_neighbours": lambda k: NearestNeighbours(int(k)),
} | {f"gradient_descent_{k}": lambda eta, k=k: GradientDescent(k, eta * UNIT) for k in range(1, 9)}


def prompts(batch, seed=0, task=TASK):
    return task.sample(batch, generator(seed), torch.float64)


LINEUP = AlgorithmPanel(TASK, prompts(80))


class Scheduled(Predictor):
    """A member of a family at each position, with a parameter of its own there: what the predictors themselves answer,
    one position after the other."""

    def __init__(self, make, values):
        self.make, self.values = make, values

    def __call__(self, xs, ys):
        return torch.stack([self.make(v)(xs, ys)[:, i] for i, v in enumerate(self.values.tolist())], dim=1)


def parameters(family, fractions):
    """Parameters at fractions of the way through the range of a family, by their logarithm."""
    if not family.parameter:
        return torch.zeros(len(fractions))
    low, high = family.grid[0].log(), family.grid[-1].log()
    values = (low + torch.tensor(fractions, dtype=torch.float64) * (high - low)).exp()
    return values.round() if family.counts else values


def assert_found(panel, name, values):
    """The law: a member of a family is nearest to that family or to one that answers the same, and its distance from
    the family and from its parameter is rounding."""
    family = next(each for each in panel.families if each.name == name)
    member = Scheduled(MAKE[name], values)
    matches = panel.identify(member, generator(1), draws=50)
    mine = next(match for match in matches if match.family == name)
    assert name in (matches[0].family, *matches[0].alike)
    if family.counts:  # several numbers of steps can be right on one half of the prompts
        return
    size = member(panel.prompts.xs, panel.prompts.ys).square().mean()
    assert mine.distance.mean() <= 1e-16 * size
    if family.parameter:
        torch.testing.assert_close(mine.fitted[1:], values[1:], rtol=1e-4, atol=0.0)  # a slight penalty hardly shows


@pytest.mark.parametrize("name", NAMES)
def test_a_member_between_two_grid_points_is_found_in_each_family(name):
    family = next(each for each in LINEUP.families if each.name == name)
    assert_found(LINEUP, name, parameters(family, [0.456] * 9))


@settings(max_examples=5)
@given(name=st.sampled_from(NAMES), schedule=st.booleans(), seed=st.integers(0, 2**31))
def test_every_member_of_every_family_is_found_with_any_schedule_of_its_parameter(name, schedule, seed):
    family = next(each for each in LINEUP.families if each.name == name)
    drawn = torch.rand(9, generator=generator(seed), dtype=torch.float64)
    assert_found(LINEUP, name, parameters(family, (drawn if schedule else drawn[:1].expand(9)).tolist()))


@pytest.mark.parametrize("name", ["gradient_descent_3", "ridge"])
def test_a_lineup_that_knows_nothing_between_grid_points_breaks_the_law(name):
    """A deliberate cheat."""
    among = [replace(family, between=None) for family in families(TASK, points=5)]
    family = next(each for each in LINEUP.families if each.name == name)
    with pytest.raises(AssertionError):
        assert_found(AlgorithmPanel(TASK, prompts(80), among), name, parameters(family, [0.4] * 9))


def test_descent_of_a_constant_rate_is_told_with_its_number_of_steps():
    task, unit = LinearRegression(5, 17, 0.5), 1 / (torch.arange(17.0) + 6)
    panel = AlgorithmPanel(task, task.sample(100, generator(1)))
    for steps, eta in ((1, 0.1), (2, 0.1), (3, 0.3), (4, 0.2)):
        best = panel.identify(GradientDescent(steps, eta * unit), generator(2), draws=50)[0]
        assert best.family == f"gradient_descent_{steps}" and best.alike == () and best.probability == 1
        assert best.typical == pytest.approx(eta, rel=1e-5)  # of prompts and answers in single precision


@pytest.mark.parametrize("name", ["ridge", "gradient_descent_1", "gradient_descent_8", "one_pass_sgd", "landweber"])
@pytest.mark.parametrize("labels", [(), (2,)])
def test_answers_with_a_parameter_for_each_position_are_those_of_the_predictors(name, labels):
    family = next(each for each in LINEUP.families if each.name == name)
    xs, ys = prompts(30).xs, torch.randn(30, 9, *labels, generator=generator(3), dtype=torch.float64)
    values = parameters(family, [0.1, 0.9, 0.5, 0.5, 0.2, 0.7, 0.3, 0.6, 0.4])
    found = family.between(Spectra(xs, ys), values)
    torch.testing.assert_close(found, Scheduled(MAKE[name], values)(xs, ys), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(family.between(Spectra(xs, ys)[7:], values), found[7:])


# ---- minima --------------------------------------------------------------------------------------------------------


def curves(x):
    """A parabola, a quartic that is not even, one that is zero at its least, and two that fall to an end."""
    each = (1 + (x - 0.3) ** 2, 2 + (x - 0.6) ** 4 + x / 9, (x.exp() - 1.2) ** 2 * (9 * x).exp(), 1 + x, 3 - x**3)
    return torch.stack([f[k] for k, f in enumerate(each)])


def test_bounded_minima_are_those_of_a_library_and_ends_are_met_exactly():
    bracket = torch.tensor([[0.0] * 5, [0.25, 0.5, 0.25, 0.0, 1.0], [1.0] * 5], dtype=torch.float64)
    values = torch.stack([curves(points) for points in bracket])
    found = minima(curves, bracket, values, torch.zeros(5))
    for k in range(3):
        wanted = minimize_scalar(
            lambda x, k=k: curves(torch.full((5,), x)).tolist()[k], bounds=(0, 1), method="bounded"
        )
        assert found[k].item() == pytest.approx(wanted.x, abs=2e-3)  # where the value is least up to 1e-8
    assert found[2].item() == pytest.approx(torch.tensor(1.2).log().item(), abs=1e-7)
    assert found[3:].tolist() == [0.0, 1.0]


# ---- what is known, and what is not --------------------------------------------------------------------------------


def test_the_error_of_a_fitted_parameter_is_as_large_as_it_scatters():
    """Of 40 fits of one penalty the standard deviation is known to a ninth."""
    noise, fits = 0.3, []
    grid = torch.logspace(-2, 1, 9).double()
    (ridge,) = (replace(f, grid=grid, members=[]) for f in families(TASK) if f.name == "ridge")
    for seed in range(40):
        blur = noise * torch.randn(100, 9, generator=generator(100 + seed), dtype=torch.float64)
        panel = AlgorithmPanel(TASK, prompts(100, seed), [ridge])
        fits += panel.fit(lambda xs, ys, blur=blur: Ridge(0.4)(xs, ys) + blur)
    fitted, errors = (torch.stack([getattr(fit, name)[5] for fit in fits]) for name in ("fitted", "stderr"))
    assert 0.67 < errors.median() / fitted.std() < 1.5  # three of these
    assert (fitted.mean() - 0.4).abs() < 5 * fitted.std() / 40**0.5


def test_families_that_answer_the_same_share_the_probability_and_are_named():
    """In three dimensions averaging is one step of gradient descent with steps within the range, η = (i + 4) / i."""
    task = LinearRegression(3, 7)
    found = report(Averaging(), task, prompts(60, task=task), generator(), draws=40)
    best = found.whole[0]
    assert {best.family, *best.alike} == {"averaging", "gradient_descent_1"} and best.probability == 0.5
    assert "indistinguishable from" in str(best) and "indistinguishable from" in str(found).splitlines()[0]
    assert all(match.alike == () for match in found.whole[2:])


def test_families_that_few_prompts_do_not_separate_are_named_and_many_separate_them():
    """Between penalties 0.25 and 0.28, nearer to the first, under noise."""
    twins = [Family(f"ridge({lam})", "", torch.zeros(1), [Ridge(lam)]) for lam in (0.25, 0.28)]

    def nearest(batch, noise):
        blur = noise * torch.randn(batch, 9, generator=generator(5), dtype=torch.float64)
        return identify(lambda xs, ys: Ridge(0.26)(xs, ys) + blur, TASK, prompts(batch), generator(), twins)[0]

    assert len(nearest(40, 1.0).alike) == 1
    assert nearest(400, 1e-4).family == "ridge(0.25)" and nearest(400, 1e-4).alike == ()


def test_what_overflows_is_never_the_nearest():
    bad = [Family(f"bad {v}", "", torch.zeros(1), [lambda xs, ys, v=v: ys * v]) for v in (torch.nan, torch.inf)]
    grid = Family("mixed", "v", torch.tensor([1.0, 2.0]), [bad[0].members[0], Zero()])
    matches = identify(Ridge(0.5), TASK, prompts(40), generator(), [*bad, grid], draws=20)
    assert matches[0].family == "mixed" and matches[0].probability == 1 and matches[0].typical == 2.0
    assert all(match.probability == 0 for match in matches[1:])


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_answers_that_are_not_finite_are_refused_with_their_place():
    def broken(xs, ys):
        return ys.index_put((torch.tensor([7, 9]), torch.tensor([3, 5])), torch.tensor(torch.nan).double())

    where = r"answer is not finite in 2 of 40 prompts and 2 of 9 positions, first in prompt 7 at position 3"
    panel = AlgorithmPanel(
        TASK, prompts(40), [family for family in families(TASK) if family.name in ("newton", "landweber")]
    )
    for ask in (panel.distances, lambda f: panel.identify(f, generator())):
        with pytest.raises(ValueError, match=where):
            ask(broken)
    with pytest.raises(ValueError, match=r"match_iterations: the answer of layer 1 is not finite in 2 of 40 prompts"):
        match_iterations(panel, [Newton(1), broken, Newton(2)], generator())
    with pytest.raises(ValueError, match=r"unknown family 'newtn'\. Did you mean 'newton'"):
        match_iterations(panel, [Newton(1)], generator(), names=["newtn"])


def test_prompts_of_another_shape_and_broken_ones_are_refused_all_at_once():
    with pytest.raises(ValueError, match="prompts have 30 examples of 4 dimensions, and those of the task 9 of 4"):
        identify(Ridge(0.25), TASK, prompts(60, task=LinearRegression(4, 30, 0.5)), generator())
    drawn = prompts(10, task=LinearRegression(3, 9, 0.5))
    drawn.ys[2, 4] = torch.inf
    with pytest.raises(ValueError) as error:
        AlgorithmPanel(TASK, drawn)
    assert "given 10; prompts have 9 examples of 3 dimensions" in str(error.value)
    assert "a label is not finite in 1 of 10 prompts and 1 of 9 positions, first in prompt 2" in str(error.value)


KNOWN = FinitePool(LinearRegression(3, 7), 1)  # one weight vector without noise: Bayes knows every label


def test_an_excess_over_no_risk_is_refused_and_no_table_has_one():
    drawn = KNOWN.sample(60, generator(1))
    best = iclab.bayes(KNOWN)(drawn.xs, drawn.ys)
    with pytest.raises(
        ValueError, match=r"excess: the Bayes risk is zero here, and the squared distance .* is relative"
    ):
        excess(torch.zeros_like(best), best, drawn.ys)
    made = Experiment(KNOWN, TransformerConfig(n_layer=1, d_model=8), TrainingConfig(steps=1), Evaluation(prompts=64))
    assert set(ExampleMonitor.of(made, torch.device("cpu"))(Zero())) == {"risk"}
    rows = measure(made, made.initial())
    assert {"risk", "spd", "fit_distance"} <= {row["quantity"] for row in rows}
    assert not {"excess", "risk_ratio", "relative_spd"} & {row["quantity"] for row in rows}
    assert max(row["value"] for row in rows if row["quantity"] == "fit_distance") < 100


def test_without_noise_the_excess_over_all_positions_is_what_it_was_and_late_positions_are_relative_to_labels():
    task = LinearRegression(3, 12)
    drawn = task.sample(200, generator(1))
    best, ridge = (f(drawn.xs, drawn.ys) for f in (LeastSquares(), Ridge(0.1)))
    ratio = squared(ridge, best).mean() / squared(best, drawn.ys).mean()
    assert excess(ridge, best, drawn.ys).value.item() == pytest.approx(ratio.item())
    with pytest.raises(ValueError, match="Bayes risk is zero"):
        excess(ridge[:, 8:], best[:, 8:], drawn.ys[:, 8:])
    panel = AlgorithmPanel(task, drawn)
    whole, late = (panel.identify(Zero(), generator(), 20, part) for part in (None, slice(8, 12)))
    assert {match.scale for match in whole} == {"Bayes risk"} and {match.scale for match in late} == {
        "labels' mean square"
    }
    assert next(match for match in late if match.family == "least_squares").relative == pytest.approx(1, rel=1e-3)


def test_steps_at_the_end_of_what_was_tried_are_marked():
    task = LinearRegression(4, 9)
    chosen = [family for family in families(task) if family.name in ("newton", "landweber")]
    layers = [Newton(3), Newton(40)]
    newton, _ = match_iterations(AlgorithmPanel(task, prompts(100, task=task), chosen), layers, generator(), draws=20)
    assert newton.edges == ("", "≥") and newton.steps.value.tolist() == [3, 24]


def test_a_fit_to_what_is_not_finite_is_refused(monkeypatch):
    sample = LinearRegression.sample

    def broken(self, *args):
        drawn = sample(self, *args)
        drawn.ys[0, 1] = torch.nan
        return drawn

    monkeypatch.setattr(LinearRegression, "sample", broken)  # a label, and the features of the five prefixes with it
    with pytest.raises(ValueError, match="RidgeFit: features or labels are not finite in 6 of 35 examples"):
        RidgeFit(prompts=5).fit(LinearAttention(4, 7), LinearRegression(4, 7), generator())


# ---- from rows -----------------------------------------------------------------------------------------------------


def row(predictor, quantity, value, **place):
    base = {"distribution": "own", "predictor": predictor, "quantity": quantity, "layer": None, "position": None}
    return {**base, "value": value, "stderr": None, **place}


def test_a_table_tells_what_cannot_be_told_apart_the_scale_and_the_ends():
    rows = [
        row("bayes", "risk", 1e-15),
        row("bayes", "normalised_risk", 1e-15),
        *(row(name, "fit_distance", value) for name, value in (("averaging", 0.1), ("zero", 0.11), ("ridge", 0.9))),
        *(row(name, "fit_probability", value) for name, value in (("averaging", 0.8), ("zero", 0.2), ("ridge", 0.0))),
        row("newton", "fit_high", 24.0),
        row("newton", "matched_steps", 24.0, layer=0),
    ]
    findings = Findings(rows)
    assert next(findings.sentences()) == (
        "output: averaging, 10 % of the labels' mean square away; probability 0.8, "
        "indistinguishable from the zero predictor"
    )
    assert findings.iterations().body == [[0, "≥ 24", "", "", ""]]
