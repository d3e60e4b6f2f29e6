"""From SageMaker's words to ours: states, log lines and the trainer's files to events and an outcome."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from anydpo import own_trainer
from anydpo.adapter import canonical_metrics
from anydpo.provider import Event, Outcome
from anydpo.result import Artifact, Error, Metrics, Model, Stage, State, Usage
from anydpo_sagemaker import serverless, training
from anydpo_sagemaker.container import MARK
from anydpo_sagemaker.settings import FACTS

WAITING = frozenset(
    {"Starting", "Pending", "LaunchingMLInstances", "PreparingTrainingStack", "DownloadingTrainingImage"}
)
STATES = {"InProgress": State.RUNNING, "Completed": State.SUCCEEDED, "Failed": State.FAILED, "Stopping": State.RUNNING}
TOO_LONG = {
    "MaxRuntimeExceeded": "the job ran longer than max_runtime_seconds",
    "MaxWaitTimeExceeded": "the job waited longer for spot machines than max_wait_seconds",
    "MaxPendingTimeExceeded": "the job waited too long for machines",
}
OUT_OF_REACH = "the service keeps the weights; deploy the model package"


def state_of(job: Mapping[str, Any]) -> State | None:
    """Return the state of a job, None for a word that nobody has documented.

    The service's `Stopped` is its answer to a user and to a time limit alike; only the first is `cancelled`.
    """
    word, detail = job.get("TrainingJobStatus"), job.get("SecondaryStatus")
    if word == "Stopped":
        return State.FAILED if detail in TOO_LONG else State.CANCELLED
    if word == "InProgress" and detail in WAITING:
        return State.QUEUED
    return STATES.get(str(word))


def place_of(job: Mapping[str, Any]) -> str:
    """Return the route of a job."""
    return serverless.PLACE if job.get("ServerlessJobConfig") else training.PLACE


def transitions(job: Mapping[str, Any], after: int) -> list[Event]:
    """Return the service's own timeline as log lines, from one place of it on."""
    made = []
    for step in (job.get("SecondaryStatusTransitions") or [])[after:]:
        said = f": {step['StatusMessage']}" if step.get("StatusMessage") else ""
        made.append(Event(kind="log", time=seconds(step.get("StartTime")), text=f"{step.get('Status')}{said}"))
    return made


