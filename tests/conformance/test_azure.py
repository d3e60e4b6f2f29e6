"""The azure adapter passes the suite over HTTP, through the real SDK."""

from __future__ import annotations

from anydpo.testing.conformance import CapabilityTests, DispatchTests, FaultTests, VerbTests
from tests.conformance.cloud import CloudFixture


class AzureFixture(CloudFixture):
    place, model, sdk = "azure/managed", "gpt-4.1-mini-2025-04-14", ("openai",)


class TestCapabilities(AzureFixture, CapabilityTests): ...


class TestVerbs(AzureFixture, VerbTests): ...


class TestDispatch(AzureFixture, DispatchTests): ...


class TestFaults(AzureFixture, FaultTests): ...
