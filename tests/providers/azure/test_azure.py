"""What is Azure's own: the address, the key, the training type, its words, and where the job's key comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import errors
from anydpo.provider import JobRef
from anydpo_azure import AzureProvider
from anydpo_azure.managed import AZURE, ManagedAzure
from anydpo_openai import dialect
from tests.providers.clouds import GPT, Cloud, a_cloud, a_job


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    yield from a_cloud("azure", tmp_path, monkeypatch)


def test_the_body_is_openais_with_a_training_type_and_the_key_as_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://res.openai.azure.com/")
    plan = anydpo.check(a_job(options={"azure": {"training_type": "Standard"}}), "azure")
    assert plan.ok
    assert (plan.place, plan.target, plan.format) == ("azure/managed", "https://res.openai.azure.com", "azure")
    (create,) = [request for request in plan.requests if request.url.endswith("/jobs")]
    assert create.url == "https://res.openai.azure.com/openai/v1/fine_tuning/jobs"
    assert (create.body["trainingType"], create.body["suffix"]) == ("Standard", "${key}")
    assert len("anydpo-0123456789abcdef01234567") <= AZURE.limits["suffix"]


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://r.openai.azure.com",
        "https://r.openai.azure.com/",
        "https://r.openai.azure.com/openai/v1/",
        "https://r.openai.azure.com/openai",
    ],
)
def test_an_endpoint_may_be_given_in_any_form(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", endpoint)
    assert anydpo.check(a_job(), "azure").requests[0].url == "https://r.openai.azure.com/openai/v1/files"


def test_without_an_endpoint_there_is_a_plan_and_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    plan = anydpo.check(a_job(), "azure/managed")
    assert plan.ok
    assert "AZURE_OPENAI_ENDPOINT is not set yet" in plan.warnings
    with pytest.raises(errors.AuthFailed, match="AZURE_OPENAI_ENDPOINT is not set"):
        AzureProvider().find("anydpo-1")


def test_an_organisation_of_openai_is_not_told_to_azure(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-2")
    client: Any = ManagedAzure()._client
    headers = client._build_headers(__import__("openai")._models.FinalRequestOptions(method="get", url="/x"))
    assert "openai-organization" not in headers
    assert "openai-project" not in headers


def test_a_tier_that_may_pause_says_so_in_plan_and_result(cloud: Cloud) -> None:
    usual = cloud.prepared().plan.warnings
    assert not any("pause" in text for text in usual)
    result = cloud.finished(options={"azure": {"training_type": "DeveloperTier"}})
    (said,) = [notice.message for notice in result.warnings if "may pause" in notice.message]
    assert "a pause is no end" in said


@pytest.mark.parametrize("word", ["created", "pending", "pausing", "paused", "resuming", "running", "validating_files"])
def test_no_status_of_a_job_under_way_is_an_end(word: str) -> None:
    state = AZURE.state(word)
    assert state is not None
    assert not state.done


@pytest.mark.parametrize(
    "shown",
    [
        {"suffix": "anydpo-0123456789abcdef01234567"},
        {"metadata": {"anydpo": "anydpo-0123456789abcdef01234567"}},
        {"fine_tuned_model": f"{GPT}.ft-0123456789abcdef0123456789abcdef-anydpo-0123456789abcdef01234567"},
    ],
    ids=["suffix", "metadata", "model"],
)
def test_a_key_is_found_in_whatever_comes_back(shown: dict[str, Any]) -> None:
    assert ManagedAzure()._key_of({"id": "ftjob-1", **shown}) == "anydpo-0123456789abcdef01234567"
    assert ManagedAzure()._key_of({"id": "ftjob-1", "suffix": "tone", "metadata": None}) is None


def test_events_in_words_are_metrics_too() -> None:
    """The texts of Microsoft's own sample run (facts, section 1.5)."""
    items: list[dict[str, Any]] = [
        {"id": "1", "message": "Step 8250: training loss=0.4375", "level": "info", "data": None, "created_at": 5},
        {"id": "2", "message": "Training tokens billed: 7200000", "level": "info", "created_at": 6},
        {"id": "3", "message": "Step 3/9: training loss=0.5, validation loss=nan", "level": "warn", "created_at": 7},
    ]
    first, second, third = dialect.events(items, AZURE)
    assert (first.kind, first.step, first.metrics) == ("metrics", 8250, {"train/loss": 0.4375})
    assert (second.kind, second.text) == ("log", "Training tokens billed: 7200000")
    assert (third.step, third.total_steps) == (3, 9)
    assert third.metrics == {"train/loss": 0.5, "provider/valid_loss": None}


def test_a_key_is_sent_as_a_bearer_and_nothing_is_priced(cloud: Cloud) -> None:
    assert cloud.provider.quote(cloud.prepared().plan) is None
    ref = cloud.by_hand()
    assert isinstance(ref, JobRef)
    assert ref.place == "azure/managed"
    (body,) = cloud.bodies()
    assert body["trainingType"] == "GlobalStandard"
    assert json.dumps(body).count("anydpo-0123456789abcdef01234567") == 2  # suffix and metadata


def test_how_to_use_says_that_a_deployment_is_needed(cloud: Cloud) -> None:
    result = cloud.finished()
    assert result.model.how_to_use is not None
    assert "deploy" in result.model.how_to_use
