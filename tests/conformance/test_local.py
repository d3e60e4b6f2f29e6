"""The local provider passes the suite with the real trainer: one step of `tiny` on eight pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import PreferenceJob
from anydpo.home import home
from anydpo.locks import held
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
from anydpo_local import LocalProvider

ROWS = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(8)]


class LocalRemote:
    """A home folder of its own a test; a job ends when its trainer lets go of its lock."""

    place = "local"

    def __init__(self) -> None:
        self.clock, self.provider = ManualClock(), LocalProvider()

    def job(self, folder: Path, **fields: Any) -> PreferenceJob:
        return PreferenceJob(**{"model": "tiny", "data": anydpo.load(ROWS), "max_steps": 1, **fields})

    def creates(self) -> int:
        return len(list((home() / "local").glob("anydpo-*")))

    def end(self, ref: JobRef, state: State) -> None:
        with held(home() / "local" / ref.id / "lock"):
            pass


class LocalFixture(ProviderFixture):
    sdk = ("torch", "transformers")

    @pytest.fixture
    def remote(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
        monkeypatch.setenv("ANYDPO_HOME", str(tmp_path / "machine"))
        made = LocalRemote()
        yield made
        for folder in (tmp_path / "machine" / "local").glob("anydpo-*"):
            made.provider.cancel(JobRef(id=folder.name, place="local"))


class TestCapabilities(LocalFixture, CapabilityTests): ...


class TestVerbs(LocalFixture, VerbTests): ...


class TestDispatch(LocalFixture, DispatchTests): ...


class TestFaults(LocalFixture, FaultTests): ...
