"""Featurised: any predictor applied to Φ(x) instead of x.

Ridge on the features Φ of a task with y = w·Φ(x) + noise is its Bayes predictor; on [x, Φ(x)], or on several
representations side by side, it is the ridge that does not know which of them the labels come from.
Source: Guo et al. 2023, arXiv 2310.10616, §4.1 ("Φ*-ridge").
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclab.features import Features
from iclab.predictors.predictor import Predictor, in_double


@dataclass(frozen=True)
class Featurised(Predictor):
    """The answers of `predictor` to the prompts (Φ(x_i), y_i), Φ being the `features`."""

    predictor: Predictor
    features: Features

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        return self.predictor(self.features(xs), ys)
