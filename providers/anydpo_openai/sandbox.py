"""OpenAI's fine-tuning API on loopback. Sources: OpenAI's OpenAPI document of 2026-08-21 and its DPO guide.

What no primary source states (codes of a failed validation, the body for an organisation that is not eligible) is
worded neutrally here and listed in docs/sandbox.md.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from anydpo.sandbox.faults import Fault
from anydpo.sandbox.files import Stored
from anydpo.sandbox.jobs import Failure, Job, Moment
from anydpo.sandbox.lines import Rules, examine
from anydpo.sandbox.training import Task
from anydpo.sandbox.wire import Refusal, answer, bearer, digest, error_object, identifier, json_object, page
from anydpo.sandbox.world import World
from anydpo_openai.sandbox_files import Files
from anydpo_openai.sandbox_request import checked, hyperparameters

MODELS = {  # what DPO takes, with the day it shuts down (Deprecations page, notice of 2026-10-14)
    "gpt-4.1-2025-04-14": "2027-01-14",
    "gpt-4.1-mini-2025-04-14": "2027-01-14",
    "gpt-4o-2024-08-06": "2027-01-14",
}
CREATED = 1_744_600_000
RATE_UNIT = 1.0  # a learning-rate multiplier of 1 is the stand-in model's own rate


class OpenAISandbox:
    """The emulator. Azure's is this one with other words."""

    name = "openai"
    base = "/v1"
    models: ClassVar[Mapping[str, str]] = MODELS
    clears: tuple[str, ...] = ("OPENAI_",)
    rules = Rules(least=10)
    id_length = 24
    new_file_status: str | None = None
    organization: str | None = "org-sandbox"
    words: ClassVar[Mapping[str, str]] = {
        "validating": "validating_files",
        "queued": "queued",
        "running": "running",
        "compressing": "running",
        "uploading": "running",
        "pausing": "paused",
        "paused": "paused",
        "resuming": "queued",
        "cancelling": "cancelled",
        "succeeded": "succeeded",
        "failed": "failed",
        "cancelled": "cancelled",
    }

    def __init__(self, world: World) -> None:
        self.world, self.jobs = world, world.jobs(self.name)
        self.files = Files(world, self.name, new_status=self.new_file_status, id_length=self.id_length)
        self._deleted: set[str] = set()
        self.routes: list[BaseRoute] = [route for base in self.bases() for route in self._routes(base)]

    def bases(self) -> tuple[str, ...]:
        """Return the beginnings of every path."""
        return (self.base,)

    def environment(self, origin: str) -> Mapping[str, str]:
        """Return what the `openai` package reads."""
        return {"OPENAI_BASE_URL": f"{origin}{self.base}", "OPENAI_API_KEY": "sk-sandbox"}

    def authorised(self, request: Request) -> bool:
        """Take any key but `invalid`."""
        return bearer(request)

    def error_body(self, refusal: Refusal) -> Mapping[str, Any]:
        """Return `ErrorResponse` of the specification."""
        return error_object(refusal)

    def refusal(self, fault: Fault) -> Refusal:
        """Return the answer to an account that may not, or of a service in a storm."""
        if fault.fault == "not_eligible":
            return Refusal(
                403, fault.message or "Your organization is not eligible to create fine-tuning jobs.", fault.code
            )
        if fault.fault == "insufficient_quota":
            said = "You exceeded your current quota, please check your plan and billing details."
            return Refusal(429, said, "insufficient_quota", type="insufficient_quota")
        if fault.status == 429:
            return Refusal(
                429, fault.message or "Rate limit reached.", fault.code or "rate_limit_exceeded", type="requests"
            )
        return Refusal(
            fault.status, fault.message or "The server had an error while processing your request.", fault.code
        )

    def _routes(self, base: str) -> list[BaseRoute]:
        jobs, one = f"{base}/fine_tuning/jobs", f"{base}/fine_tuning/jobs/{{job_id}}"
        upload = f"{base}/uploads/{{upload_id}}"
        table = [
            ("upload", "POST", f"{base}/files", self.files.upload),
            ("files", "GET", f"{base}/files", self.files.files),
            ("file", "GET", f"{base}/files/{{file_id}}", self.files.file),
            ("delete_file", "DELETE", f"{base}/files/{{file_id}}", self.files.delete_file),
            ("content", "GET", f"{base}/files/{{file_id}}/content", self.files.content),
            ("start_upload", "POST", f"{base}/uploads", self.files.start_upload),
            ("part", "POST", f"{upload}/parts", self.files.part),
            ("complete", "POST", f"{upload}/complete", self.files.complete),
            ("cancel_upload", "POST", f"{upload}/cancel", self.files.cancel_upload),
            ("create", "POST", jobs, self.create),
            ("list", "GET", jobs, self.list_jobs),
            ("retrieve", "GET", one, self.retrieve),
            ("events", "GET", f"{one}/events", self.events),
            ("checkpoints", "GET", f"{one}/checkpoints", self.checkpoints),
            ("cancel", "POST", f"{one}/cancel", self.cancel),
            ("pause", "POST", f"{one}/pause", self.pause),
            ("resume", "POST", f"{one}/resume", self.resume),
            ("models", "GET", f"{base}/models", self.list_models),
            ("model", "GET", f"{base}/models/{{model}}", self.model),
            ("delete_model", "DELETE", f"{base}/models/{{model}}", self.delete_model),
        ]
        return [Route(path, handler, methods=[method], name=name) for name, method, path, handler in table]

    async def create(self, request: Request) -> Response:
        """POST /fine_tuning/jobs."""
        given = checked(await json_object(request), self.extra_fields())
        self.check_create(given, request)
        for name in ("training_file", "validation_file"):
            if given.get(name) is not None and self.files.find(given[name]) is None:
                raise Refusal(400, f"File '{given[name]}' does not exist.", "invalid_file", name)
        if given["model"] not in self.models and self._tuned(given["model"]) is None:
            said = f"Model {given['model']} is not available for fine-tuning or does not exist."
            raise Refusal(400, said, "model_not_available", "model")
        made = identifier("ftjob-", self.id_length)
        now = self.world.clock.now()
        seed = given.get("seed")
        given["seed"] = self._seed(given) if seed is None else seed
        job = Job(made, now, given, self.world.place(self.name, "jobs", made), lambda: self._task(given))
        job.facts["suffix"] = made[-8:]
        for fault in request.state.faults:
            if fault.fault == "job_fails":
                job.fails = fault
            elif fault.fault == "late_list":
                job.hidden_for, job.hidden_until = fault.requests, now + (0 if fault.requests else fault.seconds)
        self.jobs.add(job)
        return answer(self.show(job))

    def _seed(self, given: Mapping[str, Any]) -> int:
        """Return a seed that the same file has again, so that a rehearsal can be repeated to the digit."""
        return int(self.files.get(given["training_file"]).sha256[:7], 16)

    def extra_fields(self) -> frozenset[str]:
        """Return the fields of the create body that only this service knows."""
        return frozenset()

    def check_create(self, given: Mapping[str, Any], request: Request) -> None:
        """Refuse what only this service refuses."""

    def _task(self, given: dict[str, Any]) -> Task | Failure:
        """Examine the files and return what to train."""
        kind, numbers = hyperparameters(given)
        size = numbers["batch_size"] if isinstance(numbers["batch_size"], int) else 8
        epochs = numbers["n_epochs"] if isinstance(numbers["n_epochs"], int) else 1
        rows: dict[str, list[dict[str, Any]]] = {"training_file": [], "validation_file": []}
        wanted = "preference" if kind == "dpo" else "conversation"
        for name in rows:
            if given.get(name) is None:
                continue
            file = self.files.find(given[name])
            if file is None or file.path is None:
                return Failure(f"invalid_{name}", f"The file '{given[name]}' is not there any more.", name)
            least = self.rules if name == "training_file" else Rules(1, self.rules.roles, self.rules.output_roles)
            found = file.findings = examine(file.path, least, self.world.steps * size)
            if found.wrong:
                said = "; ".join(f"line {line} {what}" if line else f"it {what}" for line, what in found.wrong[:5])
                return Failure(f"invalid_{name}", f"The job failed due to an invalid {name[:-5]} file: {said}.", name)
            if found.kind != wanted:
                said = f"The {name[:-5]} file has {found.kind} examples, the method needs {wanted} examples."
                return Failure(f"invalid_{name}", said, name)
            rows[name] = found.rows
        per_epoch = -(-len(rows["training_file"]) // size)
        factor = numbers["learning_rate_multiplier"]
        return Task(
            stage="dpo" if kind == "dpo" else "sft",
            rows=rows["training_file"],
            validation=rows["validation_file"],
            method={"beta": float(numbers["beta"]) if numbers.get("beta", "auto") != "auto" else 0.1},
            epochs=epochs,
            batch_size=size,
            steps=min(self.world.steps, per_epoch * epochs),
            rate=RATE_UNIT if factor == "auto" else float(factor),
            seed=given["seed"],
            evals=epochs,
            checkpoints=min(3, epochs),
            start_from=self._start(given["model"]),
        )

    def _start(self, model: str) -> Path | None:
        """Return the weights that a tuned model or a checkpoint of one stands for, None for a base model."""
        job = self._tuned(model)
        step = model.partition(":ckpt-step-")[2]
        return self.jobs.weights(job, int(step) if step else None) if job else None

    async def list_jobs(self, request: Request) -> Response:
        """GET /fine_tuning/jobs, newest first; `metadata[k]=v` filters."""
        found = [job for job in self.jobs.visible() if self.matches(job, request)]
        shown, more = page(found, request, lambda job: job.id, 20, 100)
        return answer({"object": "list", "data": [self.show(job) for job in shown], "has_more": more})

    def matches(self, job: Job, request: Request) -> bool:
        """Say whether a list's filter lets a job through."""
        own = job.request.get("metadata") or {}
        if request.query_params.get("metadata") == "null":
            return not own
        asked = {
            key[9:-1]: value
            for key, value in request.query_params.items()
            if key.startswith("metadata[") and key[-1] == "]"
        }
        return all(own.get(key) == value for key, value in asked.items())

    async def retrieve(self, request: Request) -> Response:
        """GET /fine_tuning/jobs/{job_id}."""
        job = self._job(request)
        body = self.show(job)
        self.jobs.poll(job)
        return answer(body)

    async def cancel(self, request: Request) -> Response:
        """POST …/cancel."""
        job = self._job(request)
        if job.ended:
            raise Refusal(400, f"Job has already completed: {job.state}", "job_already_completed")
        self.jobs.ask(job, "cancelled")
        return answer(self.show(job))

    async def pause(self, request: Request) -> Response:
        """POST …/pause."""
        job = self._job(request)
        if job.state not in {"queued", "running"}:
            raise Refusal(400, f"Only a running job can be paused; this one is {self.words[job.state]}.")
        self.jobs.ask(job, "paused")
        return answer(self.show(job))

    async def resume(self, request: Request) -> Response:
        """POST …/resume."""
        job = self._job(request)
        if job.state not in {"paused", "pausing"}:
            raise Refusal(400, f"Only a paused job can be resumed; this one is {self.words[job.state]}.")
        self.jobs.ask(job, "running")
        return answer(self.show(job))

    async def events(self, request: Request) -> Response:
        """GET …/events, newest first."""
        job = self._job(request)
        made = [self._event(job, number, moment) for number, moment in enumerate(list(job.moments))]
        found = [event for event in reversed(made) if event is not None]
        shown, more = page(found, request, lambda event: str(event["id"]), 20, 100)
        return answer({"object": "list", "data": shown, "has_more": more})

    async def checkpoints(self, request: Request) -> Response:
        """GET …/checkpoints, newest first."""
        job = self._job(request)
        found = [self._checkpoint(job, step) for step in reversed(job.checkpoint_steps())]
        shown, more = page(found, request, lambda item: str(item["id"]), 10, 100)
        ends = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None}
        return answer({"object": "list", "data": shown, **ends, "has_more": more})

    async def list_models(self, request: Request) -> Response:  # noqa: ARG002
        """GET /models."""
        names = [*self.models, *(name for job in self.jobs.all() if (name := self.tuned_name(job)))]
        return answer(
            {"object": "list", "data": [self.show_model(name) for name in names if name not in self._deleted]}
        )

    async def model(self, request: Request) -> Response:
        """GET /models/{model}."""
        name = request.path_params["model"]
        if name in self._deleted or (name not in self.models and self._tuned(name) is None):
            raise Refusal(404, f"The model '{name}' does not exist", "model_not_found", "model")
        return answer(self.show_model(name))

    async def delete_model(self, request: Request) -> Response:
        """DELETE /models/{model}: only a tuned one can be deleted."""
        name = request.path_params["model"]
        if self._tuned(name) is None:
            raise Refusal(404, f"The model '{name}' does not exist", "model_not_found", "model")
        self._deleted.add(name)
        return answer({"id": name, "object": "model", "deleted": True})

    def show_model(self, name: str) -> dict[str, Any]:
        """Return the Model object; a tuned one shuts down with its base."""
        base = next((base for base in self.models if base in name), "")
        owner = "system" if name in self.models else "org-sandbox"
        return {
            "id": name,
            "object": "model",
            "created": CREATED,
            "owned_by": owner,
            "shutdown_date": self.models.get(base),
        }

    def show(self, job: Job) -> dict[str, Any]:
        """Return the FineTuningJob object."""
        given, failure = job.request, job.failure
        kind, numbers = hyperparameters(given, resolved=job.task)
        ended = job.state == "succeeded"
        tokens = sum(
            file.findings.tokens
            for name in ("training_file",)
            if (file := self.files.find(given[name])) and file.findings
        )
        return {
            "id": job.id,
            "object": "fine_tuning.job",
            "created_at": int(job.created),
            "model": given["model"],
            "organization_id": self.organization,
            "status": self.words[job.state],
            "training_file": given["training_file"],
            "validation_file": given.get("validation_file"),
            "fine_tuned_model": self.tuned_name(job),
            "finished_at": int(job.finished) if job.finished else None,
            "estimated_finish": int(job.started + 60) if job.started and not job.ended else None,
            "trained_tokens": tokens * (job.task.epochs if job.task else 1) if ended else None,
            "result_files": [self._results(job)] if ended else [],
            "error": {"code": failure.code, "message": failure.message, "param": failure.param} if failure else None,
            "seed": given["seed"],
            "hyperparameters": numbers if kind == "supervised" else {},
            "method": {"type": kind, kind: {"hyperparameters": numbers}},
            "integrations": [_integration(item) for item in given.get("integrations") or []],
            "metadata": given.get("metadata"),
        }

    def tuned_name(self, job: Job, step: int | None = None) -> str | None:
        """Return the tuned model's name, None before there is one."""
        if step is None and job.state != "succeeded":
            return None
        base = job.request["model"].removeprefix("ft:").split(":")[0]
        made = f"ft:{base}:sandbox:{job.request.get('suffix') or ''}:{job.facts['suffix']}"
        return made if step is None else f"{made}:ckpt-step-{step}"

    def _tuned(self, name: str) -> Job | None:
        """Return the job that made a model, a checkpoint's included."""
        base = name.partition(":ckpt-step-")[0]
        if base in self._deleted:
            return None
        return next((job for job in self.jobs.all() if self.tuned_name(job) == base), None)

    def _job(self, request: Request) -> Job:
        made = request.path_params["job_id"]
        job = self.jobs.get(made)
        if job is None:
            raise Refusal(404, f"Could not find fine tune: {made}", "fine_tune_not_found", "fine_tune_id")
        return job

    def _event(self, job: Job, number: int, moment: Moment) -> dict[str, Any] | None:
        """Return a moment as a FineTuningJobEvent, None for one that this service does not tell."""
        record = moment.record
        total = job.task.steps if job.task else 0
        said = {
            "created": f"Created fine-tuning job: {job.id}",
            "validated": "Files validated, moving job to queued state",
            "started": "Fine-tuning job started",
            "metrics": _step(record, total),
            "checkpoint": f"Checkpoint created at step {record.get('step')}",
            "packed": f"New fine-tuned model created: {self.tuned_name(job) or ''}",
            "succeeded": "The job has successfully completed",
            "failed": job.failure.message if job.failure else "",
            "cancelled": "Fine-tuning job cancelled",
            "paused": "Fine-tuning job paused",
            "resumed": "Fine-tuning job resumed",
        }.get(moment.kind)
        if said is None:
            return None
        metrics: dict[str, Any] = {}
        if moment.kind == "metrics":
            metrics = {**_metrics(record, full="train/loss" not in record), "total_steps": total}
        return {
            "id": f"ftevent-{job.facts['suffix']}{number:08d}",
            "object": "fine_tuning.job.event",
            "created_at": int(moment.at),
            "level": "error" if moment.kind == "failed" else "info",
            "message": said,
            "type": "metrics" if moment.kind == "metrics" else "message",
            "data": metrics,
        }

    def _checkpoint(self, job: Job, step: int) -> dict[str, Any]:
        record = job.by_step().get(step, {})
        return {
            "id": f"ftckpt_{job.facts['suffix']}{step:06d}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(job.updated),
            "fine_tuned_model_checkpoint": self.tuned_name(job, step),
            "fine_tuning_job_id": job.id,
            "metrics": _metrics(record, full=True),
            "step_number": step,
        }

    def _results(self, job: Job) -> str:
        """Return the id of the job's results file, written once."""
        if "results" not in job.facts:
            text = io.StringIO()
            columns = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
            table = csv.writer(text, lineterminator="\n")
            table.writerow(columns)
            for record in job.by_step().values():
                row = {**_metrics(record), "train_accuracy": record.get("train/mean_token_accuracy")}
                table.writerow("" if row.get(name) is None else row[name] for name in columns)
            data = text.getvalue().encode()
            path = self.world.place(self.name, "files", f"{job.id}.csv")
            path.write_bytes(data)
            stored = Stored(path, len(data), digest(data), "")
            job.facts["results"] = self.files.add("step_metrics.csv", "fine-tune-results", stored).id
        return str(job.facts["results"])


def _step(record: Mapping[str, Any], total: int) -> str:
    parts = {"training loss": "train/loss", "validation loss": "eval/loss"}
    said = [f"{words}={record[name]:.2f}" for words, name in parts.items() if record.get(name) is not None]
    return f"Step {record.get('step')}/{total}: {', '.join(said)}"


def _metrics(record: Mapping[str, Any], *, full: bool = False) -> dict[str, Any]:
    """Return a record under the names that the specification documents; it documents none of DPO's own."""
    valid = "full_valid" if full else "valid"
    names = {
        "step": "step",
        "train/loss": "train_loss",
        "train/mean_token_accuracy": "train_mean_token_accuracy",
        "eval/loss": f"{valid}_loss",
        "eval/mean_token_accuracy": f"{valid}_mean_token_accuracy",
    }
    return {name: record[ours] for ours, name in names.items() if record.get(ours) is not None}


def _integration(given: Mapping[str, Any]) -> dict[str, Any]:
    settings = given.get("wandb") or {}
    return {"type": "wandb", "wandb": {key: item for key, item in settings.items() if item is not None}}
