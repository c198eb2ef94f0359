"""Risk: E(ŷ_i − y_i)² at every position, with its error. Of vectors it is the mean over coordinates.

Prompts are independent, positions of one prompt are not: every standard error is taken over prompts, and the mean over
positions is formed inside each prompt first. A ratio r = E a / E b carries the delta-method error
sd(a − r b) / (E b · √batch).

The *excess* of a predictor f is E(f − f_Bayes)² / E(f_Bayes − y)². In expectation it equals risk(f) / risk(Bayes) − 1,
because the error of the posterior mean is uncorrelated with every function of what it has seen; measured as a distance
it has far less noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from scipy.special import ndtr, stdtrit
from torch import Tensor

from iclab.digits import with_error
from iclab.errors import refuse
from iclab.predictors import Predictor
from iclab.renamed import old_names
from iclab.tasks import Prompts

BEYOND_CHANCE = 3.0  # standard errors at which a single difference is reported, before correction for several
SHOWN = 4  # numbers at either end of a list that is printed
Answers = Mapping[str, Float[Tensor, "batch n *labels"]]


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts and its standard error: at every position [n], or a single number []. It prints both, each
    with the digits that the error leaves (`iclab.digits`).

    >>> print(Estimate(torch.tensor(0.022213), torch.tensor(0.00081)))
    0.0222 ± 0.0008
    >>> print(Estimate(torch.tensor([1.25, 0.5]), torch.tensor([0.11, 0.03])))
    [1.25 ± 0.11, 0.50 ± 0.03]
    """

    value: Float[Tensor, "*positions"]
    stderr: Float[Tensor, "*positions"]

    def __str__(self) -> str:
        return _written(self.value.tolist(), self.stderr.tolist())


def _written(value: Any, error: Any) -> str:
    """Numbers, or lists of them, with their errors; of a long list both ends."""
    if not isinstance(value, list):
        return with_error(value, error)
    texts = [_written(*pair) for pair in zip(value, error, strict=True)]
    return f"[{', '.join(texts if len(texts) <= 2 * SHOWN else [*texts[:SHOWN], '…', *texts[-SHOWN:]])}]"


