"""`azure/command` with the real azure-ai-ml and azure-identity, over TLS, against the sandbox."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

import anydpo
from anydpo import PreferenceJob
from anydpo.dispatch import Dispatch
from anydpo.errors import (
    AnyDPOError,
    AuthFailed,
    CapacityUnavailable,
    JobInvalid,
    NotEligible,
    OutcomeUnknown,
    ProviderRefused,
    QuotaExceeded,
    Unavailable,
)
from anydpo.journal import Journal
from anydpo.plan import prepare
from anydpo.provider import JobRef
from anydpo.registry import provider
from anydpo.result import State
from anydpo.sandbox import Sandbox, serve
from anydpo.testing.clock import ManualClock
from anydpo_azure import scope
from anydpo_azure.provider import picked
from anydpo_azure.request import create_of

ROWS = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(12)]
NAMES = ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZURE_ML_WORKSPACE")


def job(**fields: Any) -> PreferenceJob:
    options = {"compute": "gpu-cluster", **fields.pop("azure", {})}
    options = {name: value for name, value in options.items() if value is not None}
    return PreferenceJob(**{"model": "tiny", "data": anydpo.load(ROWS), "options": {"azure": options}, **fields})


def sandboxed(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    for name, value in box.env.items():
        monkeypatch.setenv(name, value)
    return box


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with serve(trainer="instant", steps=4, providers=["azureml"], folder=tmp_path / "box") as made:
        yield sandboxed(made, monkeypatch)


@pytest.fixture
def dispatch(tmp_path: Path) -> Dispatch:
    return Dispatch(Journal(tmp_path / "journal"), ManualClock())


def submit(dispatch: Dispatch, wanted: PreferenceJob, place: str = "azure/command") -> str:
    return dispatch.submit(prepare(wanted, place).or_raise()).run


def jobs(box: Sandbox) -> list[Any]:
    service: Any = box.services["azureml"]
    return list(service.jobs.all())


# What is sent


def test_one_request_makes_the_job_and_is_the_one_of_the_plan(
    box: Sandbox, dispatch: Dispatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside a git repository, whose address, branch and commit stay here."""
    for command in (["init", "-q", "-b", "secret-branch"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *author, *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    more = {"instance_count": 2, "timeout_seconds": 3600, "job_tier": "Spot", "identity": "managed"}
    wanted = job(azure=more, validation=0.2, tags={"team": "shop"}, name="tone")
    prepared = prepare(wanted, "azure/command").or_raise()
    run = dispatch.submit(prepared).run
    (created,) = box.requests(operation="create")
    (attempt,) = dispatch.journal.attempts(run)
    staged = {item["name"]: item["id"] for item in attempt.staged}
    planned = create_of(prepared.plan, staged, attempt.key)
    sent = created["body"]["properties"]
    ours = planned["properties"]
    # the SDK adds what has its default, and leaves out nothing
    assert {name: sent[name] for name in ours if name != "environmentVariables"} == {
        name: value for name, value in ours.items() if name != "environmentVariables"
    }
    assert sent["environmentVariables"].items() >= ours["environmentVariables"].items()
    assert sent["distribution"] == {"distributionType": "PyTorch", "processCountPerInstance": 1}
    assert "secret-branch" not in json.dumps(created["body"])
    assert created["path"].endswith(f"/jobs/{attempt.key}")


def test_git_is_sent_when_asked(
    box: Sandbox, dispatch: Dispatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZUREML_GIT_BRANCH", "release")
    submit(dispatch, job(azure={"git": True}))
    assert jobs(box)[0].request["properties"]["properties"]["mlflow.source.git.branch"] == "release"


def test_the_same_bytes_are_uploaded_once(box: Sandbox, dispatch: Dispatch) -> None:
    submit(dispatch, job())
    first = len(box.requests(operation="put"))
    submit(dispatch, job(seed=5))
    assert len(box.requests(operation="put")) == first
    assert len(jobs(box)) == 2
    submit(dispatch, job(seed=5, data=anydpo.load(ROWS[:11])))
    assert len(box.requests(operation="put")) == first + 1


def test_what_is_there_is_not_written_over(box: Sandbox, dispatch: Dispatch) -> None:
    """`If-None-Match: *`, from a client that is not ours."""
    submit(dispatch, job())
    (path,) = [r["path"] for r in box.requests(operation="put") if r["path"].endswith("train.jsonl")]
    address = f"https://anydposandbox.blob.core.windows.net{path}?sig=sandbox-signature"
    with httpx.Client() as client:
        before = client.get(address).content
        headers = {"if-none-match": "*", "x-ms-blob-type": "BlockBlob"}
        assert client.put(address, content=b"other", headers=headers).status_code == 409
        assert client.get(address).content == before


def test_an_image_becomes_an_environment_before_the_create(box: Sandbox, dispatch: Dispatch) -> None:
    submit(dispatch, job(azure={"image": "docker.io/pytorch/pytorch:2.8.0-cuda12.6-cudnn9-runtime"}))
    given = jobs(box)[0].request["properties"]["environmentId"]
    service: Any = box.services["azureml"]
    assert service.assets[given]["image"].startswith("docker.io/pytorch")
    assert len(box.requests(operation="create")) == 1


# At most one job


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "lost_reply"},
        {"fault": "half_reply", "shape": "no_id"},
        {"fault": "half_reply", "shape": "truncated"},
        {"fault": "half_reply", "shape": "cut"},
    ],
    ids=["lost", "no-id", "truncated", "cut"],
)
def test_a_create_whose_answer_is_lost_is_found(fault: dict[str, Any], box: Sandbox, dispatch: Dispatch) -> None:
    box.break_({**fault, "on": ["create"], "times": 1})
    run = submit(dispatch, job())
    assert len(box.requests(operation="create")) == len(jobs(box)) == 1
    assert dispatch.journal.attempts(run)[-1].provider_job_id == scope.current().job(jobs(box)[0].id)


