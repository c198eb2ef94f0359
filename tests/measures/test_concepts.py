"""Token probes in experiments: their targets, rows that say what they are called, and mixtures judged by component."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import iclab
from iclab.analysis import TokenProbe
from iclab.analysis.layers.concepts import concepts
from iclab.analysis.layers.token_probes import split
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.measures import measure
from iclab.measures.token_probes import between, half_way, token_probe_rows
from iclab.models import Transformer, TransformerConfig
from iclab.tasks import DynamicalSystem, LinearRegression, OneOf, RepresentationMixture, RepresentationRegression
from iclab.tasks.features import Representation
from tests.conftest import generator

TASK = RepresentationRegression(3, 6, 0.2, representation=Representation(width=4, depth=3))
MIXTURE = RepresentationMixture(TASK, 2)
MOVING = DynamicalSystem(3, 6, 0.2, representation=Representation(width=4), window=2)
SHAPE = TransformerConfig(n_layer=2, n_head=2, d_model=16, d_mlp=16, layout="interleaved", attention="softmax")


def found(task, batch=64):
    drawn = task.sample(batch, generator(), torch.float64)
    return drawn, concepts(task, drawn)


def test_targets_of_a_representation_are_its_layers_and_the_answer_of_ridge_on_it():
    drawn, targets = found(TASK)
    layers = {"layer_1", "layer_2", "unrelated_layer_1", "unrelated_layer_2"}
    assert set(targets.of_inputs) == {"x", "unrelated", "representation", *layers}
    assert targets.predecessors == {"layer_2": "layer_1", "representation": "layer_2"}
    fs = TASK.representation(drawn.xs)
    torch.testing.assert_close(targets.of_inputs["representation"], fs)
    last = torch.nn.functional.leaky_relu(
        targets.of_inputs["layer_2"] @ TASK.representation.weights(3)[2].mT, TASK.representation.slope
    )
    torch.testing.assert_close(last / last.norm(dim=-1, keepdim=True), fs)
    assert not torch.allclose(targets.of_inputs["unrelated"], fs, atol=0.1)
    bayes = iclab.bayes(TASK)(drawn.xs, drawn.ys)
    torch.testing.assert_close(targets.answers["bayes"].squeeze(-1), bayes)


def test_targets_of_a_dynamical_system_are_past_states_and_representations():
    drawn, targets = found(MOVING)
    fs = MOVING.features(drawn.xs)
    present = {"x", "unrelated", "representation"}
    assert set(targets.of_inputs) == present | {f"{name}_{j}" for name in present for j in (1, 2)}
    for j in (1, 2):
        unrelated, before = targets.of_inputs[targets.controls[f"representation_{j}"]], targets.of_inputs["unrelated"]
        torch.testing.assert_close(unrelated[:, j:], before[:, :-j])
        torch.testing.assert_close(targets.of_inputs[f"x_{j}"][:, j:], drawn.xs[:, :-j])
        torch.testing.assert_close(targets.of_inputs[f"representation_{j}"][:, j:], fs[:, :-j])
        assert not targets.of_inputs[f"x_{j}"][:, :j].any()
    assert targets.kinds == ("x",) and targets.known.shape[-1] == 9


def test_a_mixture_has_a_target_for_each_component_and_no_probe_is_told_which_one_counts():
    drawn, targets = found(MIXTURE)
    assert {"representation_0", "representation_1"} < set(targets.of_inputs)
    assert set(targets.answers) == {"bayes", "ridge_0", "ridge_1"}
    assert torch.equal(targets.component, drawn.truth.chosen)


def one_probe(name, errors):
    errors = torch.tensor(errors, dtype=torch.float64)
    return TokenProbe(name, "x", errors, errors[:, 0], torch.full((len(errors),), 4.0, dtype=torch.float64))


def test_probes_are_split_by_the_component_of_each_prompt():
    probes = [one_probe("v_0", [[1.0], [2.0], [3.0]]), one_probe("v_1", [[0.5], [0.25], [0.125]])]
    true, other = split("v", probes, torch.tensor([0, 1, 1]))
    assert (true.target, other.target) == ("true_v", "other_v")
    assert true.errors.flatten().tolist() == [1.0, 0.25, 0.125] and other.errors.flatten().tolist() == [0.5, 2.0, 3.0]
    assert true.spread.tolist() == other.spread.tolist() == [4.0] * 3
    true, _ = split("v", probes, torch.tensor([1, 0, 0]))
    assert true.errors.flatten().tolist() == [0.5, 2.0, 3.0]


def test_half_way_is_where_the_line_between_two_layers_crosses_the_middle():
    r2 = torch.tensor([[0.2, 0.3, 0.9, 1.0, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1], [0.0, 1.0, 0.0, 0.2, 1.0]]).double()
    assert half_way(r2).tolist() == pytest.approx([1 + (0.6 - 0.3) / 0.6, 0.0, 0.5])


def test_between_two_layers_is_on_the_line_from_one_to_the_other():
    terms = torch.tensor([[0.0, 2.0, 4.0], [1.0, 1.0, 3.0]]).double()
    assert between(terms, 1.25).tolist() == [2.5, 1.5] and between(terms, 2.0).tolist() == [4.0, 3.0]


def rows_of(task, layout="interleaved", change=lambda targets: targets):
    drawn, targets = found(task, 400)
    shape = replace(SHAPE, layout=layout)
    model = Transformer(3, 6, shape, generator(), task.label_dim).double()
    made = list(token_probe_rows(model, drawn, change(targets), generator(), 20))
    table = {}
    for row in made:
        table.setdefault((row["predictor"], row["quantity"]), []).append(row)
    return table


def test_rows_say_what_their_names_say():
    table = rows_of(TASK)
    by_layer = [row["value"] for row in table["representation", "token_probe_x"]]
    (best,), (layer,) = table["representation", "token_probe_x_best"], table["representation", "token_probe_x_layer"]
    assert len(by_layer) == 3 and best["value"] == max(by_layer) == by_layer[int(layer["value"])]
    (floor,) = table["representation", "token_probe_x_floor"]
    asked = {"over_floor": best["value"] - floor["value"], "rise": best["value"] - by_layer[0]}
    asked |= {"fall": best["value"] - by_layer[-1]}
    for name, wanted in asked.items():
        (row,) = table["representation", f"token_probe_x_{name}"]
        assert math.isclose(row["value"], wanted, abs_tol=1e-12), name
    half = {key: only["value"] for key, (only, *_) in table.items()}
    lag = half["representation", "token_probe_half_lag"]
    early, late = half["representation", "token_probe_x_half"], half["representation", "token_probe_y_half"]
    assert math.isclose(lag, late - early, abs_tol=1e-12)
    behind = half["representation", "token_probe_x_half_behind"]
    assert math.isclose(behind, early - half["layer_2", "token_probe_x_half"], abs_tol=1e-12)
    (slip,) = table["bayes", "token_probe_x_slip"]
    answers = [row["value"] for row in table["bayes", "token_probe_x"]]
    drops = [answers[i] - answers[j] for i in range(3) for j in range(i, 3)]
    assert math.isclose(slip["value"], max(drops), abs_tol=1e-12)
    (after,) = table["bayes", "token_probe_after_half"]
    there = np.interp(late, range(3), answers)
    assert math.isclose(after["value"], answers[-1] - there, abs_tol=1e-12)
    assert ("bayes", "token_probe_y") not in table


def over_unrelated(name, change=lambda targets: targets):
    ((row,),) = [rows for key, rows in rows_of(MOVING, "states", change).items()
                 if key == (name, "token_probe_x_over_unrelated")]  # fmt: skip
    return row["value"]


def test_a_past_representation_is_judged_beside_an_unrelated_one_of_the_same_states():
    """Were the control the target itself nothing would be above it; beside the one of the present states, which tokens
    know better, a model before training seems to hold less of the past than chance."""

    def itself(targets):
        return replace(targets, controls={**targets.controls, "representation_2": "representation_2"})

    def of_the_present(targets):
        return replace(targets, controls={})

    fair = over_unrelated("representation_2")
    assert over_unrelated("representation_2", itself) == 0
    assert over_unrelated("representation_2", of_the_present) < fair - 0.05
    assert abs(fair) < 0.05


@pytest.mark.parametrize(("task", "layout"), [(MIXTURE, "interleaved"), (MOVING, "states"), (MOVING, "lagged")])
def test_every_task_with_a_representation_has_rows(task, layout):
    names = {name for name, _ in rows_of(task, layout)}
    own = {"true_representation", "other_representation", "true_ridge", "other_ridge"}
    assert names == (
        {"x", "unrelated", "bayes"} | own if task == MIXTURE else set(found(task)[1].of_inputs) | {"bayes"}
    )


def test_an_experiment_measures_them_and_refuses_tasks_without_a_representation():
    told = Evaluation(prompts=16, bootstrap=5, analyses=("token_probes",))
    experiment = Experiment(TASK, SHAPE, eval=told, device="cpu")
    rows = measure(experiment, SHAPE.build(3, 6))
    assert "token_probe_x" in {row["quantity"] for row in rows}
    one = RepresentationRegression(3, 1, 0.2)
    for task, words in (
        (LinearRegression(3, 6), "LinearRegression is not of a representation"),
        (OneOf((TASK, LinearRegression(3, 6, 0.5))), "OneOf is not of a representation"),
        (one, "no token holds a label where n = 1"),
    ):
        with pytest.raises(ValueError, match=f"'token_probes' cannot be made: {words}"):
            Experiment(task, SHAPE, eval=told)
