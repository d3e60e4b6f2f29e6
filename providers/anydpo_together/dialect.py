"""From Together's words to ours: jobs, events and metrics to events and an outcome."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from anydpo.adapter import SAFETY, canonical_metrics
from anydpo.errors import ProviderFault
from anydpo.provider import Event, Examined, Outcome
from anydpo.result import Artifact, Error, Metrics, Model, Stage, State, Usage
from anydpo_together.request import ADVICE, FACTS, effective_of

STEP = ("train/global_step", "eval/global_step", "global_step", "step")
NOT_METRICS = (*STEP, "logged_at", "timestamp", "train/epoch", "eval/epoch", "epoch", "_timestamp")
LINE = re.compile(r"\bline(?: number)?:? (\d+)", re.IGNORECASE)
JOB_ID = re.compile(r"\bft-[0-9a-f][0-9a-f-]{5,}", re.IGNORECASE)
ACCEPTED, REFUSED = ("COMPLETED",), ("FAILED", "INVALID_FORMAT")


def state_of(word: str | None) -> State | None:
    """Return the state of a status word, None for a word that nobody has documented."""
    found = FACTS["states"].get(str(word or "").lower())
    return State(found) if found else None


def time_of(text: Any) -> float | None:
    """Return seconds since 1970 of an ISO time, None where it is none."""
    if isinstance(text, (int, float)):
        return float(text)
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def successor(events: Iterable[Mapping[str, Any]], seen: Iterable[str]) -> str | None:
    """Return the id under which a job was restarted, as its log announces it."""
    for event in events:
        if str(event.get("type") or "").lower() == "job_restarted":
            for found in JOB_ID.findall(str(event.get("message") or "")):
                if found not in seen:
                    return str(found)
    return None


def log_events(items: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Return the service's log as events."""
    made = []
    for item in items:
        level = str(item.get("level") or "").lower().removeprefix("legacy_i").removeprefix("legacy_")
        mark = f"{level}: " if level in ("warning", "error") else ""
        step, total = item.get("step"), item.get("total_steps")
        made.append(
            Event(
                kind="log",
                time=time_of(item.get("created_at")),
                step=step or None,
                total_steps=total or None,
                text=f"{mark}{item.get('message') or item.get('type') or ''}",
            )
        )
    return made


def history_of(points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return metrics as history, one record a point; training and evaluation of a step stand apart, as they came."""
    made = []
    for point in points:
        metrics = canonical_metrics(point, FACTS["metrics"], skip=NOT_METRICS)
        step = next((point[name] for name in STEP if point.get(name) is not None), None)
        made.append({"step": int(step) if step is not None else None, **metrics})
    return made


def metric_events(history: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Return history as events."""
    return [
        Event(kind="metrics", step=record["step"], metrics={k: v for k, v in record.items() if "/" in k})
        for record in history
    ]


def examined(file: Mapping[str, Any]) -> Examined:
    """Return what the service's check of a file says; older answers have only a boolean."""
    status, report = str(file.get("processing_status") or "").upper(), file.get("validation_report") or {}
    if status in REFUSED or report.get("valid") is False:
        words = str(report.get("error") or f"the file is in status {status}")
        lines = list(dict.fromkeys(int(number) for number in LINE.findall(words)))
        found = [Examined.Finding(line=line, message=words) for line in lines] or [Examined.Finding(message=words)]
        return Examined(state="refused", findings=tuple(found))
    done = status in ACCEPTED or (not status and bool(file.get("Processed", file.get("processed", False))))
    return Examined(state="accepted" if done else "pending")


def outcome(
    jobs: Sequence[Mapping[str, Any]],
    log: Sequence[Mapping[str, Any]],
    history: Sequence[Mapping[str, Any]],
    checkpoints: Iterable[Mapping[str, Any]],
    sdk: str,
) -> Outcome:
    """Return what the service says of a job, which it may have restarted under other ids: the last one counts."""
    job = jobs[-1]
    state = state_of(job.get("status")) or State.RUNNING
    stage: Literal["sft", "dpo"] = "sft" if (job.get("training_method") or {}).get("method") == "sft" else "dpo"
    final = {name: value for record in history for name, value in record.items() if "/" in name and value is not None}
    steps = [int(record["step"]) for record in history if record.get("step")]
    total = [int(item["total_steps"]) for item in log if item.get("total_steps")]
    began, ended = time_of(job.get("started_at")), time_of(job.get("updated_at")) if state.done else None
    return Outcome(
        state=state,
        model=_model(job),
        effective=effective_of(job),
        stages=(Stage(stage=stage, provider_job_id=str(job["id"]), state=state),),
        metrics=Metrics(final=final, history=tuple(dict(record) for record in history)),
        artifacts=tuple(
            Artifact(kind="checkpoint", path=f"{job['id']}:{item['step']}", step=item["step"])
            for item in checkpoints
            if item.get("step")
        ),
        usage=Usage(
            train_tokens=job.get("token_count") or None,
            epochs=job.get("n_epochs"),
            steps=max([*steps, *(total if state is State.SUCCEEDED else [])], default=None),
        ),
        started=_trained_from(log) or began,
        finished=ended,
        error=_error(job, log, state),
        warnings=tuple(_notes(jobs, log)),
        sdk=sdk,
    )


def _model(job: Mapping[str, Any]) -> Model:
    tuned = job.get("model_output_name") or job.get("output_name")
    if not tuned or state_of(job.get("status")) is not State.SUCCEEDED:
        return Model(provider_model=job.get("model"))
    use = (
        f"# anydpo fetch RUN -o DIR brings the weights; at Together, start a dedicated endpoint of {tuned}, then\n"
        "from together import Together\n"
        f'Together().chat.completions.create(model={tuned!r}, messages=[{{"role": "user", "content": "…"}}])'
    )
    return Model(provider_model=job.get("model"), tuned=tuned, how_to_use=use)


def _trained_from(log: Iterable[Mapping[str, Any]]) -> float | None:
    return next((time_of(e.get("created_at")) for e in log if str(e.get("type")).lower() == "training_start"), None)


def _error(job: Mapping[str, Any], log: Sequence[Mapping[str, Any]], state: State) -> Error | None:
    if state is not State.FAILED:
        return None
    wrong = [
        e for e in log if str(e.get("level") or "").lower().endswith("error") or "error" in str(e.get("type")).lower()
    ]
    message = str(wrong[-1].get("message")) if wrong else f"the job ended as {job.get('status')}"
    if SAFETY.search(message):
        return Error(code="safety_refused", message=message, hint=ADVICE.safety)
    if any(str(event.get("type")).lower() == "billing_limit" for event in log):
        return Error(code="quota_exceeded", message=message, hint="raise the limit or add credit, then --again")
    if job.get("status") == "user_error":
        return Error(code="user_error", message=message, hint="change the job or its data as the message says")
    return Error(
        code=ProviderFault.code, message=message, hint="a fault of the service is refunded; --again sends it once more"
    )


def _notes(jobs: Sequence[Mapping[str, Any]], log: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if len(jobs) > 1:
        yield f"the service restarted the job: {' → '.join(str(job['id']) for job in jobs)}"
    if state_of(jobs[-1].get("status")) is None:
        yield f"the status {jobs[-1].get('status')!r} is not known; it is taken for running"
    if jobs[-1].get("early_stopped"):
        yield f"training stopped early; the best step was {jobs[-1].get('early_stopping_best_step')}"
    for event in log:
        if str(event.get("type") or "").lower() in ("warning", "billing_limit", "refund"):
            yield str(event.get("message") or event["type"])
