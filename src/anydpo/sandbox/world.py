"""What every emulator is given: the clock, the faults, the jobs, the storage, the folder."""

from __future__ import annotations

import itertools
import json
import secrets
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from anydpo.sandbox.clock import Clock
from anydpo.sandbox.faults import Faults
from anydpo.sandbox.jobs import Jobs
from anydpo.sandbox.training import Instant, Local, Trainer

KEPT_REQUESTS = 10_000
MOST_LOGGED = 65_536


class World:
    """One sandbox: made before its services, closed after them."""

    def __init__(self, folder: Path | None, trainer: str, steps: int, faults: Faults) -> None:
        self._own = tempfile.TemporaryDirectory(prefix="anydpo-sandbox-") if folder is None else None
        self.folder = Path(self._own.name) if self._own else Path(folder or "")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clock, self.faults, self.steps = Clock(), faults, steps
        self.trainer: Trainer = Instant() if trainer == "instant" else Local(self.folder / "cache")
        self.requests = Log(self.clock)
        self.storage = Storage(self.clock)
        self.closing: list[Callable[[], None]] = []  # what a service of its own ends with the sandbox
        self._jobs: dict[str, Jobs] = {}

    def jobs(self, service: str, trainer: Trainer | None = None) -> Jobs:
        """Return the jobs of one service, trained by a trainer of its own where it has one."""
        if service not in self._jobs:
            self._jobs[service] = Jobs(trainer or self.trainer, self.clock)
        return self._jobs[service]

    def place(self, *parts: str) -> Path:
        """Return a path in the sandbox's folder, its parent made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def counts(self) -> dict[str, int]:
        """Return how many jobs each service has."""
        return {name: len(jobs.all()) for name, jobs in self._jobs.items()}

    def close(self) -> None:
        """End every training and remove the folder, if it is the sandbox's own."""
        for jobs in self._jobs.values():
            jobs.close()
        for close in self.closing:
            close()
        if self._own is not None:
            self._own.cleanup()


@dataclass
class Entry:
    """One request as it is remembered: no headers, no signatures, no secrets."""

    number: int
    at: float
    provider: str
    operation: str
    method: str
    path: str
    status: int | None = None  # None: no answer was given
    faults: list[str] = field(default_factory=list)
    received: int = 0  # bytes of the body
    carried_out: bool = False
    body: Any = None  # of a JSON request

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return dict(vars(self))


class Log:
    """The last requests, oldest first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: deque[Entry] = deque(maxlen=KEPT_REQUESTS)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def begin(self, provider: str, operation: str, method: str, path: str) -> Entry:
        """Remember a request that has just come in."""
        with self._lock:
            entry = Entry(next(self._numbers), self._clock.now(), provider, operation, method, path)
            self._entries.append(entry)
            return entry

    def read(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the requests after a number."""
        with self._lock:
            return [entry.to_dict() for entry in self._entries if entry.number > since]

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._entries.clear()


SECRET = ("key", "token", "secret", "password", "authorization")


def without_secrets(value: Any) -> Any:
    """Return a JSON value in which what a secret's name holds is masked."""
    if isinstance(value, Mapping):
        return {
            key: "***" if item and any(str(key).lower().endswith(word) for word in SECRET) else without_secrets(item)
            for key, item in value.items()
        }
    return [without_secrets(item) for item in value] if isinstance(value, list) else value


def logged_body(body: bytes) -> Any:
    """Return a request's JSON as it is remembered, None for anything else."""
    if not body or len(body) > MOST_LOGGED:
        return None
    try:
        return without_secrets(json.loads(body))
    except ValueError:
        return None


@dataclass(frozen=True)
class Ticket:
    """What a signed address lets its holder do: read one file, or write one."""

    method: str
    key: str
    expires: float
    facts: Mapping[str, Any]


class Storage:
    """Signed addresses on an origin of its own, as object stores have."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.origin = ""
        self._tickets: dict[str, Ticket] = {}

    def sign(self, method: str, key: str, seconds: float = 3600, **facts: Any) -> str:
        """Return an address that carries the right to one method on one key."""
        now = self._clock.now()
        self._tickets = {name: ticket for name, ticket in self._tickets.items() if ticket.expires > now - 3600}
        signature = secrets.token_urlsafe(24)
        self._tickets[signature] = Ticket(method, key, now + seconds, facts)
        return f"{self.origin}/{key}?{urlencode({'X-Amz-Expires': int(seconds), 'X-Amz-Signature': signature})}"

    def ticket(self, method: str, key: str, signature: str) -> Ticket | None:
        """Return what a signature allows, None where it is wrong or has expired."""
        found = self._tickets.get(signature)
        if found is None or (found.method, found.key) != (method, key) or found.expires < self._clock.now():
            return None
        return found
