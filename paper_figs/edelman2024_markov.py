"""From unigram to bigram statistics: divergences in training on Markov chains.

    python paper_figs/edelman2024_markov.py [runs/edelman2024_markov [picture.png]]

After Edelman et al. 2024 (arXiv 2402.11004, Fig. 2): Kullback-Leibler divergence of the predictions from unigram counts
and from the posterior mean by bigram counts, one layer left, two layers right.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "edelman2024_markov"
LINES = {"unigram": ("unigram counts", "C1"), "bigram": ("posterior mean, bigrams", "C0")}


def draw(table):
    """A figure of the runs that are done, averaged over seeds."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, panels = plt.subplots(1, 2, figsize=(6.8, 3.0), sharey=True)
    for layers, axes in zip((1, 2), panels, strict=True):
        for name, (label, color) in LINES.items():
            look = {"label": label, "color": color, "marker": ""}
            plots.trend(done, axes, "step", [name], "evolution_divergence", {"model.n_layer": layers}, **look)
        axes.set(title=f"{layers} layer{'s' * (layers > 1)}", xlabel="step", ylabel="", yscale="log")
    panels[0].set(ylabel="KL(reference ‖ model) [nats]")
    panels[0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
