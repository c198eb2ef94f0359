"""The interval of a claim against its bound, as places on an axis that is as wide as a small picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iclab.errors import UsageError
from iclab.experiments import config
from iclab.experiments.claims import Claim
from iclab.experiments.study import with_dotted_where
from iclab.runs.tables import finite

WIDTH = 200.0  # of the picture, in its own units
MARGIN = 0.08  # of the range that is shown, beyond what it must hold
SHARE = "share of runs inside of the bound"


@dataclass(frozen=True)
class Picture:
    """Where to draw what: the allowed range, the interval and the value, each between 0 and `WIDTH`; `words` say the
    same."""

    allowed: tuple[float, float]
    edges: tuple[float, ...]
    interval: tuple[float, float] | None
    value: float
    words: str


def claims(content: Mapping[str, Any], source: object) -> dict[str, Claim]:
    """Returns the claims of a task file that was loaded, by name, without those that cannot be read."""
    listed, found = content.get("claims"), {}
    for given in listed if isinstance(listed, list) else ():
        try:
            claim = config.read(Claim, with_dotted_where(given), source)
            found[claim.name] = claim
        except (UsageError, TypeError, AttributeError):
            continue
    return found


def picture(record: Mapping[str, Any], claim: Claim | None) -> Picture | None:
    """Returns the picture of a verdict; none where it has no number, or where its claim is no longer that of the
    file."""
    if claim is None or claim.expected != record.get("expected") or claim.kind != record.get("kind"):
        return None
    value, low, high = (finite(record.get(key)) for key in ("value", "low", "high"))
    allowed = _allowed(claim)
    if claim.kind == "every":  # what refutes is the worst run
        value, low, high = finite(record.get("worst")), None, None
    elif claim.kind == "share":
        allowed = (claim.share, 1.0)
    interval = None if low is None or high is None else (low, high)
    return None if value is None else _placed(value, interval, allowed, _words(record, claim))


def _allowed(claim: Claim) -> tuple[float | None, float | None]:
    """The ends of what a claim allows; none where it is open."""
    if claim.within:
        return claim.within[0] - claim.within[1], claim.within[0] + claim.within[1]
    return claim.at_least, claim.at_most


def _words(record: Mapping[str, Any], claim: Claim) -> str:
    expected = f"{SHARE} {claim.expected} at least {claim.share:.0%}" if claim.kind == "share" else claim.expected
    return f"measured {record.get('measured')}, expected {expected}"


def _placed(
    value: float, interval: tuple[float, float] | None, allowed: tuple[float | None, float | None], words: str
) -> Picture:
    """Places on an axis that holds the value, its interval and the ends of what is allowed."""
    ends = [end for end in allowed if end is not None]
    held = [value, *(interval or ()), *ends]
    least, most = min(held), max(held)
    margin = MARGIN * (most - least) or max(abs(most), 1.0) * MARGIN
    start, scale = least - margin, WIDTH / (most - least + 2 * margin)

    def at(x: float) -> float:
        return round((x - start) * scale, 1)

    low, high = allowed
    shade = (0.0 if low is None else at(low), WIDTH if high is None else at(high))
    return Picture(shade, tuple(map(at, ends)), interval and (at(interval[0]), at(interval[1])), at(value), words)
