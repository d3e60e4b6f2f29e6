"""One job for the three clouds, and their sandboxes over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import PreferenceJob
from anydpo.dispatch import Dispatch
from anydpo.journal import Journal
from anydpo.plan import Prepared, prepare
from anydpo.provider import JobRef, Plan, Staged
from anydpo.registry import provider, split_place, using
from anydpo.result import State
from anydpo.sandbox import Sandbox, serve
from anydpo.testing.clock import ManualClock

PLACES = ("openai", "azure", "together")
GPT, QWEN = "gpt-4.1-mini-2025-04-14", "Qwen/Qwen3-8B"
MODELS = {"openai": GPT, "azure": GPT, "together": QWEN, "default": QWEN}
CREATES = {"openai": "create", "azure": "create", "together": "create"}
ROWS = [
    {
        "prompt": [
            {"role": "user", "content": f"How do I open jar {i}?"},
            {"role": "assistant", "content": "With what tools?"},
            {"role": "user", "content": "None."},
        ],
        "chosen": [{"role": "assistant", "content": f"Warm lid {i} under the tap, then turn it."}],
        "rejected": [{"role": "assistant", "content": "I cannot say."}],
    }
    for i in range(24)
]


def a_job(**fields: Any) -> PreferenceJob:
    """The job that every cloud takes; a table of places names its models."""
    usual: dict[str, Any] = {"model": MODELS, "data": anydpo.load(ROWS), "batch_size": 8, "name": "jars"}
    return PreferenceJob(**{**usual, **fields})


class Cloud:
    """A sandbox, with a provider and a home that a test may use against it."""

    def __init__(self, place: str, box: Sandbox, home: Path) -> None:
        self.place, self.box, self.home = place, box, home
        self.clock = ManualClock()
        self.provider: Any = provider(split_place(place)[0])
        self.dispatch = Dispatch(Journal(home), self.clock)

    def prepared(self, **fields: Any) -> Prepared:
        return prepare(a_job(**fields), self.place).or_raise()

    def submit(self, **fields: Any) -> str:
        return self.dispatch.submit(self.prepared(**fields)).run

    def finished(self, **fields: Any) -> anydpo.Result:
        run = self.submit(**fields)
        for _ in self.dispatch.watch(run):
            pass
        return self.dispatch.result(run)

    def sent(self, operation: str = "create") -> list[dict[str, Any]]:
        return self.box.requests(self.provider.name, operation)

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) if isinstance(body := entry["body"], str) else body for entry in self.sent()]

    def made(self) -> int:
        service: Any = self.box.services[self.provider.name]
        return len(service.jobs.all())

    def by_hand(self, key: str = "anydpo-0123456789abcdef01234567", **fields: Any) -> JobRef:
        """Submit verb by verb."""
        from anydpo.outgoing import write_files

        prepared = self.prepared(**fields)
        plan: Plan = prepared.plan
        staged: tuple[Staged, ...] = tuple(self.provider.stage(plan, f) for f in write_files(prepared, self.home))
        for item in staged:
            while self.provider.examine(item).state == "pending":
                pass
        made: JobRef = self.provider.submit(plan, staged, key)
        return made

    def ended(self, ref: JobRef) -> State:
        for _ in range(50):
            state: State = self.provider.poll(ref).state
            if state.done:
                return state
        raise AssertionError("the job does not end")


@pytest.fixture(params=PLACES)
def cloud(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    yield from a_cloud(request.param, tmp_path, monkeypatch)


def a_cloud(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with serve(trainer="instant", steps=4, providers=[place], folder=tmp_path / "box") as box:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        made = Cloud(place, box, tmp_path / "home")
        with using(made.provider):
            yield made
