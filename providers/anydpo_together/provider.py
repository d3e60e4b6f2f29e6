"""The verbs, through the `together` SDK with its repetitions off: whatever is asked again is asked by the core."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from anydpo.adapter import (
    FILES,
    Answer,
    Clients,
    answer_of,
    create_of,
    diagnosed,
    filled,
    is_loopback,
    known_files,
    origin,
    public,
    refusal,
)
from anydpo.archive import new_folder, unpack
from anydpo.clock import part
from anydpo.errors import (
    AnyDPOError,
    AuthFailed,
    DataInvalid,
    JobInvalid,
    OutcomeUnknown,
    ProviderRefused,
    RunFailed,
    Unavailable,
)
from anydpo.job import PreferenceJob
from anydpo.provider import (
    Capabilities,
    DataFile,
    DataSummary,
    Described,
    Diagnosis,
    Event,
    Examined,
    JobRef,
    Outcome,
    Plan,
    Poll,
    Quote,
    Staged,
    upload_progress,
)
from anydpo.result import Artifact, Cost, State
from anydpo.secrets import Secret
from anydpo_together import dialect, imported, request

if TYPE_CHECKING:
    from together import BaseModel, Together
    from together.types import FileResponse

URL = "https://api.together.ai"
MOST_EVENTS = 1000
MOST_RESTARTS = 5
ESTIMATED = (  # what of a create body its price depends on
    *("training_file", "validation_file", "model", "from_checkpoint", "n_epochs", "n_evals"),
    *("training_method", "training_type"),
)
FIELDS = (
    *("epochs", "learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm", "batch_size"),
    *("max_length", "eval_steps", "save_steps", "early_stopping_patience", "seed", "sft", "start_from"),
    *("method.beta", "method.loss_weights", "method.simpo_gamma", "method.reference_free"),
)


CLIENTS: Clients[Together] = Clients()


class TogetherProvider:
    """Together AI's fine-tuning service."""

    name: ClassVar[str] = "together"
    capabilities: ClassVar[Mapping[str, Capabilities]] = {
        "": Capabilities(
            about="Together AI's fine-tuning of open weights",
            losses=("sigmoid", "sigmoid_norm", "sft", "simpo"),
            adapters=("lora", "full"),
            models="the models of its fine-tuning list, such as Qwen/Qwen3-8B",
            fields=FIELDS,
            beta=None,
            writes="together",
            holds=("tools", "weight"),
            weights=True,
            quote=True,
            finds_by_key=True,
            lag_seconds=30.0,
            poll_seconds=10.0,
        )
    }

    def plan(self, job: PreferenceJob, data: DataSummary, route: str | None = None) -> Plan:  # noqa: ARG002
        """Return the create requests and what stands against them."""
        url = self._url()
        project = os.environ.get("TOGETHER_PROJECT_ID")
        target = " ".join([origin(url), *([project] if project else [])])
        return request.plan(job, data, url=public(url), target=target, sandbox=is_loopback(url))

    def quote(self, plan: Plan) -> Quote | None:
        """Return the service's own estimate of the plan's stage once it has the files, and for all else the list's.

        The estimate needs an uploaded and examined file, whose id stands in `plan.filled`.
        """
        others = [stage for stage in plan.stages if stage != plan.stage]
        beside = request.quote(plan, others) if others else None
        said = self._estimate(plan) if FILES["sft" if plan.stage == "sft" else "train"] in plan.filled else {}
        if not said.get("estimation_available", True) or said.get("estimated_total_price") is None:
            return request.quote(plan)
        if others and beside is None:
            return None
        amount, tokens, notes = float(said["estimated_total_price"]), 0, list[str]()
        for which in ("train", "eval"):
            tokens += int(said.get(f"estimated_{which}_token_count") or 0)
        if not said.get("allowed_to_proceed", True):
            notes.append(f"above the account's limit of {said.get('user_limit')}")
        if beside is not None:
            amount, tokens = amount + beside.cost.amount, tokens + (beside.tokens or 0)
            notes += [f"the {' '.join(others)} stage by the list: {beside.assumptions[0]}"]
        cost = Cost(amount=round(amount, 4), basis="provider quote")
        return Quote(cost=cost, tokens=tokens or None, assumptions=tuple(notes))

    def stage(self, plan: Plan, file: DataFile) -> Staged:  # noqa: ARG002
        """Upload a file unless the account has it: the service knows it by its hash."""
        made = self._upload(file)
        if (
            made.bytes != file.bytes
        ):  # a part of an earlier upload that was cut, which the service knows by the same hash
            with self._speaking():
                self._client.files.delete(made.id)
            made = self._upload(file)
        if not made.id or made.bytes != file.bytes:
            raise Unavailable(f"{made.bytes} of {file.bytes} bytes of the {file.name} file arrived", provider=self.name)
        return Staged(name=file.name, id=made.id)

    def examine(self, staged: Staged) -> Examined:
        """Return what the service's own check of the file has found so far."""
        with self._speaking():
            return dialect.examined(self._client.files.retrieve(staged.id).to_dict(warnings=False))

    def submit(self, plan: Plan, staged: tuple[Staged, ...], key: str) -> JobRef:
        """Send the one create request of the plan's stage.

        The SDK's own `create` asks for limits and a price first, and fails with them; this is its last request alone.
        """
        known = {**known_files(staged), **plan.filled, **self._secret_values(), "key": key}
        body = filled(create_of(plan, request.JOBS), known)
        client = self._client
        with self._speaking(creating=True):
            made = client.post(request.JOBS, body=body, cast_to=dict[str, Any])
        if not isinstance(made, dict) or not made.get("id"):
            raise OutcomeUnknown("the answer to the create names no job", provider=self.name)
        return JobRef(id=str(made["id"]), place="together")

    def find(self, key: str) -> JobRef | None:
        """Return the oldest job whose suffix is this key."""
        mine = [(made, ref) for found, ref, made in self._jobs() if found == key]
        return min(mine, key=lambda each: each[0])[1] if mine else None

    def found(self) -> tuple[tuple[str, JobRef], ...]:
        """Return (key, job) of every job that carries one of our keys."""
        return tuple((key, ref) for key, ref, _ in self._jobs())

    def poll(self, ref: JobRef, cursor: str = "") -> Poll:
        """Return the state and what happened since the cursor, which counts log lines and points of metrics."""
        jobs, log, points = self._all_of(ref)
        log_at, points_at = (int(part) for part in (cursor or "0:0").split(":"))
        events = dialect.log_events(log[log_at : log_at + MOST_EVENTS])
        history = dialect.history_of(points[points_at : points_at + MOST_EVENTS])
        log_end, points_end = min(len(log), log_at + MOST_EVENTS), min(len(points), points_at + MOST_EVENTS)
        state = dialect.state_of(jobs[-1].get("status"))
        made = [*dialect.metric_events(history), *events]
        if state is None:
            words = f"the status {jobs[-1].get('status')!r} is not known; it is taken for running"
            made.append(Event(kind="log", text=words))
        more = log_end < len(log) or points_end < len(points)
        return Poll(state=state or State.RUNNING, events=tuple(made), cursor=f"{log_end}:{points_end}", more=more)

    def result(self, ref: JobRef) -> Outcome:
        """Return what is known of the job, of the one that it was restarted as too."""
        jobs, log, points = self._all_of(ref)
        with self._speaking():
            listed = self._client.fine_tuning.list_checkpoints(jobs[-1]["id"]).to_dict(warnings=False)
        checkpoints = cast("list[dict[str, Any]]", listed.get("data") or [])
        return dialect.outcome(jobs, log, dialect.history_of(points), checkpoints, self._sdk_version())

    def cancel(self, ref: JobRef) -> None:
        """Ask the job to stop; one that has ended is left alone."""
        job = self._all_of(ref)[0][-1]
        state = dialect.state_of(job.get("status"))
        if (state is not None and state.done) or job.get("status") == "cancel_requested":
            return
        with self._speaking():
            self._client.fine_tuning.cancel(str(job["id"]))

    def fetch(self, ref: JobRef, folder: Path, checkpoint: int | None = None) -> tuple[Artifact, ...]:
        """Bring the weights into a new folder: merged where an adapter was trained."""
        job = self._ended(ref, checkpoint)
        return self._fetch(job, "model_output_path" if _is_full(job) else "merged", folder, checkpoint)

    def fetch_adapter(self, ref: JobRef, folder: Path, checkpoint: int | None = None) -> tuple[Artifact, ...]:
        """Bring the adapter alone into a new folder."""
        job = self._ended(ref, checkpoint)
        if _is_full(job):
            raise RunFailed("this run trained every weight: it has no adapter", provider=self.name)
        return self._fetch(job, "adapter", folder, checkpoint)

    def _ended(self, ref: JobRef, checkpoint: int | None) -> Mapping[str, Any]:
        job = self._all_of(ref)[0][-1]
        if dialect.state_of(job.get("status")) is not State.SUCCEEDED and checkpoint is None:
            raise RunFailed("this run has left no model yet", provider=self.name, hint="anydpo watch RUN")
        return job

    def _fetch(self, job: Mapping[str, Any], form: str, folder: Path, checkpoint: int | None) -> tuple[Artifact, ...]:
        with new_folder(folder) as unfinished:
            asked: dict[str, Any] = {"ft_id": job["id"], "checkpoint": form}
            if checkpoint is not None:
                asked["checkpoint_step"] = checkpoint
            with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as name:
                archive = Path(name) / "weights"
                self._download(asked, archive)
                unpack(archive, unfinished)
        return (Artifact(kind="adapter" if form == "adapter" else "model", path=str(folder)),)

    def diagnose(self) -> tuple[Diagnosis, ...]:
        """Say whether the key is there and the service answers to it."""

        def ask(client: Together) -> None:
            with self._speaking():
                client.with_options(timeout=10).fine_tuning.list()

        return diagnosed(lambda: self._client, ask, lambda: "TOGETHER_API_KEY is set", origin(self._url()))

    def described(self, body: Mapping[str, Any]) -> Described | None:
        """Return the job that a create body of this service stands for, None for what is none."""
        return imported.described(body) if imported.is_body(body) else None

    def describe(self, ref: JobRef) -> Described:
        """Return a job as it was asked for, whoever made it."""
        url = self._url()
        found = imported.described(self._all_of(ref)[0][0])
        project = os.environ.get("TOGETHER_PROJECT_ID")
        target = " ".join([origin(url), *([project] if project else [])])
        return found.model_copy(update={"target": target, "sandbox": is_loopback(url)})

    # The wire

    def _url(self) -> str:
        return (os.environ.get("TOGETHER_BASE_URL") or URL).rstrip("/")

    def _estimate(self, plan: Plan) -> dict[str, Any]:
        """Return what the service says that the create request of the plan's stage would cost."""
        body = filled(create_of(plan, request.JOBS), {**plan.filled, "key": "", **self._secret_values()})
        asked = {name: body[name] for name in ESTIMATED if body.get(name)}
        with self._speaking():
            return self._client.fine_tuning.estimate_price(**asked).to_dict(warnings=False)

    @property
    def _client(self) -> Together:
        variables = ("TOGETHER_API_KEY", "TOGETHER_PROJECT_ID")
        return CLIENTS((self._url(), *(os.environ.get(name) for name in variables)), self._make_client)

    def _make_client(self) -> Together:
        if not os.environ.get("TOGETHER_API_KEY"):
            hint = request.ADVICE.credentials
            raise AuthFailed("TOGETHER_API_KEY is not set", provider=self.name, hint=hint)
        from together import Together

        return Together(base_url=self._url(), max_retries=0)

    def _secret_values(self) -> dict[str, str]:
        return {name: Secret(os.environ.get(variable, "")) for name, variable in request.SECRETS.items()}

    @contextmanager
    def _speaking(self, *, creating: bool = False) -> Iterator[None]:
        """Translate what the SDK raises; nothing of its own, which may hold a credential, is chained."""
        self._client  # noqa: B018 - a missing key or package is no fault of the wire
        import httpx
        import together

        try:
            yield
        except together.APIStatusError as exc:
            secrets = [os.environ.get("TOGETHER_API_KEY"), *self._secret_values().values()]
            answer = answer_of(exc.response.status_code, _body(exc), exc.response.headers, secrets)
        except (together.TogetherError, httpx.HTTPError, httpx.StreamError, ValueError, KeyError, OSError) as exc:
            if isinstance(exc, (AnyDPOError, FileNotFoundError)):
                raise
            answer = Answer(0, f"{type(exc).__name__} from {origin(self._url())}")
        else:
            return
        raise refusal(answer, request.ADVICE, creating=creating) from None

    def _upload(self, file: DataFile) -> FileResponse:
        """Send a file through the SDK, which follows redirects, cuts large files and asks for the check."""
        told = upload_progress.get()
        self._client  # noqa: B018 - a missing package is no fault of the wire
        from together.lib.resources.files import FileAlreadyExistsError

        try:
            with self._speaking():
                return self._client.files.upload(
                    Path(file.path),
                    purpose="fine-tune",
                    check=False,  # reads the whole file again, and looks at nothing of preferences
                    raise_if_already_exists=True,
                    progress_callback=(lambda at: told(file, at.uploaded_bytes)) if told is not None else None,
                )
        except FileNotFoundError:
            raise DataInvalid(f"{file.path}: the staged file is gone", hint="submit the job again") from None
        except FileAlreadyExistsError as exc:
            return self._known_file(exc.file_id, file.bytes)

    def _known_file(self, file_id: str, size: int) -> FileResponse:
        """Return a file that the account has; where an upload ended before its check was asked for, ask now."""
        with self._speaking():
            found = self._client.files.retrieve(file_id)
        if found.bytes == size and found.processing_status == "PENDING":
            with suppress(JobInvalid, ProviderRefused), self._speaking():  # it may be at it; `examine` will tell
                self._client.post(f"/v1/files/{file_id}/preprocess", cast_to=dict[str, Any])
        return found

    def _jobs(self) -> list[tuple[str, JobRef, str]]:
        """Return (key, job, when it was made) of every job that carries one of our keys."""
        with self._speaking():
            listed = self._client.fine_tuning.list().to_dict(warnings=False)
        made = []
        for job in cast("list[dict[str, Any]]", listed.get("data") or []):
            name = str(job.get("suffix") or job.get("model_output_name") or "")
            at = name.find("anydpo-")
            if at >= 0:
                ref = JobRef(id=str(job["id"]), place="together")
                made.append((name[at : at + 31], ref, str(job.get("created_at"))))
        return made

    def _all_of(self, ref: JobRef) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
        """Return (jobs, log, metrics) of a job and of those that it was restarted as, in that order."""
        jobs: list[dict[str, Any]] = []
        log: list[dict[str, Any]] = []
        points: list[dict[str, Any]] = []
        following: str | None = ref.id
        while following is not None and len(jobs) <= MOST_RESTARTS:
            tuning = self._client.fine_tuning
            # The job before its log, so that an end comes with all that led to it
            job = self._part("job", tuning.retrieve, following)
            said = self._part("events", tuning.list_events, following)
            measured = self._part("metrics", tuning.list_metrics, following)
            if not job.get("id"):
                raise Unavailable("the answer names no job", provider=self.name)
            own = sorted(cast("list[dict[str, Any]]", said.get("data") or []), key=lambda e: str(e.get("created_at")))
            jobs.append(job)
            log += own
            points += cast("list[dict[str, Any]]", measured.get("metrics") or [])
            following = dialect.successor(own, [each["id"] for each in jobs])
        return jobs, log, points

    def _part(self, what: str, ask: Callable[[str], BaseModel], job: str) -> dict[str, Any]:
        """Return what the service says of a job in one of its answers."""

        def told() -> dict[str, Any]:
            with self._speaking():
                return cast("dict[str, Any]", ask(job).to_dict(warnings=False))

        return part(f"{what} {job}", told)

    def _download(self, asked: Mapping[str, Any], target: Path) -> None:
        """Bring an archive to disk and check its size and its hash, where the service names them.

        The SDK's client follows the redirect to the storage and leaves the authorisation behind.
        """
        digest, written = hashlib.sha256(), 0
        with self._speaking():
            client = self._client.fine_tuning.with_streaming_response
            with client.content(**asked) as answer, target.open("wb") as file:
                for chunk in answer.iter_bytes(1 << 20):
                    written += len(chunk)
                    digest.update(chunk)
                    file.write(chunk)
                size = answer.headers.get("content-length")
                wanted = answer.headers.get("x-amz-checksum-sha256")
        if size is not None and written != int(size):
            raise Unavailable(f"{written:,} of {int(size):,} bytes of the weights arrived", provider=self.name)
        if wanted is not None and base64.b64encode(digest.digest()).decode() != wanted:
            raise DataInvalid("the weights do not have the hash that the service names", hint="fetch them again")

    def _sdk_version(self) -> str:
        import together

        return f"together {together.__version__}"


def _body(exc: Any) -> Any:
    """Return the body of an error answer: the SDK's upload puts other words in its place."""
    try:
        return exc.response.json()
    except Exception:  # a stream that was not read, or no JSON: the SDK's words then
        return exc.body


def _is_full(job: Mapping[str, Any]) -> bool:
    return (job.get("training_type") or {}).get("type") == "Full"
