"""Probes of tokens: what is written of x_i in the token of x_i, and what in that of y_i, in the same way everywhere?

Let h_i be the token of x_i (or that of y_i) after some layer and v_i ∈ ℝᵐ a target that x_i decides, as a
representation Φ*(x_i) does, or that the examples up to x_i decide, as the answer of an algorithm does. One map serves
all positions:

    B = argmin Σ Σ_i ‖v_i − B h_i‖² + lam·‖B‖²         on one half of the prompts, intercept not penalised
    R² = 1 − E‖v − B h‖² / E‖v − E v‖²                  on the other half, pooled over positions

where lam is chosen inside the first half. R² is centred: of a representation of unit norm most may be its mean, so that
an error that is small relative to ‖v‖² = 1 is no evidence. Of what is left, much may be linear in x_i, and x_i is at
hand: the `floor` is R² of the same probe of x_i itself, and a layer that holds v is above it. The second control is a
target like v that the model cannot know, as Φ of the same architecture from another seed. It is above its own floor
too, since any features of x_i that are not linear predict a little of any others: of normalised Φ, from x and all
layers of another Φ, 0.02 to 0.03 in 20 dimensions and 0.04 to 0.12 in 5. So v is held where it is further above its
floor than that. In the token of y_i the floor says nothing of a copy of x_i (it is 1), nor of an answer for x_i, of
which y_i itself tells much: there the control is the first layer, where that token knows y_i alone.

Source: Guo et al. 2023, arXiv 2310.10616, §5.1.2 and Fig. 3 (Φ*(x_i) and its layers at both kinds of tokens, the answer
of ridge on Φ* at those of x_i). Centring, penalty, floor and unrelated target are ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from iclab.analysis.layers.probing import best_penalty, explained, fit_map, refuse_few
from iclab.analysis.risk import Estimate, estimate
from iclab.analysis.scale import varies
from iclab.errors import refuse, unknown
from iclab.models import Transformer
from iclab.tasks import Prompts

KINDS = ("x", "y")


@dataclass(frozen=True)
class TokenProbe:
    """Results of the probes of all layers for one target at one kind of token ("x" or "y"): the squared errors in each
    prompt of the second half, those of the probe of x_i itself, and ‖v − E v‖², all summed over positions. Prompts are
    paired, so that differences have an error of their own."""

    target: str
    tokens: str
    errors: Float[Tensor, "half layers"]
    floor_errors: Float[Tensor, " half"]
    spread: Float[Tensor, " half"]

    @property
    def terms(self) -> Float[Tensor, "half layers"]:
        """Returns what each prompt adds to R²."""
        return explained(self.errors, self.spread.unsqueeze(-1))

    @property
    def floor_terms(self) -> Float[Tensor, " half"]:
        """Returns what each prompt adds to R² of the probe of x_i itself."""
        return explained(self.floor_errors, self.spread)

    @property
    def r2(self) -> Estimate:
        """Returns R² [layers]: after the input projection, then after each block."""
        return estimate(self.terms)

    @property
    def floor(self) -> Estimate:
        """Returns R² of the probe of x_i itself, a single number."""
        return estimate(self.floor_terms)

    @property
    def above_floor(self) -> Estimate:
        """Returns R² less the floor [layers]."""
        return estimate(self.terms - self.floor_terms.unsqueeze(-1))


@torch.no_grad()
def token_probes(
    model: Transformer,
    prompts: Prompts,
    targets: Mapping[str, Float[Tensor, "batch n _"]],
    kinds: Iterable[str] = KINDS,
    known: Float[Tensor, "batch n _"] | None = None,
) -> list[TokenProbe]:
    """Fits probes for every target at each kind of tokens, all layers of the model. The floor is of x_i, or of what is
    `known` at position i.

    Positions where a target does not vary (an answer before the first example) are left out; there is no token of the
    last label. Raises ``ValueError`` for fewer than 16 prompts, or an unknown kind of tokens.
    """
    refuse_few("token_probes", len(prompts.xs))
    kinds = list(kinds)
    refuse("token_probes", [unknown("kind of tokens", kind, KINDS) for kind in kinds if kind not in KINDS])
    pairs = [(name, kind) for name in targets for kind in kinds]
    by_layer: list[list[Tensor]] = [[] for _ in pairs]
    for h in model.residual_stream(prompts.xs, prompts.ys):
        tokens = {"x": model.layout.answers(h), "y": model.layout.labels(h)}
        for probes, (name, kind) in zip(by_layer, pairs, strict=True):
            probes.append(pooled_errors(tokens[kind], targets[name])[0])
    known = prompts.xs if known is None else known
    length = {"x": known.shape[1], "y": known.shape[1] - 1}
    return [
        TokenProbe(name, kind, torch.stack(probes, -1), *pooled_errors(known[:, : length[kind]], targets[name]))
        for probes, (name, kind) in zip(by_layer, pairs, strict=True)
    ]


def split(name: str, probes: Sequence[TokenProbe], chosen: Int[Tensor, " half"]) -> tuple[TokenProbe, TokenProbe]:
    """Returns, of probes of v_1, ..., v_K, one for each component of a mixture, what they find of the v of the
    component that a prompt was drawn from ("true_NAME"), and of all others ("other_NAME"). Nothing is fitted anew, so
    that no probe knows which one this was."""
    true = one_hot(chosen, len(probes)).mT.double()
    return _weighted(f"true_{name}", probes, true), _weighted(f"other_{name}", probes, 1 - true)


def _weighted(target: str, probes: Sequence[TokenProbe], weights: Float[Tensor, "K half"]) -> TokenProbe:
    """Several probes as one, with these weights in each prompt."""
    floors, spreads = (
        (weights * torch.stack(terms)).sum(0)
        for terms in ([one.floor_errors for one in probes], [one.spread for one in probes])
    )
    errors = (weights.unsqueeze(-1) * torch.stack([one.errors for one in probes])).sum(0)
    return TokenProbe(target, probes[0].tokens, errors, floors, spreads)


def second_half(batch: int) -> slice:
    """Returns the prompts that probes are judged on; lam is chosen on whole prompts of the others, an even number of
    them."""
    return slice(2 * (batch // 4), batch)


def pooled_errors(
    tokens: Float[Tensor, "batch k D"], target: Float[Tensor, "batch n m"]
) -> tuple[Float[Tensor, " half"], Float[Tensor, " half"]]:
    """Returns ‖v − B h‖² and ‖v − E v‖² in each prompt of the second half, of one map from the tokens to the first k
    targets. Not a number where these do not vary."""
    fit, target = second_half(len(target)).start, target[:, : tokens.shape[1]].double()
    places = varies(target)
    if not places.any():
        none = torch.full((len(target) - fit,), torch.nan, dtype=target.dtype, device=target.device)
        return none, none
    h, v = tokens[:, places].double(), target[:, places]
    rows, wanted = rearrange(h[:fit], "batch k D -> 1 (batch k) 1 D"), rearrange(v[:fit], "batch k m -> (batch k) 1 m")
    fitted = fit_map(rows, wanted, best_penalty(rows, wanted))
    predicted = fitted(rearrange(h[fit:], "batch k D -> 1 (batch k) 1 D"))
    errors = (rearrange(predicted, "1 (batch k) 1 m -> batch k m", k=v.shape[1]) - v[fit:]).square()
    spread = (v[fit:] - v[fit:].mean((0, 1))).square()
    return errors.sum((1, 2)), spread.sum((1, 2))


def pooled_terms(tokens: Float[Tensor, "batch k D"], target: Float[Tensor, "batch n m"]) -> Float[Tensor, " half"]:
    """Returns what each prompt of the second half adds to R² of `pooled_errors`."""
    return explained(*pooled_errors(tokens, target))
