"""What a run turned out to be is told in words that its rows bear out."""

from math import inf

import pytest

from iclab.algorithm_names import algorithm, share
from iclab.experiments.findings import Findings, thinned


def row(predictor, quantity, value, stderr=None, **place):
    base = {"distribution": "own", "predictor": predictor, "quantity": quantity, "layer": None, "position": None}
    return {**base, "value": value, "stderr": stderr, **place}


def fits(family, distance, probability, parameter=None, **place):
    yield row(family, "fit_distance", distance, **place)
    yield row(family, "fit_probability", probability, **place)
    if parameter is not None:
        yield row(family, "fit_parameter", parameter, **place)


RUN = [
    row("bayes", "risk", 1.0),
    row("ridge", "fit_low", 0.001),
    row("ridge", "fit_high", 10.0),
    row("newton", "fit_high", 24.0),
    *fits("ridge", 0.045, 0.97, 0.24),
    *fits("newton", 0.2, 0.03, 24.0),
    *fits("gradient_descent_8", 0.045, 1.0, 0.69, layer=2),
    *fits("ridge", 0.5, 0.0, 10.0, layer=2),
    *fits("ridge", 0.5, 0.9, 10.0, layer=1),
]


def test_the_output_and_each_layer_are_told_in_a_sentence():
    assert list(Findings(RUN).sentences()) == [
        "output: ridge (λ ≈ 0.24), 4.5 % of the Bayes risk away; probability 0.97",
        "after layer 1: ridge (λ ≥ 10), 50 % of the Bayes risk away; probability 0.9",
        "after layer 2: gradient descent, ≥ 8 steps (η ≈ 0.69), 4.5 % of the Bayes risk away; probability 1",
    ]


def test_without_a_bayes_predictor_the_scale_is_that_of_the_labels():
    (output, *_) = Findings(RUN[1:]).sentences()
    assert "4.5 % of the labels' mean square away" in output


def test_a_parameter_is_marked_at_the_ends_of_its_grid_and_nowhere_else():
    findings = Findings(RUN)
    marks = [
        findings.grid_bound_mark("ridge", row("ridge", "fit_parameter", value)) for value in (0.001, 0.01, 9.99, 10.0)
    ]
    assert marks == ["≤", "", "", "≥"]
    assert (
        findings.grid_bound_mark("newton", row("newton", "fit_parameter", 1.0)) == ""
    )  # there is nothing below one step
    assert findings.words("newton") == "Newton's iteration (≥ 24 steps)"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (("gradient_descent_1", 0.9), "gradient descent, 1 step (η ≈ 0.9)"),
        (("landweber", 1.0), "gradient descent of the largest safe step (1 step)"),
        (("least_squares",), "least squares"),
        (("nearest_neighbours", 3.0), "nearest neighbours (k ≈ 3)"),
        (("trained_bayes",), "the Bayes predictor of the training"),
    ],
)
def test_families_have_names_in_words(told, words):
    assert algorithm(*told) == words


def test_a_distance_is_told_in_per_cent():
    assert [share(v) for v in (0.00123, 0.045, 1.5)] == ["0.12 %", "4.5 %", "150 %"]


def body(findings, title):
    (found,) = [section for section in findings.sections() if title in section.title]
    return found.body


def test_after_each_number_of_examples_the_nearest_is_told_and_a_tie_as_such():
    at = [
        row("zero", "fit_distance_at", 0.1, position=0),
        row("ridge", "fit_distance_at", 0.1, position=0),
        row("zero", "fit_distance_at", 3.0, position=1),
        row("ridge", "fit_distance_at", 0.5, 0.1, position=1),
        row("ridge", "fit_distance_at", 0.0, position=1, layer=1),
        row("ridge", "fit_parameter", 0.001, position=1),
        row("ridge", "fit_probability", 0.8, position=1),
    ]
    assert body(Findings([*RUN, *at]), "by number of examples") == [
        [0, "2 alike", "0.1", ""],
        [1, "ridge (λ ≤ 0.001)", "0.50 ± 0.10", "0.8"],
    ]


def test_a_probe_is_shown_at_its_best_position_beside_its_controls_there():
    probes = [
        row("w", "probe_r2", 0.3, layer=1, position=0),
        row("w", "probe_r2", 0.7, layer=1, position=4),
        row("w", "probe_r2_untrained", 0.2, layer=1, position=4),
        row("w", "probe_r2_untrained", 0.9, layer=1, position=0),
        row("w", "probe_r2_bare", 0.1, layer=0, position=4),
    ]
    assert body(Findings(probes), "linear map") == [["w", 1, 4, "0.7", "0.2", "0.1"]]


def test_the_evolution_is_told_in_the_order_of_the_steps():
    entries = [
        row("ridge", "transition", 700.0, 100.0),
        row("zero", "transition", 1.0, 0.0),
        row("newton", "transition", inf),
        row("transformer", "plateau_exit", 500.0, 50.0),
    ]
    points = [row("ridge", "evolution_distance", 0.25, step=9), row("zero", "evolution_distance", 0.5, step=9)]
    findings = Findings([*entries, *points, row("transformer", "evolution_risk", 2.0, step=9)])
    assert list(findings.sentences()) == [
        "at first nearest to the zero predictor",
        "step 700 ± 100: nearest to ridge",
        "step 500 ± 50: the risk falls fastest",
    ]
    assert body(findings, "in training") == [[9, "2", "", "ridge", "25 %"]]


def test_long_lists_are_thinned_and_keep_their_ends():
    assert thinned(range(5)) == [0, 1, 2, 3, 4] and thinned([]) == []
    kept = thinned(range(100))
    assert len(kept) <= 13 and kept[0] == 0 and kept[-1] == 99


def test_other_distributions_are_not_mixed_in():
    shifted = [{**each, "distribution": "larger", "value": 0.0} for each in RUN]
    assert list(Findings([*shifted, *RUN]).sentences()) == list(Findings(RUN).sentences())
    assert list(Findings(shifted).sentences()) == []
