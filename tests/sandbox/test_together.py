"""Together's protocol, driven by the official SDK and by Together's own command line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import together
import zstandard
from together.lib.resources import files as sdk_files
from together.lib.types.error import FileTypeError
from together.types import (
    FileList,
    FileResponse,
    FinetuneModelLimits,
    FinetuneResponse,
    FineTuningCancelResponse,
    FineTuningEstimatePriceResponse,
    FineTuningListCheckpointsResponse,
    FineTuningListEventsResponse,
    FineTuningListMetricsResponse,
    FineTuningListResponse,
    WhoamiResponse,
)

from anydpo.sandbox.server import Sandbox
from tests.sandbox.conftest import chats, preferences
from tests.sandbox.recorded import Recorder, strict, violations

MODEL = "Qwen/Qwen3-8B"
TG = Path(sys.executable).with_name("tg")


def send(client: together.Together, path: Path) -> str:
    """Upload, and look until the server has examined it."""
    file = client.files.upload(path).id
    for _ in range(3):
        client.files.retrieve(file)
    return file


def states(client: together.Together, job: str) -> list[str]:
    found: list[str] = []
    for _ in range(20):
        state = str(client.fine_tuning.retrieve(job).status)
        found += [state] if [state] != found[-1:] else []
        if state in {"completed", "error", "user_error", "cancelled"}:
            return found
    raise AssertionError(found)


def create(client: together.Together, file: str, **more: Any) -> str:
    given: dict[str, Any] = {"model": MODEL, "training_method": "dpo", "verbose": False, **more}
    return client.fine_tuning.create(training_file=file, **given).id


KINDS: list[tuple[str, str, Any]] = [
    ("POST", "/fine-tunes/estimate-price", FineTuningEstimatePriceResponse),
    ("GET", "/fine-tunes/models/limits", FinetuneModelLimits),
    ("POST", "/fine-tunes", FineTuningCancelResponse),
    ("GET", "/fine-tunes", FineTuningListResponse),
    ("GET", "/fine-tunes/{id}", FinetuneResponse),
    ("POST", "/fine-tunes/{id}/cancel", FineTuningCancelResponse),
    ("GET", "/fine-tunes/{id}/events", FineTuningListEventsResponse),
    ("GET", "/fine-tunes/{id}/metrics", FineTuningListMetricsResponse),
    ("GET", "/fine-tunes/{id}/checkpoints", FineTuningListCheckpointsResponse),
    ("GET", "/files", FileList),
    ("GET", "/files/{id}", FileResponse),
    ("POST", "/files/{id}/preprocess", FileResponse),
    ("GET", "/whoami", WhoamiResponse),
]


def check_types(seen: Recorder) -> None:
    """Compare every answer with the SDK's class for it, without conversions."""
    checked = set()
    for exchange in seen.exchanges:
        path = "/" + "/".join(
            "{id}" if part.startswith(("ft-", "file-")) else part for part in exchange.path.split("/")[2:]
        )
        for method, template, kind in KINDS:
            if (method, template) == (exchange.method, path) and exchange.status == 200:
                if exchange.answer.get("status") == "user_error":
                    continue  # an exception of recorded.EXCEPTIONS
                strict(kind, exchange.answer)
                checked.add(template)
    assert checked


def test_a_whole_round_as_specified(tg: together.Together, seen: Recorder, prefs: Path) -> None:
    uploaded = tg.files.upload(prefs)
    assert uploaded.processing_status == "QUEUED"
    looked = [tg.files.retrieve(uploaded.id) for _ in range(3)]
    assert [file.processing_status for file in looked] == ["QUEUED", "RUNNING", "COMPLETED"]
    report = looked[-1].validation_report
    assert report is not None
    assert (report.valid, report.nlines) == (True, 24)
    job = create(tg, uploaded.id, validation_file=uploaded.id, n_epochs=2, n_evals=2, n_checkpoints=2, batch_size=8,
                 suffix="k1", lora=True, random_seed=7)  # fmt: skip
    path = ["pending", "queued", "running", "compressing", "uploading", "completed"]
    assert states(tg, job) == path
    got = tg.fine_tuning.retrieve(job)
    assert got.x_model_output_name is not None
    assert "k1" in got.x_model_output_name
    events = tg.fine_tuning.list_events(job).data
    assert [event.type for event in events][:2] == ["job_pending", "training_data_download_complete"]
    assert events[-1].type == "job_complete"
    points = tg.fine_tuning.list_metrics(job).metrics or []
    train = [point["train/loss"] for point in points if "train/loss" in point]
    assert len(train) == 6
    assert sum("eval/loss" in point for point in points) == 2
    few = tg.fine_tuning.list_metrics(job, resolution=2, global_step_from=2).metrics or []
    assert sum("train/loss" in point for point in few) == 2
    assert all(point["train/global_step"] >= 2 for point in few)
    assert [one.step for one in tg.fine_tuning.list_checkpoints(job).data] == [3, 6]
    assert [one.id for one in tg.fine_tuning.list().data] == [job]
    assert tg.whoami().type == "project_api_key"
    assert tg.files.list().data[0].id == uploaded.id
    assert violations("together", seen) == []
    check_types(seen)


