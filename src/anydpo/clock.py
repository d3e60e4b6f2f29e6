"""Time, and asking again: the one place where anything waits or is tried twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar

from anydpo.errors import AnyDPOError

T = TypeVar("T")

BUDGET = 15 * 60.0  # seconds that one read may take with all its repetitions
FIRST, LONGEST = 0.5, 60.0  # seconds: the first pause at most, and any pause that nobody asked for


_answered: ContextVar[dict[str, Any] | None] = ContextVar("answered", default=None)


def part(name: str, ask: Callable[[], T]) -> T:
    """Return the answer to one of several requests that make a read; it is kept while the whole is asked for again."""
    answered = _answered.get()
    if answered is None:
        return ask()
    if name not in answered:
        answered[name] = ask()
    made: T = answered[name]
    return made


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The computer's own time."""

    def now(self) -> float:
        """Return seconds since 1970, UTC."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Reads:
    """Asks a provider again what may be asked again; writes never pass through here.

    Pauses have full jitter and double up to a minute; a provider that says how long to wait is never asked earlier.
    When the budget is spent the last error is raised: that we cannot ask says nothing about the run. Of a read that
    takes several requests, each a `part`, only those are sent again that were not answered.
    """

    def __init__(self, clock: Clock, *, budget: float = BUDGET, draw: Callable[[], float] = random.random) -> None:
        self._clock, self._budget, self._draw = clock, budget, draw

    def within(self, seconds: float | None) -> Reads:
        """Return one that gives up after so many seconds, where that is sooner."""
        return self if seconds is None else Reads(self._clock, budget=min(seconds, self._budget), draw=self._draw)

    def __call__(self, ask: Callable[[], T]) -> T:
        """Return the answer; raises what the provider raised where that is final or the budget is spent."""
        kept = _answered.set({})
        try:
            return self._ask(ask)
        finally:
            _answered.reset(kept)

    def _ask(self, ask: Callable[[], T]) -> T:
        waited, tries = 0.0, 0  # counted by our own pauses, so that a clock that is set meanwhile changes nothing
        while True:
            try:
                return ask()
            except AnyDPOError as exc:
                if not exc.retryable:
                    raise
                pause = max(exc.retry_after or 0.0, self._draw() * min(LONGEST, FIRST * 2**tries))
                if waited + pause > self._budget:
                    raise
            self._clock.sleep(pause)
            waited, tries = waited + pause, tries + 1


def retry_after(header: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, as a number or as an HTTP date (RFC 9110, 10.2.3).

    None where there is none or where it says nothing that can be read; never negative, a day at most.
    """
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), 86_400.0) if seconds == seconds else None
