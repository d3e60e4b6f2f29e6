"""The openai adapter passes the suite over HTTP, through the real SDK."""

from __future__ import annotations

from anydpo.testing.conformance import CapabilityTests, DispatchTests, FaultTests, VerbTests
from tests.conformance.cloud import CloudFixture


class OpenAIFixture(CloudFixture):
    place, model, sdk = "openai", "gpt-4.1-mini-2025-04-14", ("openai",)


class TestCapabilities(OpenAIFixture, CapabilityTests): ...


class TestVerbs(OpenAIFixture, VerbTests): ...


class TestDispatch(OpenAIFixture, DispatchTests): ...


class TestFaults(OpenAIFixture, FaultTests): ...
