"""The together adapter passes the suite over HTTP, through the real SDK."""

from __future__ import annotations

from anydpo.testing.conformance import CapabilityTests, DispatchTests, FaultTests, VerbTests
from tests.conformance.cloud import CloudFixture


class TogetherFixture(CloudFixture):
    place, model, sdk = "together", "Qwen/Qwen3-8B", ("together",)


class TestCapabilities(TogetherFixture, CapabilityTests): ...


class TestVerbs(TogetherFixture, VerbTests): ...


class TestDispatch(TogetherFixture, DispatchTests): ...


class TestFaults(TogetherFixture, FaultTests): ...
