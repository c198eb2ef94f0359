"""Risk against the number of examples for one class of functions: a transformer and the algorithms made for it.

    python paper_figs/garg2022_classes.py [runs/garg2022_tree [picture.png]]

Also for runs/garg2022_relu and runs/garg2022_sparse. After Garg et al. 2022 (arXiv 2208.01066, Fig. 5). Bands are 5 to
95 % of bootstrap resamples of the test prompts; runs that differ in their settings are averaged.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "garg2022_tree"
REFERENCES = [
    "zero",
    "nearest_neighbours",
    "least_squares",
    "lasso",
    "greedy_tree",
    "boosted_trees",
    "greedy_tree_of_signs",
    "trained_network",
    "bayes",
]
LABELS = {
    "nearest_neighbours": "3 nearest neighbours",
    "boosted_trees": "50 boosted trees",
    "greedy_tree_of_signs": "greedy tree of the signs",
    "trained_network": "network trained on the prompt",
    "bayes": "Bayes",
}


def draw(table):
    """A figure of the runs that are done, with the references that they have."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, axes = plt.subplots(figsize=(4.4, 3.6))
    known = [name for name in REFERENCES if name in set(done["predictor"])]
    plots.curves(done, axes, [*known, "transformer"], labels=LABELS, markersize=3)
    trivial = plots.rows(done, "zero", "risk")["value"].mean()
    axes.set(yscale="log", ylim=(3e-3 * trivial, 3 * trivial))  # least squares has no bound, and Bayes may reach 0
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
