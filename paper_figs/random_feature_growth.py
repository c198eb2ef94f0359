"""The inputs that half of a target takes, by the dimension and by the number of keys.

    python paper_figs/random_feature_growth.py [runs/random_feature_growth [picture.png]]

After Fu et al. 2023 (arXiv 2307.11353), with this project's settings. Means over seeds; in brackets the exponents, the
logarithm to base 2 of what the inputs are multiplied by when d or N is doubled, means over the runs that measured it.
Dotted, theory. Values at the ends of what was tried are left out.
"""

import matplotlib.pyplot as plt
import numpy as np

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "random_feature_growth"
MODELS = {"transformer": ("attention", "-"), "network": ("network", "--")}
TARGETS = {"key_1": "⟨β, xᵢ⟩", "key_2": "⟨β, xᵢ⟩²", "correlation_1": "⟨x₀, xᵢ⟩"}
D, N = "task.d", "task.n"


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, panels = plt.subplots(1, 2, figsize=(8, 4), sharey=True)
    for axes, key, other, what in zip(panels, (D, N), (N, D), ("d", "keys"), strict=True):
        kept = usual(done, other, key)
        for (target, title), color in zip(TARGETS.items(), ("C0", "C1", "C2"), strict=True):
            for name, (label, style) in MODELS.items():
                chosen = done[(done["distribution"] == target) & (done["predictor"] == name)]
                exponent = mean(chosen, f"exponent_{what}")
                text = f"{label}, {title}" + (f" ({exponent:.2f})" if np.isfinite(exponent) else "")
                line(axes, chosen[chosen[other] == kept], key, text, color=color, ls=style)
        held = f"{kept - 1} keys" if other == N else f"d = {kept}"
        axes.set(xscale="log", yscale="log", xlabel="d" if key == D else "keys N", title=held)
        axes.set_xticks(ticks := [at(v, key) for v in sorted(done[done[other] == kept][key].unique())], map(str, ticks))
        axes.xaxis.minorticks_off()
        axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    panels[0].set_ylabel("inputs for half of the target")
    return figure


def usual(table, other, key):
    """The value of one setting at which the other was tried most."""
    return table.groupby(other)[key].nunique().idxmax()


def mean(table, quantity):
    """The mean of a quantity over the runs that have it."""
    return table[table["quantity"] == quantity]["value"].astype(float).mean()


def at(value, key):
    """d, or the number of keys of n examples."""
    return int(value) - (key == N)


def line(axes, table, key, label, **look):
    """What was measured, where it was found, and theory."""
    for quantity, more in (("half_error", {"marker": "o", "ms": 4, "label": label}), ("predicted_half_error", {})):
        found = table[table["quantity"] == quantity].groupby(key)["value"].mean()
        if quantity == "half_error":
            known = table[table["quantity"] == "half_error_found"].groupby(key)["value"].min()
            found = found[known[known > 0].index]
        x = [at(value, key) for value in found.index]
        if len(x) > 1:
            axes.plot(x, found, **look | more | ({} if more else {"ls": ":", "lw": 1}))


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
