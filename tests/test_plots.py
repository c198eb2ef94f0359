"""Pictures: what is drawn are the rows of the table, means where there are several runs, and never nothing."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from iclab import plots

COLUMNS = ["run", "seed", "predictor", "distribution", "quantity", "layer", "position", "value"]


def table(*runs, predictor="ridge"):
    """A table of runs, each with the risk 10, 20, 30 times its own number and a band from half to double that."""
    entries = [
        (f"run {k}", k, predictor, "own", quantity, pd.NA, position, factor * k * 10.0 * (i + 1))
        for k in runs
        for quantity, factor in (("risk", 1.0), ("risk_low", 0.5), ("risk_high", 2.0))
        for i, position in enumerate((0, 1, 2))
    ]
    means = [(f"run {k}", k, predictor, "own", "risk", pd.NA, float("nan"), 99.0) for k in runs]
    layers = [(f"run {k}", k, predictor, "own", "risk", 1, 0, 77.0) for k in runs]
    return pd.DataFrame([*entries, *means, *layers], columns=COLUMNS)


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_a_curve_goes_through_the_rows_of_a_run(axes):
    plots.curves(table(1, 2), axes, ["ridge"], where={"seed": 2})
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[0, 20], [1, 40], [2, 60]]


def test_several_runs_are_drawn_as_their_mean(axes):
    plots.curves(table(1, 2, 6), axes, ["ridge"])
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[0, 30], [1, 60], [2, 90]]
    (band,) = axes.collections
    ends = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert ends == {(0, 15), (1, 30), (2, 45), (0, 60), (1, 120), (2, 180)}


def test_a_layer_and_a_distribution_can_be_chosen():
    assert plots.rows(table(1), "ridge", "risk", {"layer": 1})["value"].tolist() == [77.0]
    assert plots.rows(table(1), "ridge", "risk", {"distribution": "larger"}).empty


@pytest.mark.parametrize(
    ("predictor", "quantity", "where"),
    [("bayes", "risk", {}), ("ridge", "excess", {}), ("ridge", "risk", {"seed": 7})],
)
def test_a_figure_of_nothing_is_not_drawn(axes, predictor, quantity, where):
    with pytest.raises(ValueError, match=f"'{quantity}' of '{predictor}'") as caught:
        plots.curves(table(1), axes, [predictor], quantity, where)
    assert all(str(value) in str(caught.value) for value in where.values())


def test_a_setting_that_was_not_swept_is_told():
    with pytest.raises(ValueError, match=r"unknown column 'sed'\. Did you mean 'seed'"):
        plots.rows(table(1), "ridge", "risk", {"sed": 1})


# ---- trends --------------------------------------------------------------------------------------------------------


def means(key, *points, predictor="ridge", **columns):
    """One run for each point (setting, value, standard error)."""
    base = {"predictor": predictor, "distribution": "own", "quantity": "excess", "layer": pd.NA, "region": "mean"}
    return pd.DataFrame([base | {key: at, "value": v, "stderr": e} | columns for at, v, e in points])


def test_a_trend_goes_through_the_means_of_each_setting_with_two_standard_errors(axes):
    found = means("depth", (2, 0.5, 0.1), (1, 0.8, 0.2), (2, 0.7, 0.3))
    plots.trend(found, axes, "depth", ["ridge"], "excess")
    (line,) = axes.get_lines()
    assert line.get_xydata() == pytest.approx(np.array([[1, 0.8], [2, 0.6]]))
    heights = {round(y, 9) for x, y in axes.collections[0].get_paths()[0].vertices if x == 1}
    assert heights == {0.4, 1.2}


def test_a_trend_over_layers_takes_layers_and_one_over_models_does_not(axes):
    both = pd.concat([means("depth", (1, 0.8, 0.0)), means("layer", (0, 0.3, 0.0), (1, 0.2, 0.0), depth=1)])
    plots.trend(both, axes, "depth", ["ridge"], "excess")
    plots.trend(both, axes, "layer", ["ridge"], "excess", {"depth": 1})
    assert [line.get_ydata().tolist() for line in axes.get_lines()] == [[0.8], [0.3, 0.2]]


def test_a_trend_of_nothing_is_not_drawn(axes):
    with pytest.raises(ValueError, match="no 'risk' of 'ridge'"):
        plots.trend(means("depth", (1, 0.8, 0.0)), axes, "depth", ["ridge"], "risk")
    with pytest.raises(ValueError, match="unknown column 'dept'"):
        plots.trend(means("depth", (1, 0.8, 0.0)), axes, "dept", ["ridge"], "excess")


# ---- looks and letters ---------------------------------------------------------------------------------------------


def test_gradient_descent_is_of_one_colour_that_darkens_with_its_steps():
    shades = [sum(plots.look_of(f"gradient_descent_{k}")["color"][:3]) for k in range(1, 9)]
    assert shades == sorted(shades, reverse=True) and shades[0] < 2.2, "none is too pale on white"
    assert plots.look_of("gradient_descent") == plots.LOOKS["gradient_descent"] and plots.look_of("unheard_of") == {}


def test_the_same_predictor_looks_the_same_in_both_kinds_of_figure(axes):
    plots.trend(
        means("depth", (1, 0.8, 0.0), predictor="gradient_descent_8"), axes, "depth", ["gradient_descent_8"], "excess"
    )
    figure = plots.identification(near(("gradient_descent_8", "fit_distance", 0.5, {"layer": 1})))
    (one,), (other,) = axes.get_lines(), figure.axes[0].get_lines()
    assert one.get_color() == other.get_color() and one.get_label() == other.get_label() == "GD, 8 steps"
    plt.close(figure)


def test_panels_have_letters_and_a_lone_one_has_none():
    figure, grid = plt.subplots(1, 3)
    grid[0].twinx()
    figure.colorbar(grid[1].imshow([[0.0, 1.0]]), ax=grid[1])
    assert [each.get_title(loc="left") for each in plots.lettered(figure).axes] == ["a", "b", "c", "", ""]
    plt.close(figure)
    alone, one = plt.subplots()
    plots.lettered(alone)
    assert one.get_title(loc="left") == ""
    plt.close(alone)


def a_picture(height=1.0, word="risk", edge=2.0, shade=0.5, column=3.0):
    """One that has a curve, a band, a column, an image and words."""
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0.5, height])
    axes.fill_between([0, 1], [0.0, 0.0], [edge, 1.0])
    axes.bar([0], [column])
    axes.imshow([[0.0, shade]])
    axes.set_ylabel(word)
    return figure


@pytest.mark.parametrize(
    "change", [{"height": 1.001}, {"word": "risks"}, {"edge": 2.01}, {"shade": 0.6}, {"column": 3.01}], ids=str
)
def test_a_digest_tells_what_is_drawn(change):
    none = pd.DataFrame()
    same = plots.contents(lambda _: a_picture(), none)
    assert same == plots.contents(lambda _: a_picture(height=1.0000001), none)
    assert same != plots.contents(lambda _: a_picture(**change), none)


# ---- which algorithm -----------------------------------------------------------------------------------------------


def near(*entries):
    """Rows of distances (predictor, quantity, value) at a layer, position or step."""
    base = {"distribution": "own", "layer": pd.NA, "step": pd.NA, "position": float("nan"), "region": "mean"}
    return pd.DataFrame([{**base, "predictor": p, "quantity": q, "value": v, **at} for p, q, v, at in entries])


def test_the_identification_has_a_panel_for_examples_layers_and_training_with_the_nearest_families():
    spread = [
        (name, quantity, value * (k + 1), {key: k + 1})
        for key, quantity in (
            ("position", "fit_distance_at"),
            ("layer", "fit_distance"),
            ("step", "evolution_distance"),
        )
        for name, value in (("ridge", 0.1), ("zero", 1.0), ("gradient_descent_2", 0.5))
        for k in range(3)
    ]
    figure = plots.identification(near(*spread, ("ridge", "fit_distance", 0.7, {})), most=2)
    try:
        assert [axes.get_xlabel() for axes in figure.axes] == ["examples in context", "after layer", "step of training"]
        for axes in figure.axes:
            assert [line.get_label() for line in axes.get_lines()] == ["ridge", "GD, 2 steps"]
            assert axes.get_lines()[0].get_xydata() == pytest.approx(np.array([[1, 0.1], [2, 0.2], [3, 0.3]]))
    finally:
        plt.close(figure)
    only = plots.identification(near(*spread[:9]))
    assert len(only.axes) == 1
    plt.close(only)


def test_a_run_without_distances_is_not_drawn():
    with pytest.raises(ValueError, match="no distances to algorithms"):
        plots.identification(near(("ridge", "risk", 1.0, {})))


def test_a_table_is_drawn_with_each_number_in_its_field(axes):
    values = pd.DataFrame([[1.0, 2.0], [3.0, 40.0], [5.0, 6.0]], index=["a", "b", "c"], columns=[8, 16])
    plots.heat(values, axes, lambda v: f"{v:.0f}", cmap="viridis")
    (image,) = axes.get_images()
    assert image.get_array().tolist() == values.to_numpy().tolist()
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "1", (1, 0): "2", (0, 1): "3", (1, 1): "40", (0, 2): "5", (1, 2): "6"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]


def test_a_table_with_a_hole_is_refused(axes):
    values = pd.DataFrame([[1.0, np.nan], [3.0, 4.0]])
    with pytest.raises(ValueError, match="1 entries are missing"):
        plots.heat(values, axes, str)
