"""Azure's three addresses by its two clients, and where it differs from OpenAI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from anydpo.sandbox.server import Sandbox
from tests.sandbox.test_openai import BASE, DPO, send


@pytest.fixture(params=["v1", "project", "dated", "token"])
def az(request: pytest.FixtureRequest, box: Sandbox) -> Iterator[openai.OpenAI]:
    origin = box.env["AZURE_OPENAI_ENDPOINT"]
    made: openai.OpenAI
    if request.param == "dated":
        version = "2025-04-01-preview"
        made = openai.AzureOpenAI(azure_endpoint=origin, api_key="k", api_version=version, max_retries=0)
    elif request.param == "token":
        made = openai.AzureOpenAI(
            azure_endpoint=origin, azure_ad_token_provider=lambda: "t", api_version="2025-04-01-preview", max_retries=0
        )
    else:
        start = "/api/projects/p1" if request.param == "project" else ""
        made = openai.OpenAI(base_url=f"{origin}{start}/openai/v1/", api_key="k", max_retries=0)
    with made:
        yield made


def create(client: openai.OpenAI, file: str, **more: Any) -> Any:
    given: dict[str, Any] = {"extra_body": {"trainingType": "GlobalStandard"}, "method": DPO, **more}
    return client.fine_tuning.jobs.create(model=BASE, training_file=file, **given)


def test_a_whole_round_at_every_address(az: openai.OpenAI, prefs: Path) -> None:
    file = send(az, prefs)
    assert [str(az.files.retrieve(file).status) for _ in range(3)] == ["pending", "processed", "processed"]
    job = create(az, file, suffix="k1")
    assert (job.status, job.organization_id, job.result_files) == ("pending", None, None)
    assert job.model_extra["trainingType"] == "GlobalStandard"
    seen = [str(az.fine_tuning.jobs.retrieve(job.id).status) for _ in range(3)]
    assert seen == ["pending", "pending", "running"]
    assert str(az.fine_tuning.jobs.pause(job.id).status) == "pausing"
    assert [str(az.fine_tuning.jobs.retrieve(job.id).status) for _ in range(2)] == ["pausing", "paused"]
    assert str(az.fine_tuning.jobs.resume(job.id).status) == "resuming"
    while (got := az.fine_tuning.jobs.retrieve(job.id)).status != "succeeded":
        assert got.status in {"resuming", "running"}
    assert got.fine_tuned_model == f"{BASE}.ft-{job.id.removeprefix('ftjob-')}-k1"
    assert len(job.id) == len("ftjob-") + 32
    assert az.files.content(got.result_files[0]).text.startswith("step,train_loss")
    assert az.fine_tuning.jobs.checkpoints.list(job.id).data
    assert az.fine_tuning.jobs.list_events(job.id).data
    (listed,) = az.fine_tuning.jobs.list().data
    assert (listed.metadata, listed.model_extra and listed.model_extra["suffix"]) == (None, "k1")


def test_a_v1_request_without_training_type_gets_the_misleading_error(box: Sandbox, prefs: Path) -> None:
    client = openai.OpenAI(base_url=f"{box.env['AZURE_OPENAI_ENDPOINT']}/openai/v1/", api_key="k", max_retries=0)
    with client, pytest.raises(openai.BadRequestError, match="does not support fine-tuning"):
        create(client, send(client, prefs), extra_body={})


def test_keys_and_versions_are_asked_for(box: Sandbox) -> None:
    origin = box.env["AZURE_OPENAI_ENDPOINT"]
    client = openai.OpenAI(base_url=f"{origin}/openai/v1/", api_key="invalid", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError, match="invalid subscription key"):
        client.fine_tuning.jobs.list()
    client = openai.OpenAI(base_url=f"{origin}/openai/", api_key="k", max_retries=0)
    with client, pytest.raises(openai.NotFoundError):  # a dated path without api-version
        client.fine_tuning.jobs.list()
