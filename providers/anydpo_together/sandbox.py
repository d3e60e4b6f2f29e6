"""Together's fine-tuning API on loopback.

Sources: together 3.1.1 and what it sends and parses; Together's OpenAPI document of 2026-04-28, which is older; its
fine-tuning guide of 2026-08-18.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from anydpo.sandbox.clock import iso
from anydpo.sandbox.faults import Fault
from anydpo.sandbox.jobs import Failure, Job
from anydpo.sandbox.training import Task
from anydpo.sandbox.wire import Refusal, answer, bearer, error_object, identifier, json_object
from anydpo.sandbox.world import World
from anydpo_together.sandbox_events import WORDS, checkpoint, event, metrics, status
from anydpo_together.sandbox_files import Files
from anydpo_together.sandbox_request import (
    CREDIT,
    DEFAULTS,
    MODELS,
    OWN_RATE,
    SECRETS,
    checked,
    limits,
    price,
    trainer_adapter,
    trainer_method,
    trainer_options,
)

PROJECT = {"id": "proj_sandbox", "name": "sandbox", "slug": "sandbox"}


class TogetherSandbox:
    """The emulator."""

    name = "together"
    clears = ("TOGETHER_", "TG_")

    def __init__(self, world: World) -> None:
        self.world, self.jobs, self.files = world, world.jobs(self.name), Files(world)
        self.routes: list[BaseRoute] = self._routes()

    def environment(self, origin: str) -> Mapping[str, str]:
        """Return what the `together` package and its command line read."""
        quiet = {"TOGETHER_TELEMETRY_DISABLED": "1", "TOGETHER_DISABLE_VERSION_CHECK": "1"}
        return {"TOGETHER_BASE_URL": origin, "TOGETHER_API_KEY": "tgp-sandbox", **quiet}

    def authorised(self, request: Request) -> bool:
        """Take any key but `invalid`."""
        return bearer(request)

    def error_body(self, refusal: Refusal) -> Mapping[str, Any]:
        """Return `ErrorData` of the specification."""
        return error_object(refusal)

    def refusal(self, fault: Fault) -> Refusal:
        """Return the answer to an account that may not, or of a service in a storm."""
        if fault.fault == "not_eligible":
            return Refusal(403, fault.message or "This account may not create fine-tuning jobs.", fault.code)
        if fault.fault == "insufficient_quota":
            return Refusal(402, fault.message or "The spending limit of this account is reached.", fault.code)
        said = "Too many requests." if fault.status == 429 else "The service is overloaded, try again later."
        kind = "rate_limit" if fault.status == 429 else None
        return Refusal(fault.status, fault.message or said, fault.code, type=kind)

    def _routes(self) -> list[BaseRoute]:
        jobs, one, file = "/v1/fine-tunes", "/v1/fine-tunes/{id}", "/v1/files/{id}"
        table = [
            ("upload", "POST", "/v1/files", self.files.announce),
            ("files", "GET", "/v1/files", self.files.files),
            ("simple_upload", "POST", "/v1/files/upload", self.files.upload),
            ("initiate", "POST", "/v1/files/multipart/initiate", self.files.initiate),
            ("complete", "POST", "/v1/files/multipart/complete", self.files.complete),
            ("abort", "POST", "/v1/files/multipart/abort", self.files.abort),
            ("file", "GET", file, self.files.file),
            ("delete_file", "DELETE", file, self.files.delete),
            ("content", "GET", f"{file}/content", self.files.content),
            ("preprocess", "POST", f"{file}/preprocess", self.files.preprocess),
            ("limits", "GET", f"{jobs}/models/limits", self.limits),
            ("supported", "GET", f"{jobs}/models/supported", self.supported),
            ("estimate", "POST", f"{jobs}/estimate-price", self.estimate),
            ("create", "POST", jobs, self.create),
            ("list", "GET", jobs, self.list_jobs),
            ("retrieve", "GET", one, self.retrieve),
            ("delete", "DELETE", one, self.delete),
            ("events", "GET", f"{one}/events", self.events),
            ("metrics", "GET", f"{one}/metrics", self.metrics),
            ("checkpoints", "GET", f"{one}/checkpoints", self.checkpoints),
            ("cancel", "POST", f"{one}/cancel", self.cancel),
            ("download", "GET", "/v1/finetune/download", self.download),
            ("whoami", "GET", "/v3/whoami", self.whoami),
            ("whoami", "GET", "/v1/whoami", self.whoami),
        ]
        return [Route(path, handler, methods=[method], name=name) for name, method, path, handler in table]

    async def whoami(self, request: Request) -> Response:  # noqa: ARG002
        """GET /v3/whoami, as a key of a project."""
        organisation = {"id": "org_sandbox", "name": "sandbox"}
        body = {"type": "project_api_key", "api_key": {"id": "key_sandbox"}, "organization": organisation}
        return answer({**body, "project": PROJECT})

    async def limits(self, request: Request) -> Response:
        """GET /v1/fine-tunes/models/limits."""
        asked = request.query_params.get("model_name", "")
        return answer(limits(self._base(asked) or asked))

    async def supported(self, request: Request) -> Response:  # noqa: ARG002
        """GET /v1/fine-tunes/models/supported."""
        return answer({"models": list(MODELS)})

    async def estimate(self, request: Request) -> Response:
        """POST /v1/fine-tunes/estimate-price."""
        given = await json_object(request)
        for name, word in (("training_file", "train"), ("validation_file", "eval")):
            if given.get(name) and (why := self._unready(given[name], word)):
                return answer({"estimation_available": False, "unavailable_reason": why})
        model = given.get("model") or self._base(given.get("from_checkpoint") or "")
        if model not in MODELS:
            raise Refusal(404, f"Model {model} is not supported for fine-tuning", param="model")
        train, evaluation = self._tokens(given)
        cost = self._price({**given, "model": model})
        return answer(
            {
                "estimation_available": True,
                "estimated_total_price": cost,
                "allowed_to_proceed": cost <= CREDIT,
                "user_limit": CREDIT,
                "estimated_train_token_count": float(train),
                "estimated_eval_token_count": float(evaluation),
            }
        )

    async def create(self, request: Request) -> Response:
        """POST /v1/fine-tunes."""
        given = await json_object(request)
        base = given.get("model") or self._base(given.get("from_checkpoint") or "")
        if given.get("from_checkpoint") and base is None:
            raise Refusal(404, f"checkpoint {given['from_checkpoint']} not found", param="from_checkpoint")
        checked(given, limits(base) if base in MODELS else None)
        if base not in MODELS:
            raise Refusal(400, f"Model {base} is not supported for fine-tuning", param="model")
        for name in ("training_file", "validation_file"):
            if given.get(name) and self.files.find(given[name]) is None:
                raise Refusal(400, f"file {given[name]} not found", param=name)
        kept = {name: value for name, value in given.items() if name not in SECRETS}
        given = {**DEFAULTS, **kept, "model": base}
        job = self._job_of(given)
        for fault in request.state.faults:
            if fault.fault == "job_fails":
                job.fails = fault
            elif fault.fault == "restarted":
                job.restarts = True
            else:
                job.hidden_for = fault.requests
                job.hidden_until = job.created + (0 if fault.requests else fault.seconds)
        return answer(self._short(job))

    def _job_of(self, given: dict[str, Any]) -> Job:
        hexes = identifier("", 32)
        made = f"ft-{hexes[:8]}-{hexes[8:12]}"
        folder = self.world.place(self.name, "jobs", made)
        job = Job(made, self.world.clock.now(), given, folder, lambda: self._task(given))
        job.facts["suffix"] = hexes[12:20]
        self.jobs.add(job)
        return job

    def _task(self, given: dict[str, Any]) -> Task | Failure:
        """Examine the files and return what to train."""
        method = given.get("training_method") or {"method": "sft"}
        sizes = limits(given["model"])["lora_training"]
        most = sizes["max_batch_size_dpo" if method["method"] == "dpo" else "max_batch_size"]
        size = most if given["batch_size"] == "max" else int(given["batch_size"])
        wanted = "preference" if method["method"] == "dpo" else "conversation"
        rows: dict[str, list[dict[str, Any]]] = {"training_file": [], "validation_file": []}
        for name in rows:
            if not given.get(name):
                continue
            file = self.files.find(given[name])
            if file is None:
                return Failure("file_not_found", f"{given[name]} is not there any more", name)
            found = self.files.findings(file)
            if found.wrong or found.kind != wanted:
                why = (
                    f"line {found.wrong[0][0]} {found.wrong[0][1]}" if found.wrong else f"it has {found.kind} examples"
                )
                return Failure("invalid_file", f"{name} {file.id} cannot be used: {why}", name)
            rows[name] = found.rows[: self.world.steps * size]
        start = self._parent(given.get("from_checkpoint") or "")
        adapter = trainer_adapter(self._kind(given))
        per_epoch = -(-len(rows["training_file"]) // size)
        return Task(
            stage="dpo" if method["method"] == "dpo" else "sft",
            rows=rows["training_file"],
            validation=rows["validation_file"] if given["n_evals"] else [],
            method=trainer_method(method),
            adapter=adapter,
            epochs=given["n_epochs"],
            batch_size=size,
            steps=min(self.world.steps, per_epoch * given["n_epochs"]),
            rate=float(given["learning_rate"] or OWN_RATE) / OWN_RATE,
            options=trainer_options(given) if method["method"] == "dpo" else {},
            seed=given["random_seed"],
            evals=given["n_evals"],
            checkpoints=max(1, given["n_checkpoints"]),
            start_from=self.jobs.weights(*start) if start else None,
        )

    def _kind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the training type: as given, as the parent had it, or the model's default adapter."""
        if given.get("training_type"):
            return dict(given["training_type"])
        parent = self._parent(given.get("from_checkpoint") or "")
        if parent is not None:
            return self._kind(parent[0].request)
        rank = limits(given["model"])["lora_training"]["default_rank"]
        return {"type": "Lora", "lora_r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0}

    async def list_jobs(self, request: Request) -> Response:  # noqa: ARG002
        """GET /v1/fine-tunes: all of them, neither filtered nor paged."""
        return answer({"data": [self._short(job) for job in self.jobs.visible()]})

    async def retrieve(self, request: Request) -> Response:
        """GET /v1/fine-tunes/{id}."""
        job = self._job(request)
        body = self._long(job)
        self.jobs.poll(job)
        self._restart(job)
        return answer(body)

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/fine-tunes/{id}."""
        job = self._job(request)
        if not job.ended:
            raise Refusal(409, f"job {job.id} is {WORDS[job.state]}; cancel it first")
        self.jobs.remove(job.id)
        return answer({"message": f"deleted {job.id}"})

    async def cancel(self, request: Request) -> Response:
        """POST /v1/fine-tunes/{id}/cancel."""
        job = self._job(request)
        if job.ended:
            raise Refusal(400, f"job {job.id} is {WORDS[job.state]} and cannot be cancelled")
        self.jobs.ask(job, "cancelled")
        return answer(self._short(job))

    async def events(self, request: Request) -> Response:
        """GET /v1/fine-tunes/{id}/events, oldest first and all of them."""
        job = self._job(request)
        made = [event(job, moment, self._output(job)) for moment in list(job.moments)]
        return answer({"data": [one for one in made if one is not None]})

    async def metrics(self, request: Request) -> Response:
        """GET /v1/fine-tunes/{id}/metrics, oldest first, filtered by the query."""
        job, query = self._job(request), request.query_params
        try:
            first, last = int(query.get("global_step_from", 0)), int(query.get("global_step_to", 1 << 60))
            since, until = _moment(query.get("logged_at_from"), 0.0), _moment(query.get("logged_at_to"), 1e18)
            resolution = int(query["resolution"]) if "resolution" in query else None
        except ValueError as exc:
            raise Refusal(400, f"invalid filter: {exc}") from None
        points = [
            point for at, point in metrics(job) if since <= at <= until and first <= point["train/global_step"] <= last
        ]
        train = [point for point in points if "train/loss" in point]
        if resolution is not None and 0 < resolution < len(train):
            chosen = [train[at * len(train) // resolution] for at in range(resolution)]
            points = [point for point in points if "train/loss" not in point or point in chosen]
        return answer({"metrics": points})

    async def checkpoints(self, request: Request) -> Response:
        """GET /v1/fine-tunes/{id}/checkpoints."""
        job = self._job(request)
        return answer(
            {
                "data": [
                    checkpoint(job, step, self._output(job), final=step == job.last_step)
                    for step in job.checkpoint_steps()
                ]
            }
        )

    async def download(self, request: Request) -> Response:
        """GET /v1/finetune/download: a redirect to a signed address."""
        query = request.query_params
        job = self.jobs.get(query.get("ft_id", ""))
        if job is None:
            raise Refusal(404, f"job {query.get('ft_id')} not found")
        step = query.get("checkpoint_step")
        if step is None and query.get("checkpoint") not in {"merged", "adapter", "model_output_path"}:
            raise Refusal(400, "checkpoint must be merged, adapter or model_output_path", param="checkpoint")
        number = int(step) if step and step.isdecimal() and int(step) else None
        if number is None and job.state != "succeeded":
            raise Refusal(400, f"job {job.id} is {WORDS[job.state]}; there is no model to download")
        if number is not None and number not in job.checkpoint_steps():
            raise Refusal(404, f"job {job.id} has no checkpoint at step {number}")
        archive = self.jobs.archive(job, number, merged=query.get("checkpoint") != "adapter")
        if archive is None:
            raise Refusal(400, f"job {job.id} has no {query.get('checkpoint')} weights", param="checkpoint")
        headers = {
            "content-type": "application/zstd",
            "etag": f'"{archive.sha256}"',
            "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(archive.sha256)).decode(),
        }
        key = f"models/{job.id}/{archive.path.name}"
        return Response(b"", 302, {"location": self.world.storage.sign("GET", key, path=archive.path, headers=headers)})

    def _job(self, request: Request) -> Job:
        job = self.jobs.get(request.path_params["id"])
        if job is None:
            raise Refusal(404, f"job {request.path_params['id']} not found")
        return job

    def _restart(self, job: Job) -> None:
        """Let a job that a fault wants to restart go on under a new id, told in its events with a refund."""
        if not job.restarts or not job.records or job.ended:
            return
        job.restarts = False
        successor = self._job_of(job.request)
        now = self.world.clock.now()
        job.note(now, "restarted", successor=successor.id)
        job.note(now, "refund")
        job.failure = Failure("internal_error", f"The job was restarted as {successor.id}.", by_user=False)
        self.jobs.ask(job, "cancelled")
        job.facts["replaced_by"] = successor.id

    def _parent(self, checkpoint: str) -> tuple[Job, int | None] | None:
        """Return (job, step) of `JOB_ID|OUTPUT_NAME[:STEP]`."""
        name, _, step = checkpoint.partition(":")
        for job in self.jobs.all():
            if name in (job.id, self._output(job)) and job.weights(int(step) if step.isdecimal() else None):
                return job, int(step) if step.isdecimal() else None
        return None

    def _base(self, checkpoint: str) -> str | None:
        name = checkpoint.partition(":")[0]
        return next(
            (job.request["model"] for job in self.jobs.all() if name and name in (job.id, self._output(job))), None
        )

    def _unready(self, file_id: str, word: str) -> str | None:
        file = self.files.find(file_id)
        if file is None:
            raise Refusal(404, f"file {file_id} not found", param=f"{word}_file")
        state = self.files.state(file)
        if state == "COMPLETED":
            return None
        return f"{word}_file_invalid" if state == "INVALID_FORMAT" else f"{word}_file_not_validated"

    def _tokens(self, given: Mapping[str, Any]) -> tuple[int, int]:
        counts = []
        model = given.get("model") or self._base(given.get("from_checkpoint") or "") or ""
        for name, times in (
            ("training_file", given.get("n_epochs") or 1),
            ("validation_file", given.get("n_evals") or 0),
        ):
            file = self.files.find(given.get(name) or "")
            counts.append(self.files.tokens(file, model) * times if file else 0)
        return counts[0], counts[1]

    def _price(self, given: Mapping[str, Any]) -> float:
        method = (given.get("training_method") or {}).get("method", "sft")
        kind = (given.get("training_type") or {}).get("type") or "Lora"
        return price(method, kind, sum(self._tokens(given)), MODELS[given["model"]][2])

    def _output(self, job: Job) -> str:
        base = job.request["model"].rpartition("/")[2]
        suffix = f"-{job.request['suffix']}" if job.request.get("suffix") else ""
        return f"sandbox/{base}{suffix}-{job.facts['suffix']}"

    def _short(self, job: Job) -> dict[str, Any]:
        """Return FinetuneResponseTruncated."""
        given = job.request
        method = {"train_on_inputs": "auto", **given["training_method"]} if _sft(given) else given["training_method"]
        size = job.task.batch_size if job.task else given["batch_size"]
        body: dict[str, Any] = {
            "id": job.id,
            "status": status(job),
            "created_at": iso(job.created),
            "updated_at": iso(job.updated),
            "user_id": "user_sandbox",
            "owner_address": "sandbox",
            "training_file": given["training_file"],
            "validation_file": given.get("validation_file") or "",
            "model": given["model"],
            "model_output_name": self._output(job),
            "adapter_output_name": None,
            "training_method": method,
            "training_type": self._kind(given),
            "token_count": sum(self._tokens(given)),
            "total_price": round(self._price(given) * 1e9) if job.state == "succeeded" else 0,
            "events": [],
            "progress": {"estimate_available": job.state == "running", "seconds_remaining": 0},
        }
        for name in ("packing", "n_epochs", "n_evals", "n_checkpoints", "learning_rate", "lr_scheduler", "warmup_ratio",
                     "max_grad_norm", "weight_decay", "random_seed"):  # fmt: skip
            body[name] = given[name]
        if size != "max":
            body["batch_size"] = size
        for name in ("suffix", "max_seq_length", "from_checkpoint", "from_hf_model", "hf_model_revision",
                     "wandb_project_name", "wandb_name", "wandb_entity"):  # fmt: skip
            if given.get(name):
                body[name] = given[name]
        if job.started:
            body["started_at"] = iso(job.started)
        return body

    def _long(self, job: Job) -> dict[str, Any]:
        """Return FinetuneResponse."""
        file = self.files.find(job.request["training_file"])
        done = job.records[-1] if job.records else {}
        body = {
            **self._short(job),
            "events": [one for moment in list(job.moments) if (one := event(job, moment, self._output(job)))],
            "job_id": job.id,
            "eval_steps": job.request["n_evals"],
            "queue_depth": 0,
            "epochs_completed": int(done.get("epoch", 0)),
            "steps_completed": done.get("step", 0),
            "total_steps": job.task.steps if job.task else 0,
            "param_count": MODELS[job.request["model"]][2] * 10**9,
            "trainingfile_numlines": self.files.findings(file).lines if file else 0,
            "trainingfile_size": file.size if file else 0,
        }
        if job.state == "succeeded":
            body["model_output_path"] = f"s3://sandbox/finetune/{job.id}/final"
        return body


def _sft(given: dict[str, Any]) -> bool:
    given.setdefault("training_method", {"method": "sft", "train_on_inputs": "auto"})
    return bool(given["training_method"].get("method") == "sft")


def _moment(text: str | None, default: float) -> float:
    return default if text is None else datetime.fromisoformat(text).timestamp()