def test_weights_come_by_a_signed_address(box: Sandbox, tg: together.Together, prefs: Path) -> None:
    job = create(tg, send(tg, prefs), lora=True, n_checkpoints=2)
    with pytest.raises(together.BadRequestError, match="there is no model to download"):
        tg.fine_tuning.content(ft_id=job, checkpoint="merged")
    states(tg, job)
    answer = httpx.get(
        f"{box.origins['together']}/v1/finetune/download",
        params={"ft_id": job, "checkpoint": "adapter"},
        headers={"authorization": "Bearer x"},
        trust_env=False,
    )
    assert answer.status_code == 302
    address = answer.headers["location"]
    assert address.startswith(box.origins["storage"])  # another origin: credentials do not follow
    assert httpx.get(address, headers={"authorization": "Bearer x"}, trust_env=False).status_code == 400
    assert httpx.get(address + "x", trust_env=False).status_code == 403
    whole = httpx.get(address, trust_env=False)
    assert whole.headers["etag"].strip('"') == hashlib.sha256(whole.content).hexdigest()
    part = httpx.get(address, headers={"range": "bytes=10-19"}, trust_env=False)
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert names(whole.content) == ["adapter_config.json", "adapter_model.safetensors"]
    assert names(tg.fine_tuning.content(ft_id=job, checkpoint="merged").read()) == ["config.json", "model.safetensors"]
    assert names(tg.fine_tuning.content(ft_id=job, checkpoint_step=1).read())
    with pytest.raises(together.NotFoundError, match="no checkpoint at step 5"):
        tg.fine_tuning.content(ft_id=job, checkpoint_step=5)
    box.world.clock.advance(3601)
    assert httpx.get(address, trust_env=False).status_code == 403


def names(archive: bytes) -> list[str]:
    data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(archive)).read()
    return tarfile.open(fileobj=io.BytesIO(data)).getnames()


def test_the_same_content_is_one_file(box: Sandbox, tg: together.Together, prefs: Path, tmp_path: Path) -> None:
    first = tg.files.upload(prefs).id
    copy = tmp_path / "another_name.jsonl"
    copy.write_bytes(prefs.read_bytes())
    assert tg.files.upload(copy).id == first
    assert len(box.requests("storage", "put")) == 1
    assert tg.files.content(first).read() == prefs.read_bytes()
    assert tg.files.delete(first).deleted
    assert tg.files.upload(copy).id != first


