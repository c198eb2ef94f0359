"""Where an experiment computes, and where its randomness comes from.

Each stream has a generator of its own: initial weights, training prompts, the prompts of the learning curve, those of
the final measurement, which training never sees, and those on which read-outs of layers are fitted.
"""

import numpy as np
import torch

from iclab.experiments.experiment import Experiment

STREAMS = ("init", "train", "curve", "test", "fit")


def resolve(device: str) -> torch.device:
    """The device meant by a name; "auto" is the GPU where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def stream(experiment: Experiment, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one stream. NumPy's SeedSequence spreads (seed, stream) over the 32 bits that a CPU generator
    keeps, so that neighbouring seeds share nothing."""
    seed = np.random.SeedSequence([experiment.seed, STREAMS.index(name)]).generate_state(1)[0]
    return torch.Generator(device).manual_seed(int(seed))
