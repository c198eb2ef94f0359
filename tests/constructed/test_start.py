"""Constructions are ordinary models: a run starts from one, measures it, trains it, and says how far it went."""

from dataclasses import replace

import pytest
import torch

import iclab
from iclab.analysis import answer
from iclab.commands.sweep import sweep
from iclab.commands.terminal import console
from iclab.constructed import Start
from iclab.constructed.start import Akyurek2022Descent, Akyurek2022Ridge, Bai2023, Fu2023, VonOswald2022, shape
from iclab.experiments import config
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.experiments.study import Study
from iclab.learning.training import TrainingConfig
from iclab.measures import measure
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import GradientDescent, Ridge, StochasticGradientDescent
from iclab.predictors.prefixes import moments
from iclab.runs.engine import Engine
from iclab.runs.engines import Site
from iclab.runs.perform import perform
from iclab.tasks import LinearRegression, Uniform
from tests.conftest import generator
from tests.runs.test_reuse import Here

TASK = LinearRegression(2, 5, noise=0.1, inputs=Uniform())
GD = VonOswald2022(steps=2, lr=0.2)


def newton(xs, ys, steps=3, first=0.02):
    """Newton's iteration on every prefix, from M_0 = first·S."""
    S, h = moments(xs.double(), ys.double())
    M = first * S
    for _ in range(steps):
        M = 2 * M - M @ S @ M
    return ((M @ h.unsqueeze(-1)).squeeze(-1) * xs).sum(-1)


SPECIFIED = {
    "von Oswald": (GD, GradientDescent(2, 0.2), 1e-5),
    "Bai": (Bai2023(steps=2, lr=0.2), GradientDescent(2, 0.2 / torch.tensor([1.0, 1, 2, 3, 4])), 1e-5),
    "Fu": (Fu2023(steps=3, first=0.02), newton, 1e-5),
    "Akyürek, descent": (Akyurek2022Descent(lr=0.1, largest_x=1.0), StochasticGradientDescent(0.1), 2e-3),
    "Akyürek, ridge": (Akyurek2022Ridge(lam=2.0, largest_x=1.0, largest_y=3.0), Ridge(2.0), 0.05),
}


def untrained(start, model=None, **changes):
    return Experiment(
        TASK, model or shape(start.construction, TASK.d, TASK.n), TrainingConfig(steps=0), start=start, **changes
    )


def value(rows, predictor, quantity):
    """The value of the whole model, over all positions."""
    wanted = {"predictor": predictor, "quantity": quantity, "position": None, "layer": None}
    (row,) = [row for row in rows if all(row[key] == entry for key, entry in wanted.items())]
    return row["value"]


@pytest.mark.parametrize("name", SPECIFIED)
def test_a_model_that_starts_from_a_construction_is_its_algorithm_in_float32(name):
    construction, algorithm, tolerance = SPECIFIED[name]
    model = untrained(Start(construction=construction)).initial()
    assert type(model) is Transformer and next(model.parameters()).dtype == torch.float32
    prompts = TASK.sample(64, generator(3))
    said = answer({"model": model, "algorithm": algorithm}, prompts)
    assert (said["model"] - said["algorithm"]).abs()[:, -1].max() < tolerance
    assert said["model"].abs().max() > 0.1


def test_no_steps_measure_the_construction_as_it_is(tmp_path):
    named = Evaluation(64, bootstrap=5, predictors=(("gd", GradientDescent(2, 0.2)),), constructions=(("by_hand", GD),))
    points = []
    rows = perform(untrained(Start(construction=GD), eval=named), tmp_path, points.append, lambda line: None)
    assert not points
    assert value(rows, "by_hand", "weight_distance") == 0
    assert value(rows, "by_hand", "spd") == 0
    assert value(rows, "gd", "spd") < 1e-10
    other = untrained(Start(construction=replace(GD, lr=0.3)), eval=named)
    rows = measure(other, other.initial())
    assert value(rows, "by_hand", "weight_distance") > 0.3
    assert value(rows, "gd", "spd") > 1e-4


def test_training_moves_the_weights_and_resumes_from_what_it_reached(tmp_path):
    experiment = replace(untrained(Start(construction=GD)), train=TrainingConfig(steps=4, batch=8))
    perform(replace(experiment, eval=Evaluation(24, bootstrap=5)), tmp_path, lambda point: None, lambda line: None)
    moved = Transformer.load(tmp_path / "weights.safetensors")
    start = experiment.initial()
    assert (moved.attention(0).out.weight - start.attention(0).out.weight).abs().max() > 1e-4
    lines = []
    perform(replace(experiment, eval=Evaluation(24, bootstrap=5)), tmp_path, lambda point: None, lines.append)
    assert any("continues at step 4" in line for line in lines)
    again = Transformer.load(tmp_path / "weights.safetensors")
    assert torch.equal(again.attention(0).out.weight, moved.attention(0).out.weight)


