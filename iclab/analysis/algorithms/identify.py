"""Algorithm identification: the distance of a learned predictor to families of algorithms with fitted parameters.

For each family {g_θ} and each position i,

    θ_i = argmin_θ E (f_i − g_{θ,i})²        within a range, on one half of the prompts
    distance_i = E (f_i − g_{θ_i,i})²        on the other half

so a family gains nothing by fitting noise. A grid finds the neighbourhood of θ_i, and where the family has members
between its grid points the minimum is then sought among them. The nearest family is the one with the least distance
averaged over positions, relative to the Bayes risk (or to the mean square label where no Bayes predictor is known, or
its risk is zero); its uncertainty is the share of bootstrap resamples of the second half in which it is the nearest.
A family that is the nearest in more than 5 % of the resamples cannot be distinguished from it with these prompts;
families whose distances are equal up to rounding share their resamples. A θ_i at an end of its range is marked, because
a better one may lie beyond.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log10
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.algorithm_names import MOST_STEPS, algorithm, rivals, sentence, told_apart
from iclab.analysis.algorithms import spectra
from iclab.analysis.algorithms.minima import minima
from iclab.analysis.algorithms.spectra import Between, Spectra, filtered
from iclab.analysis.risk import answer, bootstrap_weights, estimate, not_finite, ratio, squared, vanishes
from iclab.errors import refuse
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
from iclab.renamed import old_names
from iclab.tasks import Prompts, Task
from iclab.theory.posterior import bayes_where_known, same_posterior
from iclab.theory.references import bayes_penalty, references

LEAST = 20  # prompts; half of them fit the parameters
LABELS = "labels' mean square"  # what distances are relative to where the Bayes risk is not known, or is zero
ROUNDING = 1e-10  # of answers in double precision, relative to them: that of prefixes of condition 1e4, squared
FAR = 1e300  # the distance of what overflows: sums of it are finite
_DESCENTS = sorted({round(2 ** (k / 8)) for k in range(113)})  # eight numbers of steps to each doubling, up to 16384


@dataclass(frozen=True)
class Made(Sequence[Predictor]):
    """Algorithms that differ in one number, built on access, because most are never needed."""

    make: Callable[[Any], Predictor]
    numbers: Sequence[float]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, k: int) -> Predictor: ...

    @overload
    def __getitem__(self, k: slice) -> "Made": ...

    def __getitem__(self, k: int | slice) -> "Predictor | Made":
        return Made(self.make, self.numbers[k]) if isinstance(k, slice) else self.make(self.numbers[k])


@dataclass(frozen=True)
class Family:
    """Algorithms that differ in one number: `members[k]` is the algorithm whose `parameter` is `grid[k]`.

    `between` gives the answers with a positive parameter for each position, anywhere within the grid; without it there
    are the members and no others. A parameter that `counts` is a whole number and cannot be less than the least of its
    grid; any other might.
    """

    name: str
    parameter: str
    grid: Float[Tensor, " k"]
    members: Sequence[Predictor]
    counts: bool = False
    between: Between | None = None

    def words(self, value: float) -> str:
        """Returns the member with a parameter, in words."""
        return algorithm(self.name, value if self.parameter else None, self.grid_bound_mark(value))

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Returns the ends of the grid beyond which there are other members, which were not tried."""
        if not self.parameter:
            return None, None
        return None if self.counts else self.grid[0].item(), self.grid[-1].item()

    def grid_bound_mark(self, value: float) -> str:
        """Returns "≤" or "≥" where a fitted parameter is an end of the grid, so that it is a bound and no estimate."""
        low, high = self.ends
        return "≤" if value == low else "≥" if value == high else ""

    def resolution(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Returns half a step of the grid around some of its values."""
        places = (self.grid.unsqueeze(-1) - values).abs().argmin(0)
        return (self.grid[(places + 1).clamp(max=len(self.grid) - 1)] - self.grid[(places - 1).clamp(min=0)]) / 4


@dataclass(frozen=True)
class Fit:
    """Fit of one family: at each position the parameter, its standard error (half a grid step if nothing better is
    known), the squared differences on the second half of the prompts, and their rounding error."""

    fitted: Float[Tensor, " n"]
    stderr: Float[Tensor, " n"]
    terms: Float[Tensor, "half n"]
    rounding: Float[Tensor, " n"]


@dataclass(frozen=True)
class Match:
    """Distance of a family: per position the fitted parameter and the distance, and over positions the mean distance
    relative to the reference risk (which `scale` names), the probability that no other family is nearer (its error is
    that of the bootstrap; the parameters are not fitted again), at each position as `shares`, and the median parameter
    with the standard error of a single position as its `resolution` (half a step for one that counts, or has no other
    members than those of its grid); `grid_bound_mark` is "≤" or "≥" where it is an end of the grid. `alike` names the
    families that these prompts cannot distinguish from this one: each is the nearest in some of the bootstrap's
    resamples."""

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
    grid_bound_mark: str
    scale: str
    alike: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.words} at {self.relative:.2%} ± {self.relative_stderr:.2%} of the {self.scale}"
        return text + told_apart(self.alike)

    @property
    def words(self) -> str:
        """Returns the family and its typical parameter in words."""
        return algorithm(self.family, self.typical if self.parameter else None, self.grid_bound_mark)

    def sentence(self, where: str) -> str:
        """Returns a sentence about the match."""
        return sentence(where, self.words, self.relative, self.probability, self.scale, self.alike)


def fixed_family(name: str, predictor: Predictor) -> Family:
    """Returns a family of one, with nothing to fit."""
    return Family(name, "", torch.zeros(1), [predictor])


def families(task: Task, training: Task | None = None, points: int = 33) -> list[Family]:
    """Returns the algorithms that in-context learners of regression are compared with.

    Ridge has penalties around the right one and up to those that shrink everything. Gradient descent takes steps of
    size η / (v (i + r + 1)) after i examples, v the variance of an input along each of its r dimensions, so that one
    grid of η suits every position (η = 1 is the best single step without noise). "newton" and "landweber" have nothing
    but their number of steps. A Bayes predictor that is no ridge is a family of its own, and so is that of the task
    that the model was trained on, where it is another one.

    >>> from iclab.tasks import LinearRegression
    >>> [family.name for family in families(LinearRegression(d=2, n=4))][:5]
    ['zero', 'averaging', 'least_squares', 'ridge', 'gradient_descent_1']
    """
    v = task.input_second_moment().trace().item() / task.rank
    unit = 1 / (v * (torch.arange(task.n, dtype=torch.float64) + task.rank + 1))
    penalties = _penalties(bayes_penalty(task), v, task.n)
    rates = torch.logspace(-1.5, 0.75, points, dtype=torch.float64)
    closed_forms = [
        fixed_family("zero", Zero()),
        fixed_family("averaging", Averaging()),
        fixed_family("least_squares", LeastSquares()),
        _family("ridge", "lam", penalties, Ridge, filtered(spectra.ridge)),
        *(_descent(k, rates, unit) for k in range(1, MOST_STEPS + 1)),
        _family("one_pass_sgd", "lr", rates / (v * (task.rank + 2)), StochasticGradientDescent, spectra.one_pass),
        _counted("newton", "steps", range(1, 25), Newton),
        _counted("landweber", "steps", _DESCENTS, Landweber, filtered(spectra.landweber)),
        _counted("nearest_neighbours", "k", range(1, 9), NearestNeighbours),
    ]
    return closed_forms + _posterior_means(task, training)


def known_names(task: Task, training: Task) -> set[str]:
    """Returns the names that stand in a table of results for the model, for references and for families."""
    named = [family.name for family in families(task, training)]
    return {"transformer", "oracle", "bayes", "trained_bayes", *references(task, training), *named}


class AlgorithmPanel:
    """The answers of families of algorithms to fixed prompts, with which any number of predictors can be compared: a
    model, its layers, its checkpoints. Raises ``ValueError`` for fewer than 20 prompts (a thousand make it sharp), and
    for prompts that are not the task's or not finite.
    """

    def __init__(self, task: Task, prompts: Prompts, among: Sequence[Family] | None = None) -> None:
        refuse("identify", _unusable(task, prompts))
        self.prompts, self.spectra = prompts, Spectra(prompts.xs, prompts.ys)
        self.families = families(task) if among is None else list(among)
        self.answers = [_answers(family, self.spectra, prompts) for family in self.families]
        self.scale = "Bayes risk" if bayes_where_known(task) else LABELS
        self.reference = _reference_errors(task, prompts)
        # The region that is averaged over by default: a shift of the query is about the query alone.
        self.part = slice(task.n - 1, task.n) if task.query_only else slice(task.n)

    def identify(
        self, predictor: Predictor, rng: torch.Generator, draws: int = 500, part: slice | None = None
    ) -> list[Match]:
        """Returns the families by distance to a predictor, averaged over some positions (all of them, or the query
        where the task is about it), nearest first. Raises ``ValueError`` for answers that are not finite."""
        return self.rank(self.fit(predictor), rng, draws, part)

    def rank(self, fits: list[Fit], rng: torch.Generator, draws: int = 500, part: slice | None = None) -> list[Match]:
        """Returns what `identify` does for a predictor that is already fitted, so that several regions share the
        fits."""
        part = part or self.part
        weights = bootstrap_weights(len(self.reference), draws, rng)
        terms, rounding = torch.stack([fit.terms for fit in fits]), fits[0].rounding
        whole = _nearest(weights, terms[..., part].mean(-1, keepdim=True), rounding[part].mean(-1, keepdim=True))
        shares = dict(zip((family.name for family in self.families), whole.squeeze(-1).tolist(), strict=True))
        each = zip(self.families, fits, _nearest(weights, terms, rounding), strict=True)
        matches = [self._match(*measured, shares, part, draws) for measured in each]
        return sorted(matches, key=lambda match: match.relative)

    def distances(self, predictor: Predictor, part: slice | None = None) -> dict[str, float]:
        """Returns the mean distance of each family to a predictor, relative to the reference risk; nearest first.
        Raises ``ValueError`` for answers that are not finite."""
        part = part or self.part
        scale = self.unit(part)[1].mean().item()
        fits = zip(self.families, self.fit(predictor), strict=True)
        distances = {family.name: fit.terms[:, part].mean().item() / scale for family, fit in fits}
        return dict(sorted(distances.items(), key=lambda item: item[1]))

    def fit(self, predictor: Predictor) -> list[Fit]:
        """Returns each family with its parameters fitted on the first half of the prompts, before the second. Raises
        ``ValueError`` for answers that are not finite."""
        learned = answer({"f": predictor}, self.prompts)["f"]
        refuse("identify", not_finite("the predictor's answer", learned))
        pairs = zip(self.families, self.answers, strict=True)
        return [_fit(family, learned, answers, self.spectra) for family, answers in pairs]

    def unit(self, part: slice) -> tuple[str, Float[Tensor, " half"]]:
        """Returns what distances over some positions are relative to, and its name: the Bayes risk, unless it is zero
        there."""
        ys = self.prompts.ys[len(self.prompts.ys) // 2 :]
        labels = squared(ys, torch.zeros_like(ys))[:, part].mean(-1)
        reference = self.reference[:, part].mean(-1)
        return (LABELS, labels) if vanishes(reference, ys[:, part]) else (self.scale, reference)

    def _match(
        self,
        family: Family,
        fit: Fit,
        shares: Float[Tensor, " n"],
        probabilities: Mapping[str, float],
        part: slice,
        draws: int,
    ) -> Match:
        per_position, (scale, unit) = estimate(fit.terms), self.unit(part)
        overall = ratio(fit.terms[:, part].mean(-1), unit)
        informed = range(len(fit.fitted))[max(part.start or 0, 1) : part.stop]  # nothing can be fitted to no example
        middle = list(informed or range(len(fit.fitted)))
        typical, place = fit.fitted[middle].median(0)
        probability = probabilities[family.name]
        shrunk = (probability * draws + 1) / (draws + 2)  # so that a share of 1 in few draws is not certainty
        return Match(
            family=family.name,
            parameter=family.parameter,
            fitted=fit.fitted,
            distance=per_position.value,
            stderr=per_position.stderr,
            relative=overall.value.item(),
            relative_stderr=overall.stderr.item(),
            typical=typical.item(),
            resolution=fit.stderr[middle][place].item(),
            probability=probability,
            probability_stderr=(shrunk * (1 - shrunk) / (draws + 2)) ** 0.5,
            shares=shares,
            grid_bound_mark=family.grid_bound_mark(typical.item()),
            scale=scale,
            alike=rivals(probabilities, family.name),
        )


def identify(
    predictor: Predictor,
    task: Task,
    prompts: Prompts,
    rng: torch.Generator,
    among: Sequence[Family] | None = None,
    draws: int = 500,
) -> list[Match]:
    """Returns the families by distance to a predictor, nearest first. Raises ``ValueError`` for fewer than 20 prompts,
    for prompts that are not the task's, and for prompts or answers that are not finite.

    Args:
        predictor: The learned predictor, such as a trained transformer.
        task: The distribution of the prompts; it sets the grids of parameters.
        prompts: Prompts of the task; parameters are fitted on one half, distances measured on the other.
        rng: The source of the bootstrap resamples.
        among: The families to compare with; `families(task)` by default.
        draws: The number of bootstrap resamples, from which `probability` follows.

    >>> from iclab.predictors import Ridge
    >>> from iclab.tasks import LinearRegression
    >>> task, rng = LinearRegression(d=2, n=6, noise=0.5), torch.Generator().manual_seed(0)
    >>> prompts = task.sample(64, rng, torch.float64)
    >>> nearest, *_ = identify(Ridge(0.5), task, prompts, rng)
    >>> nearest.family, nearest.probability, round(nearest.typical, 3)
    ('ridge', 1.0, 0.5)
    """
    return AlgorithmPanel(task, prompts, among).identify(predictor, rng, draws)


def _family(name: str, parameter: str, grid: Tensor, make: Callable[[float], Predictor], between: Between) -> Family:
    return Family(name, parameter, grid, Made(make, grid.tolist()), between=between)


def _descent(steps: int, rates: Float[Tensor, " k"], unit: Float[Tensor, " n"]) -> Family:
    def make(eta: float) -> Predictor:
        return GradientDescent(steps, eta * unit)

    return _family(f"gradient_descent_{steps}", "lr·v(i+r+1)", rates, make, filtered(spectra.descent(steps, unit)))


def _counted(
    name: str,
    parameter: str,
    grid: Iterable[int],
    make: Callable[[int], Predictor],
    between: Between | None = None,
) -> Family:
    numbers = list(grid)
    return Family(name, parameter, torch.tensor(numbers).double(), Made(make, numbers), counts=True, between=between)


def _posterior_means(task: Task, training: Task | None) -> list[Family]:
    """The Bayes predictors that are not among the other families: here where it is no ridge, and of the training where
    it is another one."""
    here = bayes_where_known(task)
    result = [] if here is None or isinstance(here, Ridge | LeastSquares) else [fixed_family("bayes", here)]
    if training is None or same_posterior(task, training):
        return result
    there = bayes_where_known(training)
    return (
        result if there is None or isinstance(there, LeastSquares) else [*result, fixed_family("trained_bayes", there)]
    )


def _unusable(task: Task, prompts: Prompts) -> list[str]:
    """What is wrong with prompts."""
    batch, n, d = prompts.xs.shape
    problems = [] if batch >= LEAST else [f"needs at least {LEAST} prompts, given {batch}"]
    if (n, d) != (task.n, task.d):
        problems.append(f"prompts have {n} examples of {d} dimensions, and those of the task {task.n} of {task.d}")
    return [*problems, *not_finite("an input of the prompts", prompts.xs), *not_finite("a label", prompts.ys)]


def _answers(family: Family, seen: Spectra, prompts: Prompts) -> Float[Tensor, "k batch n *labels"]:
    """The answers of the members on the grid."""
    if family.between:
        n = prompts.xs.shape[1]
        return torch.stack([family.between(seen, value.expand(n)) for value in family.grid.to(prompts.xs.device)])
    members = list(family.members)
    spectral = [f for f in members if isinstance(f, Spectral)]
    if len(spectral) == len(members):  # one decomposition is enough for all
        return answers_of_each(spectral, prompts.xs, prompts.ys)
    return torch.stack(list(answer({str(k): f for k, f in enumerate(members)}, prompts).values()))


def _fit(
    family: Family,
    learned: Float[Tensor, "batch n *labels"],
    answers: Float[Tensor, "k batch n *labels"],
    seen: Spectra,
) -> Fit:
    """The parameter of least distance at each position on the first half, and what it comes to on the second."""
    half, positions = len(learned) // 2, torch.arange(learned.shape[1], device=learned.device)
    on_grid = torch.vmap(squared, (0, None))(answers[:, :half], learned[:half]).mean(1).nan_to_num(nan=torch.inf)
    chosen, rounding = on_grid.argmin(0), ROUNDING**2 * squared(learned, torch.zeros_like(learned)).mean(0)
    if family.between:
        fitted, stderr = _refined(family, family.between, learned[:half], seen[:half], on_grid, rounding)
        best = family.between(seen[half:], fitted)
    else:
        fitted = family.grid.to(learned.device)[chosen]
        stderr = family.resolution(fitted.cpu())
        best = answers[chosen, half:, positions].transpose(0, 1)
    terms = squared(best, learned[half:]).nan_to_num(nan=FAR).clamp(max=FAR)
    return Fit(fitted.cpu(), stderr.cpu(), terms, rounding)


def _refined(
    family: Family,
    between: Between,
    learned: Float[Tensor, "half n *labels"],
    seen: Spectra,
    on_grid: Float[Tensor, "k n"],
    rounding: Float[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The parameter of least distance at each position, sought on either side of the best of the grid, and its standard
    error. Parameters are taken by their logarithm, as grids are even in it."""
    grid, chosen = family.grid.to(on_grid), on_grid.argmin(0)
    beside = torch.stack([chosen - 1, chosen, chosen + 1]).clamp(0, len(grid) - 1)

    def terms(logarithm: Float[Tensor, " n"]) -> Float[Tensor, "half n"]:
        return squared(between(seen, logarithm.exp()), learned).nan_to_num(nan=torch.inf)

    bracket = grid.log()[beside]
    best = minima(lambda x: terms(x).mean(0), bracket, on_grid.gather(0, beside), rounding)
    fitted = best.exp().where(best != bracket[1], grid[chosen])
    stderr = fitted * _deviation(terms, best, 1e-3 * (bracket[2] - bracket[0]))
    known = stderr.isfinite() & (fitted > grid[0]) & (fitted < grid[-1])
    stderr = stderr.where(known, family.resolution(fitted.cpu()).to(stderr))
    if not family.counts:
        return fitted, stderr
    whole = torch.stack([fitted.floor(), fitted.ceil(), grid[chosen]])
    nearest = torch.stack([terms(each.log()).mean(0) for each in whole]).argmin(0, keepdim=True)
    return whole.gather(0, nearest).squeeze(0), stderr.clamp(min=0.5)


def _deviation(
    terms: Callable[[Float[Tensor, " n"]], Float[Tensor, "half n"]], at: Float[Tensor, " n"], by: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The standard error of the argument that makes a mean of terms least: that of the mean slope, over the curvature.
    Not finite where the mean does not curve upwards."""
    below, here, above = terms(at - by), terms(at), terms(at + by)
    slope = estimate((above - below) / (2 * by)).stderr
    return slope / ((above + below - 2 * here).mean(0) / by.square()).clamp(min=0)


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


def _nearest(
    weights: Float[Tensor, "draws half"], terms: Float[Tensor, "k half m"], rounding: Float[Tensor, " m"]
) -> Float[Tensor, "k m"]:
    """For each family the share of bootstrap resamples in which its mean distance is the least; ties are shared, and
    what differs by rounding is a tie."""
    means = torch.einsum("rb,kbm->rkm", weights, terms)
    wins = (means <= means.amin(1, keepdim=True) + rounding).double()
    return (wins / wins.sum(1, keepdim=True)).mean(0)


__getattr__ = old_names(__name__, Lineup="AlgorithmPanel", single="fixed_family")
