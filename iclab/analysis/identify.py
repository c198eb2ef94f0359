"""Which algorithm? The distance of a learned predictor to families of algorithms with fitted free parameters.

For each family {g_θ} and each position i,

    θ_i = argmin_θ E (f_i − g_{θ,i})²        over a grid, on one half of the prompts
    distance_i = E (f_i − g_{θ_i,i})²        on the other half

so that a family gains nothing by fitting noise. The nearest family is the one with the least distance averaged over
positions, relative to the Bayes risk (or to the mean square label where no Bayes predictor is known); its uncertainty
is the share of bootstrap resamples of the second half in which it is the nearest. A θ_i at an end of its grid is
marked, for a better one may lie beyond.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, log10

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.references import references, right_penalty
from iclab.analysis.risk import answer, estimate, ratio, resampled, squared
from iclab.errors import refuse
from iclab.posterior import bayes_where_known, same_posterior
from iclab.predictors import (
    Averaging,
    GradientDescent,
    Landweber,
    LeastSquares,
    NearestNeighbours,
    Newton,
    Predictor,
    Ridge,
    Spectral,
    StochasticGradientDescent,
    Zero,
)
from iclab.predictors.spectral import answers_of_each
from iclab.tasks import Prompts, Task
from iclab.words import MOST_STEPS, algorithm, sentence

LEAST = 20  # prompts; half of them fit the parameters
_DESCENTS = sorted({round(2 ** (k / 2)) for k in range(29)})  # two numbers of steps to each doubling, up to 16384
Fit = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Family:
    """Algorithms that differ in one number: `members[k]` is the algorithm whose `parameter` is `grid[k]`.

    A parameter that `counts` cannot be less than the least of its grid; any other might.
    """

    name: str
    parameter: str
    grid: Float[Tensor, " k"]
    members: Sequence[Predictor]
    counts: bool = False

    def words(self, value: float) -> str:
        """The member with a parameter, in words."""
        return algorithm(self.name, value if self.parameter else None, self.edge(value))

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """The ends of the grid beyond which there are other members, which were not tried."""
        if not self.parameter:
            return None, None
        return None if self.counts else self.grid[0].item(), self.grid[-1].item()

    def edge(self, value: float) -> str:
        """ "≤" or "≥" where a fitted parameter is an end of the grid, so that it is a bound and no estimate."""
        low, high = self.ends
        return "≤" if value == low else "≥" if value == high else ""

    def resolution(self, value: float) -> float:
        """Half a step of the grid around one of its values."""
        place = int((self.grid - value).abs().argmin())
        beside = self.grid[[max(place - 1, 0), min(place + 1, len(self.grid) - 1)]]
        return (beside[1] - beside[0]).item() / 4


@dataclass(frozen=True)
class Match:
    """How near a family comes: per position the fitted parameter and the distance, and over positions the mean distance
    relative to the reference risk (which `scale` names), the probability that no other family is nearer (its error is
    that of the bootstrap; the parameters are not fitted again), at each position as `shares`, and the median parameter,
    which is known to half a step of its grid; `edge` is "≤" or "≥" where it is an end of that."""

    family: str
    parameter: str
    fitted: Float[Tensor, " n"]
    distance: Float[Tensor, " n"]
    stderr: Float[Tensor, " n"]
    relative: float
    relative_stderr: float
    typical: float
    resolution: float
    probability: float
    probability_stderr: float
    shares: Float[Tensor, " n"]
    edge: str
    scale: str

    def __str__(self) -> str:
        return f"{self.words} at {self.relative:.2%} ± {self.relative_stderr:.2%} of the {self.scale}"

    @property
    def words(self) -> str:
        """The family and its typical parameter in words."""
        return algorithm(self.family, self.typical if self.parameter else None, self.edge)

    def sentence(self, where: str) -> str:
        """What was found, in words."""
        return sentence(where, self.words, self.relative, self.probability, self.scale)


def single(name: str, predictor: Predictor) -> Family:
    """A family of one, with nothing to fit."""
    return Family(name, "", torch.zeros(1), [predictor])


def families(task: Task, training: Task | None = None, points: int = 33) -> list[Family]:
    """The algorithms that in-context learners of regression are compared with.

    Ridge has penalties around the right one and up to those that shrink everything. Gradient descent takes steps of
    size η / (v (i + r + 1)) after i examples, v the variance of an input along each of its r dimensions, so that one
    grid of η suits every position (η = 1 is the best single step without noise). "newton" and "landweber" have nothing
    but their number of steps. A Bayes predictor that is no ridge is a family of its own, and so is that of the task
    that the model was trained on, where it is another one.
    """
    v = task.input_second_moment().trace().item() / task.rank
    unit = 1 / (v * (torch.arange(task.n, dtype=torch.float64) + task.rank + 1))
    penalties = _penalties(right_penalty(task), v, task.n)
    rates = torch.logspace(-1.5, 0.75, points, dtype=torch.float64)
    found = [
        single("zero", Zero()),
        single("averaging", Averaging()),
        single("least_squares", LeastSquares()),
        _family("ridge", "lam", penalties, Ridge),
        *(
            _family(f"gradient_descent_{k}", "lr·v(i+r+1)", rates, lambda eta, k=k: GradientDescent(k, eta * unit))
            for k in range(1, MOST_STEPS + 1)
        ),
        _family("one_pass_sgd", "lr", rates / (v * (task.rank + 2)), StochasticGradientDescent),
        _counted("newton", "steps", range(1, 25), Newton),
        _counted("landweber", "steps", _DESCENTS, Landweber),
        _counted("nearest_neighbours", "k", range(1, 9), NearestNeighbours),
    ]
    return found + _posterior_means(task, training)


def known_names(task: Task, training: Task) -> set[str]:
    """The names that stand in a table of results for the model, for references and for families."""
    named = [family.name for family in families(task, training)]
    return {"transformer", "oracle", "bayes", "trained_bayes", *references(task, training), *named}


class Lineup:
    """The answers of families of algorithms to fixed prompts, with which any number of predictors can be compared: a
    model, its layers, its checkpoints. Raises ``ValueError`` for fewer than 20 prompts; a thousand make it sharp.
    """

    def __init__(self, task: Task, prompts: Prompts, among: Sequence[Family] | None = None) -> None:
        given = len(prompts.xs)
        refuse("identify", [] if given >= LEAST else [f"needs at least {LEAST} prompts, given {given}"])
        self.prompts = prompts
        self.families = families(task) if among is None else list(among)
        self.answers = [_answers(family, prompts) for family in self.families]
        self.scale = "Bayes risk" if bayes_where_known(task) else "labels' mean square"
        self.reference = _reference_errors(task, prompts)
        # What is averaged over unless something else is asked for: a shift of the query is about the query alone.
        self.part = slice(task.n - 1, task.n) if task.at_query else slice(task.n)

    def identify(
        self, predictor: Predictor, rng: torch.Generator, draws: int = 500, part: slice | None = None
    ) -> list[Match]:
        """The families by distance to a predictor, averaged over some positions (all of them, or the query where the
        task is about it), nearest first."""
        return self.rank(self.fit(predictor), rng, draws, part)

    def rank(self, fits: list[Fit], rng: torch.Generator, draws: int = 500, part: slice | None = None) -> list[Match]:
        """What `identify` does, for a predictor whose fits are at hand: several parts can share them."""
        part = part or self.part
        weights = resampled(len(self.reference), draws, rng)
        terms = torch.stack([terms for _, terms in fits])
        shares, at_each = _nearest(weights, terms[..., part].mean(-1, keepdim=True)), _nearest(weights, terms)
        each = zip(self.families, fits, shares.squeeze(-1).tolist(), at_each, strict=True)
        matches = [self._match(*found, part, draws) for found in each]
        return sorted(matches, key=lambda match: match.relative)

    def distances(self, predictor: Predictor, part: slice | None = None) -> dict[str, float]:
        """The mean distance of each family to a predictor, relative to the reference risk; nearest first."""
        part = part or self.part
        fits = zip(self.families, self.fit(predictor), strict=True)
        scale = self.reference[:, part].mean().item()
        found = {family.name: terms[:, part].mean().item() / scale for family, (_, terms) in fits}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def fit(self, predictor: Predictor) -> list[Fit]:
        """For each family the parameter fitted at each position [n] on the first half of the prompts, and the squared
        differences on the second [half n]."""
        learned = answer({"f": predictor}, self.prompts)["f"]
        pairs = zip(self.families, self.answers, strict=True)
        return [_fit(family, learned, answers) for family, answers in pairs]

    def _match(
        self, family: Family, fit: Fit, probability: float, shares: Float[Tensor, " n"], part: slice, draws: int
    ) -> Match:
        fitted, terms = fit
        per_position = estimate(terms)
        overall = ratio(terms[:, part].mean(-1), self.reference[:, part].mean(-1))
        informed = fitted[max(part.start or 0, 1) : part.stop]  # before the first example nothing can be fitted
        typical = (informed if len(informed) else fitted).median().item()
        shrunk = (probability * draws + 1) / (draws + 2)  # so that a share of 1 in few draws is not certainty
        return Match(
            family=family.name,
            parameter=family.parameter,
            fitted=fitted,
            distance=per_position.value,
            stderr=per_position.stderr,
            relative=overall.value.item(),
            relative_stderr=overall.stderr.item(),
            typical=typical,
            resolution=family.resolution(typical),
            probability=probability,
            probability_stderr=(shrunk * (1 - shrunk) / (draws + 2)) ** 0.5,
            shares=shares,
            edge=family.edge(typical),
            scale=self.scale,
        )


def identify(
    predictor: Predictor,
    task: Task,
    prompts: Prompts,
    rng: torch.Generator,
    among: Sequence[Family] | None = None,
    draws: int = 500,
) -> list[Match]:
    """The families by distance to a predictor, nearest first."""
    return Lineup(task, prompts, among).identify(predictor, rng, draws)


def _family(name: str, parameter: str, grid: Tensor, make: Callable[[float], Predictor]) -> Family:
    return Family(name, parameter, grid, [make(value) for value in grid.tolist()])


def _counted(name: str, parameter: str, grid: Iterable[int], make: Callable[[int], Predictor]) -> Family:
    numbers = list(grid)
    return Family(name, parameter, torch.tensor(numbers).double(), [make(k) for k in numbers], counts=True)


def _posterior_means(task: Task, training: Task | None) -> list[Family]:
    """The Bayes predictors that are not among the other families: here where it is no ridge, and of the training where
    it is another one."""
    here = bayes_where_known(task)
    found = [] if here is None or isinstance(here, Ridge | LeastSquares) else [single("bayes", here)]
    if training is None or same_posterior(task, training):
        return found
    there = bayes_where_known(training)
    return found if there is None or isinstance(there, LeastSquares) else [*found, single("trained_bayes", there)]


def _answers(family: Family, prompts: Prompts) -> Float[Tensor, "k batch n *labels"]:
    spectral = [f for f in family.members if isinstance(f, Spectral)]
    if len(spectral) == len(family.members):  # one decomposition is enough for all
        return answers_of_each(spectral, prompts.xs, prompts.ys)
    return torch.stack(list(answer({str(k): f for k, f in enumerate(family.members)}, prompts).values()))


def _fit(
    family: Family, learned: Float[Tensor, "batch n *labels"], answers: Float[Tensor, "k batch n *labels"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "half n"]]:
    """The parameter fitted at each position on the first half, and the squared differences on the second."""
    half, positions = len(learned) // 2, torch.arange(learned.shape[1], device=learned.device)
    chosen = torch.vmap(squared, (0, None))(answers[:, :half], learned[:half]).mean(1).argmin(0)
    best = answers[chosen, half:, positions].transpose(0, 1)
    return family.grid[chosen.cpu()], squared(best, learned[half:])


def _reference_errors(task: Task, prompts: Prompts) -> Float[Tensor, "half n"]:
    """The squared errors of Bayes on the second half of the prompts, or the squared labels where it is not known."""
    best = bayes_where_known(task) or Zero()
    return squared(answer({"best": best}, prompts)["best"], prompts.ys)[len(prompts.xs) // 2 :]


def _penalties(right: float, v: float, n: int) -> Float[Tensor, " k"]:
    """Six penalties to a factor of ten, the right one among them: from a thousandth of it (without noise a millionth of
    the inputs' variance) to ten times the largest Gram matrix."""
    middle = right or v
    lowest, highest = (-18 if right > 0 else -36), ceil(6 * log10(10 * max(middle, v * n) / middle))
    return middle * 10 ** (torch.arange(lowest, highest + 1, dtype=torch.float64) / 6)


def _nearest(weights: Float[Tensor, "draws half"], terms: Float[Tensor, "k half m"]) -> Float[Tensor, "k m"]:
    """For each family the share of bootstrap resamples in which its mean distance is the least; ties are shared."""
    means = torch.einsum("rb,kbm->rkm", weights, terms)
    wins = (means == means.amin(1, keepdim=True)).double()
    return (wins / wins.sum(1, keepdim=True)).mean(0)
