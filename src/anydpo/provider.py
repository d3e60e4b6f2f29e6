"""The protocol of a place that can train: a few verbs and a table of capabilities.

Adapters never retry, sleep, print or keep state; the core does each once. Everything that crosses this border is one
of the frozen models below, so that nothing of a provider's own types leaks out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, Protocol, TypeAlias, cast, runtime_checkable

from pydantic import Field, field_serializer

from anydpo.errors import Problem
from anydpo.job import PreferenceJob
from anydpo.result import Artifact, Cost, Error, Metrics, Model, Part, Sample, Stage, State, Usage


class Capabilities(Part):
    """What one route of a provider can do, as data that needs no SDK, key or network."""

    about: str
    losses: tuple[str, ...]
    adapters: tuple[str, ...]
    models: str = Field(description="which models can be named, in words")
    fields: tuple[str, ...] = Field(description="job fields that are honoured")
    beta: tuple[float, float] | None = None
    writes: str = Field(description="the dialect sent")
    holds: tuple[str, ...] = Field(description="features of pairs that are trained: tools, images, weight …")
    weights: bool = Field(description="trained weights can be fetched")
    quote: bool = Field(description="the provider names its own price")
    free: bool = Field(default=False, description="nothing is billed")
    finds_by_key: bool = Field(description="a lost submission can be found again")
    lag_seconds: float = Field(default=0.0, description="how long a new job may be missing from a search")
    resumable: bool = Field(default=False, description="a paused run goes on when it is resumed")
    poll_seconds: float = Field(description="how often it is polite to ask")


class Request(Part):
    """One request that would be sent; ids not yet known stand as named placeholders such as `${training_file}`."""

    method: str
    url: str
    body: dict[str, Any] = {}


class DataFile(Part):
    """One file to send: `name` is train, validation or sft."""

    name: Literal["train", "validation", "sft"]
    path: str
    sha256: str
    bytes: int
    pairs: int

    def open(self) -> BinaryIO:
        """Open the file for reading; what is read is reported to whoever shows the upload's progress."""
        return cast("BinaryIO", _Counted(Path(self.path).open("rb", buffering=0), self))


Progress: TypeAlias = "Callable[[DataFile, int], None]"
upload_progress: ContextVar[Progress | None] = ContextVar("upload_progress", default=None)


class _Counted(io.BufferedReader):
    """A file that tells `upload_progress` how far it was read, in bytes from the beginning."""

    def __init__(self, raw: io.FileIO, file: DataFile) -> None:
        super().__init__(raw, 1 << 20)
        self._file, self._told = file, upload_progress.get()

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and report the place in the file."""
        found = super().read(size)
        if self._told is not None:
            self._told(self._file, self.tell())
        return found


class Staged(Part):
    """A file as the provider knows it."""

    name: Literal["train", "validation", "sft"]
    id: str


class Examined(Part):
    """What a provider's own check of a file has found so far; `line` counts from 1 in the file that was sent."""

    class Finding(Part):
        """One row, or the whole file, that the provider refuses."""

        line: int | None = None
        message: str

    state: Literal["pending", "accepted", "refused"]
    findings: tuple[Finding, ...] = ()


class DataSummary(Part):
    """What a plan needs to know of the data, without the data."""

    format: str
    fingerprint: str
    validation_fingerprint: str | None = None
    train_pairs: int
    validation_pairs: int | None = None
    skipped: dict[str, int] = {}
    features: dict[str, int] = {}
    prompt_characters: int = 0
    answer_characters: int = 0
    tokens: dict[str, int] = Field(
        default={}, description="if counted: of all prompts, chosen and rejected answers, and validation pairs"
    )
    counted: str | None = Field(default=None, description="how they were counted")


class Plan(Part):
    """Everything that can be known before sending; `ok` when no problem stands against it."""

    place: str
    route_reason: str
    target: str = Field(default="", description="endpoint, region, project: never a credential")
    model: str | None = None
    format: str = Field(description="the dialect the pairs are written in")
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    effective: dict[str, Any] = {}
    requests: tuple[Request, ...] = ()
    sandbox: bool = Field(default=False, description="the endpoint is a rehearsal on this machine")
    device: Literal["cpu", "gpu"] | None = Field(default=None, description="of this machine, where it trains here")
    stages: tuple[Literal["sft", "dpo"], ...] = Field(
        default=("dpo",), description="the jobs that the provider has to be given one after the other"
    )
    stage: Literal["sft", "dpo"] = Field(default="dpo", description="which of `stages` this is submitted as")
    filled: dict[str, str] = Field(
        default={}, description="placeholder → what is known by now: `sft_model` once that stage is done"
    )
    most_usd: float | None = Field(default=None, description="what the user's cap leaves for all stages together")

    @property
    def ok(self) -> bool:
        """Whether this can be sent as it is."""
        return not self.problems

    @field_serializer("problems")
    def _as_objects(self, problems: tuple[Problem, ...]) -> list[dict[str, Any]]:
        return [problem._asdict() for problem in problems]


