"""The reference provider: all verbs against a make-believe service, as an adapter should be written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from anydpo.errors import (
    AnyDPOError,
    AuthFailed,
    CapacityUnavailable,
    JobInvalid,
    ModelRetired,
    OutcomeUnknown,
    Problem,
    ProviderRefused,
    QuotaExceeded,
    RunFailed,
    SafetyRefused,
    Unavailable,
)
from anydpo.job import PreferenceJob
from anydpo.provider import (
    Capabilities,
    DataFile,
    DataSummary,
    Event,
    Examined,
    JobRef,
    Outcome,
    Plan,
    Poll,
    Quote,
    Request,
    Staged,
)
from anydpo.result import Artifact, Cost, Error, Metrics, Model, Stage, State, Usage
from anydpo.testing.service import STEPS, Service, Verb

FOLDER = "ANYDPO_MEMORY"  # where a service lives that several processes share
PRICE = 0.001  # dollars a pair
MOST_EVENTS = 3  # a reply, so that callers have to ask again

REFUSALS: dict[str, type[AnyDPOError]] = {
    "refuse": ProviderRefused,
    "quota": QuotaExceeded,
    "auth": AuthFailed,
    "retired": ModelRetired,
    "safety": SafetyRefused,
    "capacity": CapacityUnavailable,
}
STATES = {state.value: state for state in State}

_here = Service()


def _route(about: str, **differing: Any) -> Capabilities:
    usual: dict[str, Any] = {
        "losses": ("sigmoid", "ipo"),
        "adapters": ("lora",),
        "models": "any name",
        "fields": ("epochs", "seed", "learning_rate", "batch_size", "sft"),
        "beta": (0.0, 2.0),
        "writes": "openai",
        "holds": ("tools",),
        "weights": True,
        "quote": True,
        "finds_by_key": True,
        "lag_seconds": 6.0,
        "resumable": True,
        "poll_seconds": 0.5,
    }
    return Capabilities(about=about, **{**usual, **differing})


class MemoryProvider:
    """A provider without a network. `ANYDPO_MEMORY` names the folder of a service that several processes share."""

    name: ClassVar[str] = "memory"
    capabilities: ClassVar[Mapping[str, Capabilities]] = {
        "": _route("a make-believe service that can be searched"),
        "blind": _route("the same, which nobody can search", finds_by_key=False, lag_seconds=0.0),
    }

    def __init__(self, service: Service | None = None) -> None:
        folder = os.environ.get(FOLDER)
        self._service = service or (Service(Path(folder)) if folder else _here)

    def plan(self, job: PreferenceJob, data: DataSummary, route: str | None = None) -> Plan:
        """Return what would be sent."""
        options = job.options.get(self.name, {})
        problems = [
            Problem(f"options.{self.name}.{name}", "unknown_field", "no such option", "known: price, tier")
            for name in options
            if name not in ("price", "tier")
        ]
        model = job.model_for(f"{self.name}/{route}" if route else self.name)
        if model is None:
            problems.append(Problem("model", "no_model_here", "the table names no model for memory"))
        stages = ("sft", "dpo") if job.sft is not None else ("dpo",)
        create = {"model": model, "training_file": "${training_file}", "beta": job.method.beta, **options}
        bodies = [create] if len(stages) == 1 else [create, {**create, "model": "${sft_model}"}]
        return Plan(
            place=f"{self.name}/{route}" if route else self.name,
            route_reason="the route that was asked for" if route else "the only searchable route",
            target=f"{self._service.name}/{route}" if route else self._service.name,
            model=model,
            format="openai",
            problems=tuple(problems),
            effective={"epochs": job.epochs, "method": {"beta": job.method.beta, "loss_type": job.method.loss_type}},
            requests=tuple(Request(method="POST", url=f"{self._service.name}/jobs", body=body) for body in bodies),
            stages=stages,  # type: ignore[arg-type]
            filled={"price": str(options.get("price", PRICE * data.train_pairs))},
        )

    def quote(self, plan: Plan) -> Quote | None:
        """Return the price of all pairs; an option sets another, and "unknown" none."""
        price = plan.filled["price"]
        if price == "unknown":
            return None
        return Quote(cost=Cost(amount=float(price), basis="provider quote"))

    def stage(self, plan: Plan, file: DataFile) -> Staged:  # noqa: ARG002
        """Keep the file's hash; the same content is the same file."""
        self._meet("stage", sha256=file.sha256)
        with file.open() as opened:
            while opened.read(1 << 20):
                pass
        return Staged(name=file.name, id=f"file-{file.sha256[:16]}")

    def examine(self, staged: Staged) -> Examined:  # noqa: ARG002
        """Accept every file that no script says otherwise of."""
        word = self._service.word("examine")
        if word == "pending":
            return Examined(state="pending")
        if word == "bad_rows":
            return Examined(state="refused", findings=(Examined.Finding(line=2, message="the answer is too long"),))
        return Examined(state="accepted")

    def submit(self, plan: Plan, staged: tuple[Staged, ...], key: str) -> JobRef:
        """Create the job."""
        word = self._meet("create", key=key)
        if word == "no_answer":
            raise OutcomeUnknown("no answer", provider=self.name)
        request = plan.requests[plan.stages.index(plan.stage)]
        files = {f"${{{_FILES[item.name]}}}": item.id for item in staged}
        known = {**files, **{f"${{{name}}}": value for name, value in plan.filled.items()}}
        job = self._service.accept(key, {name: known.get(str(value), value) for name, value in request.body.items()})
        if word in ("lost_reply", "half_reply"):
            raise OutcomeUnknown("the connection was cut", provider=self.name)
        return JobRef(id=job, place=plan.place)

    def find(self, key: str) -> JobRef | None:
        """Return the job of this key, as far as the list has it."""
        self._meet("find", key=key)
        found = [job for job in self._service.jobs(listed=True) if job["key"] == key]
        return JobRef(id=found[0]["id"], place=self.name) if found else None

    def poll(self, ref: JobRef, cursor: str = "") -> Poll:
        """Return the state, and the metrics of the steps since the cursor."""
        self._meet("poll", job=ref.id)
        said = self._known(ref)
        seen = int(cursor or 0)
        upto = min(self._service.steps(ref.id), seen + MOST_EVENTS)
        events = [
            Event(kind="metrics", step=n, total_steps=STEPS, metrics=_metrics(n)) for n in range(seen + 1, upto + 1)
        ]
        if said not in STATES:
            events.append(Event(kind="log", text=f"unknown status {said!r}, taken for running"))
        more = upto < self._service.steps(ref.id)
        return Poll(state=STATES.get(said, State.RUNNING), events=tuple(events), cursor=str(upto), more=more)

    def result(self, ref: JobRef) -> Outcome:
        """Return what came of the job."""
        state = STATES.get(self._known(ref), State.RUNNING)
        steps = self._service.steps(ref.id)
        history = tuple({"step": n, **_metrics(n)} for n in range(1, steps + 1))
        failed = state is State.FAILED
        return Outcome(
            state=state,
            model=Model(tuned=f"tuned:{ref.id}") if state is State.SUCCEEDED else Model(),
            effective={"method": {"loss_type": "sigmoid"}},
            stages=(Stage(stage="dpo", provider_job_id=ref.id, state=state),),
            metrics=Metrics(final=dict(_metrics(steps)) if steps else {}, history=history),
            usage=Usage(steps=steps),
            cost=Cost(amount=0.5, basis="billed") if state.done else None,
            error=Error(code=self._service.failure(), message="the service says it failed") if failed else None,
            sdk="memory 1",
        )

    def cancel(self, ref: JobRef) -> None:
        """End the job."""
        self._meet("cancel", job=ref.id)
        if not STATES.get(self._known(ref), State.RUNNING).done:
            self._service.end(ref.id, State.CANCELLED)

    def resume(self, ref: JobRef) -> None:
        """Let a paused job go on."""
        self._service.set(ends="succeeded")
        self._known(ref)

    def fetch(self, ref: JobRef, folder: Path, checkpoint: int | None = None) -> tuple[Artifact, ...]:
        """Write a file that stands for the weights."""
        if self._known(ref) != State.SUCCEEDED:
            raise RunFailed("this run has left no model yet", provider=self.name)
        if folder.exists() and any(folder.iterdir()):
            raise JobInvalid(f"{folder} is not empty", hint="fetch into a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.json"
        path.write_text(json.dumps({"job": ref.id, "step": checkpoint or STEPS}))
        return (Artifact(kind="model", path=str(path)),)

    def found(self) -> tuple[tuple[str, JobRef], ...]:
        """Return (key, job) of every job that carries one of our keys."""
        return tuple((job["key"], JobRef(id=job["id"], place=self.name)) for job in self._service.jobs(listed=True))

    def _known(self, ref: JobRef) -> str:
        state = self._service.state(ref.id)
        if state is None:
            raise ProviderRefused(f"there is no job {ref.id}", provider=self.name)
        return str(state)

    def _meet(self, verb: Verb, **record: Any) -> str:
        """Send a request and raise the refusal that its script has for it."""
        word = self._service.word(verb, **record)
        name, _, seconds = word.partition(":")
        if name == "unavailable":
            raise Unavailable("503", provider=self.name, retry_after=float(seconds) if seconds else None)
        if name in REFUSALS:
            raise REFUSALS[name](f"the service says: {name}", provider=self.name)
        return word


_FILES = {"train": "training_file", "validation": "validation_file", "sft": "sft_file"}


def _metrics(step: int) -> dict[str, float]:
    """Return the metrics of a step of a made-up run."""
    loss = math.log(2) / step
    return {"train/loss": loss, "train/rewards/margins": 0.1 * step, "train/rewards/accuracies": 1 - 1 / (1 + step)}
