"""Both routes of the sagemaker adapter pass the suite over HTTP, through the real boto3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anydpo import PreferenceJob
from anydpo.sandbox import Sandbox
from anydpo.testing.conformance import CapabilityTests, DispatchTests, FaultTests, Remote, VerbTests
from tests.conformance.cloud import CloudFixture, CloudRemote

OPTIONS = {"role": "arn:aws:iam::123456789012:role/sandbox", "model_package_group": "anydpo", "min_pairs": 1}


class SageMakerRemote(CloudRemote):
    def job(self, folder: Path, **fields: Any) -> PreferenceJob:
        given = fields.pop("options", {}).get("sagemaker", {})
        return super().job(folder, options={"sagemaker": {**OPTIONS, **given}}, **fields)


class SageMakerFixture(CloudFixture):
    sdk = ("boto3", "botocore")

    @pytest.fixture
    def remote(self, box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Remote:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        return SageMakerRemote(self.place, self.model, box)


class ServerlessFixture(SageMakerFixture):
    place, model = "sagemaker/serverless", "Qwen/Qwen3-8B"


class TrainingFixture(SageMakerFixture):
    place, model = "sagemaker/training", "tiny"


class TestServerlessCapabilities(ServerlessFixture, CapabilityTests): ...


class TestServerlessVerbs(ServerlessFixture, VerbTests): ...


class TestServerlessDispatch(ServerlessFixture, DispatchTests): ...


class TestServerlessFaults(ServerlessFixture, FaultTests): ...


class TestTrainingCapabilities(TrainingFixture, CapabilityTests): ...


class TestTrainingVerbs(TrainingFixture, VerbTests): ...


class TestTrainingDispatch(TrainingFixture, DispatchTests): ...


class TestTrainingFaults(TrainingFixture, FaultTests): ...
