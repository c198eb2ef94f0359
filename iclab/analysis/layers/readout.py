"""Layers as predictors: the residual stream after layer l, decoded by a fitted linear map.

    ŷ_i = slope · (h_i − centre) + offset

with the slope fitted by ridge regression of the labels on the tokens of all positions, one for each layer. A layer is
then compared with ridge or gradient descent like any other predictor, and the layers in turn read as an algorithm.
The output projection of each layer by a fitted map is the tuned lens of Belrose et al. 2023 (arXiv 2303.08112), fitted
here to labels rather than to the model's own answers.
"""

from dataclasses import dataclass
from itertools import islice

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.layers.probing import features, fit_map
from iclab.analysis.scale import mean_variance
from iclab.models import Layered
from iclab.tasks import Prompts


@dataclass(frozen=True, eq=False)
class LayerReadout:
    """The predictor that reads `model` out after `layer` layers (0: the input projection)."""

    model: Layered
    layer: int
    slope: Float[Tensor, " D"]
    centre: Float[Tensor, " D"]
    offset: Float[Tensor, ""]

    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        stream = next(islice(self.model.answering_stream(xs, ys), self.layer, None))
        answers = stream.double() - self.centre
        return (answers @ self.slope + self.offset).to(xs.dtype)


def layer_readouts(model: Layered, prompts: Prompts, penalty: float = 1e-6) -> list[LayerReadout]:
    """Returns one predictor for each layer, fitted on `prompts`; measure them on others. `penalty` is relative to the
    mean eigenvalue of the Gram matrix, and only keeps channels out that never vary."""
    hidden = features(model, prompts)
    tokens = rearrange(hidden, "layers batch n D -> layers (batch n) 1 D")
    labels = rearrange(prompts.ys, "batch n -> (batch n) 1 1")
    fitted = fit_map(tokens, labels, penalty * len(labels) * mean_variance(tokens))
    return [
        LayerReadout(model, layer, fitted.slope[layer, 0, :, 0], fitted.centre[layer, 0], fitted.offset[layer, 0, 0])
        for layer in range(len(hidden))
    ]
