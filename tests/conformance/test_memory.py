"""The reference provider passes its own suite, searchable and blind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anydpo import PreferenceJob
from anydpo.provider import JobRef
from anydpo.result import State
from anydpo.testing.clock import ManualClock
from anydpo.testing.conformance import (
    CapabilityTests,
    DispatchTests,
    FaultTests,
    ProviderFixture,
    Remote,
    VerbTests,
)
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import Service


class MemoryRemote:
    """A service of its own a test."""

    def __init__(self, place: str) -> None:
        self.place, self.clock = place, ManualClock()
        self.service = Service(clock=self.clock)
        self.provider = MemoryProvider(self.service)

    def job(self, folder: Path, **fields: Any) -> PreferenceJob:
        rows = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(8)]
        import anydpo

        return PreferenceJob(**{"model": "some-model", "data": anydpo.load(rows), **fields})

    def creates(self) -> int:
        return len(self.service.jobs())

    def end(self, ref: JobRef, state: State) -> None:
        self.service.end(ref.id, state)


class MemoryFixture(ProviderFixture):
    @pytest.fixture(params=["memory", "memory/blind"])
    def remote(self, request: pytest.FixtureRequest) -> Remote:
        return MemoryRemote(request.param)


class TestCapabilities(MemoryFixture, CapabilityTests): ...


class TestVerbs(MemoryFixture, VerbTests): ...


class TestDispatch(MemoryFixture, DispatchTests): ...


class TestFaults(MemoryFixture, FaultTests): ...