def test_a_perturbation_adds_so_many_times_what_the_model_would_have_started_from():
    experiment = untrained(Start(construction=GD))
    alone, drawn = experiment.initial(), replace(experiment, start=None).initial()
    both = untrained(Start(construction=GD, perturbation=0.25)).initial()
    for a, b, c in zip(alone.parameters(), drawn.parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(c, a + 0.25 * b)
        assert not torch.equal(a, c)


def test_gains_of_layer_norm_are_not_perturbed():
    ridge = SPECIFIED["Akyürek, ridge"][0]
    alone, both = (untrained(Start(construction=ridge, perturbation=p)).initial() for p in (0.0, 0.5))
    assert torch.equal(alone.norm.weight, both.norm.weight)
    assert not torch.equal(alone.read_in.weight, both.read_in.weight)


def test_a_start_is_part_of_the_id_and_its_absence_is_not():
    plain = Experiment(TASK, shape(GD, TASK.d, TASK.n))
    assert "start" not in plain.mapping() and "constructions" not in plain.mapping()["eval"]
    ids = {replace(plain, start=Start(construction=GD, perturbation=p)).id for p in (0.0, 0.1)} | {plain.id}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("construction", "model", "message"),
    [
        (GD, TransformerConfig(), "VonOswald2022 needs model.n_layer = 2, given 4"),
        (GD, TransformerConfig(n_layer=2), "needs model.layout = encoder, given lagged"),
        (VonOswald2022(steps=0, lr=0.1), TransformerConfig(), "steps must be at least 1, given 0"),
        (Bai2023(lr=-1.0), shape(Bai2023(lr=1.0), 2, 5), "lr must be positive and finite, given -1.0"),
        (Akyurek2022Ridge(lam=1e-4), TransformerConfig(n_layer=17), "errors could reach"),
        (Akyurek2022Ridge(lam=1.0, norm=False), TransformerConfig(n_layer=17), "norm must be true"),
    ],
)
def test_what_is_not_of_the_constructions_shape_or_no_construction_is_refused(construction, model, message):
    with pytest.raises(ValueError, match=message):
        untrained(Start(construction=construction), model)
    with pytest.raises(ValueError, match=rf"eval.constructions.one: .*{message}"):
        Experiment(TASK, model, eval=Evaluation(constructions=(("one", construction),)))


def test_strengths_and_names_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="perturbation must be at least 0 and finite, given -1"):
        Start(construction=GD, perturbation=-1.0)
    with pytest.raises(ValueError, match="a construction needs a name of letters, digits, - and _, given 'a b'"):
        Evaluation(constructions=(("a b", GD),))
    with pytest.raises(ValueError, match="'one' is that of a predictor and of a construction"):
        Evaluation(predictors=(("one", GradientDescent(1, 0.1)),), constructions=(("one", GD),))
    with pytest.raises(ValueError, match="'ridge' is that of a reference"):
        Experiment(TASK, shape(GD, 2, 5), eval=Evaluation(constructions=(("ridge", GD),)))


FILE = """
title = "t"
question = "q"
paper = "p"
[task]
kind = "LinearRegression"
d = 2
n = 5
[start.construction]
kind = "VonOswald2022"
steps = 2
lr = 0.2
[train]
steps = 0
[eval]
prompts = 24
bootstrap = 5
analyses = ["layers", "evolution", "probes", "descent"]
constructions = { gd = { kind = "VonOswald2022", steps = 2, lr = 0.2 } }
"""


def read(tmp_path, text, *settings):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return Study.read(path, settings)


def test_what_the_model_leaves_out_is_the_constructions(tmp_path):
    for text in (FILE, FILE + "[model]\ninit_scale = 1.0\n"):
        (cell,) = read(tmp_path, text).cells
        assert cell.experiment.model == shape(GD, 2, 5)
    for text, message in {
        FILE + "[model]\nn_head = 2\nd_head = 4\n": "start.construction: VonOswald2022 needs model.n_head = 1, given 2",
        FILE + "[model]\nn_layer = 1000\n": "needs model.n_layer = 2, given 1000",
        FILE + "[model]\nn_layer = 1000000\n": "n_layer must be at most 1024, given 1000000",
        FILE.replace("steps = 2\nlr", "step = 2\nlr"): "unknown key 'start.construction.step'",
        FILE.replace("VonOswald2022", "VonOswald2023", 1): "Did you mean 'VonOswald2022'?",
    }.items():
        with pytest.raises(ValueError, match=message):
            read(tmp_path, text)


@pytest.mark.parametrize("engine", [Here, pytest.param(Engine, marks=pytest.mark.slow)], ids=["here", "workers"])
def test_a_sweep_sets_a_construction_beside_a_random_start(tmp_path, monkeypatch, engine):
    monkeypatch.setattr("iclab.commands.sweep.Engine", engine)
    bare = config.dump({"model": config.to_mapping(shape(GD, 2, 5))})
    start = 'start = ["none", { construction = { kind = "VonOswald2022", steps = 2, lr = 0.2 } }]'
    study = read(tmp_path, f"{FILE}\n{bare}\n[sweep]\n{start}\n")
    assert [cell.experiment.start is None for cell in study.cells] == [True, False]
    outcomes, _ = sweep(study, tmp_path / "runs", Site(jobs=1), False, console())
    assert {status.state for status in outcomes.values()} == {"done"}
    table = iclab.load(tmp_path / "runs")
    far = table[table.quantity == "weight_distance"].set_index("start.construction.kind").value
    assert far["VonOswald2022"] == 0 and far.drop("VonOswald2022").item() > 0.5
    layers = table[(table.quantity == "fit_distance") & table.layer.notna()]
    assert set(layers.layer) == {0, 1, 2}
