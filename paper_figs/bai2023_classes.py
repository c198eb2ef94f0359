"""One model for regression and classification compared with those of one kind.

    python paper_figs/bai2023_classes.py [runs/bai2023_classes [picture.png]]

After Bai et al. 2023 (arXiv 2306.04637, Fig. 4 and 5). Left: the risk of regression without noise by examples. Right:
the share of classes that are missed.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "bai2023_classes"
MODELS = {  # by the kind of the task that they were trained on
    "OneOf": ("model of both", {"color": "C0", "zorder": 5}),
    "LinearRegression": ("model of regression", {"color": "C1", "linestyle": ":"}),
    "LinearClassification": ("model of classes", {"color": "C2", "linestyle": ":"}),
}
REFERENCES = {
    "least_squares": ("least squares", {"color": "black", "linestyle": "--"}),
    "averaging": ("averaging", {"color": "C3", "lw": 1}),
    "nearest_neighbours": ("three nearest neighbours", {"color": "C4", "lw": 1}),
    "logistic_regression": ("logistic regression", {"color": "0.5", "linestyle": "--"}),
}
LEAST = 1e-3  # of the risks that are drawn: that of least squares is 0


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    known = "task.kind" in done and set(MODELS) <= set(done["task.kind"])
    refuse("nothing to draw", [] if known else ["the runs of all three kinds of tasks are not done"])
    figure, panels = plt.subplots(1, 2, figsize=(6.8, 3.7))
    for axes, (name, quantity) in zip(panels, {"regression": "risk", "classes": "errors"}.items(), strict=True):
        for kind, (label, look) in MODELS.items():
            curve(done, axes, "transformer", quantity, {"distribution": name, "task.kind": kind}, label, look)
        for predictor, (label, look) in REFERENCES.items():
            if name == "classes" or predictor != "logistic_regression":
                curve(done, axes, predictor, quantity, {"distribution": name}, label, look)
        axes.set(xlabel="examples in context")
    panels[0].set(title="regression", ylabel="risk", yscale="log", ylim=(LEAST, 20))
    panels[1].set(title="classes", ylabel="error rate", ylim=(0, 0.6))
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def curve(table, axes, predictor, quantity, where, label, look):
    """A quantity by examples."""
    found = plots.rows(table, predictor, quantity, where)
    axes.plot(found["position"], found["value"].clip(LEAST / 10), label=label, **look)


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
