"""`azure/command` passes the suite over HTTPS, through the real azure-ai-ml and azure-identity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anydpo import PreferenceJob
from anydpo.sandbox import Sandbox, serve
from anydpo.testing.conformance import CapabilityTests, DispatchTests, FaultTests, VerbTests
from tests.conformance.cloud import CloudFixture, CloudRemote


class CommandRemote(CloudRemote):
    def job(self, folder: Path, **fields: Any) -> PreferenceJob:
        options = {"azure": {"compute": "gpu-cluster", **fields.pop("options", {}).get("azure", {})}}
        return super().job(folder, options=options, **fields)

    def creates(self) -> int:
        service: Any = self.box.services["azureml"]
        return len(list(service.jobs.all()))


class CommandFixture(CloudFixture):
    place, model, sdk = "azure/command", "tiny", ("azure.ai.ml", "azure.identity", "openai")

    @pytest.fixture
    def box(self, tmp_path: Path) -> Iterator[Sandbox]:
        with serve(trainer="instant", steps=4, providers=["azureml"], folder=tmp_path / "box") as box:
            yield box

    @pytest.fixture
    def remote(self, box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> CommandRemote:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        return CommandRemote(self.place, self.model, box)


class TestCapabilities(CommandFixture, CapabilityTests): ...


class TestVerbs(CommandFixture, VerbTests): ...


class TestDispatch(CommandFixture, DispatchTests): ...


class TestFaults(CommandFixture, FaultTests): ...