class Quote(Part):
    """A price before paying."""

    cost: Cost
    tokens: int | None = None
    seconds: float | None = Field(default=None, description="of training, where that is known before it begins")
    assumptions: tuple[str, ...] = ()


class JobRef(Part):
    """A job as its provider names it."""

    id: str
    place: str


class Event(Part):
    """One thing that happened: a change of state, metrics of a step, or a line of the provider's log."""

    kind: Literal["state", "metrics", "log"]
    time: float | None = None
    state: State | None = None
    step: int | None = None
    total_steps: int | None = None
    metrics: dict[str, Any] = {}
    text: str = ""


class Poll(Part):
    """What happened since a cursor, bounded, the same again for the same cursor; `state` is where the job is now."""

    state: State
    events: tuple[Event, ...] = ()
    cursor: str = ""
    more: bool = Field(default=False, description="the reply was cut at its bound; ask again at once")


class Outcome(Part):
    """What a provider says of a job that has ended or is under way."""

    state: State
    model: Model = Field(default_factory=Model)
    effective: dict[str, Any] = {}
    differences: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    metrics: Metrics = Field(default_factory=Metrics)
    skipped: dict[str, int] = {}
    train_pairs: int | None = None
    validation_pairs: int | None = None
    artifacts: tuple[Artifact, ...] = ()
    usage: Usage = Field(default_factory=Usage)
    cost: Cost | None = None
    started: float | None = None
    finished: float | None = None
    train_seconds: float | None = None
    error: Error | None = None
    warnings: tuple[str, ...] = ()
    sdk: str | None = None


@runtime_checkable
class Provider(Protocol):
    """The verbs. `plan` is pure; every other may reach the network once and raises from `anydpo.errors`."""

    name: ClassVar[str]
    capabilities: ClassVar[Mapping[str, Capabilities]]

    def plan(self, job: PreferenceJob, data: DataSummary, route: str | None = None) -> Plan:
        """Return what would be sent and what stands against it; nothing is sent."""
        ...

    def quote(self, plan: Plan) -> Quote | None:
        """Return the price, None where it cannot be known."""
        ...

    def stage(self, plan: Plan, file: DataFile) -> Staged:
        """Bring one file to the provider; the same content again is the same file."""
        ...

    def submit(self, plan: Plan, staged: tuple[Staged, ...], key: str) -> JobRef:
        """Create the one job of this key."""
        ...

    def find(self, key: str) -> JobRef | None:
        """Return the job of this key, None where there is none."""
        ...

    def poll(self, ref: JobRef, cursor: str = "") -> Poll:
        """Return the state and what happened since `cursor`."""
        ...

    def result(self, ref: JobRef) -> Outcome:
        """Return all that is known of the job."""
        ...

    def cancel(self, ref: JobRef) -> None:
        """Ask the job to stop; one that has ended already is no error."""
        ...

    def fetch(self, ref: JobRef, folder: Path, checkpoint: int | None = None) -> tuple[Artifact, ...]:
        """Bring the trained weights into a folder."""
        ...


@runtime_checkable
class ChecksFiles(Protocol):
    """A provider that examines an uploaded file on its own time, before a job can be made of it."""

    def examine(self, staged: Staged) -> Examined:
        """Return whether the provider has accepted the file, and what it says of it."""
        ...


@runtime_checkable
class CanList(Protocol):
    """A provider whose jobs can be listed with the keys they were given, so that a lost journal can be made again."""

    def found(self) -> tuple[tuple[str, JobRef], ...]:
        """Return (key, job) of every job that carries one of our keys."""
        ...


class Diagnosis(Part):
    """One thing that `doctor` says of a provider; `ok` is None where it could not be found out."""

    what: str
    ok: bool | None
    detail: str


@runtime_checkable
class CanDiagnose(Protocol):
    """A provider that can say whether it would work: credentials found (never shown), reachability, eligibility."""

    def diagnose(self) -> tuple[Diagnosis, ...]:
        """Return what was found; raises nothing."""
        ...


class Ending(Part):
    """The last day of a model or of a service."""

    what: str
    day: date


@runtime_checkable
class KnowsEnds(Protocol):
    """A provider that knows as data when its service and its models end."""

    def ends(self, model: str | None) -> tuple[Ending, ...]:
        """Return what ends for whoever uses this model, or one that was tuned from it; asks nobody."""
        ...


@runtime_checkable
class CanResume(Protocol):
    """A provider whose interrupted jobs go on when told to."""

    def resume(self, ref: JobRef) -> None:
        """Let a paused job go on."""
        ...


