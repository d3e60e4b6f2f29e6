"""OpenAI's protocol, driven by the official SDK; every exchange is compared with its specification and its types."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import FileObject, Model, Upload
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.uploads import UploadPart

from anydpo.sandbox.server import Sandbox
from tests.sandbox.conftest import chats, preferences
from tests.sandbox.recorded import Recorder, strict, violations

BASE = "gpt-4.1-mini-2025-04-14"
DPO: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 2, "batch_size": 8}}}


def send(client: openai.OpenAI, path: Path) -> str:
    with path.open("rb") as file:
        return client.files.create(file=file, purpose="fine-tune").id


def states(client: openai.OpenAI, job: str) -> list[str]:
    """Return every state as it is seen, each once, until the job has ended."""
    found: list[str] = []
    for _ in range(20):
        state = client.fine_tuning.jobs.retrieve(job).status
        found += [state] if [state] != found[-1:] else []
        if state in {"succeeded", "failed", "cancelled"}:
            return found
    raise AssertionError(found)


def test_a_whole_round_as_specified(oai: openai.OpenAI, seen: Recorder, prefs: Path) -> None:
    file = send(oai, prefs)
    assert oai.files.wait_for_processing(file).status == "processed"
    made = oai.fine_tuning.jobs.create(
        model=BASE,
        training_file=file,
        validation_file=file,
        method=DPO,
        suffix="tone",
        seed=7,
        metadata={"anydpo": "k1"},
        integrations=[{"type": "wandb", "wandb": {"project": "tone", "tags": ["dpo"]}}],
    )
    assert states(oai, made.id) == ["validating_files", "queued", "running", "succeeded"]
    job = oai.fine_tuning.jobs.retrieve(made.id)
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith(f"ft:{BASE}:")
    assert ":tone:" in job.fine_tuned_model
    assert job.trained_tokens is not None

    events = list(oai.fine_tuning.jobs.list_events(job.id, limit=3))  # pages of three
    assert events[-1].message == f"Created fine-tuning job: {job.id}"
    assert [event.type for event in events].count("metrics") == 6
    assert [event.created_at for event in events] == sorted((event.created_at for event in events), reverse=True)
    checkpoints = list(oai.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [6, 3]
    assert checkpoints[1].fine_tuned_model_checkpoint == f"{job.fine_tuned_model}:ckpt-step-3"
    assert checkpoints[0].metrics.full_valid_loss is not None

    rows = list(csv.DictReader(io.StringIO(oai.files.content(job.result_files[0]).text)))
    logged = [event.data["train_loss"] for event in reversed(events) if event.type == "metrics"]  # type: ignore[index]
    assert [float(row["train_loss"]) for row in rows] == logged
    assert oai.models.retrieve(job.fine_tuned_model).shutdown_date == "2027-01-14"
    assert job.fine_tuned_model in {model.id for model in oai.models.list()}
    found = oai.fine_tuning.jobs.list(extra_query={"metadata[anydpo]": "k1"}).data
    assert [one.id for one in found] == [job.id]
    assert oai.fine_tuning.jobs.list(metadata={"anydpo": "other"}).data == []
    assert oai.models.delete(job.fine_tuned_model).deleted
    assert oai.files.list(purpose="fine-tune").data[0].id == file
    assert oai.files.delete(file).deleted
    assert violations("openai", seen) == []
    check_types(seen)


def check_types(seen: Recorder) -> None:
    """Compare every object of these kinds with the SDK's class, without conversions."""
    kinds: dict[str, Any] = {
        "file": FileObject,
        "fine_tuning.job": FineTuningJob,
        "fine_tuning.job.event": FineTuningJobEvent,
        "fine_tuning.job.checkpoint": FineTuningJobCheckpoint,
        "model": Model,
        "upload": Upload,
        "upload.part": UploadPart,
    }
    checked = 0
    for exchange in seen.exchanges:
        for one in exchange.answer.get("data", [exchange.answer]):
            if one.get("object") in kinds and "deleted" not in one and one.get("status") != "paused":
                strict(kinds[one["object"]], one)
                checked += 1
    assert checked


def test_a_large_file_comes_in_parts(oai: openai.OpenAI, seen: Recorder, prefs: Path) -> None:
    made = oai.uploads.upload_file_chunked(file=prefs, mime_type="text/jsonl", purpose="fine-tune", part_size=1000)
    assert made.file is not None
    assert oai.files.content(made.file.id).content == prefs.read_bytes()
    opened = oai.uploads.create(bytes=10, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    part = oai.uploads.parts.create(opened.id, data=b"{}\n")
    with pytest.raises(openai.BadRequestError, match="3 bytes, 10 were announced"):
        oai.uploads.complete(opened.id, part_ids=[part.id])
    assert oai.uploads.cancel(opened.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        oai.uploads.parts.create(opened.id, data=b"{}\n")
    assert violations("openai", seen) == []
    check_types(seen)


def test_uploads_and_files_expire(box: Sandbox, oai: openai.OpenAI, prefs: Path) -> None:
    with prefs.open("rb") as file:
        kept = oai.files.create(file=file, purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 7200})
    opened = oai.uploads.create(bytes=10, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    box.world.clock.advance(3601)
    with pytest.raises(openai.BadRequestError, match="expired"):
        oai.uploads.parts.create(opened.id, data=b"{}\n")
    assert oai.files.retrieve(kept.id).id == kept.id
    box.world.clock.advance(3600)
    with pytest.raises(openai.NotFoundError):
        oai.files.retrieve(kept.id)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.pop("non_preferred_output"), "line 5 has no 'non_preferred_output'"),
        (lambda row: row.update(input="hello"), "line 5 'input' is not an object"),
        (lambda row: row["preferred_output"].clear(), "line 5 'preferred_output' is not a list of messages"),
        (lambda row: row["preferred_output"][0].update(role="user"), "role 'user', which is not allowed here"),
        (lambda row: row.update(extra=1), "unexpected key 'extra'"),
    ],
)
def test_a_bad_line_fails_the_job_with_its_number(
    change: Callable[[Any], Any], said: str, oai: openai.OpenAI, seen: Recorder, written: Callable[..., Path]
) -> None:
    rows = preferences(12)
    change(rows[4])
    job = oai.fine_tuning.jobs.create(model=BASE, training_file=send(oai, written(rows)), method=DPO)
    assert states(oai, job.id) == ["validating_files", "failed"]
    error = oai.fine_tuning.jobs.retrieve(job.id).error
    assert error is not None
    assert said in error.message
    assert error.param == "training_file"
    assert violations("openai", seen) == []


