"""Shapes are checked by beartype in every test, and Hypothesis replays the same cases in CI.

With `--full`, as in `make test-slow`, each property is tried on 25 examples instead of 10, and every call is checked.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import config

from tests.typechecker import install, now

install("iclab")

import pytest  # noqa: E402  (iclab must be imported after the hook)
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# The work of a test is small: one thread is fastest, and keeps sums in the same order on every machine.
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="more examples of each property, and checks of every call")


def pytest_configure(config):
    full = config.getoption("--full")
    settings.register_profile(
        "iclab",
        deadline=None,
        derandomize="CI" in os.environ,
        max_examples=25 if full else 10,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    settings.load_profile("iclab")
    now.first = sys.maxsize if full else now.first


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    now.test += 1


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the checks of shapes, which take most of the time of what is done thousands of times."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def generator(seed: int = 0) -> torch.Generator:
    """A generator with its own seed."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rng() -> torch.Generator:
    """A generator with seed 0."""
    return generator()


def analysed(experiment, model, *names, workspace=None):
    """The rows of some analyses alone, on every distribution that they apply to."""
    from iclab.measures import Measurement, Workspace

    found = []
    for name, task in experiment.distributions.items():
        of = Measurement(experiment, model, name, task, workspace or Workspace())
        chosen = [one for one in experiment.analyses if one.name in names and one.applies(of)]
        found += [{"distribution": name, **row} for one in chosen for row in one.rows(of)]
    return found
