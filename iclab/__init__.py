"""iclab: the bench on which in-context-learning theory is tested.

Everything answers prompts. A prompt is a sequence of labelled examples; a predictor answers it at every position at
once. The trained transformer, ridge regression and the Bayes predictor are the same kind of thing and are compared on
the same prompts.

Axes
    batch   prompts                     n   examples of a prompt; position i has seen the i examples before it
    d       dimensions of an input      t   tokens                  a   attention heads       c   channels of a head
    D       features of an input
    vocab   different tokens, where a sequence is of tokens and not of examples; position i has seen the tokens 0 .. i

Symbols
    xs[batch n d]   inputs x_i                         ys[batch n]   labels as the learner sees them, or ys[batch n c]
    fs[batch n]     labels before noise                ws[batch d]   weights of linear functions
    Φ               fixed features of an input, such as a representation that all prompts of a task share
    noise           standard deviation of the label noise, σ
    prior           standard deviation of a weight, τ
    lam             ridge penalty of the sum objective ½‖Xw − y‖² + ½·lam·‖w‖²; the mean objective's is lam / i
    lr              step on the gradient of that objective (2α in Akyürek et al. 2022, η/N in von Oswald et al. 2022)
    risk            E(ŷ_i − y_i)², without ½, against the noisy labels; of labels that are vectors, as in a dynamical
                    system, the mean over their c coordinates, so that noise² is its floor as it is of numbers
    excess          E(ŷ − ŷ_Bayes)² / E(ŷ_Bayes − y)², both averaged over positions; expected risk / Bayes risk − 1

Names are imported when they are first used, so that the command line answers at once.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from iclab.renamed import Finder

if TYPE_CHECKING:
    from iclab.learning.training import train
    from iclab.runs.opened import open_run
    from iclab.runs.results import load
    from iclab.runs.trainings import load_model
    from iclab.runs.wide import pick
    from iclab.theory.posterior import bayes

__version__ = version("iclab")
__all__ = ["__version__", "bayes", "load", "load_model", "open_run", "pick", "train"]

_HOMES = {
    "bayes": "iclab.theory.posterior",
    "load": "iclab.runs.results",
    "load_model": "iclab.runs.trainings",
    "open_run": "iclab.runs.opened",
    "pick": "iclab.runs.wide",
    "train": "iclab.learning.training",
}

sys.meta_path.append(Finder())


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'iclab' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