@torch.no_grad()
def answer(predictors: Mapping[str, Predictor], prompts: Prompts, chunk: int = 1024) -> dict[str, Tensor]:
    """Returns the float64 answers of each predictor to the same prompts; `chunk` bounds the memory of one call, and is
    less for long prompts, which cost n³ where every prefix is a sequence of its own, and for labels of many
    coordinates.

    >>> from iclab.predictors import LeastSquares, Ridge
    >>> from iclab.tasks import LinearRegression
    >>> prompts = LinearRegression(d=2, n=4).sample(8, torch.Generator().manual_seed(0))
    >>> answers = answer({"ridge": Ridge(0.1), "ols": LeastSquares()}, prompts)
    >>> {name: (f.shape, f.dtype) for name, f in answers.items()}
    {'ridge': (torch.Size([8, 4]), torch.float64), 'ols': (torch.Size([8, 4]), torch.float64)}
    """
    chunk = min(chunk, max(1, 2**25 // prompts.xs.shape[1] ** 3))
    chunk = max(1, chunk // prompts.ys.shape[2:].numel())
    pieces = list(zip(prompts.xs.split(chunk), prompts.ys.split(chunk), strict=True))
    return {name: torch.cat([f(xs, ys) for xs, ys in pieces]).double() for name, f in predictors.items()}


def estimate(terms: Float[Tensor, "batch *positions"]) -> Estimate:
    """Returns the mean over prompts and its standard error.

    >>> estimate(torch.tensor([1.0, 3.0, 1.0, 3.0]))
    Estimate(value=tensor(2., dtype=torch.float64), stderr=tensor(0.5774, dtype=torch.float64))
    """
    terms = terms.double()
    return Estimate(terms.mean(0), terms.std(0) / len(terms) ** 0.5)


def ratio(above: Float[Tensor, "batch *positions"], below: Float[Tensor, "batch *positions"]) -> Estimate:
    """Returns E above / E below, with its delta-method error (paired prompts).

    >>> ratio(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0])).value
    tensor(1.)
    """
    return Estimate(above.mean(0) / below.mean(0), estimate(ratio_terms(above, below)).stderr)


def ratio_terms(
    above: Float[Tensor, "batch *positions"], below: Float[Tensor, "batch *#positions"]
) -> Float[Tensor, "batch *positions"]:
    """Returns what each prompt adds to E above / E below = q: q + (above − q below) / E below. The mean is q and the
    standard error that of the delta method, also of averages over positions and of differences."""
    value = above.mean(0) / below.mean(0)
    return value + (above - value * below) / below.mean(0)


def squared(f: Float[Tensor, "batch n *labels"], g: Float[Tensor, "batch n *labels"]) -> Float[Tensor, "batch n"]:
    """Returns (f − g)² in float64, of vectors the mean over coordinates: of predictions and labels the terms of a risk,
    of two predictions those of an SPD."""
    terms = (f.double() - g.double()).square()
    return terms.mean(-1) if terms.ndim == 3 else terms


def risk(answers: Float[Tensor, "batch n *labels"], ys: Float[Tensor, "batch n *labels"]) -> Estimate:
    """Returns E(ŷ_i − y_i)² at every position, against the labels given (noisy or clean).

    >>> risk(torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0]])).value
    tensor([1., 0., 2.], dtype=torch.float64)
    """
    return estimate(squared(answers, ys))


def excess(
    answers: Float[Tensor, "batch n *labels"],
    bayes: Float[Tensor, "batch n *labels"],
    ys: Float[Tensor, "batch n *labels"],
) -> Estimate:
    """Returns E(f − f_Bayes)² / E(f_Bayes − y)², both averaged over positions: a single number. Raises ``ValueError``
    where the Bayes risk is zero, so that nothing is relative to it.

    Args:
        answers: Predictions f.
        bayes: Predictions of the Bayes predictor for the same prompts.
        ys: The noisy labels.

    >>> ys = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> excess(torch.zeros(2, 2), 0.5 * ys, ys).value  # (0 − 0.5)² / (0.5 − 1)²
    tensor(1., dtype=torch.float64)
    """
    distance, least = squared(answers, bayes).mean(-1), squared(bayes, ys).mean(-1)
    refuse("excess", [_no_unit(distance)] if vanishes(least, ys) else [])
    return ratio(distance, least)


def vanishes(risk: Float[Tensor, "batch *positions"], ys: Float[Tensor, "batch n *labels"]) -> bool:
    """Returns whether squared errors of a best predictor are rounding alone: in the mean below the precision of the
    labels times their mean square. Half of the digits may be lost where prefixes are ill-conditioned, as with as many
    examples as dimensions."""
    return bool(risk.mean() <= torch.finfo(ys.dtype).eps * ys.double().square().mean())


def _no_unit(distance: Float[Tensor, " batch"]) -> str:
    mean = estimate(distance)
    return f"the Bayes risk is zero here, and the squared distance from Bayes, {mean}, is relative to nothing"


def not_finite(what: str, values: Float[Tensor, "batch n *more"]) -> list[str]:
    """Returns the sentence about values that are not finite, where there are such: how many, and where the first is."""
    bad = ~values.reshape(*values.shape[:2], -1).isfinite().all(-1)
    if not bad.any():
        return []
    prompt, position = bad.nonzero()[0].tolist()
    many = f"{int(bad.any(1).sum())} of {bad.shape[0]} prompts and {int(bad.any(0).sum())} of {bad.shape[1]} positions"
    return [f"{what} is not finite in {many}, first in prompt {prompt} at position {position}"]


def below(
    errors: Mapping[str, Float[Tensor, " batch"]], best: Float[Tensor, " batch"], rounding: float = 0.0
) -> dict[str, Estimate]:
    """Returns by how much less the risk of each predictor is than that of the one which should have the least, from the
    errors on the same prompts, where that is beyond chance and beyond `rounding`: three standard errors if there were a
    single predictor, and of many as many as make one false alarm among them no likelier (Bonferroni, Student's t)."""
    if len(best) < 2 or not errors:
        return {}
    needed = -stdtrit(len(best) - 1, ndtr(-BEYOND_CHANCE) / len(errors))
    gains = {name: estimate(best - each) for name, each in errors.items()}
    return {k: g for k, g in gains.items() if g.value > rounding and g.value > needed * g.stderr}


def band(
    terms: Float[Tensor, "batch n"], rng: torch.Generator, draws: int = 200, mass: float = 0.9
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Returns the central bootstrap interval of the mean over prompts, 5 % to 95 % by default; `mass` sets its
    probability.

    Resampling prompts with replacement gives multinomial counts, so that all draws are one matrix product.

    Args:
        terms: The squared error of each prompt and position.
        rng: The source of the resamples.
        draws: The number of bootstrap resamples.
        mass: The probability that the interval covers.

    >>> low, high = band(torch.arange(100.0).unsqueeze(1), torch.Generator().manual_seed(0))
    >>> bool(low < 49.5 < high)
    True
    """
    means = bootstrap_weights(len(terms), draws, rng).to(terms) @ terms
    low, high = means.quantile(torch.tensor([(1 - mass) / 2, (1 + mass) / 2]).to(means), dim=0)
    return low, high


def bootstrap_weights(batch: int, draws: int, rng: torch.Generator) -> Float[Tensor, "draws batch"]:
    """Draws bootstrap weights: each row holds how often each prompt was drawn, divided by the number of prompts."""
    drawn = torch.randint(batch, (draws, batch), generator=rng, device=rng.device)
    counts = torch.zeros(draws, batch, dtype=torch.float64, device=rng.device)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64)) / batch


__getattr__ = old_names(__name__, resampled="bootstrap_weights")
