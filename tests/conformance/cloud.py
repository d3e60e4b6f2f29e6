"""The far side of a cloud adapter: the sandbox over HTTP, with jobs that go on by one state each time they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import PreferenceJob
from anydpo.provider import JobRef, Provider
from anydpo.registry import provider, split_place
from anydpo.result import State
from anydpo.sandbox import Sandbox, serve
from anydpo.testing.clock import ManualClock
from anydpo.testing.conformance import ProviderFixture, Remote

ROWS = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(12)]


class CloudRemote:
    """One emulator of its own a test."""

    def __init__(self, place: str, model: str, box: Sandbox) -> None:
        self.place, self.model, self.box = place, model, box
        self.clock = ManualClock()
        self.provider: Provider = provider(split_place(place)[0])

    def job(self, folder: Path, **fields: Any) -> PreferenceJob:
        return PreferenceJob(**{"model": self.model, "data": anydpo.load(ROWS), **fields})

    def creates(self) -> int:
        service: Any = self.box.services[self.provider.name]
        return len(list(service.jobs.all()))

    def end(self, ref: JobRef, state: State) -> None:
        for _ in range(50):
            if self.provider.poll(ref).state.done:
                return
        raise AssertionError("the job does not end")


class CloudFixture(ProviderFixture):
    place: str
    model: str

    @pytest.fixture
    def box(self, tmp_path: Path) -> Iterator[Sandbox]:
        name = split_place(self.place)[0]
        with serve(trainer="instant", steps=4, providers=[name], folder=tmp_path / "box") as box:
            yield box

    @pytest.fixture
    def remote(self, box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Remote:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        return CloudRemote(self.place, self.model, box)
