"""Stopping in order. A request to stop (SIGTERM, say) is `Stopped` wherever the process is, but not inside what must be
whole, such as a step of training: there it waits for the end. Only the first request is heard."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class Stopped(BaseException):
    """An orderly stop was asked for; not an error of what was done."""


@dataclass
class _Requests:
    inside: int = 0  # how deep in what must not be cut in two
    waiting: bool = False
    heard: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)  # what is ignored once the first has come
    signal: int | None = None


_requests = _Requests()


def listen(*signals: int) -> None:
    """Turns signals into requests to stop."""
    _requests.heard = tuple({*_requests.heard, *signals})
    for each in signals:
        signal.signal(each, _stop)


def reason() -> int | None:
    """Returns the signal that asked this process to stop; none where nobody did."""
    return _requests.signal


def _stop(signum: int, _: Any) -> None:
    _requests.signal = signum
    for each in _requests.heard:
        signal.signal(each, signal.SIG_IGN)  # a second one would cut the orderly end in two
    if _requests.inside:
        _requests.waiting = True
    else:
        raise Stopped


@contextmanager
def whole() -> Iterator[None]:
    """Keeps what is done inside in one piece: who is asked to stop meanwhile stops after it."""
    _requests.inside += 1
    try:
        yield
    finally:
        _requests.inside -= 1
    if _requests.waiting and not _requests.inside:
        raise Stopped
