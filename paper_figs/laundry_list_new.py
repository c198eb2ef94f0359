"""What training never showed of lists: accuracy on what it did show and on what it did not.

    python paper_figs/laundry_list_new.py [runs/laundry_list_new [picture.png]]

Rows are what was held out: a fifth of the items as answers, the middle slot as the missing one, the last opener or
separator. Lists of 2 to 10 items; a guess is one among the listed items.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "laundry_list_new"
COLUMNS = {("transformer", "own"): "as in training", ("transformer", "new"): "held out", ("chance", "new"): "a guess"}


def draw(table):
    """A figure of the runs that are done, averaged over them."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    whole = done[done["quantity"].eq("accuracy") & done["region"].eq("mean")]
    shares = whole.pivot_table(index="task.holds_out", columns=["predictor", "distribution"], values="value")
    shares = shares[list(COLUMNS)]
    shares.columns = list(COLUMNS.values())
    figure, axes = plt.subplots(figsize=(4.2, 2.2))
    plots.heat(shares, axes, "{:.2f}".format, cmap="viridis", vmin=0, vmax=1)
    axes.set_title("accuracy", fontsize=9)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