def log_events(lines: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Return lines of CloudWatch as events: records of metrics as such, the rest as they are."""
    made = []
    for line in lines:
        text, at = str(line.get("message", "")), line.get("timestamp")
        record = _record(text)
        if record is None:
            made.append(Event(kind="log", time=at / 1000 if at else None, text=text.rstrip("\n")))
        else:
            made += own_trainer.events([record], [])
    return made


def _record(text: str) -> dict[str, Any] | None:
    if not text.startswith(MARK):
        return None
    try:
        found = json.loads(text[len(MARK) :])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def trained(
    job: Mapping[str, Any],
    result: Mapping[str, Any],
    records: list[dict[str, Any]],
    sdk: str,
    checkpoints: Mapping[int, str] = MappingProxyType({}),
) -> Outcome:
    """Return the outcome of a job of our own trainer: what its files say, and the service's clock and bill.

    `checkpoints` are step → folder of those that are kept.
    """
    state = state_of(job) or State.RUNNING
    weights = (job.get("ModelArtifacts") or {}).get("S3ModelArtifacts")
    start = (result.get("model") or {}).get("start")
    model = Model(provider_model=start)
    if state is State.SUCCEEDED and weights:
        model = own_trainer.model_of(result, weights, weights, "DIR")
        use = f"# anydpo fetch RUN -o DIR brings the weights\n{model.how_to_use}"
        model = model.model_copy(update={"how_to_use": use})
    kept = [Artifact(kind="model", path=weights)] if model.tuned and weights else []
    kept += [Artifact(kind="checkpoint", path=path, step=step) for step, path in sorted(checkpoints.items())]
    found = own_trainer.outcome(result, state, records, model=model, artifacts=kept)
    return _billed(found, job, sdk).model_copy(update={"error": _error(job, result)})


def served(job: Mapping[str, Any], sdk: str) -> Outcome:
    """Return the outcome of a serverless job."""
    state = state_of(job) or State.RUNNING
    weights = (job.get("ModelArtifacts") or {}).get("S3ModelArtifacts")
    tuned = job.get("OutputModelPackageArn") or weights
    given = {one["MetricName"]: one["Value"] for one in job.get("FinalMetricDataList") or []}
    base = str((job.get("ServerlessJobConfig") or {}).get("BaseModelArn", ""))
    use = f'aws sagemaker create-model --model-name NAME --containers ModelPackageName="{tuned}" …'
    model = Model(provider_model=base or None)
    if state is State.SUCCEEDED and tuned:
        model = Model(provider_model=base, tuned=tuned, weights=weights, how_to_use=use)
    progress = job.get("ProgressInfo") or {}
    found = Outcome(
        state=state,
        model=model,
        effective=serverless.effective_of(job),
        stages=(Stage(stage="dpo", provider_job_id=job.get("TrainingJobArn"), state=state),),
        metrics=Metrics(final=canonical_metrics(given, FACTS["metrics"])),
        usage=Usage(steps=progress.get("CurrentStep"), epochs=progress.get("CurrentEpoch")),
        warnings=(f"metrics are in MLflow, run {details['MlflowRunId']}",)
        if (details := job.get("MlflowDetails") or {}).get("MlflowRunId")
        else (),
    )
    return _billed(found, job, sdk).model_copy(update={"error": _error(job, {})})


def _billed(found: Outcome, job: Mapping[str, Any], sdk: str) -> Outcome:
    """Return an outcome with the service's clock and what it bills: wall-clock seconds times machines, or tokens."""
    resources = job.get("ResourceConfig") or {}
    machines = resources.get("SelectedInstanceCount") or resources.get("InstanceCount") or 1
    billed, trained_for = job.get("BillableTimeInSeconds"), job.get("TrainingTimeInSeconds")
    usage = {"billable_seconds": billed * machines if billed is not None else None}
    if job.get("BillableTokenCount"):
        usage["train_tokens"] = job["BillableTokenCount"]
    notes = []
    if billed is not None and trained_for and billed < trained_for:
        notes.append(f"spot machines saved {1 - billed / trained_for:.0%} of the billed time")
    return found.model_copy(
        update={
            "usage": found.usage.model_copy(update=usage),
            "started": seconds(job.get("TrainingStartTime")) or found.started,
            "finished": seconds(job.get("TrainingEndTime")) if found.state.done else None,
            "train_seconds": found.train_seconds or trained_for,
            "warnings": (*found.warnings, *notes),
            "sdk": "; ".join(part for part in (sdk, found.sdk) if part),
        }
    )


def _error(job: Mapping[str, Any], result: Mapping[str, Any]) -> Error | None:
    """Return why a job failed: the trainer's own words where it left some, else the service's."""
    if state_of(job) is not State.FAILED:
        return None
    detail = str(job.get("SecondaryStatus"))
    if detail in TOO_LONG:
        hint = "raise it under [options.sagemaker], then --again; the checkpoints of this job can be fetched"
        return Error(code="too_long", message=TOO_LONG[detail], hint=hint)
    if error := result.get("error"):
        return Error(code=error["code"], message=error["message"], hint=error.get("hint"))
    said = [step.get("StatusMessage") for step in job.get("SecondaryStatusTransitions") or []]
    reason = job.get("FailureReason") or next((text for text in reversed(said) if text), None) or "no reason was given"
    return Error(code="job_failed", message=str(reason), hint="anydpo logs RUN shows what the container wrote")


def seconds(moment: Any) -> float | None:
    """Return a moment as seconds since 1970."""
    return moment.timestamp() if isinstance(moment, datetime) else None
