"""Intervals at 95 % for what is claimed of trained models: for a mean over training seeds, and for a share of runs.

The unit of inference is the training seed. Prompts of one network are as many as one pays for; what another training
would have given is known from other trainings alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, isinf, nan
from statistics import variance

from scipy.special import betaincinv, ndtri, stdtrit

TAIL = 0.025  # beyond either end of an interval
NETWORK = 10.0  # prompt errors that stand for an interval where there is one seed
AGREEING = 6  # seeds that agree to the digit and decide: 2 · 2⁻⁶ ≤ 5 %, and 2 · 2⁻⁵ is more


@dataclass(frozen=True)
class SeedMean:
    """The mean of a quantity over S training seeds, with its standard error.

        mean ± t(S−1; 1−α/2) · √( max(SD², SE²) / S + SE₀² )          (Student 1908)

    SD is the standard deviation over seeds; SE² is the mean square of their prompt errors. SE₀ is the error of what
    all seeds share, which no number of them averages out. On shared prompts SE₀ = SE. Here each seed draws prompts of
    its own (`iclab.experiments.streams`), so that SD contains the prompt error already, and SE₀ = 0: to add it would
    count it twice. SD² is never taken to be less than the known SE², since two seeds may agree by chance.

    With S = 1 the mean is that of one network, and ten prompt errors stand in place of the interval. Nothing follows
    from them about another training.

    `stderr` is not a number where no error is known: of one seed without a prompt error, and of several that agree to
    the digit without one. From six on, agreement decides: more than half of all trainings then have this value (sign
    test, 2 · 2⁻⁶ ≤ 5 %).
    """

    value: float
    stderr: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float], errors: Sequence[float], shared: float = 0.0) -> "SeedMean":
        """Returns the mean of one value per seed.

        Args:
            values: One for each seed.
            errors: Their prompt errors; not a number where missing.
            shared: SE₀, the error of what all seeds share.

        >>> low, high = SeedMean.of([0.040, 0.059, 0.045, 0.048, 0.056], [0.0012] * 5).interval()
        >>> round(low, 4), round(high, 4)
        (0.0399, 0.0593)
        """
        count, known = len(values), [error**2 for error in errors if isfinite(error)]
        mean, prompts = _mean(values), _mean(known) if known else nan
        if isinf(mean):
            return cls(mean, _error_of_infinite(values), count)
        own = prompts if count == 1 else _variance(values, bool(known))
        return cls(mean, ((max(own, prompts) if known else own) / count + shared**2) ** 0.5, count)

    def half_width(self, tail: float = TAIL) -> float:
        """Returns half of the interval that leaves out `tail` on either side; of one network ten prompt errors."""
        return self.stderr * (NETWORK if self.seeds == 1 else float(stdtrit(self.seeds - 1, 1 - tail)))

    def interval(self, tail: float = TAIL) -> tuple[float, float]:
        """Returns the ends of the interval."""
        half = self.half_width(tail)
        return self.value - half, self.value + half


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float], known: bool) -> float:
    """SD² over two seeds or more; not a number where they agree, are few and have no `known` prompt error."""
    if len(set(values)) == 1:
        return 0.0 if known or len(values) >= AGREEING else nan
    return variance(values)


def _error_of_infinite(values: Sequence[float]) -> float:
    """The error of an infinite mean: none where each seed has this value, since no finite bound is near it."""
    return 0.0 if len(set(values)) == 1 else inf


def clopper_pearson(successes: int, trials: int, tail: float = TAIL) -> tuple[float, float]:
    """Returns the interval for a share of which at least 1 − 2·`tail` of such intervals contain the truth, whatever it
    is. Its ends are quantiles of beta distributions:

        low = B(tail; k, n−k+1)          high = B(1−tail; k+1, n−k)          (Clopper & Pearson 1934)

    >>> low, high = clopper_pearson(7, 9)
    >>> round(low, 3), round(high, 3)
    (0.4, 0.972)
    """
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    return low, high


def wilson(share: float, trials: float, tail: float = TAIL) -> tuple[float, float]:
    """Returns the interval for a share from its score test, with z the normal quantile (Wilson 1927):

        (p + z²/2n ± z · √(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    Where no trial differed from the others, p(1−p) = 0, and yet this interval has a length.

    >>> low, high = wilson(1.0, 1000)
    >>> round(low, 4), round(high, 4)
    (0.9962, 1.0)
    """
    z2 = float(ndtri(1 - tail)) ** 2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = (z2 * (share * (1 - share) / trials + z2 / (4 * trials**2))) ** 0.5 / (1 + z2 / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def unanimous_error(trials: float) -> float:
    """Returns the standard error of a share of 0 or 1: the length of its Wilson interval in normal quantiles,
    z / (n + z²).

    >>> round(unanimous_error(1000), 5)
    0.00195
    """
    low, high = wilson(1.0, trials)
    return (high - low) / float(ndtri(1 - TAIL))


def sure_errors(tests: int) -> float:
    """Returns how many prompt errors beyond its bound one of several values must lie to violate it, so that none does
    by chance in 97.5 % of cases (Bonferroni).

    >>> round(sure_errors(1), 2), round(sure_errors(9), 2)
    (1.96, 2.77)
    """
    return float(ndtri(1 - TAIL / tests))