def test_few_examples_and_the_wrong_kind_fail_the_job(oai: openai.OpenAI, written: Callable[..., Path]) -> None:
    few = send(oai, written(preferences(9), "few.jsonl"))
    chat = send(oai, written(chats(12), "chat.jsonl"))
    for file, said in ((few, "it has 9 example(s), at least 10"), (chat, "has conversation examples")):
        job = oai.fine_tuning.jobs.create(model=BASE, training_file=file, method=DPO)
        assert states(oai, job.id)[-1] == "failed"
        error = oai.fine_tuning.jobs.retrieve(job.id).error
        assert error is not None
        assert said in error.message
    job = oai.fine_tuning.jobs.create(model=BASE, training_file=chat)  # supervised takes it
    assert states(oai, job.id)[-1] == "succeeded"
    assert oai.fine_tuning.jobs.retrieve(job.id).hyperparameters.n_epochs == 1


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"model": "gpt-2"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}}, "method.dpo.hyperparameters.beta"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}}, "method.dpo.hyperparameters.beta"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 51}}}},
            "method.dpo.hyperparameters.n_epochs",
        ),
        ({"extra_body": {"learning_rate": 1e-5}}, "learning_rate"),
    ],
)
def test_a_wrong_field_is_refused_by_name(
    body: dict[str, Any], parameter: str, oai: openai.OpenAI, box: Sandbox, prefs: Path
) -> None:
    whole: dict[str, Any] = {"model": BASE, "training_file": send(oai, prefs), "method": DPO, **body}
    with pytest.raises(openai.BadRequestError) as caught:
        oai.fine_tuning.jobs.create(**whole)
    assert caught.value.param == parameter
    assert box.world.counts() == {"azure": 0, "openai": 0, "together": 0}


def test_pause_resume_cancel(oai: openai.OpenAI, seen: Recorder, prefs: Path) -> None:
    jobs = oai.fine_tuning.jobs
    job = jobs.create(model=BASE, training_file=send(oai, prefs), method=DPO).id
    for _ in range(3):
        jobs.retrieve(job)
    assert str(jobs.pause(job).status) == "paused"
    assert [str(jobs.retrieve(job).status) for _ in range(3)] == ["paused"] * 3
    assert jobs.resume(job).status == "queued"
    assert jobs.retrieve(job).status == "queued"
    assert jobs.cancel(job).status == "cancelled"
    assert jobs.retrieve(job).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="already completed"):
        jobs.cancel(job)
    assert violations("openai", seen) == []


def test_lists_are_paged_newest_first(oai: openai.OpenAI, prefs: Path) -> None:
    file = send(oai, prefs)
    made = [oai.fine_tuning.jobs.create(model=BASE, training_file=file, method=DPO).id for _ in range(5)]
    assert [job.id for job in oai.fine_tuning.jobs.list(limit=2)] == made[::-1]
    with pytest.raises(openai.BadRequestError, match="no such object"):
        oai.fine_tuning.jobs.list(after="ftjob-none")


def test_unknown_things_and_keys_are_refused(box: Sandbox, oai: openai.OpenAI, prefs: Path, tmp_path: Path) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        oai.fine_tuning.jobs.retrieve("ftjob-none")
    assert caught.value.code == "fine_tune_not_found"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        oai.models.retrieve("gpt-4.1-nano-2025-04-14")  # shut down on 2026-10-23
    with pytest.raises(openai.AuthenticationError):
        oai.with_options(api_key="invalid").models.list()
    wrong = tmp_path / "prefs.json"
    wrong.write_bytes(prefs.read_bytes())
    with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
        send(oai, wrong)
    wrong.with_suffix(".jsonl").write_text("[]\n")
    with pytest.raises(openai.BadRequestError, match="Line 1 is not a dictionary"):
        send(oai, wrong.with_suffix(".jsonl"))


def test_a_tuned_model_and_its_checkpoint_can_be_trained_further(
    box: Sandbox, oai: openai.OpenAI, prefs: Path, written: Callable[..., Path]
) -> None:
    first = oai.fine_tuning.jobs.create(model=BASE, training_file=send(oai, written(chats(12), "chat.jsonl")))
    states(oai, first.id)
    tuned = oai.fine_tuning.jobs.retrieve(first.id).fine_tuned_model
    assert tuned is not None
    second = oai.fine_tuning.jobs.create(model=tuned, training_file=send(oai, prefs), method=DPO)
    assert states(oai, second.id)[-1] == "succeeded"
    task = box.world.jobs("openai").get(second.id)
    assert task is not None
    assert task.task is not None
    assert task.task.start_from is not None
