"""Agreement of a model with textbook algorithms, by the number of examples.

    python paper_figs/agreement_by_examples.py [runs/akyurek2022_agreement [picture.png]]

After Akyürek et al. 2022 (arXiv 2211.15661, Figs. 1 and 6), whose figures divide by d. Left: the squared difference of
the answers of the first model from those of each algorithm, and from the labels. Middle: that of the weights it
implies. Right: how much of the answers of each model is linear in the query, as R² of a linear map that is fitted to
them; dotted, that R² against the labels, as the paper's released code has it, of the first model and of least squares.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "akyurek2022_agreement"
ALGORITHMS = {
    "ols": ("least squares", {"color": "C2", "marker": "o"}),
    "ridge_1_10": ("ridge, λ = 0.1", {"color": "C9"}),
    "sgd_03": ("one pass of SGD, α = 0.03", {"color": "C5"}),
    "gd_02": ("one step of GD, α = 0.02", {"color": "C1"}),
    "sgd_01": ("one pass of SGD, α = 0.01", {"color": "C5", "linestyle": "--"}),
    "gd_01": ("one step of GD, α = 0.01", {"color": "C1", "linestyle": "--"}),
    "knn_weighted": ("3 neighbours, weighted", {"color": "C4"}),
    "knn_uniform": ("3 neighbours", {"color": "C4", "linestyle": "--"}),
}
LINEAR = [name for name in ALGORITHMS if not name.startswith("knn")]


KEY = "model.attention"


def draw(table):
    """A figure of the runs that are done."""
    done = table[(table["state"] == "done") & (table["position"] != 0)]  # before any example all answer 0
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    kinds = sorted(done[KEY].unique()) if KEY in done else []
    best = done[done[KEY] == kinds[0]] if kinds else done
    figure, (answers, weights, linear) = plt.subplots(1, 3, figsize=(7.2, 3.5))
    for name, (label, look) in ALGORITHMS.items():
        plots.curves(best, answers, [name], "spd", labels={name: label}, **look)
    labels = {"color": "black", "marker": "", "linestyle": "-."}
    plots.curves(best, answers, ["transformer"], "risk", labels={"transformer": "labels"}, **labels)
    for name in LINEAR:
        plots.curves(best, weights, [name], "ilwd", **ALGORITHMS[name][1])
    for kind, look in zip(kinds or [None], (("C0", "o"), ("C3", "s")), strict=False):
        where, name = ({KEY: kind}, f"{kind} attention") if kind else ({}, "model")
        plots.curves(
            done, linear, ["transformer"], "linearity", where, {"transformer": name}, color=look[0], marker=look[1]
        )
    if (best["quantity"] == "label_r2").any():
        for name, label in {"transformer": "against the labels", "ols": "the same of least squares"}.items():
            look = {"color": "C0" if name == "transformer" else "C2", "linestyle": ":", "marker": ""}
            plots.curves(best, linear, [name], "label_r2", labels={name: label}, **look)
    linear.axhline(1.0, color="black", linewidth=0.8, linestyle=":", label="linear")
    linear.legend(loc="lower right")
    answers.set(yscale="log", ylabel="", title="E (model − algorithm)²")
    weights.set(yscale="log", ylabel="", title="E ‖difference of weights‖²")
    linear.set(ylim=(0, 1.05), ylabel="", title="R², linear in the query")
    figure.legend(*answers.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
