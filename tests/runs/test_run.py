"""One run from start to end: what it measures, and that a run cut short ends as if it had not been."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from iclab.analysis import ProbeRecipe, estimate, icl_risk
from iclab.commands import costs
from iclab.commands.bench import baselines, bench, devices, probes, quality, throughput
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.experiments.streams import STREAMS, experiment_generator, resolve
from iclab.learning.fitting import RidgeFit
from iclab.learning.graphs import MOST
from iclab.learning.pack import pack_trainings
from iclab.learning.training import Training, TrainingConfig
from iclab.measures import measure
from iclab.measures.monitor import curve
from iclab.measures.rows import fewer, regions
from iclab.models import LinearAttention, LinearAttentionConfig, Transformer, TransformerConfig
from iclab.predictors import LeastSquares, NearestNeighbours, Ridge, Zero
from iclab.runs.perform import perform
from iclab.tasks import (
    DecisionTree,
    FinitePool,
    HalfSubspace,
    LinearClassification,
    LinearRegression,
    NoiseMixture,
    NoisyLabels,
    OrthogonalQuery,
    RepeatedQuery,
    ScaledInputs,
    TruePrior,
    UnitNormal,
)
from iclab.theory.posterior import bayes

TASK = LinearRegression(2, 6, noise=0.5)
SMALL = Experiment(
    task=TASK,
    model=TransformerConfig(n_layer=1, n_head=1, d_model=8),
    train=TrainingConfig(steps=12, batch=4, warmup=0.2),
    eval=Evaluation(prompts=300, every=3, shifts=(("larger", ScaledInputs(TASK, 2.0)),)),
    device="cpu",
)


def silent(_):
    pass


def rows_by(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def value(rows, **wanted):
    (row,) = rows_by(rows, **{"distribution": "own", "position": None} | wanted)
    return row["value"]


@pytest.fixture(scope="module")
def untrained():
    """The rows of the small experiment before its first step."""
    return measure(SMALL, SMALL.initial())


def test_on_a_mixture_the_oracle_is_told_what_the_model_is_not():
    measured = Evaluation(prompts=2000, shifts=(("plain", TASK),))
    mixed = replace(SMALL, task=NoiseMixture(TASK, (0.1, 2.0)), eval=measured)
    rows = measure(mixed, mixed.initial())
    assert value(rows, predictor="oracle", quantity="risk") < value(rows, predictor="bayes", quantity="risk")
    assert (
        value(rows, predictor="oracle", quantity="risk_ratio")
        < 1
        < value(rows, predictor="half_split", quantity="risk_ratio")
    )
    assert not rows_by(rows, distribution="plain", predictor="oracle")


def test_a_run_cut_short_ends_with_the_same_rows_and_weights_as_an_uninterrupted_one(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    points, heard = [], []
    whole = perform(SMALL, tmp_path / "whole", points.append, silent)

    class Cut(Exception):
        pass

    def stop_at_nine(point):
        if point["step"] == 9:
            raise Cut  # before the checkpoint of step 9 is written: the run has to go back to step 6
        heard.append(point)

    with pytest.raises(Cut):
        perform(SMALL, tmp_path / "cut", stop_at_nine, silent)
    resumed = perform(SMALL, tmp_path / "cut", heard.append, silent)
    assert resumed == whole
    assert [p["step"] for p in heard] == [p["step"] for p in points] == [3, 6, 9, 12]
    timeless = [{k: v for k, v in p.items() if k != "seconds"} for p in heard]
    assert timeless == [{k: v for k, v in p.items() if k != "seconds"} for p in points]
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two


def test_rows_agree_with_what_they_are_measured_from(untrained):
    model, rows = SMALL.initial(), untrained
    prompts = TASK.sample(300, experiment_generator(SMALL, "test", distribution="own"))
    errors = (model(prompts.xs, prompts.ys) - prompts.ys).square()
    best = (bayes(TASK)(prompts.xs, prompts.ys) - prompts.ys).square()
    assert value(rows, predictor="transformer", quantity="risk") == pytest.approx(errors.mean().item(), rel=1e-5)
    for i in range(6):
        found = value(rows, predictor="transformer", quantity="risk", position=i)
        assert found == pytest.approx(errors[:, i].mean().item(), rel=1e-5)
    assert value(rows, predictor="bayes", quantity="excess") == 0
    assert value(rows, predictor="transformer", quantity="risk_ratio") == pytest.approx(
        (errors.mean() / best.mean()).item(), rel=1e-5
    )
    wide = replace(SMALL, task=LinearRegression(2, 9, noise=0.5), eval=Evaluation(prompts=300))
    over = value(measure(wide, wide.initial()), predictor="least_squares", quantity="risk", position="over")
    drawn = wide.task.sample(300, experiment_generator(wide, "test", distribution="own"))
    exact = (LeastSquares()(drawn.xs, drawn.ys) - drawn.ys)[:, 6:].square().mean().item()
    assert over == pytest.approx(exact, rel=1e-5)
    for row in rows:
        assert set(row) == {"distribution", "predictor", "quantity", "layer", "position", "value", "stderr"}
        assert np.isfinite(row["value"])
    assert {row["distribution"] for row in rows} == {"own", "larger"}


@pytest.mark.parametrize("position", [3, None])
def test_a_risk_is_told_in_units_of_the_labels_and_of_the_model(untrained, position):
    model, part = SMALL.initial(), slice(None) if position is None else slice(position, position + 1)
    rows = untrained
    prompts = TASK.sample(300, experiment_generator(SMALL, "test", distribution="own"))
    labels, learned, fit = (
        (f(prompts.xs, prompts.ys) - prompts.ys)[:, part].square().mean().item()
        for f in (lambda xs, ys: 0 * ys, model, LeastSquares())
    )
    found = value(rows, predictor="transformer", quantity="normalised_risk", position=position)
    assert found == pytest.approx(learned / labels, rel=1e-5)
    assert value(rows, predictor="zero", quantity="normalised_risk", position=position) == 1
    found = value(rows, predictor="least_squares", quantity="risk_over_transformer", position=position)
    assert found == pytest.approx(fit / learned, rel=1e-5)
    assert found != pytest.approx(learned / fit, rel=1e-2)
    assert not rows_by(rows, predictor="transformer", quantity="risk_over_transformer")


def test_classes_are_missed_as_often_as_signs_are_wrong_and_real_labels_have_no_classes():
    task = LinearClassification(2, 6)
    few = replace(SMALL, task=task, eval=Evaluation(prompts=200, shifts=(("real", LinearRegression(2, 6)),)))
    model = few.initial()
    rows = measure(few, model)
    prompts = task.sample(200, experiment_generator(few, "test", distribution="own"))
    said = {"transformer": model(prompts.xs, prompts.ys), "least_squares": LeastSquares()(prompts.xs, prompts.ys)}
    wrong = {name: ((f > 0) != (prompts.ys > 0)).double().mean().item() for name, f in said.items()}
    for name, share in wrong.items():
        assert value(rows, predictor=name, quantity="errors", distribution="own") == pytest.approx(share)
    ratio = value(rows, predictor="least_squares", quantity="errors_over_transformer", distribution="own")
    assert ratio == pytest.approx(wrong["least_squares"] / wrong["transformer"])
    assert rows_by(rows, predictor="transformer", quantity="errors_over_logistic", distribution="own")
    assert not rows_by(rows, quantity="errors", distribution="real")


def test_bands_hold_their_means_and_probabilities_sum_to_one(untrained):
    rows = untrained
    for i in range(6):
        low, mid, high = (
            value(rows, predictor="ridge", quantity=q, position=i) for q in ("risk_low", "risk", "risk_high")
        )
        assert low < mid < high
    shares = rows_by(rows, distribution="own", quantity="fit_probability", position=None)
    assert sum(row["value"] for row in shares) == pytest.approx(1)


def test_positions_are_averaged_in_regions_that_part_them_at_the_threshold():
    parts = {None: slice(17), "under": slice(2), "threshold": slice(2, 9), "over": slice(9, 17)}
    assert regions(LinearRegression(5, 17)) == parts
    assert regions(LinearRegression(1, 3)) == {None: slice(3), "threshold": slice(0, 3)}
    assert list(regions(LinearRegression(20, 5))) == [None, "under"]
    assert regions(HalfSubspace(LinearRegression(10, 17))) == parts
    assert regions(OrthogonalQuery(LinearRegression(6, 4))) == {None: slice(3, 4)}


def test_predictors_are_compared_over_fewer_examples_than_dimensions():
    """Akyürek et al. 2022 average over 1 to d − 1: not over none, where all predictors agree, and not over d."""
    assert fewer(LinearRegression(5, 17)) == {"fewer": slice(1, 5)}
    assert fewer(LinearRegression(20, 5)) == {"fewer": slice(1, 5)}
    assert fewer(LinearRegression(1, 3)) == {} == fewer(OrthogonalQuery(LinearRegression(6, 4)))
    assert fewer(LinearRegression(5, 17), query_only=True) == {}


def test_the_margin_over_fewer_examples_is_that_of_the_mean_distances(tmp_path):
    named = {"ols": LeastSquares(), "ridge_1_2": Ridge(0.5)}
    small = replace(SMALL, eval=replace(SMALL.eval, predictors=tuple(named.items())))
    rows = perform(small, tmp_path, lambda point: None, lambda line: None)
    part = range(*fewer(small.task)["fewer"].indices(small.task.n))

    def mean(quantity, name):
        return sum(value(rows, predictor=name, quantity=quantity, position=i) for i in part) / len(part)

    distances = {name: mean("spd", name) for name in named}
    for name, distance in distances.items():
        assert value(rows, predictor=name, quantity="spd", position="fewer") == pytest.approx(distance)
    margin = value(rows, predictor="ols", quantity="spd_margin", position="fewer")
    assert margin == pytest.approx(distances["ridge_1_2"] - distances["ols"])
    assert not rows_by(rows, quantity="risk", position="fewer")  # compared, and not judged


def test_a_model_whose_last_error_alone_counted_is_judged_by_its_last_answer(tmp_path):
    last = replace(SMALL, train=replace(SMALL.train, positions="last"), model=replace(SMALL.model, layout="encoder"))
    assert last.query_only and not SMALL.query_only
    rows = perform(last, tmp_path, lambda point: None, lambda line: None)
    at_the_end = last.task.n - 1
    mean, there = (value(rows, predictor="transformer", quantity="risk", position=i) for i in (None, at_the_end))
    assert mean == pytest.approx(there)
    assert {row["position"] for row in rows} == {None, *range(last.task.n)}


def test_least_squares_has_a_trustworthy_error_bar_over_the_threshold():
    """Of 60 estimates of one risk most lie within two of their standard errors, as they do not where i − d ≤ 3."""
    task, part, inside = LinearRegression(3, 12, noise=0.5), slice(7, 12), 0
    truth = [0.25 * (1 + 3 / (i - 3 - 1)) for i in range(7, 12)]  # σ² (1 + d / (i − d − 1))
    for seed in range(60):
        drawn = task.sample(500, torch.Generator().manual_seed(seed))
        found = estimate((LeastSquares()(drawn.xs, drawn.ys) - drawn.ys)[:, part].square().mean(-1))
        inside += abs(found.value - sum(truth) / 5) < 2 * found.stderr
    assert regions(task)["over"] == part
    assert inside >= 53


def test_a_task_without_a_known_bayes_predictor_is_measured_without_ratios(tmp_path):
    tree = replace(SMALL, task=DecisionTree(2, 6), eval=Evaluation(prompts=50, every=6))
    points = []
    rows = perform(tree, tmp_path, points.append, silent)
    assert all("excess" not in point and point["risk"] > 0 for point in points)
    assert not {"excess", "risk_ratio", "relative_spd"} & {row["quantity"] for row in rows}
    assert {"risk", "spd", "fit_distance"} <= {row["quantity"] for row in rows}


def test_every_number_is_finite_also_where_the_best_risk_is_zero():
    """Without noise and with d examples Bayes is exact: ratios to its risk say nothing there and are left out."""
    exact = replace(SMALL, task=LinearRegression(2, 9), eval=replace(ANALYSED.eval, prompts=64))
    rows = measure(exact, exact.initial())
    assert all(np.isfinite(row["value"]) for row in rows)
    assert all(row["stderr"] is None or np.isfinite(row["stderr"]) for row in rows)
    ratios = {row["position"] for row in rows if (row["predictor"], row["quantity"]) == ("zero", "risk_ratio")}
    assert ratios == {0, 1, None, "threshold"}


def test_streams_of_randomness_are_apart_and_belong_to_the_seed():
    first = {name: torch.rand(3, generator=experiment_generator(SMALL, name)).tolist() for name in STREAMS}
    again = {name: torch.rand(3, generator=experiment_generator(SMALL, name)).tolist() for name in STREAMS}
    other = {
        name: torch.rand(3, generator=experiment_generator(replace(SMALL, seed=1), name)).tolist() for name in STREAMS
    }
    assert first == again
    assert len({tuple(draw) for draw in [*first.values(), *other.values()]}) == 2 * len(STREAMS)


def test_the_curve_is_measured_on_other_prompts_than_the_end():
    curve, test = (TASK.sample(4, experiment_generator(SMALL, name)).xs for name in ("curve", "test"))
    assert not torch.equal(curve, test)


def test_the_curve_counts_every_step_once():
    training = Training(SMALL.initial(), TASK, SMALL.train, experiment_generator(SMALL, "train"))
    points = list(curve(SMALL, training))
    assert [p["step"] for p in points] == [3, 6, 9, 12] and all(p["steps"] == 12 for p in points)
    assert all(np.isfinite(p["loss"]) and p["excess"] > 0 for p in points)


def test_measuring_one_distribution_does_not_depend_on_another_or_on_the_bootstrap(untrained):
    alone = measure(replace(SMALL, eval=replace(SMALL.eval, bootstrap=7, shifts=())), SMALL.initial())
    steady = ("risk", "spd", "excess")
    own = [row for row in untrained if row["distribution"] == "own" and row["quantity"] in steady]
    assert own == [row for row in alone if row["quantity"] in steady]


def test_a_shift_is_compared_with_its_own_bayes_and_with_what_the_model_was_trained_to_be():
    noisier = replace(SMALL, eval=Evaluation(prompts=2000, shifts=(("noisier", NoisyLabels(TASK, 2.0)),)))
    rows = measure(noisier, SMALL.initial())
    risks = {n: value(rows, distribution="noisier", predictor=n, quantity="risk") for n in ("bayes", "trained_bayes")}
    assert risks["bayes"] < 0.99 * risks["trained_bayes"]
    assert not rows_by(rows, distribution="own", predictor="trained_bayes")
    families = {row["predictor"] for row in rows_by(rows, distribution="noisier", quantity="fit_distance")}
    assert "trained_bayes" in families and "ridge" in families


def test_a_shift_of_the_query_is_averaged_over_the_query_alone():
    shifted = replace(SMALL, eval=Evaluation(prompts=50, shifts=(("repeated", RepeatedQuery(TASK)),)))
    rows = measure(shifted, SMALL.initial())
    asked = {"distribution": "repeated", "predictor": "transformer", "quantity": "risk"}
    whole, last, other = (value(rows, **asked, **at) for at in ({}, {"position": 5}, {"position": 4}))
    assert whole == pytest.approx(last, rel=1e-12)
    assert whole != pytest.approx(other, rel=1e-3)


def test_analyses_that_cannot_be_made_are_refused_before_training():
    with pytest.raises(ValueError, match=r"'layers' needs eval.prompts of 20 or more, given 10"):
        replace(SMALL, eval=Evaluation(prompts=10, analyses=("layers",)))
    refused = "'attention_probes' looks for weights of linear functions; DecisionTree has none"
    with pytest.raises(ValueError, match=refused):
        replace(SMALL, task=DecisionTree(2, 6), eval=Evaluation(analyses=("attention_probes",)))


def test_a_task_whose_bayes_predictor_is_not_known_says_why_in_the_log(tmp_path):
    lines = []
    perform(replace(SMALL, task=DecisionTree(2, 6), eval=Evaluation(prompts=30)), tmp_path, silent, lines.append)
    assert any("no Bayes predictor: no closed form" in line for line in lines)


def test_auto_means_the_gpu_where_there_is_one():
    assert resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve("cpu").type == "cpu"
    with pytest.raises(ValueError, match=r"cuda:99 is requested, and torch finds \d+ CUDA devices"):
        resolve("cuda:99")


# ---- named predictors ----------------------------------------------------------------------------------------------

NAMED = (("ols", LeastSquares()), ("firm", Ridge(0.25)), ("firmer", Ridge(1.0)), ("near", NearestNeighbours(2)))
LONG = replace(SMALL, task=LinearRegression(5, 12, noise=0.5), eval=Evaluation(prompts=400, predictors=NAMED))


def test_a_named_predictor_is_measured_like_every_reference():
    """Ridge with the right penalty is the reference "ridge" under another name: the same rows but for that name."""
    rows = measure(replace(LONG, eval=replace(LONG.eval, analyses=("weights",))), LONG.initial())
    for quantity in ("risk", "spd", "excess", "risk_ratio", "relative_spd", "ilwd"):
        mine, known = (rows_by(rows, predictor=name, quantity=quantity) for name in ("firm", "ridge"))
        assert mine and [{**row, "predictor": "ridge"} for row in mine] == known
    assert rows_by(rows, predictor="near", quantity="spd")
    assert not rows_by(rows, predictor="near", quantity="ilwd")  # it has no weights of its own


def test_named_predictors_change_no_other_number():
    model = LONG.initial()
    plain = measure(replace(LONG, eval=replace(LONG.eval, predictors=())), model)
    added = measure(LONG, model)
    drawn = ("fit_probability",)  # resampled after the bands, of which there are now more
    rows = [r for r in added if r["predictor"] not in dict(NAMED) and r["quantity"] not in drawn]
    assert rows == [r for r in plain if r["quantity"] not in drawn]


def answering(predictor):
    """A model that is a closed form."""
    model = LONG.initial()
    model.forward = predictor.__call__
    return model


def margins_of(model, experiment=LONG):
    """spd_margin by region and name."""
    rows = [row for row in measure(experiment, model) if row["quantity"] == "spd_margin"]
    return {
        region: {r["predictor"]: r for r in rows_by(rows, position=region)} for region in {r["position"] for r in rows}
    }


@pytest.mark.parametrize("truth", dict(NAMED))
def test_the_margin_is_positive_for_what_the_model_is_and_negative_for_all_others(truth):
    found = margins_of(answering(dict(NAMED)[truth]))
    assert found.keys() == {None, "fewer", "under", "threshold", "over", *range(12)}
    regional = {region: by_name for region, by_name in found.items() if not isinstance(region, int)}
    for row in (row for by_name in regional.values() for row in by_name.values()):
        assert (row["value"] > 0) is (row["predictor"] == truth)
        doubt = (
            3 if row["position"] in ("fewer", "under", "over") else 0
        )  # least squares has no variance at the threshold
        assert abs(row["value"]) > doubt * row["stderr"]


def test_the_margin_is_that_of_the_nearest_other_with_the_error_of_the_pairs():
    model = answering(Ridge(0.5))
    prompts = LONG.task.sample(400, experiment_generator(LONG, "test", distribution="own"))
    learned = Ridge(0.5)(prompts.xs, prompts.ys).double()
    distance = {k: (f(prompts.xs, prompts.ys).double() - learned)[:, 9:].square().mean(-1) for k, f in NAMED}
    nearest = sorted(distance, key=lambda k: distance[k].mean())
    found = margins_of(model)["over"]
    for name in distance:
        rival = nearest[0] if name != nearest[0] else nearest[1]
        pairs = distance[rival] - distance[name]
        assert found[name]["value"] == pytest.approx(pairs.mean().item(), rel=1e-5)
        assert found[name]["stderr"] == pytest.approx(pairs.std().item() / 20, rel=1e-5)


def test_predictors_that_cannot_be_told_apart_have_a_margin_within_its_error():
    """The model is half way between two: neither is nearer."""
    low, high = Ridge(0.25), Ridge(1.0)

    class Between(Zero):
        def __call__(self, xs, ys):
            return (low(xs, ys) + high(xs, ys)) / 2

    for row in margins_of(answering(Between()))["under"].values():
        assert row["predictor"] not in ("firm", "firmer") or row["value"] == pytest.approx(0, abs=1e-9)


def test_there_is_no_margin_of_a_predictor_that_is_named_alone():
    alone = replace(LONG, eval=replace(LONG.eval, predictors=NAMED[:1]))
    assert margins_of(LONG.initial(), alone) == {}


# ---- closed form ---------------------------------------------------------------------------------------------------

POOL = FinitePool(LinearRegression(3, 7, noise=0.1, inputs=UnitNormal()), 9)
FITTED = Experiment(
    task=POOL,
    model=LinearAttentionConfig(),
    train=RidgeFit(prompts=40, positions="last"),
    eval=Evaluation(prompts=50, shifts=(("new", TruePrior(POOL)),)),
    device="cpu",
)


def test_a_closed_form_run_has_weights_and_rows_and_no_curve(tmp_path):
    points, lines = [], []
    rows = perform(FITTED, tmp_path, points.append, lines.append)
    assert points == [] and not (tmp_path / "checkpoint.safetensors").exists()
    assert any("fitted 12 parameters to 40 labels" in line for line in lines)
    model = LinearAttention(3, 7)
    model.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert measure(FITTED, model) == rows == perform(FITTED, tmp_path, points.append, silent)
    assert all(np.isfinite(row["value"]) for row in rows)


def test_a_model_fitted_at_its_last_position_is_averaged_there(tmp_path):
    rows = perform(FITTED, tmp_path, silent, silent)
    asked = {"predictor": "transformer", "quantity": "risk"}
    assert value(rows, **asked) == value(rows, **asked, position=6) != value(rows, **asked, position=5)
    everywhere = replace(FITTED, train=replace(FITTED.train, positions="all"))
    rows = perform(everywhere, tmp_path, silent, silent)
    assert value(rows, **asked) == pytest.approx(np.mean([value(rows, **asked, position=i) for i in range(7)]))


def test_the_limit_of_the_theory_and_the_gap_to_it_are_rows(tmp_path):
    rows = perform(FITTED, tmp_path, silent, silent)
    found = {name: value(rows, distribution="new", predictor=name, quantity="exact_risk") for name in THEORY}
    assert found["asymptotic_theory"] == icl_risk(40 / 9, 2, 3, 0.1**2)
    gap = value(rows, distribution="new", predictor="transformer", quantity="theory_gap")
    assert gap == pytest.approx(found["transformer"] / found["asymptotic_theory"] - 1)
    drawn = TruePrior(POOL).sample(100_000, torch.Generator().manual_seed(0))
    model = FITTED.initial()
    model.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    sampled = (model(drawn.xs, drawn.ys) - drawn.ys)[:, -1].square()
    assert found["transformer"] == pytest.approx(sampled.mean().item(), abs=5 * sampled.std().item() / 100_000**0.5)
    assert not rows_by(rows, distribution="own", quantity="theory_gap")
    assert not rows_by(perform(SMALL, tmp_path, silent, silent), quantity="exact_risk")


THEORY = ("transformer", "asymptotic_theory")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": TransformerConfig()}, "RidgeFit needs a model that is linear in its parameters"),
        ({"eval": Evaluation(analyses=("layers",))}, "'layers' cannot be made: LinearAttentionConfig has no layers"),
        ({"eval": Evaluation(analyses=("probes",))}, "'probes' cannot be made: LinearAttentionConfig has no layers"),
        ({"eval": Evaluation(analyses=("evolution",))}, "'evolution' cannot be made: RidgeFit has no training curve"),
    ],
)
def test_combinations_that_cannot_work_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        replace(FITTED, **changes)


def test_implicit_weights_of_linear_attention_are_linear_in_the_query(tmp_path):
    asked = replace(FITTED, eval=Evaluation(prompts=50, analyses=("weights",)))
    rows = perform(asked, tmp_path, silent, silent)
    straight = [row["value"] for row in rows_by(rows, quantity="linearity") if row["position"]]
    assert straight and min(straight) > 0.999


# ---- analyses ------------------------------------------------------------------------------------------------------

ANALYSED = replace(
    SMALL, eval=replace(SMALL.eval, shifts=(), analyses=("weights", "layers", "iterations", "probes", "evolution"))
)


def test_analyses_add_their_rows_and_change_no_other():
    model = SMALL.initial()
    plain = measure(replace(ANALYSED, eval=replace(ANALYSED.eval, analyses=())), model)
    rows = measure(ANALYSED, model)
    added = [row for row in rows if row not in plain]
    assert [row for row in rows if row in plain] == plain
    assert {row["quantity"] for row in added} == {
        *(
            "ilwd",
            "weight_cosine",
            "linearity",
            "label_r2",
            "fit_distance",
            "fit_probability",
            "fit_distance_at",
            "fit_parameter",
        ),
        *("matched_steps", "sime", "sime_lead", "total_steps", "working_layers", "steps_per_working_layer"),
        *("probe_r2", "probe_r2_untrained", "probe_r2_bare"),
    }
    assert {row["layer"] for row in added if row["quantity"] == "fit_distance"} == {0, 1}
    assert {row["predictor"] for row in added if row["quantity"] == "probe_r2"} == {
        "moment",
        "least_squares",
        "ridge",
        "w",
        "prediction",
    }
    assert all(np.isfinite(row["value"]) for row in added)


def test_the_last_layer_read_out_is_near_what_the_model_is_near():
    rows = measure(ANALYSED, SMALL.initial())
    near = {r["predictor"]: r["value"] for r in rows_by(rows, quantity="fit_distance", position=None, layer=0)}
    assert min(near, key=near.get) == "zero"  # the embedding of x_i alone says nothing of y_i


def test_the_evolution_is_followed_at_powers_of_two():
    training = Training(ANALYSED.initial(), TASK, ANALYSED.train, experiment_generator(ANALYSED, "train"))
    points = list(curve(ANALYSED, training))
    assert [p["step"] for p in points] == [1, 2, 3, 4, 6, 8, 9, 12]
    assert all({"ridge", "zero", "gradient_descent_1"} <= set(p["distances"]) for p in points)
    assert all(list(p["distances"].values()) == sorted(p["distances"].values()) for p in points)
    assert [p["step"] for p in points if "probes" in p] == [1, 2, 4, 8]
    targets = {"moment", "least_squares", "ridge", "w", "prediction"}
    assert all(p["probes"].keys() == targets for p in points if "probes" in p)
    assert all(len(by_layer) == 2 for p in points for by_layer in p.get("probes", {}).values())
    plain = replace(ANALYSED, eval=replace(ANALYSED.eval, analyses=("evolution",)))
    unprobed = list(curve(plain, Training(plain.initial(), TASK, plain.train, experiment_generator(plain, "train"))))
    assert not any("probes" in p for p in unprobed)


def test_where_all_prompts_have_one_w_the_curve_has_no_r2_of_it(tmp_path):
    pool = replace(ANALYSED, task=FinitePool(TASK, size=1))
    training = Training(pool.initial(), pool.task, pool.train, experiment_generator(pool, "train"))
    probed = next(curve(pool, training))["probes"]
    assert "w" not in probed and "moment" in probed


def test_probes_that_attend_are_measured_where_they_are_asked_for():
    asked = replace(SMALL.eval, shifts=(), analyses=("attention_probes",), probe=ProbeRecipe(width=4, steps=2))
    rows = measure(replace(SMALL, eval=asked), SMALL.initial())
    assert {"attention_probe_mlp", "attention_probe_mlp_bare", "attention_probe_gain"} <= {r["quantity"] for r in rows}


# ---- bench ---------------------------------------------------------------------------------------------------------


def test_the_baselines_that_are_timed_give_the_same_answers():
    rows = list(baselines(batch=64, n=6, d=3, rounds=1))
    assert {row["way"].split(",")[0] for row in rows} == {"ours", "per prefix", "per prompt and prefix"}
    assert all(row["difference"] < 1e-9 for row in rows)
    assert all(row["ms"] > 0 for row in rows)


def test_the_probes_that_are_timed_are_those_of_scikit_learn():
    rows = list(probes(prompts=64, n=4, d=2, rounds=1))
    assert [row["way"].split(",")[0] for row in rows] == ["ours", "per layer and position"]
    assert all(row["difference"] < 1e-8 and row["ms"] > 0 for row in rows)


def test_throughput_covers_every_layout_attention_and_width():
    rows = list(throughput(d=2, n=3, batch=2, rounds=1))
    assert len(rows) == 27 and all(row["prompts per second"] > 0 for row in rows)
    own = [row for row in rows if (row["layout"], row["attention"]) == ("interleaved", "softmax")]
    assert all(row["times the papers'"] == 1 for row in own)


def test_steps_are_timed_on_every_device_of_the_machine():
    rows = list(devices(d=2, n=3, batches=(2,), rounds=1))
    assert [row["width"] for row in rows if row["device"] == "cpu"] == [64, 256]
    assert {row["device"].split(",")[0] for row in rows} == {"cpu"} | ({"cuda"} if torch.cuda.is_available() else set())
    assert all(row["times the CPU"] == 1 for row in rows if row["device"] == "cpu float32")


def test_the_parts_of_a_step_are_timed_with_their_operations_and_the_roofline():
    rows = list(costs.steps(d=2, n=3, rounds=1, recipes=["fast"], size=64))
    assert [row["recipe"] for row in rows] == ["fast", "fast, muon"]
    for row in rows:
        shares = [int(row[part].rstrip("%")) for part in ("sampling", "forward", "backward", "update")]
        assert 98 <= sum(shares) <= 102 and row["waits"] == 2 and row["ops"] > 100
        assert row["waits in a row"] == 0
        assert all(row[name] > 0 for name in ("ms", "GFLOP/s", "machine GFLOP/s", "machine GB/s", "roofline ms"))
    assert rows[1]["ops"] > rows[0]["ops"]


def test_steps_in_a_row_are_timed_beside_steps_taken_one_by_one():
    def pack():
        return pack_trainings([costs.of_recipe("fast", 2, 3, steps=200, warmup=0.1 * i) for i in range(2)])

    for make in (lambda: costs.of_recipe("fast", 2, 3), pack):
        alone, rows = make(), make()
        rows.replay = rows.replayed()  # called, for there is no graph here
        found = costs.in_turns(alone, rows, rounds=1)
        assert found["GPU ms eager"] > 0 and found["GPU ms graph"] == "no graph"
        steps = [[one.step for one in getattr(each, "trainings", (each,))] for each in (alone, rows)]
        assert steps[0] == [2 * MOST] * len(steps[0]) and steps[1] == [3 * MOST] * len(steps[1])


def test_operations_that_compute_are_counted_and_views_are_not():
    a = torch.ones(8, 4)
    with costs.Counter() as counted:
        a.mT.view(4, 2, 4)[0].unsqueeze(0)
        assert counted.ops == counted.bytes == 0
        a.add_(a + 1)
        assert counted.ops == 2 and counted.bytes == 4 * (2 * 32 + 3 * 32) and counted.waits == 0
        float(a.sum())
    assert counted.waits == 1


def test_a_compiled_step_is_timed_beside_a_plain_one_also_where_nothing_can_be_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *given, **named: lambda *prompts: 1 / 0)
    (row,) = costs.compiled(d=2, n=3, rounds=1, recipes=["fast"])
    assert row["compiled"].startswith("no") and row["difference"] == 0 and row["ms compiled"] > 0


def test_engines_are_timed_by_sweeps_of_tiny_runs(monkeypatch):
    asked = []
    monkeypatch.setattr(costs, "_sweep", lambda folder, engine, runs: asked.append((engine, runs)) or 2.0 + runs)
    rows = list(costs.engines(runs=3))
    assert rows[0] == {"engine": "local", "seconds for 1 run": 3.0, "for 3": 5.0, "for a further run": 1.0}
    assert asked[:2] == [("local", 1), ("local", 3)]


@pytest.mark.slow
def test_a_sweep_of_tiny_runs_goes_through(tmp_path):
    assert costs._sweep(tmp_path, "local", 2) > 0


def test_a_part_of_the_bench_that_is_not_there_is_refused_with_its_name():
    with pytest.raises(ValueError, match="unknown part 'stepp'"):
        bench(1.0, parts=["stepp"])


def test_a_race_reports_what_it_did_not_reach():
    (row,) = quality(budget=0.2, contests=[("garg2022_tiny", 2, 3, {})])
    assert row["1%"] == row["10%"] == "not reached"
    assert row["seconds"] >= 0.2 and row["steps"] > 0 and row["end"] > 0.1


def test_a_saved_run_is_a_transformer_that_loads(tmp_path):
    perform(SMALL, tmp_path, silent, silent)
    model = Transformer.load(tmp_path / "weights.safetensors")
    assert model.config == SMALL.model and (model.d, model.n) == (2, 6)
