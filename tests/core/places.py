"""Three make-believe places, each a service of its own, for runs that may go on elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from anydpo.clock import Clock
from anydpo.registry import using
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import Service

NAMES = ("one", "two", "three")


class One(MemoryProvider):
    name: ClassVar[str] = "one"


class Two(MemoryProvider):
    name: ClassVar[str] = "two"


class Three(MemoryProvider):
    name: ClassVar[str] = "three"


class Places:
    """The services behind the places `one`, `two` and `three`."""

    def __init__(self, clock: Clock, folder: Path | None = None) -> None:
        made = [Service(folder / name if folder else None, clock) for name in NAMES]
        self.one, self.two, self.three = made
        self.providers = (One(self.one), Two(self.two), Three(self.three))

    def made(self) -> list[int]:
        """How many jobs each place was given."""
        return [len(service.jobs()) for service in (self.one, self.two, self.three)]

    def states(self) -> list[list[str]]:
        """Where the jobs of each place stand."""
        return [
            [str(service.state(job["id"])) for job in service.jobs()] for service in (self.one, self.two, self.three)
        ]

    @contextmanager
    def known(self) -> Iterator[None]:
        """Let the places be known by their names."""
        with using(*self.providers):
            yield
