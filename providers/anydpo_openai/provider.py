"""The verbs, through the `openai` SDK with its repetitions off: whatever is asked again is asked by the core."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from anydpo.adapter import (
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
from anydpo.clock import part
from anydpo.errors import (
    AnyDPOError,
    AuthFailed,
    DataInvalid,
    ModelRetired,
    OutcomeUnknown,
    ProviderRefused,
    Unavailable,
)
from anydpo.job import PreferenceJob
from anydpo.provider import (
    Capabilities,
    DataFile,
    DataSummary,
    Described,
    Diagnosis,
    Ending,
    Event,
    Examined,
    JobRef,
    Outcome,
    Plan,
    Poll,
    Quote,
    Staged,
)
from anydpo.result import Artifact, State
from anydpo_openai import dialect, imported
from anydpo_openai.service import OPENAI, Service

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import FileObject

URL = "https://api.openai.com/v1"
PAGE = 100
MOST_EVENTS = 1000
REFUSED, WAITING = ("error", "failed", "deleted", "deleting"), ("pending", "running")
FIELDS = ("epochs", "batch_size", "seed", "sft", "start_from")


CLIENTS: Clients[OpenAI] = Clients()


class OpenAIProvider:
    """OpenAI's own service."""

    name: ClassVar[str] = "openai"
    service: ClassVar[Service] = OPENAI
    variables: ClassVar[tuple[str, ...]] = ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
    capabilities: ClassVar[Mapping[str, Capabilities]] = {
        "": Capabilities(
            about="OpenAI's fine-tuning, which ends on 2027-01-06",
            losses=("sigmoid",),
            adapters=(),
            models="gpt-4.1, gpt-4.1-mini (2025-04-14) and models tuned from them",
            fields=FIELDS,
            beta=(0.0, 2.0),
            writes="openai",
            holds=("tools",),
            weights=False,
            quote=False,
            finds_by_key=True,
            lag_seconds=30.0,
            resumable=True,
            poll_seconds=10.0,
        )
    }

    def __init__(self, today: Callable[[], date] = date.today) -> None:
        self._today = today

    def plan(self, job: PreferenceJob, data: DataSummary, route: str | None = None) -> Plan:  # noqa: ARG002
        """Return the create requests and what stands against them."""
        url = self._url()
        return dialect.plan(
            job,
            data,
            self.service,
            url=public(url),
            target=self._target(url),
            sandbox=is_loopback(url),
            today=self._today(),
        )

    def quote(self, plan: Plan) -> Quote | None:
        """Return what the dated price table says; the service names no price."""
        return dialect.quote(plan, self.service)

    def stage(self, plan: Plan, file: DataFile) -> Staged:  # noqa: ARG002
        """Upload a file unless the account has it; its name carries its hash."""
        name = f"{dialect.KEY}-{file.sha256[:24]}.jsonl"
        with self._speaking():
            for known in self._client.files.list(purpose="fine-tune"):
                if (known.filename, known.bytes) == (name, file.bytes) and known.status not in REFUSED:
                    return Staged(name=file.name, id=known.id)
        if file.bytes > self.service.limits["upload_bytes"]:
            raise DataInvalid(f"{file.name}: {file.bytes:,} bytes, more than {self.name} takes", provider=self.name)
        try:
            whole = file.bytes <= self.service.limits["file_bytes"]
            made = self._upload(file, name) if whole else self._upload_parts(file, name)
        except FileNotFoundError:
            raise DataInvalid(f"{file.path}: the staged file is gone", hint="submit the job again") from None
        if made is None or not made.id or made.bytes != file.bytes:
            arrived = "nothing" if made is None else f"{made.bytes} bytes"
            raise Unavailable(f"of {file.bytes} bytes of the {file.name} file {arrived} arrived", provider=self.name)
        return Staged(name=file.name, id=made.id)

    def examine(self, staged: Staged) -> Examined:
        """Return what the service says of a file; most of its checks come only with the job."""
        with self._speaking():
            file = self._client.files.retrieve(staged.id)
        if file.status in REFUSED:
            words = file.status_details or f"the file is in status {file.status}"
            return Examined(state="refused", findings=dialect.findings(words))
        return Examined(state="pending" if file.status in WAITING else "accepted")

    def submit(self, plan: Plan, staged: tuple[Staged, ...], key: str) -> JobRef:
        """Send the one create request of the plan's stage."""
        ends = self.service.shutdown(plan.model or "")
        if ends is not None and ends <= self._today() and not plan.sandbox:
            raise ModelRetired(f"{plan.model} ended on {ends}", provider=self.name, hint=self.service.advice.retired)
        body = filled(create_of(plan, dialect.JOBS), {**known_files(staged), **plan.filled, "key": key})
        extra = {name: body.pop(name) for name in ("trainingType",) if name in body}
        client = self._client
        with self._speaking(creating=True):
            made = client.fine_tuning.jobs.create(**body, extra_body=extra or None)
        if not getattr(made, "id", None):
            raise OutcomeUnknown("the answer to the create names no job", provider=self.name)
        return JobRef(id=made.id, place=plan.place)

    def find(self, key: str) -> JobRef | None:
        """Return the oldest job that carries this key."""
        with self._speaking():
            jobs = [job.to_dict(warnings=False) for job in self._listed(key)]
        mine = [job for job in jobs if self._key_of(job) == key]
        first = min(mine, key=lambda job: job.get("created_at") or 0, default=None)
        return JobRef(id=str(first["id"]), place=self.service.place) if first else None

    def found(self) -> tuple[tuple[str, JobRef], ...]:
        """Return (key, job) of every job that carries one of our keys."""
        with self._speaking():
            jobs = [job.to_dict(warnings=False) for job in self._client.fine_tuning.jobs.list(limit=PAGE)]
        keyed = [(self._key_of(job), str(job["id"])) for job in jobs]
        return tuple((key, JobRef(id=job, place=self.service.place)) for key, job in keyed if key)

    def poll(self, ref: JobRef, cursor: str = "") -> Poll:
        """Return the state and the events since the cursor, which is the id of the last one seen."""
        job = self._job(ref)  # before its events, so that an end comes with all that led to it
        fresh = self._events_since(ref, cursor)
        shown = fresh[:MOST_EVENTS]
        made = dialect.events(shown, self.service)
        state = self.service.state(job.get("status"))
        if state is None:
            words = f"the status {job.get('status')!r} is not known; it is taken for running"
            made.append(Event(kind="log", text=words))
        last = str(shown[-1]["id"]) if shown else cursor
        return Poll(state=state or State.RUNNING, events=tuple(made), cursor=last, more=len(fresh) > len(shown))

    def result(self, ref: JobRef) -> Outcome:
        """Return what is known of the job: its own words, its results file or events, its checkpoints."""
        job = self._job(ref)
        rows = [row for name in job.get("result_files") or () for row in self._rows(name)]
        with self._speaking():
            checkpoints = [c.to_dict(warnings=False) for c in self._client.fine_tuning.jobs.checkpoints.list(ref.id)]
        if not rows:
            told = dialect.events(self._events_since(ref, ""), self.service)
            rows = [{"step": e.step, "time": e.time, **e.metrics} for e in told if e.kind == "metrics"]
        return dialect.outcome(job, rows, checkpoints, self.service, self._sdk_version())

    def cancel(self, ref: JobRef) -> None:
        """Ask the job to stop; one that has ended is left alone."""
        self._ask(ref, "cancel")

    def pause(self, ref: JobRef) -> None:
        """Let the job wait."""
        self._ask(ref, "pause")

    def resume(self, ref: JobRef) -> None:
        """Let a paused job go on."""
        self._ask(ref, "resume")

    def fetch(self, ref: JobRef, folder: Path, checkpoint: int | None = None) -> tuple[Artifact, ...]:  # noqa: ARG002
        """Raise: the service keeps the weights it trains."""
        raise ProviderRefused(
            f"{self.name} does not hand out trained weights",
            provider=self.name,
            hint="use the model there: `anydpo show RUN` says how; local and together give weights",
        )

    def diagnose(self) -> tuple[Diagnosis, ...]:
        """Say whether credentials are there, the service answers, and when it and its models end."""

        def ask(client: OpenAI) -> None:
            with self._speaking():
                client.with_options(timeout=10).fine_tuning.jobs.list(limit=1)

        found = diagnosed(lambda: self._client, ask, self._credentials_found, origin(self._url()))
        return (*found, Diagnosis(what="retirement", ok=True, detail=self._ends()))

    def ends(self, model: str | None) -> tuple[Ending, ...]:
        """Return the last day of the service and of the model's base, as the data file has them."""
        return self.service.ends(model)

    def described(self, body: Mapping[str, Any]) -> Described | None:
        """Return the job that a create body of this service stands for, None for what is none."""
        return imported.described(body, self.service) if imported.is_body(body) and self._is_mine(body) else None

    def describe(self, ref: JobRef) -> Described:
        """Return a job as it was asked for, whoever made it."""
        url = self._url()
        found = imported.described(self._job(ref), self.service)
        return found.model_copy(update={"target": self._target(url), "sandbox": is_loopback(url)})

    # What Azure does otherwise

    def _is_mine(self, body: Mapping[str, Any]) -> bool:
        return "trainingType" not in body

    def _url(self) -> str:
        return (os.environ.get("OPENAI_BASE_URL") or URL).rstrip("/")

    def _target(self, url: str) -> str:
        named = [os.environ.get(name) for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")]
        return " ".join([origin(url), *(value for value in named if value)])

    def _make_client(self) -> OpenAI:
        if not os.environ.get("OPENAI_API_KEY"):
            raise AuthFailed("OPENAI_API_KEY is not set", provider=self.name, hint=self.service.advice.credentials)
        from openai import OpenAI

        return OpenAI(base_url=self._url(), max_retries=0)

    def _secrets(self) -> list[str | None]:
        return [os.environ.get("OPENAI_API_KEY")]

    def _credentials_found(self) -> str:
        return "OPENAI_API_KEY is set"

    def _listed(self, key: str) -> Any:
        return self._client.fine_tuning.jobs.list(limit=PAGE, metadata={dialect.KEY: key})

    def _key_of(self, job: Mapping[str, Any]) -> str | None:
        found = (job.get("metadata") or {}).get(dialect.KEY)
        return str(found) if found else None

    # The wire

    @property
    def _client(self) -> OpenAI:
        return CLIENTS((self.name, self._url(), *(os.environ.get(name) for name in self.variables)), self._make_client)

    @contextmanager
    def _speaking(self, *, creating: bool = False) -> Iterator[None]:
        """Translate what the SDK raises; nothing of its own, which may hold a credential, is chained."""
        self._client  # noqa: B018 - a missing key or package is no fault of the wire
        import httpx2
        import openai

        try:
            yield
        except openai.APIStatusError as exc:
            answer = answer_of(exc.status_code, exc.body, exc.response.headers, self._secrets())
        except (openai.OpenAIError, httpx2.HTTPError, ValueError) as exc:
            if isinstance(exc, AnyDPOError):
                raise
            answer = Answer(0, f"{type(exc).__name__} from {origin(self._url())}")
        else:
            return
        raise refusal(answer, self.service.advice, creating=creating) from None

    def _upload(self, file: DataFile, name: str) -> FileObject:
        with self._speaking(), file.open() as opened:
            return self._client.files.create(file=(name, opened), purpose="fine-tune")

    def _upload_parts(self, file: DataFile, name: str) -> FileObject | None:
        """Send a large file in parts; the service puts it together only if the whole has this MD5."""
        uploads, digest = self._client.uploads, hashlib.md5(usedforsecurity=False)
        with self._speaking():
            upload = uploads.create(bytes=file.bytes, filename=name, mime_type="application/jsonl", purpose="fine-tune")
        try:
            parts = []
            with self._speaking(), file.open() as opened:
                while part := opened.read(self.service.limits["part_bytes"]):
                    digest.update(part)
                    parts.append(uploads.parts.create(upload.id, data=("upload", part)).id)
                return uploads.complete(upload.id, part_ids=parts, md5=digest.hexdigest()).file
        except AnyDPOError:
            with suppress(AnyDPOError), self._speaking():
                uploads.cancel(upload.id)
            raise

    def _job(self, ref: JobRef) -> dict[str, Any]:
        def retrieve() -> dict[str, Any]:
            with self._speaking():
                return self._client.fine_tuning.jobs.retrieve(ref.id).to_dict(warnings=False)

        found = part(f"job {ref.id}", retrieve)
        if not found.get("id"):
            raise Unavailable("the answer names no job", provider=self.name)
        return found

    def _events_since(self, ref: JobRef, cursor: str) -> list[dict[str, Any]]:
        """Return the events after the cursor, the oldest first; the service lists the newest first."""
        made: list[dict[str, Any]] = []
        with self._speaking():
            for event in self._client.fine_tuning.jobs.list_events(ref.id, limit=PAGE):
                if event.id == cursor:
                    break
                made.append(event.to_dict(warnings=False))
        made.reverse()
        if len(made) > 1 and (made[0].get("created_at") or 0) > (made[-1].get("created_at") or 0):
            made.reverse()
        return made

    def _rows(self, file: str) -> list[dict[str, Any]]:
        def content() -> bytes:
            with self._speaking():
                return self._client.files.content(file).read()

        return dialect.rows_of(part(f"file {file}", content), self.service)

    def _ask(self, ref: JobRef, verb: str) -> None:
        try:
            with self._speaking():
                getattr(self._client.fine_tuning.jobs, verb)(ref.id)
        except Unavailable:
            raise
        except AnyDPOError:
            state = self.service.state(self._job(ref).get("status"))
            if verb == "cancel" and state is not None and state.done:
                return
            raise

    def _ends(self) -> str:
        days = {name: self.service.shutdown(name) for name in self.service.facts["models"]}
        listed = ", ".join(f"{name} {day}" for name, day in days.items() if day)
        said: str = self.service.facts["service"]["notice"]
        return f"{said}; {listed}" if listed else said

    def _sdk_version(self) -> str:
        import openai

        return f"openai {openai.__version__}"
