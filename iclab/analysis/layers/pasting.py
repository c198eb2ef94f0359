"""Pasting: the upper half of a transformer learns linear functions in context behind a new input projection.

If a transformer that was trained on y = ⟨w, Φ*(x)⟩ + noise first computes Φ*(x) and then does linear regression on it,
its upper blocks alone should do linear regression on any vectors that are handed to them in the right form. So the
blocks above a cut are frozen, and a new input projection in front of them is trained on plain linear regression:

    linear          the learned input projection of tokens x_i and y_i (with its positions), no block
    linear_copied   the same, of tokens x_i and (x_i, y_i): the copy that lower blocks may have made, made by hand
    one_layer       the linear input projection and one block of softmax attention, which may learn to copy

An input projection that alone does nothing shows, by the risk that it reaches with the upper blocks, what these can do.
It is compared with the Bayes risk and with three controls, all trained by one recipe: the input projection `_alone`,
under a new output projection of its own; the input projection under upper blocks that are `_untrained`, frozen as they
were drawn; and a `full` model of the shape of the trained one, trained on linear regression from scratch.

Source: Guo et al. 2023, arXiv 2310.10616, §5.1.3 (the three input projections, and the one layer alone). The controls
by untrained blocks and by a full model are ours, and so is what the paper leaves open: the input projection has
positions of its own, and the heads of its one layer are those of the trained model.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from iclab.analysis.layers.stitching import Stitched
from iclab.errors import refuse, unknown
from iclab.models import Transformer

LAYOUTS = ("interleaved", "copied")  # tokens that hold x or y
READ_INS: dict[str, dict[str, Any]] = {
    "linear": {"n_layer": 0, "layout": "interleaved"},
    "linear_copied": {"n_layer": 0, "layout": "copied"},
    "one_layer": {"n_layer": 1, "layout": "interleaved", "attention": "softmax"},
}


def new_read_in(kind: str, model: Transformer, d: int, n: int, rng: torch.Generator | None = None) -> Transformer:
    """Returns an untrained input projection for prompts of d dimensions and n examples that writes a stream as wide as
    the model's. It is a transformer itself: under its own output projection it is the control `_alone`. Raises
    ``ValueError`` for a kind that is not known, or a model whose x and y are not tokens of their own."""
    problems = [] if kind in READ_INS else [unknown("read-in", kind, READ_INS)]
    if model.config.layout not in LAYOUTS:
        problems.append(f"pasting is about tokens that hold x or y, and the layout is {model.config.layout}")
    problems += (
        [] if model.labels is None else ["pasting is about labels that are numbers, and the model's are vectors"]
    )
    refuse("new_read_in", problems)
    shape = replace(model.config, **{"read_in": "learned", "negated": False, "tied": False, **READ_INS[kind]})
    return Transformer(d, n, shape, rng).to(next(model.parameters()))


def paste(read_in: Transformer, model: Transformer, cut: int) -> Stitched:
    """Returns an input projection that learns, all of it, under the frozen blocks of the model from number `cut` on."""
    return Stitched(read_in, model, read_in.config.n_layer, cut, learns=["lower"])


def pasting(
    model: Transformer, cuts: Iterable[int], d: int, n: int, rng: torch.Generator | None = None
) -> dict[tuple[str, int | None], nn.Module]:
    """Returns what is to be trained, by name and cut: for each input projection KIND "KIND" (under the model's upper
    blocks) and "KIND_untrained" at every cut, and "KIND_alone" and "full", which have no cut. A KIND starts from the
    same weights wherever it stands."""
    rng = rng or torch.Generator().manual_seed(0)
    untrained, full = (
        Transformer(size, length, model.config, rng).to(next(model.parameters()))
        for size, length in ((model.d, model.n), (d, n))
    )
    alone = {kind: new_read_in(kind, model, d, n, rng) for kind in READ_INS}
    made: dict[tuple[str, int | None], nn.Module] = {("full", None): full}
    made |= {(f"{kind}_alone", None): read_in for kind, read_in in alone.items()}
    for cut in cuts:
        for kind, read_in in alone.items():
            made[kind, cut] = paste(read_in, model, cut)
            made[f"{kind}_untrained", cut] = paste(read_in, untrained, cut)
    return made
