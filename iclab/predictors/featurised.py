"""Featurised: any predictor applied to Φ(x) instead of x.

Ridge on the features Φ of a task with y = w·Φ(x) + noise is its Bayes predictor; on [x, Φ(x)], or on several
representations side by side, it is the ridge that does not know which of them the labels come from.
Source: Guo et al. 2023, arXiv 2310.10616, §4.1 ("Φ*-ridge").
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iclab.predictors.predictor import Predictor, in_double
from iclab.tasks.features import Features


@dataclass(frozen=True)
class Featurised(Predictor):
    """The answers of `predictor` to the prompts (Φ(x_i), y_i), Φ being the `features`.

    >>> import torch
    >>> from iclab.tasks.features import Identity
    >>> from iclab.predictors import LeastSquares
    >>> xs, ys = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)), torch.ones(2, 5)
    >>> same = Featurised(LeastSquares(), Identity())(xs, ys)
    >>> torch.equal(same, LeastSquares()(xs, ys))
    True
    """

    predictor: Predictor
    features: Features

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        return self.predictor(self.features(xs), ys)
