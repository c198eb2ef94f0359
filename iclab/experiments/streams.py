"""Devices and random-number streams of an experiment.

Each stream has a generator of its own: initial weights, training prompts, the prompts of the learning curve, those of
the final measurement, which training never sees, those on which output projections of layers are fitted, and the
bootstrap. The last three exist once for each distribution, so that no measurement depends on another.
"""

from typing import Any
from zlib import crc32

import numpy as np
import torch

from iclab.errors import UsageError, refuse
from iclab.renamed import old_names

STREAMS = ("init", "train", "curve", "test", "fit", "bootstrap")


def resolve(device: str) -> torch.device:
    """Returns the device meant by a name; "auto" is the GPU where there is one. Raises ``ValueError`` where it is
    absent."""
    there = torch.cuda.device_count()
    chosen = torch.device(("cuda" if there else "cpu") if device == "auto" else device)
    absent = chosen.type == "cuda" and (chosen.index or 0) >= there
    refuse("device", [f"{device} is requested, and torch finds {there} CUDA devices here"] if absent else [])
    return chosen


def device_kind(device: str) -> str:
    """Returns the kind of device that a name means here; that which it names, where there is none of it."""
    try:
        return resolve(device).type
    except UsageError:
        return device.partition(":")[0]


def generator(seed: int, name: str, device: torch.device | str = "cpu", distribution: str = "") -> torch.Generator:
    """Returns the generator of one stream of a seed. NumPy's SeedSequence spreads (seed, stream, distribution) over the
    32 bits that a CPU generator keeps, so that neighbouring seeds share nothing."""
    origin = [seed, STREAMS.index(name), crc32(distribution.encode())]
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(origin).generate_state(1)[0]))


def experiment_generator(
    experiment: Any, name: str, device: torch.device | str = "cpu", distribution: str = ""
) -> torch.Generator:
    """Returns the generator of one stream of an experiment's seed."""
    return generator(experiment.seed, name, device, distribution)


__getattr__ = old_names(__name__, stream="experiment_generator")
