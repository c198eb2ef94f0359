"""Risk against the number of examples: the transformer by depth beside Bayes, least squares, gradient descent and k-NN.

    python paper_figs/risk_by_examples.py runs/linear_regression [picture.png]

After Akyürek et al. 2022 (arXiv 2211.15661, Fig. 1) and Garg et al. 2022 (arXiv 2208.01066, Fig. 2). Reads the result
table of a sweep over `task.noise` and `model.n_layer`; bands are 5 to 95 % of bootstrap resamples of the test prompts.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import iclab
from iclab import plots

BAYES = "Bayes = ridge(λ = noise²)"
REFERENCES = ["zero", "nearest_neighbours", "gradient_descent", "least_squares", "bayes"]


def draw(table, target: Path) -> None:
    """One panel for each noise level."""
    noises, depths = (sorted(table[key].dropna().unique()) for key in ("task.noise", "model.n_layer"))
    with plots.style():
        figure, panels = plt.subplots(1, len(noises), figsize=(3.3 * len(noises), 2.9), squeeze=False)
        for axes, noise in zip(panels[0], noises, strict=True):
            deepest = {"task.noise": noise, "model.n_layer": depths[-1]}
            plots.curves(table, axes, REFERENCES, where=deepest, labels={"bayes": BAYES})
            for depth, marker in zip(depths, "v^sDo"[-len(depths) :], strict=True):
                cell = {"task.noise": noise, "model.n_layer": depth}
                label = {"transformer": f"transformer, {depth} layer{'s' if depth > 1 else ''}"}
                shade = f"C{0 if depth == depths[-1] else 9}"
                plots.curves(table, axes, ["transformer"], where=cell, labels=label, marker=marker, color=shade)
            axes.axhline(noise**2, color="0.8", linewidth=0.8, zorder=0, label="noise²")
            axes.set(title=f"noise {noise}", yscale="log", ylim=(0.8 * noise**2, 30))
        handles, names = panels[0, -1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)
        figure.savefig(target)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    target = Path(sys.argv[2]) if len(sys.argv) == 3 else folder / "risk_by_examples.png"
    draw(iclab.load(folder), target)
    print(f"wrote {target}")
