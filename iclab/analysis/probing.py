"""Probes: is a vector written in the residual stream, linearly?

At layer l and position i let h ∈ ℝᴰ be the token that answers for x_i, and v ∈ ℝᵐ a target that an algorithm would need
there. With means taken off,

    B = argmin Σ ‖v − B h‖² + lam·‖B‖²          on one half of the prompts
    R² = 1 − E‖v − B h‖² / E‖v − E v‖²          on the other half

in closed form, for all layers and positions at once. A probe tells something only beside its controls: the same probe
of an untrained model (random features compute something too), of a model trained with one fixed weight vector (it has
no use for the target), and of the bare prompt up to x_i (the target may be linear in that).

The targets are those of Akyürek et al. 2022, arXiv 2211.15661, §5.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.risk import Estimate, ratio
from iclab.errors import refuse
from iclab.models import Transformer
from iclab.predictors import LeastSquares, Ridge
from iclab.predictors.prefixes import moments
from iclab.tasks import Prompts

LEAST = 16  # prompts; a quarter fits a penalty, a quarter chooses it, a half measures
PENALTIES = tuple(10.0**k for k in range(-8, 3))  # of the mean eigenvalue of the features' Gram matrix


@dataclass(frozen=True)
class LinearMap:
    """v̂ = (h − centre) B + offset, one for every layer and position."""

    slope: Float[Tensor, "layers n D m"]
    centre: Float[Tensor, "layers n D"]
    offset: Float[Tensor, "layers n m"]

    def __call__(self, features: Float[Tensor, "layers batch n D"]) -> Float[Tensor, "layers batch n m"]:
        centred = (features.double() - self.centre.unsqueeze(1)).transpose(1, 2)
        return (centred @ self.slope).transpose(1, 2) + self.offset.unsqueeze(1)


@torch.no_grad()
def features(model: Transformer, prompts: Prompts) -> Float[Tensor, "layers batch n D"]:
    """The residual stream at the answering tokens: after the read-in, then after each block."""
    return torch.stack([model.layout.answers(h) for h in model.stream(prompts.xs, prompts.ys)]).double()


def bare_prompt(prompts: Prompts) -> Float[Tensor, "1 batch n D"]:
    """The prompt up to x_i, flattened, as the features of a single layer: what is linear in it needs no model."""
    n = prompts.xs.shape[1]
    seen = torch.ones(n, n, dtype=torch.float64, device=prompts.xs.device).tril()
    inputs = prompts.xs.unsqueeze(1) * seen[:, :, None]
    labels = prompts.ys.unsqueeze(1) * seen.tril(-1)
    return torch.cat([inputs.flatten(2), labels], dim=-1).unsqueeze(0)


def algorithm_state(prompts: Prompts, lam: float) -> dict[str, Float[Tensor, "batch n m"]]:
    """What algorithms for linear regression hold after i examples: the moment Xᵀy / i, the weights of least squares of
    minimum norm and of ridge(lam), and the weights w that made the prompt."""
    xs, ys = prompts.xs.double(), prompts.ys.double()
    counts = torch.arange(xs.shape[1], dtype=xs.dtype, device=xs.device).clamp(min=1)
    found = {
        "moment": moments(xs, ys)[1] / counts.unsqueeze(-1),
        "least_squares": LeastSquares().weights(xs, ys),
        "w": prompts.ws.double().unsqueeze(1).expand_as(xs),
    }
    return found if lam == 0 else {**found, "ridge": Ridge(lam).weights(xs, ys)}


def fit_map(
    features: Float[Tensor, "layers batch n D"],
    target: Float[Tensor, "batch n m"],
    penalty: float | Float[Tensor, "layers n"],
) -> LinearMap:
    """Ridge regression of the target on the features (intercept not penalised) at every layer and position."""
    h, v = features.double().transpose(1, 2), target.double().transpose(0, 1)
    centre, offset = h.mean(2), v.mean(1)
    h, v = h - centre.unsqueeze(2), v - offset.unsqueeze(1)
    lam = torch.as_tensor(penalty, dtype=h.dtype, device=h.device).expand(h.shape[:2])
    gram = h.mT @ h + torch.diag_embed(lam.unsqueeze(-1).expand(*lam.shape, h.shape[-1]))
    slope = torch.linalg.solve(gram, h.mT @ v)
    return LinearMap(slope, centre, offset.expand(len(h), *offset.shape))


def probe(
    features: Float[Tensor, "layers batch n D"], target: Float[Tensor, "batch n m"], penalty: float | None = None
) -> Estimate:
    """R² [layers, n] on the second half of the prompts, and its standard error; fitted on the first.

    `penalty` is lam; unless it is given, lam is chosen at each layer and position by fitting on one quarter of the
    prompts and testing on the next. R² is not a number where the target does not vary (Xᵀy before the first example).
    Raises ``ValueError`` where there are fewer than 16 prompts.
    """
    refuse("probe", [] if len(target) >= LEAST else [f"needs at least {LEAST} prompts, given {len(target)}"])
    half = len(target) // 2
    lam = _best_penalty(features[:, :half], target[:half]) if penalty is None else penalty
    fitted = fit_map(features[:, :half], target[:half], lam)
    return _r2(fitted(features[:, half:]), target[half:].double())


def _r2(predicted: Float[Tensor, "layers batch n m"], target: Float[Tensor, "batch n m"]) -> Estimate:
    errors = (predicted - target).square().sum(-1).transpose(0, 1)
    spread = (target - target.mean(0)).square().sum(-1)
    spread = torch.where(spread.mean(0) > 1e-20, spread, torch.nan)
    left = ratio(errors, spread.unsqueeze(1).expand_as(errors))
    return Estimate(1 - left.value, left.stderr)


def _best_penalty(features: Float[Tensor, "layers batch n D"], target: Float[Tensor, "batch n m"]) -> Tensor:
    """lam at each layer and position: the best of a grid, relative to the mean eigenvalue of the Gram matrix."""
    half = len(target) // 2
    fit = features[:, :half]
    scale = fit.double().var(1).mean(-1).clamp(min=1e-12) * half
    errors = []
    for relative in PENALTIES:
        predicted = fit_map(fit, target[:half], relative * scale)(features[:, half:])
        errors.append((predicted - target[half:]).square().sum(-1).mean(1))
    return torch.tensor(PENALTIES, dtype=scale.dtype, device=scale.device)[torch.stack(errors).argmin(0)] * scale
