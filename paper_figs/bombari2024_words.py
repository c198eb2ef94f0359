"""How far one word moves the features of attention and of networks with random weights.

    python paper_figs/bombari2024_words.py [runs/bombari2024_words [picture.png]]

After Bombari and Mondelli 2024 (arXiv 2402.02969, Fig. 1 and 2), with this project's sizes. The word sensitivity found
by search, a lower bound, against the number of words; left of a key, right of the query, in which only pooled attention
tells one from the other. A network of all words at once falls as 1/√n.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "bombari2024_words"
MODELS = {
    "transformer": "softmax self-attention",
    "relu_attention": "ReLU self-attention",
    "network": "ReLU network",
    "pooled_attention": "pooled ReLU attention",
}

CHANGED = {"word_sensitivity": "a key", "query_sensitivity": "the query"}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.2), sharey=True)
    for axes, quantity, title in zip(
        panels, ("word_sensitivity", "query_sensitivity"), ("a key", "the query"), strict=True
    ):
        for i, (name, label) in enumerate(MODELS.items()):
            found = done[(done["quantity"] == quantity) & (done["predictor"] == name)].groupby("task.n")["value"].mean()
            axes.plot(found.index.astype(float), found, marker="o", color=f"C{i}", label=label)
        axes.set(xscale="log", yscale="log", xlabel="words n", title=f"changing {title}")
        axes.set_xticks(words := sorted(done["task.n"].unique()), [str(n) for n in words])
        axes.xaxis.minorticks_off()
    panels[0].set_ylabel("word sensitivity")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
