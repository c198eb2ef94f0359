"""The strongest channels between the heads of a model on disk (`iclab channels`), in any known format.

LayerNorms and biases are folded first and the stream is centred, so that what all heads share by a mean is no channel.
Where that cannot be done, scores are of the weights as they stand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console

from iclab.analysis.heads.composition import WAYS, Channel, channels, ordering_problems, ways_of
from iclab.commands.terminal import table
from iclab.errors import refuse
from iclab.files import write_json
from iclab.measures.channels import weights_of
from iclab.models import Pretrained, TokenTransformer

COLUMNS = ["by", "writer", "reader", "CS", "of the head", "z", "z unreachable", "z head", "z robust", "share", "gap"]


def model_of(place: Path) -> TokenTransformer:
    """Returns the model over tokens in a folder, or in a file that iclab saved. Raises ``ValueError``."""
    model = Pretrained(path=str(place)).start()
    kind = type(model).__name__
    refuse(f"{place}", [] if isinstance(model, TokenTransformer) else [f"a {kind} has no heads over tokens to compare"])
    return cast(TokenTransformer, model)


@torch.no_grad()
def ranked(of: TokenTransformer, count: int, order: str) -> list[Channel]:
    """Returns the strongest channels after folding, in the order of a column of `Channel`."""
    return channels(weights_of(of), count, order)


def report(place: Path, count: int, order: str, to: Console, file: Path | None = None) -> None:
    """Prints the table, and writes all numbers to a file where one is named."""
    refuse("channels", ordering_problems(count, order))
    one = model_of(place)
    found = ranked(one, count, order)
    size = f"{one.config.n_layer} layers of {one.config.n_head} heads, d_model {one.config.d_model}"
    to.print(table(f"{place}: {size}; channels in the order of {order}", COLUMNS, list(_rows(found)), to))
    if ways_of(one) != WAYS:
        to.print("With rotary positions, queries and keys read by distance: only composition with values is reported.")
    if file is not None:
        write_json(file, [asdict(each) for each in found])


def _rows(found: Sequence[Channel]) -> Iterator[list[Any]]:
    for one in found:
        writer, reader = (f"{layer}.{head}" for layer, head in (one.writer, one.reader))
        numbers = [one.score, one.whole, one.z, one.z_unreachable, one.z_head, one.z_robust, one.share, one.gap]
        yield [one.way, f"{writer}.{one.component}", reader, *numbers]
