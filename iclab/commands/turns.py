"""Times of things that are compared: they take turns, so that a machine whose speed drifts slows them alike."""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter


def take_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = perf_counter
) -> dict[str, float]:
    """Returns the median seconds of each way, after one round that is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, call in ways.items():
            start = clock()
            call()
            spent[name].append(clock() - start)
    return {name: median(times[1:]) for name, times in spent.items()}
