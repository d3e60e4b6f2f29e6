"""A clock for tests: it stands still, and sleeping moves it."""

from __future__ import annotations


class ManualClock:
    """Time that passes only by sleeping, at once; `slept` is all of it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now, self.slept = now, 0.0

    def now(self) -> float:
        """Return seconds since 1970."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move on by so many seconds."""
        self._now += seconds
        self.slept += seconds

    def set(self, now: float) -> None:
        """Put the clock to a time, also back."""
        self._now = now