def test_a_file_above_the_threshold_comes_in_parts(
    tg: together.Together, prefs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's own threshold of 5 GiB is lowered; all else is its multipart upload."""
    monkeypatch.setattr(sdk_files, "MULTIPART_THRESHOLD_GB", 1e-9)
    monkeypatch.setattr(sdk_files, "_calculate_parts", lambda size: (2000, -(-size // 2000)))
    file = tg.files.upload(prefs)
    assert file.bytes == prefs.stat().st_size
    assert tg.files.content(file.id).read() == prefs.read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.pop("non_preferred_output"), "Error on line 5: the line has no 'non_preferred_output'"),
        (lambda row: row["preferred_output"].append({"role": "assistant", "content": "x"}), "2 messages, expected"),
        (lambda row: row["input"]["messages"].append({"role": "user", "content": "x"}), "role 'user' in a row"),
        (lambda row: row.update(messages=[]), "two formats at once"),
        (lambda row: row.update(weight=-1), "'weight' is not a number"),
    ],
)
def test_a_bad_line_is_reported_and_the_job_is_a_user_error(
    change: Callable[[Any], Any], said: str, tg: together.Together, written: Callable[..., Path], seen: Recorder
) -> None:
    rows = preferences(12)
    change(rows[4])
    file = send(tg, written(rows))
    got = tg.files.retrieve(file)
    assert got.processing_status == "INVALID_FORMAT"
    assert got.validation_report is not None
    assert said in str(got.validation_report.error)
    job = create(tg, file)  # "estimate unavailable" does not stop the SDK
    assert states(tg, job) == ["pending", "user_error"]
    assert "line 5" in tg.fine_tuning.list_events(job).data[-1].message
    assert violations("together", seen) == []
    check_types(seen)


def test_the_estimate_waits_for_the_validation(tg: together.Together, prefs: Path) -> None:
    file = tg.files.upload(prefs).id
    early: Any = tg.fine_tuning.estimate_price(training_file=file, model=MODEL, n_epochs=1)
    assert (early.estimation_available, early.unavailable_reason) == (False, "train_file_not_validated")
    for _ in range(3):
        tg.files.retrieve(file)
    one: Any = tg.fine_tuning.estimate_price(training_file=file, model=MODEL, n_epochs=1)
    two: Any = tg.fine_tuning.estimate_price(training_file=file, model=MODEL, n_epochs=2)
    assert two.estimated_train_token_count == 2 * one.estimated_train_token_count > 0
    assert one.allowed_to_proceed


def test_limits_and_wrong_fields_are_refused(tg: together.Together, box: Sandbox, prefs: Path) -> None:
    with pytest.raises(together.NotFoundError) as caught:
        tg.fine_tuning.model_limits(model_name="nobody/nothing")
    assert caught.value.body == {"message": "Model nobody/nothing is not supported for fine-tuning"}
    file = send(tg, prefs)
    limits = tg.fine_tuning.model_limits(model_name=MODEL)
    with pytest.raises(together.BadRequestError, match="n_epochs must be between 1 and 20"):
        create(tg, file, n_epochs=21)
    with pytest.raises(together.BadRequestError, match="batch_size must be between"):
        create(tg, file, batch_size=limits.lora_training.max_batch_size_dpo + 1)  # unchecked by the SDK without lora
    with pytest.raises(together.BadRequestError, match="suffix"):
        create(tg, file, suffix="x" * 41)
    with pytest.raises(together.AuthenticationError):
        tg.with_options(api_key="invalid").fine_tuning.list()
    with pytest.raises(together.NotFoundError):
        tg.fine_tuning.retrieve("ft-none")
    assert box.world.counts()["together"] == 0


def test_cancel_and_delete(tg: together.Together, seen: Recorder, prefs: Path) -> None:
    job = create(tg, send(tg, prefs))
    with pytest.raises(together.ConflictError):
        tg.fine_tuning.delete(job)
    for _ in range(3):
        tg.fine_tuning.retrieve(job)
    assert tg.fine_tuning.cancel(job).status == "cancel_requested"
    assert states(tg, job) == ["cancel_requested", "cancelled"]
    with pytest.raises(together.BadRequestError):
        tg.fine_tuning.cancel(job)
    assert tg.fine_tuning.delete(job).message
    assert tg.fine_tuning.list().data == []
    assert violations("together", seen) == []


def test_sft_then_dpo_by_checkpoint(
    box: Sandbox, tg: together.Together, prefs: Path, written: Callable[..., Path]
) -> None:
    first = create(tg, send(tg, written(chats(12), "chat.jsonl")), training_method="sft", lora=True, lora_r=8)
    states(tg, first)
    second = create(tg, send(tg, prefs), model=None, from_checkpoint=first)
    got = tg.fine_tuning.retrieve(second)
    assert (got.model, got.from_checkpoint) == (MODEL, first)
    assert got.training_type is not None
    assert getattr(got.training_type, "lora_r", None) == 8  # inherited
    assert states(tg, second)[-1] == "completed"
    task = box.world.jobs("together").get(second)
    assert task is not None
    assert task.task is not None
    assert str(task.task.start_from).endswith("-merged")


def test_the_sdk_itself_refuses_what_is_no_json(tg: together.Together, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("nonsense\n")
    with pytest.raises(FileTypeError):
        tg.files.upload(path)


def test_togethers_own_command_line(box: Sandbox, prefs: Path, tmp_path: Path) -> None:
    env = {**os.environ, **box.env, "HOME": str(tmp_path), "TOGETHER_PROJECT_ID": "proj_sandbox"}

    def run(*arguments: str) -> Any:
        command = [str(TG), *arguments, "--json", "--non-interactive"]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stdout

    file = run("files", "upload", str(prefs))["id"]
    run("fine-tuning", "create", "--training-file", file, "--model", MODEL, "--training-method", "dpo", "--confirm")
    (job,) = box.world.jobs("together").all()
    while not job.ended:
        box.world.jobs("together").poll(job)
    assert run("fine-tuning", "retrieve", job.id)["status"] == "completed"
    assert run("fine-tuning", "list-events", job.id)[-1]["type"] == "job_complete"
    assert len(run("fine-tuning", "list-metrics", job.id)) == len(job.records)
    assert run("fine-tuning", "list-checkpoints", job.id)
    got = run("fine-tuning", "download", job.id)
    archive = box.world.jobs("together").archive(job)
    assert archive is not None
    assert Path(got["filename"]).read_bytes() == archive.path.read_bytes()
    assert {entry["status"] for entry in box.requests("together")} <= {200, 302}
