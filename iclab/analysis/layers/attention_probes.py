"""Attention probes: is a vector encoded in the residual stream, at any set of tokens?

Let h_t ∈ ℝᴰ be the tokens after layer l. Those that the answer for x_i may see hold the prompt's first i examples; let
v ∈ ℝᵐ be a target that these examples decide. A probe has a score of its own for each of these tokens,

    α = softmax(s)        v̂ = FF( Σ_t α_t W h_t )        W ∈ ℝ^{H'×D}

where FF is linear, or has one hidden layer of H' GELUs. It minimises E‖v − v̂‖² by Adam; there is one probe for every
layer and every number of examples i, and all are trained at once, as one pack of parameters with axes (layer, length).
With a linear FF and α fixed this is linear regression on Σ_t α_t h_t, and in the end it is fitted as such, by ridge
regression with the attention that Adam found: what a linear probe lacks beside an MLP is then no matter of patience.
The exact probes of single tokens are in `iclab.analysis.layers.probing`, and so are the targets and the controls,
without which a probe is not informative.

Source: Akyürek et al. 2022, arXiv 2211.15661, §5 and App. E (there H' = 512 and a rate of 1e-3; the smaller probes, the
whitening of the features, the rates, the stopping rule and the ridge regression at the end are this project's).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from iclab.analysis.layers.probing import best_penalty, fit_map, r2_terms, refuse_few
from iclab.analysis.risk import Estimate, estimate
from iclab.analysis.scale import mean_variance, varies
from iclab.errors import refuse, unknown

Parameters = Mapping[str, Tensor]
HEADS = {"linear": 2, "mlp": 3}  # matrices, W among them
SHARPER = 10  # rate of the scores relative to that of the matrices: attention to one of many tokens is a long way off
RIDGE = 1e-6  # of the mean eigenvalue of the features' covariance: directions that never vary are not blown up


@dataclass(frozen=True, kw_only=True)
class ProbeRecipe:
    """Size and training of a probe: `width` is H'. The rate falls from `lr` to 0 over `steps` steps of
    `batch` prompts; every `look` steps, each probe keeps its weights if they are its best so far on a validation set.
    """

    width: int = 64
    steps: int = 500
    batch: int = 256
    lr: float = 1e-2
    look: int = 25

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("width", "steps", "batch", "look")}
        problems = [f"{name} must be at least 1, given {value}" for name, value in given.items() if value < 1]
        problems += [] if 0 < self.lr < float("inf") else [f"lr must be positive and finite, given {self.lr}"]
        refuse("ProbeRecipe", problems)


@dataclass(frozen=True)
class AttentionProbes:
    """Results of the probes of every layer and length on held-out prompts: the `r2_terms` of each
    prompt, and the mean squared error of a coordinate, (1/m) E‖v − v̂‖² [layers lengths]; and α, where they look."""

    terms: Float[Tensor, "batch layers lengths"]
    mse: Estimate
    attention: Float[Tensor, "layers lengths t"]

    @property
    def r2(self) -> Estimate:
        """Returns R² [layers lengths]."""
        return estimate(self.terms)

    @property
    def mean_r2(self) -> Estimate:
        """Returns R² averaged over those lengths after which the target varies [layers]."""
        return estimate(self.terms.nanmean(-1))


def attention_probes(
    features: Float[Tensor, "layers batch t D"],
    target: Float[Tensor, "batch lengths m"],
    visible: Bool[Tensor, "lengths t"],
    head: str = "linear",
    recipe: ProbeRecipe | None = None,
    rng: torch.Generator | None = None,
) -> AttentionProbes:
    """Trains a probe for every layer and length on the first half of the prompts and measures it on the second.

    `visible` are the tokens that a length may see, `head` is FF. A quarter of the first half is kept for validation. R²
    is not a number where the target does not vary. Raises ``ValueError`` where there are fewer than 16 prompts, a
    length sees no token, or the head is not known.
    """
    refuse_few("attention_probes", len(target))
    problems = [f"length {index} sees no token" for index in (~visible.any(-1)).nonzero().flatten().tolist()]
    refuse("attention_probes", problems + ([] if head in HEADS else [unknown("head", head, HEADS)]))
    half, target, rng = len(target) // 2, target.double(), rng or torch.Generator(features.device).manual_seed(0)
    hidden, (centre, scale) = _whitened(features, half), _centre_and_scale(target[:half])
    wanted = ((target[:half] - centre) / scale).float()
    fitted = _fit(hidden[:, :half], wanted, visible, HEADS[head], recipe or ProbeRecipe(), rng)
    if head == "linear":
        predictions = _exactly(fitted, hidden, target, visible)
    else:
        predictions = _answers(fitted, hidden[:, half:], visible).double().transpose(1, 2) * scale + centre
    errors = (predictions - target[half:]).square().mean(-1).transpose(0, 1)
    return AttentionProbes(r2_terms(predictions, target[half:]), estimate(errors), _attention(fitted, visible).double())


def _centre_and_scale(target: Float[Tensor, "batch lengths m"]) -> tuple[Tensor, Tensor]:
    """The mean [lengths m] and one standard deviation per length [lengths 1], so that every probe has a loss near 1."""
    spread = target.var(0).mean(-1, keepdim=True).sqrt()
    return target.mean(0), torch.where(varies(target).unsqueeze(-1), spread, 1.0)


def _whitened(features: Float[Tensor, "layers batch t D"], half: int) -> Float[Tensor, "layers batch t D"]:
    """The features as Adam likes them: no mean at any token, and one covariance I over the tokens of a layer. The
    probes that can be written are the same, since W may undo it."""
    centred = features - features[:, :half].mean(1, keepdim=True)
    tokens = centred[:, :half].flatten(1, 2).double()
    covariance = tokens.mT @ tokens / tokens.shape[1]
    floor = RIDGE * mean_variance(features[:, :half].flatten(1, 2))
    root, _ = torch.linalg.cholesky_ex(covariance + torch.diag_embed(floor.unsqueeze(-1).expand(covariance.shape[:-1])))
    undo = torch.linalg.solve_triangular(root, torch.eye(root.shape[-1]).to(root), upper=False).mT
    return centred.float() @ undo.float().unsqueeze(1)


# ---- the pack ------------------------------------------------------------------------------------------------------


def _initial(pack: tuple[int, int], t: int, sizes: list[int], rng: torch.Generator) -> Parameters:
    """Even attention, matrices N(0, 1/fan_in), biases zero; every tensor begins with the axes of the pack."""
    drawn: dict[str, Tensor] = {"scores": torch.zeros(*pack, t, device=rng.device)}
    for k, (inputs, outputs) in enumerate(pairwise(sizes)):
        weights = torch.randn(*pack, inputs, outputs, generator=rng, device=rng.device)
        drawn |= {f"weight{k}": weights / inputs**0.5, f"bias{k}": torch.zeros(*pack, 1, outputs, device=rng.device)}
    return {name: value.requires_grad_() for name, value in drawn.items()}


def _attention(probes: Parameters, visible: Bool[Tensor, "lengths t"]) -> Float[Tensor, "layers lengths t"]:
    """α of every probe."""
    return probes["scores"].masked_fill(~visible, float("-inf")).softmax(-1)


def _answers(
    probes: Parameters, hidden: Float[Tensor, "layers batch t D"], visible: Bool[Tensor, "lengths t"]
) -> Float[Tensor, "layers lengths batch m"]:
    """v̂ of every probe; the tokens are averaged before W, which is the same and cheaper."""
    h = torch.einsum("lkt, lbtd -> lkbd", _attention(probes, visible), hidden)
    h = h @ probes["weight0"] + probes["bias0"]
    h = h @ probes["weight1"] + probes["bias1"]
    return F.gelu(h) @ probes["weight2"] + probes["bias2"] if "weight2" in probes else h


def _exactly(
    probes: Parameters, hidden: Tensor, target: Float[Tensor, "batch lengths m"], visible: Tensor
) -> Float[Tensor, "layers half lengths m"]:
    """The answers of linear probes to the second half of the prompts, once B in v̂ = B Σ_t α_t h_t is the ridge
    solution on the first."""
    pooled = torch.einsum("lkt, lbtd -> lbkd", _attention(probes, visible), hidden).double()
    half = len(target) // 2
    lam = best_penalty(pooled[:, :half], target[:half])
    return fit_map(pooled[:, :half], target[:half], lam)(pooled[:, half:])


def _losses(
    probes: Parameters, hidden: Tensor, target: Float[Tensor, "batch lengths m"], visible: Tensor
) -> Float[Tensor, "layers lengths"]:
    return (_answers(probes, hidden, visible) - target.transpose(0, 1)).square().mean((-2, -1))


def _fit(
    hidden: Float[Tensor, "layers batch t D"],
    target: Float[Tensor, "batch lengths m"],
    visible: Bool[Tensor, "lengths t"],
    matrices: int,
    recipe: ProbeRecipe,
    rng: torch.Generator,
) -> Parameters:
    """The pack after training, each probe with the weights that were best on the last quarter of the prompts."""
    pack, cut = (len(hidden), len(visible)), len(target) - len(target) // 4
    sizes = [hidden.shape[-1], *[recipe.width] * (matrices - 1), target.shape[-1]]
    probes = _initial(pack, hidden.shape[2], sizes, rng)
    weights = [value for name, value in probes.items() if name != "scores"]
    rates = [{"params": weights}, {"params": [probes["scores"]], "lr": SHARPER * recipe.lr}]
    adam = torch.optim.Adam(rates, recipe.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, recipe.steps)
    best, kept = torch.full(pack, torch.inf, device=hidden.device), {k: p.detach() for k, p in probes.items()}
    for step in range(1, recipe.steps + 1):
        chosen = torch.randint(cut, (recipe.batch,), generator=rng, device=rng.device)
        adam.zero_grad()
        _losses(probes, hidden[:, chosen], target[chosen], visible).sum().backward()
        adam.step()
        schedule.step()
        if step % recipe.look == 0 or step == recipe.steps:
            with torch.no_grad():
                losses = _losses(probes, hidden[:, cut:], target[cut:], visible)
                kept = _where(losses < best, probes, kept)
                best = losses.minimum(best)
    return kept


def _where(better: Bool[Tensor, "layers lengths"], new: Parameters, old: Parameters) -> Parameters:
    """The new weights of those probes that got better, the old ones of the others."""
    return {k: torch.where(better.view(*better.shape, *[1] * (p.ndim - 2)), p, old[k]) for k, p in new.items()}
