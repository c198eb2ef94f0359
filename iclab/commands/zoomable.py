"""Learning curves of many runs: as pictures, and where Bokeh is installed (the extra `report`) also as plots in a page
that can be zoomed and show values under the pointer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from iclab.experiments.mappings import flatten
from iclab.plots import Line, curve_looks, logarithmic
from iclab.runs.tables import distinguishing_keys, finite

POINTS = 200  # of a curve that are drawn at most, the last one always
NO_QUANTITIES = ("step", "steps", "lr", "seconds")
HEIGHT = 300  # pixels


def labels(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns what each run is called: its settings that differ from those of others, seeds apart."""
    keys = [key for key in distinguishing_keys(list(settings.values())) if key.rpartition(".")[2] != "seed"]
    return {id: " ".join(f"{key}={each.get(key)}" for key in keys) for id, each in settings.items()}


def learning_curves(
    curves: Mapping[str, Iterable[Mapping[str, Any]]], labels: Mapping[str, str]
) -> dict[str, list[Line]]:
    """Returns the lines of each quantity that training curves have, by its name; runs of one label look alike."""
    names = list(dict.fromkeys(labels.values()))
    look = dict(zip(names, curve_looks(len(names)), strict=True))
    found: dict[str, list[Line]] = {}
    for id, points in curves.items():
        for quantity, (steps, values) in _by_quantity(points).items():
            line = Line(id, labels[id], *look[labels[id]], _thinned(steps), _thinned(values))
            found.setdefault(quantity, []).append(line)
    return found


def _by_quantity(points: Iterable[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of each number that the points of a curve hold; what is not finite is left out."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for point in points:
        step = finite(point.get("step"))
        numbers = {key: finite(value) for key, value in flatten(point).items() if key not in NO_QUANTITIES}
        for key, value in numbers.items():
            if step is not None and value is not None:
                steps, values = found.setdefault(_in_words(key), ([], []))
                steps.append(step)
                values.append(float(f"{value:.6g}"))
    return found


def _in_words(key: str) -> str:
    """ "accuracy of transformer" for tokens.accuracy.transformer."""
    quantity, _, predictor = key.removeprefix("tokens.").partition(".")
    return (f"{quantity} of {predictor}" if predictor else quantity).replace("_", " ")


def _thinned(numbers: Sequence[float]) -> list[float]:
    every = -(-len(numbers) // POINTS)
    return [*numbers[:-1:every], numbers[-1]]


# ---- in a page -----------------------------------------------------------------------------------------------------


def library() -> str | None:
    """Returns the script that draws plots in a page; none where Bokeh is not installed."""
    try:
        from bokeh.resources import Resources
    except ImportError:
        return None
    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def plot(lines: Sequence[Line], quantity: str) -> Any:
    """Returns the plot of a quantity as data, which the script draws."""
    from bokeh.embed import json_item
    from bokeh.models import HoverTool, PlainText
    from bokeh.plotting import figure

    made = figure(
        height=HEIGHT,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag="box_zoom",
        toolbar_location="above",
        x_axis_label="step of training",
        y_axis_label=PlainText(text=quantity),  # which may be a user's: no formula
        y_axis_type="log" if logarithmic(lines) else "linear",
    )
    made.toolbar.logo = None
    names = ("run", "label", "color", "dash")
    source = {name: [getattr(line, name) for line in lines] for name in names}
    paths = {"xs": [line.steps for line in lines], "ys": [line.values for line in lines]}
    looks = {"line_color": "color", "line_dash": "dash", "hover_line_width": 3}
    drawn = made.multi_line("xs", "ys", source={**source, **paths}, **looks)
    ends = {"x": [line.steps[-1] for line in lines], "y": [line.values[-1] for line in lines]}
    made.scatter("x", "y", source={**source, **ends}, color="color", size=5)
    shown = [("run", "@run"), ("settings", "@label"), ("step", "$snap_x{0}"), ("value", "$snap_y{%.5g}")]
    printed: Any = {"$snap_y": "printf"}
    made.add_tools(HoverTool(renderers=[drawn], tooltips=shown, formatters=printed, line_policy="nearest"))
    for axis in made.axis:
        axis.axis_label_text_font_style = "normal"
    return json_item(made)