def test_a_create_that_never_arrived_is_unknown_and_not_sent_again(box: Sandbox, dispatch: Dispatch) -> None:
    box.break_({"fault": "storm", "status": 503, "on": ["create"]})
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            submit(dispatch, job())
    assert len(box.requests(operation="create")) == 1
    assert jobs(box) == []


def test_the_same_put_by_somebody_else_is_the_same_job(box: Sandbox, dispatch: Dispatch) -> None:
    """Azure's own semantics, which stand behind the key when all else fails."""
    prepared = prepare(job(), "azure/command").or_raise()
    dispatch.submit(prepared)
    attempt = dispatch.journal.attempts(prepared.run_id)[-1]
    from anydpo.provider import Plan, Staged

    staged = tuple(Staged(**item) for item in attempt.staged)
    again = prepared.provider.submit(Plan(**attempt.plan), staged, attempt.key)
    assert again.id == attempt.provider_job_id
    assert len(jobs(box)) == 1


def test_a_job_goes_to_the_workspace_of_its_plan(
    box: Sandbox, dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever goes on with a run later may have set another one."""
    prepared = prepare(job(), "azure/command").or_raise()
    monkeypatch.setenv("AZURE_ML_WORKSPACE", "another")
    dispatch.submit(prepared)
    assert len(jobs(box)) == 1


@pytest.mark.parametrize("percent", [0, 50, 100])
def test_a_cut_upload_is_sent_once_more(percent: int, box: Sandbox, dispatch: Dispatch) -> None:
    box.break_({"fault": "cut_upload", "percent": percent, "on": ["put"], "skip": 20, "times": 1})
    submit(dispatch, job())
    assert len(jobs(box)) == 1


# Wrong names


@pytest.mark.parametrize(
    ("azure", "field"),
    [
        ({"compute": None}, "options.azure.compute"),
        ({"instance_type": "Standard_NC24ads_A100_v4"}, "options.azure.compute"),
        ({"compute": "no spaces here"}, "options.azure.compute"),
        ({"compute": None, "instance_type": "p4d.24xlarge"}, "options.azure.instance_type"),
        ({"instance_count": 0}, "options.azure.instance_count"),
        ({"instance_count": 1000}, "options.azure.instance_count"),
        ({"environment": "acft-hf-nlp-gpu"}, "options.azure.environment"),
        ({"environment": "azureml:mine:1", "image": "mine:1"}, "options.azure.image"),
        ({"datastore": "with-dash"}, "options.azure.datastore"),
        ({"experiment_name": "-x"}, "options.azure.experiment_name"),
        ({"job_tier": "spot"}, "options.azure.job_tier"),
        ({"timeout_seconds": 1}, "options.azure.timeout_seconds"),
        ({"shm_size": "lots"}, "options.azure.shm_size"),
        ({"environment_variables": {"HF_TOKEN": "hf_x"}}, "options.azure.environment_variables"),
        ({"workspace": "another"}, "options.azure.workspace"),
        ({"instance_typ": "Standard_NC24ads_A100_v4"}, "options.azure.instance_typ"),
    ],
)
def test_a_wrong_option_is_a_problem_before_anything_is_asked(azure: dict[str, Any], field: str, box: Sandbox) -> None:
    problems = prepare(job(azure=azure), "azure/command").plan.problems
    assert field in [problem.field for problem in problems]
    assert box.requests() == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": "smollm2-135m"}, "model"),
        ({"model": "./folder"}, "model"),
        ({"model": {"openai": "gpt-4.1"}}, "model"),
        ({"start_from": "/some/folder"}, "start_from"),
        ({"ref_model": "here.gguf"}, "ref_model"),
    ],
)
def test_models_that_no_cloud_machine_can_load_are_problems(fields: dict[str, Any], field: str, box: Sandbox) -> None:
    assert field in [problem.field for problem in prepare(job(**fields), "azure/command").plan.problems]


@pytest.mark.parametrize(
    ("name", "value"),
    [("AZURE_SUBSCRIPTION_ID", "my subscription"), ("AZURE_RESOURCE_GROUP", "ends."), ("AZURE_ML_WORKSPACE", "x")],
)
def test_names_that_cannot_be_are_problems(
    name: str, value: str, box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    (problem,) = prepare(job(), "azure/command").plan.problems
    assert problem.hint is not None
    assert name in problem.hint
    assert box.requests() == []


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_name_is_said_in_the_plan_and_before_anything_is_asked(
    name: str, box: Sandbox, dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)
    prepared = prepare(job(), "azure/command").or_raise()
    assert any(name in warning for warning in prepared.plan.warnings)
    with pytest.raises(JobInvalid) as caught:
        dispatch.submit(prepared)
    assert name in str(caught.value)
    assert box.requests() == []


@pytest.mark.parametrize(
    ("variable", "value", "azure", "error", "words"),
    [
        ("AZURE_SUBSCRIPTION_ID", "11111111-1111-4111-8111-111111111111", {}, ProviderRefused, "AZURE_SUBSCRIPTION_ID"),
        ("AZURE_RESOURCE_GROUP", "nobody", {}, ProviderRefused, "AZURE_RESOURCE_GROUP"),
        ("AZURE_ML_WORKSPACE", "nobody", {}, ProviderRefused, "AZURE_ML_WORKSPACE"),
        ("AZURE_CLIENT_SECRET", "wrong", {}, AuthFailed, "az login"),
        (None, None, {"compute": "no-such"}, JobInvalid, "az ml compute list"),
        (None, None, {"instance_count": 3}, JobInvalid, "at most 2"),
        (None, None, {"compute": None, "instance_type": "Standard_NC24ads_A100_v5"}, JobInvalid, "NC24ADS_A100_V4"),
        (None, None, {"compute": None, "instance_type": "Standard_NC40ads_H100_v5"}, QuotaExceeded, "is 0, 0 used"),
        (
            None,
            None,
            {"compute": None, "instance_type": "Standard_NC24ads_A100_v4", "instance_count": 5},
            QuotaExceeded,
            "120 vCPUs",
        ),
        (None, None, {"datastore": "nobody"}, ProviderRefused, "datastore"),
        (None, None, {"environment": "azureml:nobody:1"}, ProviderRefused, "environment"),
    ],
)
def test_what_is_not_there_is_said_before_a_job_is_made(
    variable: str | None,
    value: str,
    azure: dict[str, Any],
    error: type[AnyDPOError],
    words: str,
    box: Sandbox,
    dispatch: Dispatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, value)
    if variable == "AZURE_SUBSCRIPTION_ID":  # else DefaultAzureCredential would ask this machine's identities too
        monkeypatch.setattr(scope, "REHEARSAL", value)
    with pytest.raises(error) as caught:
        submit(dispatch, job(azure=azure))
    assert words in str(caught.value)
    assert jobs(box) == []


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"fault": "not_eligible"}, NotEligible),
        ({"fault": "insufficient_quota"}, QuotaExceeded),
        ({"fault": "storm", "status": 429, "retry_after": "seconds", "seconds": 7}, CapacityUnavailable),
    ],
    ids=["role", "quota", "capacity"],
)
def test_a_refused_create_is_typed(
    fault: dict[str, Any], error: type[AnyDPOError], box: Sandbox, dispatch: Dispatch
) -> None:
    box.break_({**fault, "on": ["create"]})
    with pytest.raises(error) as caught:
        submit(dispatch, job())
    assert caught.value.retry_after == (7 if error is CapacityUnavailable else None)
    assert len(box.requests(operation="create")) == 1
    assert jobs(box) == []


@pytest.mark.parametrize("ref", ["/subscriptions/x/jobs/y", "with space", "/"])
def test_a_wrong_arm_id_is_an_error_of_its_own(ref: str, box: Sandbox) -> None:
    with pytest.raises(JobInvalid):
        provider("azure").poll(JobRef(id=ref, place="azure/command"))
    assert box.requests() == []


def test_a_storm_on_a_read_says_when_to_come_back(box: Sandbox, dispatch: Dispatch) -> None:
    run = submit(dispatch, job())
    place, ref = dispatch.live_ref(run)
    place.poll(ref)  # signed in
    box.break_({"fault": "storm", "retry_after": "seconds", "seconds": 30, "times": 1})
    with pytest.raises(Unavailable) as caught:
        place.poll(ref)
    assert caught.value.retry_after == 30


def test_weights_that_arrive_otherwise_are_refused(box: Sandbox, dispatch: Dispatch, tmp_path: Path) -> None:
    run = submit(dispatch, job())
    while not dispatch.refresh(run).done:
        pass
    place, ref = dispatch.live_ref(run)
    box.break_({"fault": "wrong_hash", "on": ["content"], "times": 1})
    with pytest.raises(Unavailable, match="did not arrive whole"):
        place.fetch(ref, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert place.fetch(ref, tmp_path / "out")


def test_the_service_s_own_words_say_why_a_job_failed(box: Sandbox, dispatch: Dispatch) -> None:
    box.break_(
        {"fault": "job_fails", "code": "ImagePullFailed", "message": "The image cannot be pulled.", "on": ["create"]}
    )
    run = submit(dispatch, job(batch_size=3))
    while not dispatch.refresh(run).done:
        pass
    found = dispatch.result(run)
    assert found.state is State.FAILED
    assert found.error is not None
    assert found.error.code == "ImagePullFailed"


def test_an_unknown_status_is_no_success(box: Sandbox, dispatch: Dispatch) -> None:
    run = submit(dispatch, job())
    place, ref = dispatch.live_ref(run)
    service: Any = box.services["azureml"]
    service.words = dict.fromkeys(service.words, "Reticulating")
    poll = place.poll(ref)
    assert poll.state is State.RUNNING
    assert [event.text for event in poll.events if "Reticulating" in event.text]


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, for the SDK takes seconds to import."""
    with mock.patch.dict(os.environ):
        runpy.run_path(str(Path(__file__).parents[3] / "examples" / "azure_ml.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said.startswith("azure/command: open weights")
    assert said.endswith("jobs made: 1\n")


# Which route


@pytest.mark.parametrize(
    ("model", "route"),
    [
        ("gpt-4.1-mini-2025-04-14", "managed"),
        ("gpt-4.1-mini-2025-04-14.ft-0123456789abcdef0123456789abcdef", "managed"),
        ("gpt-5-something", "managed"),
        ("Qwen/Qwen3-8B", "command"),
        ("azureml://registries/azureml/models/Phi-4/versions/8", "command"),
        ("tiny", "command"),
    ],
)
def test_a_bare_azure_picks_the_route_by_model_and_says_why(
    model: str, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = job(model=model, azure={"compute": "gpu-cluster", "training_type": "Standard"})
    assert picked(wanted)[0] == route
    plan = prepare(wanted, "azure").plan
    assert plan.place == f"azure/{route}"
    assert plan.ok, plan.problems
    assert model in plan.route_reason
