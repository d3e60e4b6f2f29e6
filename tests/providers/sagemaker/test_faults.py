"""Over HTTP, with the real boto3: one create whatever happens, and every refusal typed before anything is paid."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import boto3
import pytest

from anydpo.dispatch import Dispatch
from anydpo.errors import (
    AnyDPOError,
    AuthFailed,
    CapacityUnavailable,
    DataInvalid,
    JobInvalid,
    QuotaExceeded,
    Unavailable,
)
from anydpo.journal import Journal
from anydpo.plan import prepare
from anydpo.provider import JobRef
from anydpo.result import State
from anydpo.sandbox import Sandbox
from anydpo.testing.clock import ManualClock
from anydpo_sagemaker import dialect
from anydpo_sagemaker.provider import SageMakerProvider
from tests.providers.sagemaker.conftest import OPTIONS, ROWS, make_job

PLACE = "sagemaker/training"


@pytest.fixture
def dispatch(tmp_path: Path) -> Dispatch:
    return Dispatch(Journal(tmp_path / "home"), ManualClock())


def creates(box: Sandbox) -> int:
    """Return how many jobs there are, asked for past the wire."""
    service: Any = box.services["sagemaker"]
    return len(service.jobs.all())


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "lost_reply"},
        {"fault": "half_reply", "shape": "truncated"},
        {"fault": "half_reply", "shape": "cut"},
    ],
)
@pytest.mark.parametrize(("place", "model"), [(PLACE, "tiny"), ("sagemaker/serverless", "Qwen/Qwen3-8B")])
def test_a_lost_answer_makes_one_job(
    box: Sandbox, dispatch: Dispatch, fault: dict[str, Any], place: str, model: str
) -> None:
    box.break_({**fault, "on": ["create"]})
    prepared = prepare(make_job(model=model), place)
    made = dispatch.submit(prepared)
    assert made.created
    assert (creates(box), len(box.requests("sagemaker", "create"))) == (1, 1)
    assert dispatch.submit(prepared).created is False
    (attempt,) = dispatch.journal.attempts(made.run)
    assert str(attempt.provider_job_id).endswith(attempt.key)


def test_an_answer_of_500_that_made_nothing_is_unknown_and_is_not_sent_again(box: Sandbox, dispatch: Dispatch) -> None:
    box.break_({"fault": "storm", "status": 500, "on": ["create"]})
    with pytest.raises(AnyDPOError) as told:
        dispatch.submit(prepare(make_job(), PLACE))
    assert told.value.code == "outcome_unknown"
    assert (creates(box), len(box.requests("sagemaker", "create"))) == (0, 1)


def test_the_name_is_taken_means_sent_before(box: Sandbox, tmp_path: Path) -> None:
    from anydpo.outgoing import write_files

    prepared = prepare(make_job(), PLACE)
    plan, provider = prepared.plan, prepared.provider
    staged = tuple(provider.stage(plan, file) for file in write_files(prepared, tmp_path))
    first, again = (provider.submit(plan, staged, "anydpo-0123456789abcdef01234567") for _ in range(2))
    assert first == again
    assert creates(box) == 1
    assert len(box.requests("sagemaker", "create")) == 2


def test_the_same_content_is_uploaded_once(box: Sandbox, tmp_path: Path, dispatch: Dispatch) -> None:
    dispatch.submit(prepare(make_job(), PLACE))
    before = len(box.requests("sagemaker", "put"))
    assert before == 2  # the pairs, the code
    dispatch.submit(prepare(make_job(seed=1), PLACE))
    assert len(box.requests("sagemaker", "put")) == before
    assert creates(box) == 2


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ({"fault": "insufficient_quota"}, QuotaExceeded, "is 0 Instances"),
        ({"fault": "not_eligible"}, AuthFailed, "not authorized"),
        ({"fault": "storm", "status": 429}, CapacityUnavailable, "Rate exceeded"),
    ],
)
def test_refusals_are_typed(box: Sandbox, dispatch: Dispatch, fault: dict[str, Any], kind: Any, said: str) -> None:
    box.break_({**fault, "on": ["create"]})
    with pytest.raises(kind, match=said) as told:
        dispatch.submit(prepare(make_job(), PLACE))
    assert told.value.hint
    assert creates(box) == 0


def test_a_missing_bucket_role_or_credential_is_told_before_anything_is_paid(
    box: Sandbox, dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobInvalid, match="there is no bucket not-there-at-all") as told:
        dispatch.submit(prepare(make_job(options={"bucket": "not-there-at-all"}), PLACE))
    assert "aws s3 mb" in str(told.value.hint)
    with pytest.raises(JobInvalid, match="Could not assume role"):
        dispatch.submit(prepare(make_job(options={"role": "arn:aws:iam::123456789012:role/nobody"}), PLACE))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "invalid")
    with pytest.raises(AuthFailed, match="security token"):
        dispatch.submit(prepare(make_job(), PLACE))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AuthFailed, match="credentials"):
        dispatch.submit(prepare(make_job(), PLACE))
    assert creates(box) == 0


def test_reads_in_a_storm_may_be_asked_again(box: Sandbox, dispatch: Dispatch) -> None:
    run = dispatch.submit(prepare(make_job(), PLACE)).run
    box.break_({"fault": "storm", "status": 503, "on": ["retrieve"], "times": 2})
    with pytest.raises(Unavailable):
        SageMakerProvider().poll(dispatch.live_ref(run)[1])
    assert dispatch.refresh(run) in State


def test_the_hubs_document_of_today_decides(box: Sandbox, dispatch: Dispatch) -> None:
    s3: Any = boto3.client("s3", region_name="us-east-1")
    rules = {"beta": {"type": "float", "min": 0.01, "max": 1}, "max_epochs": {"type": "integer", "max": 2}}
    key = "recipes/llmft_dpo_override_params.json"
    s3.put_object(Bucket="jumpstart-cache-prod-us-east-1", Key=key, Body=json.dumps(rules))
    with pytest.raises(JobInvalid) as told:
        dispatch.submit(prepare(make_job(model="Qwen/Qwen3-8B", epochs=3), "sagemaker/serverless"))
    assert "no adam_beta" in told.value.message
    assert "epochs: is 3, by the hub's document expected" in told.value.message
    s3.delete_object(Bucket="jumpstart-cache-prod-us-east-1", Key=key)  # cannot be read: the table stands in
    assert dispatch.submit(prepare(make_job(model="Qwen/Qwen3-8B", epochs=3), "sagemaker/serverless")).created


def test_an_archive_that_leads_out_of_its_folder_leaves_nothing(
    box: Sandbox, dispatch: Dispatch, tmp_path: Path
) -> None:
    run = dispatch.submit(prepare(make_job(), PLACE)).run
    list(dispatch.watch(run))
    provider, ref = dispatch.live_ref(run)
    weights = provider.result(ref).model.weights or ""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("../outside")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    s3: Any = boto3.client("s3", region_name="us-east-1")
    bucket, _, key = weights.removeprefix("s3://").partition("/")
    s3.put_object(Bucket=bucket, Key=key, Body=packed.getvalue())
    with pytest.raises(DataInvalid, match="out of its folder"):
        provider.fetch(ref, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize(
    ("status", "detail", "state"),
    [
        ("InProgress", "Starting", State.QUEUED),
        ("InProgress", "Training", State.RUNNING),
        ("InProgress", "Interrupted", State.RUNNING),
        ("Stopping", "Stopping", State.RUNNING),
        ("Completed", "Completed", State.SUCCEEDED),
        ("Failed", "Failed", State.FAILED),
        ("Stopped", "Stopped", State.CANCELLED),
        ("Stopped", "MaxRuntimeExceeded", State.FAILED),
        ("Stopped", "MaxWaitTimeExceeded", State.FAILED),
        ("Reticulating", "Splines", None),
    ],
)
def test_every_documented_status_has_a_state(status: str, detail: str, state: State | None) -> None:
    job = {"TrainingJobStatus": status, "SecondaryStatus": detail}
    assert dialect.state_of(job) is state
    if "Max" in detail:
        assert "max_" in str(dialect.trained(job, {}, [], "x").error)


def test_jobs_are_found_again_for_a_lost_journal(box: Sandbox, dispatch: Dispatch) -> None:
    first = dispatch.submit(prepare(make_job(), PLACE))
    (found,) = SageMakerProvider().found()
    (attempt,) = dispatch.journal.attempts(first.run)
    assert found == (attempt.key, JobRef(id=str(attempt.provider_job_id), place="sagemaker"))


def test_doctor_says_who_and_where(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    said = SageMakerProvider().diagnose()
    assert [one.ok for one in said] == [True, True]
    assert "123456789012" in said[0].detail
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "AWS_REGION" in SageMakerProvider().diagnose()[0].detail


def test_a_licence_is_accepted_by_the_user_alone(box: Sandbox, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from anydpo.cli.app import app

    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    options = "\n".join(f"{name} = {json.dumps(value)}" for name, value in OPTIONS.items())
    text = f'model = "meta-llama/Llama-3.2-1B-Instruct"\ndata = "pairs.jsonl"\n[options.sagemaker]\n{options}\n'
    (tmp_path / "job.toml").write_text(text, "utf-8")
    call = ["submit", str(tmp_path / "job.toml"), "-p", "sagemaker/serverless", "--json"]
    refused = CliRunner().invoke(app, call)
    assert "licence" in str(refused.exception)
    assert creates(box) == 0
    done = CliRunner().invoke(app, [*call, "--accept-eula"])
    assert done.exit_code == 0, done.exception
    job = box.requests("sagemaker", "create")[0]["body"]
    assert job["ServerlessJobConfig"]["AcceptEula"] is True
