"""Garg et al. 2022 (arXiv 2208.01066), and decoders of Bai et al. 2023 (arXiv 2306.04637): GPT-2 between linear maps.

    token of x_i   x_i                 token of y_i   (y_i, 0, …, 0), of the same width
    h ← read_in(token) + position;  blocks of GPT-2;  ŷ_i = read_out(norm(h)) at the token of x_i

This is our transformer in the layout `overlaid`. The embedding of words that the library's backbone brings along is
never read, and neither is the position of the last y.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from iclab.models.formats import config_yaml
from iclab.models.formats.gpt2_blocks import blocks, gpt2
from iclab.models.mapping import Source, filled
from iclab.models.stored import weights_in
from iclab.models.transformer import Transformer

UNREAD = ("_backbone.wte.weight", ".attn.bias", ".attn.masked_bias")  # as a name ends


class Garg2022(config_yaml.TrainingRun):
    """A run of the code of Garg et al. with a model of the family gpt2."""

    name, family = "Garg et al. 2022", "gpt2"
    about = "a folder with state.pt and config.yaml, whose model.family is gpt2, or a model_STEP.pt beside config.yaml"

    def open(self, place: Path, dtype: torch.dtype = torch.float32) -> Transformer:
        size = config_yaml.sizes(place)
        sources = [
            *(Source([f"{end}.{part}"], [f"_{end}.{part}"]) for end in ("read_in", "read_out") for part in PARTS),
            Source(["position"], ["_backbone.wpe.weight"], lambda W: [W[:-1]]),
            *blocks(size["n_layer"], "_backbone.", "h.{}"),
        ]
        with weights_in(config_yaml.weights_of(place)) as stored:
            given = {name: one for name, one in stored.items() if not name.endswith(UNREAD)}
            return filled(place, lambda: _shape(size), sources, given, dtype)

    def outline(self, place: Path) -> Transformer:
        with torch.device("meta"):
            return _shape(config_yaml.sizes(place))


PARTS = ("weight", "bias")


def _shape(size: Mapping[str, Any]) -> Transformer:
    return gpt2(size["n_dims"], size["n_positions"], size, "overlaid")
