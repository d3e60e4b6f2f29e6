"""What came out: `Result`, the one format, whoever trained. Its JSON Schema is published with the package."""

from __future__ import annotations

import html
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anydpo.errors import RunFailed

METRICS = (
    *("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
    *("logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected"),
    *("entropy", "mean_token_accuracy", "grad_norm", "learning_rate", "num_tokens"),
)
TRAINING_ONLY = frozenset({"grad_norm", "learning_rate", "num_tokens"})


class State(StrEnum):
    """Where a run stands; a terminal state never changes, and `unknown` is never taken for success."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def done(self) -> bool:
        """Whether nothing more will happen."""
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Part(BaseModel):
    """A part of a result; it cannot change."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, populate_by_name=True, serialize_by_alias=True
    )


class Error(Part):
    """Why a run or an attempt ended badly, and what to do."""

    code: str
    message: str
    hint: str | None = None


class Cost(Part):
    """Money. `basis` says whose figure it is: "provider quote", "price list DATE" or "billed"."""

    amount: float
    currency: str = "USD"
    basis: str


class Model(Part):
    """What was asked for, what the provider trained, and how to use what came out."""

    requested: str | None = None
    provider_model: str | None = None
    tuned: str | None = None
    weights: str | None = None
    how_to_use: str | None = None


class Data(Part):
    """What went in. `skipped` counts rows by reason, the ones the trainer had to leave out included."""

    fingerprint: str | None = None
    validation_fingerprint: str | None = None
    train_pairs: int | None = None
    validation_pairs: int | None = None
    skipped: dict[str, int] = {}
    format_sent: str | None = None
    bytes_sent: int | None = None


class Method(Part):
    """What was asked, what was really run, and each difference in words."""

    requested: dict[str, Any] = {}
    effective: dict[str, Any] = {}
    differences: tuple[str, ...] = ()


class Stage(Part):
    """One billed or separate part of a run: `sft`, `dpo` or `trial`."""

    stage: Literal["sft", "dpo", "trial"]
    provider_job_id: str | None = None
    state: State = State.PENDING
    cost: Cost | None = None


class Metrics(Part):
    """Values by canonical name. `history` is one record a step; a metric not given is in `missing`, never zero."""

    final: dict[str, float | None] = {}
    history: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()


class Sample(Part):
    """One prompt with what the models before and after training make of it."""

    prompt: str
    base: str | None = None
    tuned: str | None = None


class Estimate(Part):
    """A figure with its 95 % interval; null where none can be given."""

    value: float
    low: float | None = None
    high: float | None = None


class Reliability(Part):
    """Pairs of like confidence: how sure the model was of its choice on average, and how often it was right."""

    low: float
    high: float
    pairs: int
    confidence: float
    accuracy: float


class Slice(Part):
    """The same figures for a part of the pairs: `by` is length or source, `name` which part."""

    by: str
    name: str
    pairs: int
    metrics: dict[str, Estimate]


class Evaluation(Part):
    """One measurement of a run's model by us, on pairs given by the user: never the provider's own numbers.

    `pairs`: from the weights, under `measured/`. `judge`: completions shown to a judge, under `judge/`. `data` is the
    fingerprint of the pairs, `rows` the file with one line a pair.
    """

    kind: Literal["pairs", "judge"]
    data: str
    files: tuple[str, ...] = ()
    pairs: int
    skipped: dict[str, int] = {}
    by: str
    provider_job_id: str | None = None
    reference: str | None = None
    settings: dict[str, Any] = {}
    metrics: dict[str, Estimate] = {}
    calibration: tuple[Reliability, ...] = ()
    slices: tuple[Slice, ...] = ()
    rows: str | None = None
    when: float | None = None
    notes: tuple[str, ...] = ()


class Artifact(Part):
    """A file or folder that the run left; a checkpoint's path is what `start_from` takes at its place."""

    kind: str
    path: str
    step: int | None = None


class Usage(Part):
    """What was consumed: tokens the policy read, passes over the data, optimiser steps, billed seconds."""

    train_tokens: int | None = None
    epochs: float | None = None
    steps: int | None = None
    billable_seconds: float | None = None


class Timing(Part):
    """When what happened, in seconds since 1970 (UTC), and how long waiting and training took."""

    created: float | None = None
    submitted: float | None = None
    started: float | None = None
    finished: float | None = None
    queue_seconds: float | None = None
    train_seconds: float | None = None


class Attempt(Part):
    """One try at one place, in the order of a fallback."""

    place: str
    error: Error | None = None
    when: float | None = None


class Notice(Part):
    """Something a person should know: a fixed word, what was seen, what it usually means and what to do."""

    code: str
    message: str


class Result(Part):
    """One run and what came of it, in the same names and units whoever trained it."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    run: str
    name: str | None = None
    place: str
    provider_job_id: str | None = None
    route_reason: str | None = None
    sandbox: bool = False
    target: str | None = None
    state: State
    job: dict[str, Any] = {}
    model: Model = Field(default_factory=Model)
    data: Data = Field(default_factory=Data)
    method: Method = Field(default_factory=Method)
    stages: tuple[Stage, ...] = ()
    metrics: Metrics = Field(default_factory=Metrics)
    evaluations: tuple[Evaluation, ...] = ()
    samples: tuple[Sample, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    usage: Usage = Field(default_factory=Usage)
    cost: Cost | None = None
    timing: Timing = Field(default_factory=Timing)
    attempts: tuple[Attempt, ...] = ()
    error: Error | None = None
    warnings: tuple[Notice, ...] = ()
    versions: dict[str, str | None] = {}

    def raise_for_state(self) -> Result:
        """Return the result of a run that succeeded; raise `RunFailed` for any other."""
        if self.state is State.SUCCEEDED:
            return self
        if self.error is None:
            raise RunFailed(f"run {self.run} is {self.state}", provider=self.place)
        raise RunFailed(f"run {self.run}: {self.error.message}", provider=self.place, hint=self.error.hint)

    def metric(self, name: str) -> float | None:
        """Return a final metric, None where this run has none of that name."""
        return self.metrics.final.get(name)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        return self.model_dump(mode="json")

    def _repr_html_(self) -> str:
        shown = ("eval/rewards/accuracies", "eval/rewards/margins", "eval/loss", "train/loss")
        cells = [(name, f"{value:.4g}") for name in shown if (value := self.metric(name)) is not None]
        cells += [("model", self.model.tuned or ""), ("error", self.error.message if self.error else "")]
        rows = "".join(
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>" for key, value in cells if value
        )
        return f"<p><b>{html.escape(self.run)}</b> on {html.escape(self.place)}: {self.state}</p><table>{rows}</table>"


def missing_metrics(final: dict[str, float | None], *, evaluated: bool) -> tuple[str, ...]:
    """Return the canonical metrics that a run did not give: those of training, and of evaluation where it was due."""
    wanted = [f"train/{name}" for name in METRICS]
    if evaluated:
        wanted += [f"eval/{name}" for name in METRICS if name not in TRAINING_ONLY]
    return tuple(name for name in wanted if final.get(name) is None)