@runtime_checkable
class CanPause(Protocol):
    """A provider whose jobs can be made to wait; `CanResume` lets them go on."""

    def pause(self, ref: JobRef) -> None:
        """Let a running job wait at its next checkpoint."""
        ...


@runtime_checkable
class LimitsTime(Protocol):
    """A provider that bills by the hour and stops a job after a time that is sent with it."""

    def limited(self, plan: Plan, usd: float) -> Plan:
        """Return the plan of a job that is stopped before it has cost so much; where no price is known, the same."""
        ...


@runtime_checkable
class TriesOut(Protocol):
    """A provider that trains on this machine, and can try how long a job will take."""

    def try_out(self, plan: Plan, sample: DataFile, times: float) -> Quote:
        """Return tokens and seconds of a job, by carrying out its first steps.

        `sample` holds some of the pairs that it trains on; all of them are `times` as much.
        """
        ...


@runtime_checkable
class CanSample(Protocol):
    """A provider that can write completions with a run's model."""

    def sample(
        self,
        ref: JobRef,
        prompts: tuple[tuple[dict[str, Any], ...], ...],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> tuple[Sample, ...]:
        """Return a completion a prompt, by the model before and after training."""
        ...


class Range(Part):
    """Where a number may lie; `log` spreads trials over its powers. Two whole ends mean whole numbers."""

    low: int | float
    high: int | float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Space: TypeAlias = "dict[str, tuple[Any, ...] | Range]"  # job field, such as `method.beta` → what it may be


class Tuning(Part):
    """What a sweep looks for: which fields vary over what, by which metric, in how many trials."""

    space: dict[str, tuple[Any, ...] | Range]
    metric: str
    goal: Literal["max", "min"]
    trials: int
    parallel: int
    seed: int = 0


class TunedTrial(Part):
    """One trial of a provider's own tuner: the values it chose, and the job it ran for them."""

    values: dict[str, Any]
    ref: JobRef
    state: State
    value: float | None = Field(default=None, description="the metric; None where the trial gave none")


@runtime_checkable
class CanTune(Protocol):
    """A provider with a tuner of its own.

    Its tuning job is a job like any other: what `tuning_plan` returns goes through `stage` and `submit`, once, and
    `poll`, `result`, `cancel` and `find` know its id. `result` is that of the best trial, with one `Stage` of the
    kind `trial` for each.
    """

    def tuning_plan(self, plan: Plan, tuning: Tuning) -> Plan:
        """Return the plan of a training job as that of a tuning job over it; pure, problems where it cannot be."""
        ...

    def trials(self, ref: JobRef) -> tuple[TunedTrial, ...]:
        """Return the trials of a tuning job so far, in the order in which they were made."""
        ...


class Described(Part):
    """A job that another tool made, in our words: what of it a `PreferenceJob` can say, and what it cannot."""

    job: dict[str, Any] = Field(default={}, description="fields of a job; data files by the provider's own ids")
    lost: dict[str, str] = Field(default={}, description="what has no equivalent → why")
    id: str | None = Field(default=None, description="what the provider calls it, where it was named otherwise")
    place: str | None = Field(default=None, description="the route, where the provider can tell")
    target: str = Field(default="", description="endpoint, region, project: never a credential")
    sandbox: bool = False
    name: str | None = None
    created: float | None = None


@runtime_checkable
class CanImport(Protocol):
    """A provider whose jobs can be taken over from other tools; beside it `poll` and `result` are enough."""

    def described(self, body: Mapping[str, Any]) -> Described | None:
        """Return the job that a create body of this service stands for, None for what is none; pure."""
        ...

    def describe(self, ref: JobRef) -> Described:
        """Return the job of this id as it was asked for; raises what the provider says if there is none."""
        ...


@runtime_checkable
class KnowsReference(Protocol):
    """A provider that can name the model that a run's DPO was held to, as the trainer loads it."""

    def reference(self, ref: JobRef) -> str | None:
        """Return a folder or a model's id, None where it is the base that the run's adapter names."""
        ...


@runtime_checkable
class CanTake(Protocol):
    """A provider that makes a job of a folder in which another trainer has worked."""

    def take(self, folder: Path) -> JobRef:
        """Return the job; the same folder again is the same job. Raises `DataInvalid` for any other folder."""
        ...


@runtime_checkable
class FetchesAdapters(Protocol):
    """A provider whose `fetch` merges, and that can give the adapter alone too."""

    def fetch_adapter(self, ref: JobRef, folder: Path, checkpoint: int | None = None) -> tuple[Artifact, ...]:
        """Bring the adapter's weights into a folder; raises `RunFailed` where the run has none."""
        ...
