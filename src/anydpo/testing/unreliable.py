"""Any provider, seen through a connection that fails by script."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

from anydpo.errors import AnyDPOError, OutcomeUnknown, ProviderRefused, Unavailable
from anydpo.provider import JobRef, Plan, Provider, Staged


class Unreliable:
    """Carries out every verb, except where a script has a word for the next request of its kind.

    `lost_reply` (of `submit`): carried out, and the answer never arrives. `refuse`: a clear no. `unavailable` or
    `unavailable:SECONDS`: no answer now. `lost` are the jobs whose creation was not answered.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._scripts: defaultdict[str, deque[str]] = defaultdict(deque)
        self.lost: list[JobRef] = []

    def script(self, verb: str, *words: str) -> None:
        """Let the next requests of a verb meet these words."""
        self._scripts[verb].extend(words)

    def submit(self, plan: Plan, staged: tuple[Staged, ...], key: str) -> JobRef:
        """Create the job, or do not, and say so, or do not."""
        word = self._next("submit")
        made = self._provider.submit(plan, staged, key)
        if word == "lost_reply":
            self.lost.append(made)
            raise OutcomeUnknown("the connection was cut", provider=self._provider.name)
        return made

    def poll(self, *arguments: Any) -> Any:
        """Return what the provider says, if it can be asked."""
        self._next("poll")
        return self._provider.poll(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def _next(self, verb: str) -> str:
        word = self._scripts[verb].popleft() if self._scripts[verb] else "ok"
        name, _, seconds = word.partition(":")
        if error := _ERRORS.get(name):
            after = float(seconds) if seconds else None
            raise error(f"by script: {word}", provider=self._provider.name, retry_after=after)
        return word


_ERRORS: dict[str, type[AnyDPOError]] = {"refuse": ProviderRefused, "unavailable": Unavailable}
