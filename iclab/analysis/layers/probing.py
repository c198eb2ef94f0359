"""Linear probes: is a vector linearly encoded in the residual stream?

At layer l and position i let h ∈ ℝᴰ be the token that answers for x_i, and v ∈ ℝᵐ a target that an algorithm would need
there. With means taken off,

    B = argmin Σ ‖v − B h‖² + lam·‖B‖²          on one half of the prompts
    R² = 1 − E‖v − B h‖² / E‖v − E v‖²          on the other half

in closed form, for all layers and positions at once. A probe is informative only relative to its controls: the same
probe of an untrained model (random features compute something too), of a model trained with one fixed weight vector (it
has no use for the target), and of the bare prompt up to x_i (the target may be linear in that).

The targets are those of Akyürek et al. 2022, arXiv 2211.15661, §5. Their probes, which attend to all tokens of the
prompt, are in `iclab.analysis.layers.attention_probes`; probes of what is known of x_i alone, pooled over positions, in
`iclab.analysis.layers.token_probes`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclab.analysis.risk import Estimate, estimate, ratio_terms
from iclab.analysis.scale import mean_variance, varies
from iclab.errors import refuse, unknown
from iclab.models import Layered, Transformer
from iclab.predictors import LeastSquares, Ridge
from iclab.predictors.prefixes import moments
from iclab.tasks import Prompts

LEAST = 16  # prompts; a quarter fits a penalty, a quarter chooses it, a half measures
RANK = 1e-12  # of the largest eigenvalue of a Gram matrix: smaller ones are those of features that depend on others
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
def features(model: Layered, prompts: Prompts, tokens: str = "answers") -> Float[Tensor, "layers batch n D"]:
    """Returns what is known after the input projection, then after each layer: where the answers are made, or of a
    `Transformer` at all tokens of the sequence, of which token t can know the first `model.layout.seen(n)[t]` examples.
    Raises ``ValueError`` for other tokens."""
    known = ("answers", "all")
    refuse("features", [] if tokens in known else [unknown("choice of tokens", tokens, known)])
    stream = model.residual_stream if tokens == "all" and isinstance(model, Transformer) else model.answering_stream
    return torch.stack(list(stream(prompts.xs, prompts.ys))).double()


def visible(model: Transformer, n: int) -> Bool[Tensor, "n t"]:
    """Returns the tokens that the answer for x_i may see: those of the first i examples, and x_i."""
    mask = model.layout.mask(n, next(model.parameters()).device)
    return model.layout.answers(mask.unsqueeze(0))[0]


def bare_prompt(prompts: Prompts) -> Float[Tensor, "1 batch n D"]:
    """Returns the prompt up to x_i, flattened, as the features of a single layer: what is linear in it needs no
    model."""
    n = prompts.xs.shape[1]
    seen = torch.ones(n, n, dtype=torch.bool, device=prompts.xs.device).tril()
    inputs = prompts.xs.double().unsqueeze(1).masked_fill(~seen[:, :, None], 0.0)
    labels = prompts.ys.double().unsqueeze(1).masked_fill(~seen.tril(-1), 0.0)
    return torch.cat([inputs.flatten(2), labels], dim=-1).unsqueeze(0)


def algorithm_state(prompts: Prompts, lam: float) -> dict[str, Float[Tensor, "batch n m"]]:
    """Returns what algorithms for linear regression hold after i examples: the moment Xᵀy / i, the weights of least
    squares of minimum norm and of ridge(lam), and the weights w that made the prompt."""
    xs, ys = prompts.xs.double(), prompts.ys.double()
    counts = torch.arange(xs.shape[1], dtype=xs.dtype, device=xs.device).clamp(min=1)
    targets = {
        "moment": moments(xs, ys)[1] / counts.unsqueeze(-1),
        "least_squares": LeastSquares().weights(xs, ys),
        "w": prompts.ws.double().unsqueeze(1).expand_as(xs),
    }
    return targets if lam == 0 else {**targets, "ridge": Ridge(lam).weights(xs, ys)}


@dataclass(frozen=True)
class Regression:
    """Ridge regression of the target on the features at every layer and position, for any penalties: h = features and
    v = target are without their means, and `gram` is the smaller of hᵀh and h hᵀ."""

    h: Float[Tensor, "layers n batch D"]
    v: Float[Tensor, "n batch m"]
    gram: Float[Tensor, "layers n k k"]
    centre: Float[Tensor, "layers n D"]
    offset: Float[Tensor, "n m"]

    @classmethod
    def of(cls, features: Float[Tensor, "layers batch n D"], target: Float[Tensor, "batch n m"]) -> "Regression":
        """Computes what does not depend on the penalty."""
        h, v = features.double().transpose(1, 2), target.double().transpose(0, 1)
        centre, offset = h.mean(2), v.mean(1)
        h, v = h - centre.unsqueeze(2), v - offset.unsqueeze(1)
        return cls(h, v, h.mT @ h if h.shape[-1] <= h.shape[-2] else h @ h.mT, centre, offset)

    def at(self, penalty: float | Float[Tensor, "layers n"]) -> LinearMap:
        """Returns the minimiser, where the intercept is not penalised: (hᵀh + lam)⁻¹ hᵀv = hᵀ (h hᵀ + lam)⁻¹ v; that of
        least norm where lam is 0."""
        lam = torch.as_tensor(penalty, dtype=self.h.dtype, device=self.h.device).expand(self.h.shape[:2])
        left = self.gram + torch.diag_embed(lam.unsqueeze(-1).expand(self.gram.shape[:-1]))
        by_features = self.gram.shape[-1] == self.h.shape[-1]
        right = self.h.mT @ self.v if by_features else self.v.expand(len(left), -1, -1, -1)
        slope = torch.linalg.solve(left, right) if (lam > 0).all() else _pseudoinverse(left) @ right
        offset = self.offset.expand(len(self.h), *self.offset.shape)
        return LinearMap(slope if by_features else self.h.mT @ slope, self.centre, offset)


def _pseudoinverse(gram: Float[Tensor, "layers n k k"]) -> Float[Tensor, "layers n k k"]:
    """That of Gram matrices, whose smaller eigenvalues are rounding; not a number where the matrix is none."""
    whole = gram.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    inverse = torch.linalg.pinv(gram.where(whole, 0.0), hermitian=True, rtol=RANK)
    return inverse.where(whole, torch.nan)


def fit_map(
    features: Float[Tensor, "layers batch n D"],
    target: Float[Tensor, "batch n m"],
    penalty: float | Float[Tensor, "layers n"],
) -> LinearMap:
    """Fits ridge regression of the target on the features (intercept not penalised) at every layer and position."""
    return Regression.of(features, target).at(penalty)


def probe(
    features: Float[Tensor, "layers batch n D"], target: Float[Tensor, "batch n m"], penalty: float | None = None
) -> Estimate:
    """Returns R² [layers, n] on the second half of the prompts, and its standard error; fitted on the first.

    `penalty` is lam; unless it is given, lam is chosen at each layer and position by fitting on one quarter of the
    prompts and testing on the next. R² is not a number where the target does not vary (Xᵀy before the first example).
    Raises ``ValueError`` where there are fewer than 16 prompts.

    Args:
        features: Activations of each layer, such as `features(model, prompts)`.
        target: The vector to decode at each position, such as `algorithm_state(prompts, lam)["moment"]`.
        penalty: The ridge penalty of the probe.

    >>> hidden = torch.randn(1, 64, 2, 3, generator=torch.Generator().manual_seed(0))  # [layers batch n D]
    >>> target = hidden[0, :, :, :1]  # one of the channels
    >>> probe(hidden, target, penalty=0.0).value.round(decimals=6)
    tensor([[1., 1.]], dtype=torch.float64)
    """
    return estimate(probe_terms(features, target, penalty))


def probe_terms(
    features: Float[Tensor, "layers batch n D"], target: Float[Tensor, "batch n m"], penalty: float | None = None
) -> Float[Tensor, "half layers n"]:
    """Returns the `r2_terms` of `probe`, for averages over positions and differences between probes of the same
    prompts."""
    refuse_few("probe", len(target))
    half = len(target) // 2
    lam = best_penalty(features[:, :half], target[:half]) if penalty is None else penalty
    fitted = fit_map(features[:, :half], target[:half], lam)
    return r2_terms(fitted(features[:, half:]), target[half:].double())


def r2_terms(
    predicted: Float[Tensor, "layers batch n m"], target: Float[Tensor, "batch n m"]
) -> Float[Tensor, "batch layers n"]:
    """Returns what each prompt adds to R², of ‖v − v̂‖² and ‖v − E v‖²; not a number where v does not vary."""
    errors = (predicted - target).square().sum(-1).transpose(0, 1)
    spread = (target - target.mean(0)).square().sum(-1) * varies(target)
    return explained(errors, spread.unsqueeze(1))


def explained(errors: Float[Tensor, "batch *places"], spread: Float[Tensor, "batch *#places"]) -> Tensor:
    """Returns what each prompt adds to 1 − E e / E s, the share explained: 1 less the `ratio_terms`. NaN where s is
    0."""
    return 1 - ratio_terms(errors, torch.where(spread.mean(0) > 0, spread, torch.nan))


def refuse_few(what: str, prompts: int) -> None:
    """Refuses fewer prompts than probes can be fitted to and measured on."""
    refuse(what, [] if prompts >= LEAST else [f"needs at least {LEAST} prompts, given {prompts}"])


def best_penalty(features: Float[Tensor, "layers batch n D"], target: Float[Tensor, "batch n m"]) -> Tensor:
    """Returns lam at each layer and position: the best of a grid, relative to the mean eigenvalue of the Gram
    matrix."""
    half = len(target) // 2
    fit, held, wanted = features[:, :half], features[:, half:].double(), target[half:].double()
    scale = mean_variance(fit) * half
    regression = Regression.of(fit, target[:half])
    maps = (regression.at(relative * scale) for relative in PENALTIES)
    errors = [(fitted(held) - wanted).square().sum(-1).mean(1) for fitted in maps]
    return torch.tensor(PENALTIES, dtype=scale.dtype, device=scale.device)[torch.stack(errors).argmin(0)] * scale
