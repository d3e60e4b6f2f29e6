"""The `--json` documents of the commands. Their JSON Schemas are published under `anydpo/schemas`.

Readers ignore keys they do not know; `schema` rises only when a known key changes its meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field

from anydpo.catalogue import Offer
from anydpo.comparison import Compared
from anydpo.errors import Problem
from anydpo.evaluation import Measured
from anydpo.migration import Migration
from anydpo.provider import Capabilities, Diagnosis, Event, Plan, Quote, Request
from anydpo.result import Artifact, Attempt, Part, Result, Sample, State
from anydpo.retirement import Retirement
from anydpo.trials import Sweep

if TYPE_CHECKING:
    from anydpo.handle import Run


class Document(Part):
    """One JSON document on stdout."""

    schema_: Literal[1] = Field(default=1, alias="schema")


class Open(Document):
    """A document whose maker may say more than is pinned here."""

    model_config = ConfigDict(extra="allow")


class ProblemShown(Part):
    """A problem as scripts read it."""

    field: str
    code: str
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, problem: Problem) -> ProblemShown:
        """Return the problem by its names."""
        return cls(**problem._asdict())


class ErrorShown(Part):
    """What went wrong and what may be done: `code` is a fixed word."""

    code: str
    message: str
    hint: str | None = None
    provider: str | None = None
    retryable: bool = False
    failover: bool = False
    problems: tuple[ProblemShown, ...] = ()


class Failure(Document):
    """What every command prints when it fails."""

    error: ErrorShown


class Remarked(Part):
    """What became of a setting of another tool that is not simply a field of the job now."""

    kind: Literal["changed", "lost", "elsewhere", "yours"]
    field: str
    value: Any = None
    message: str


class Initialised(Document):
    """`init`; with `--from` no data is written, and `remarks` says what of the file has no equivalent."""

    job: str
    data: str | None = None
    pairs: int = 0
    tool: str | None = None
    remarks: tuple[Remarked, ...] = ()


class SkippedRow(Part):
    """A row that is not a pair."""

    file: str
    line: int
    reason: str
    detail: str


class Linted(Open):
    """`lint`."""

    format: str
    files: tuple[str, ...]
    rows: int
    pairs: int
    skipped: dict[str, int]
    skipped_rows: tuple[SkippedRow, ...]
    fingerprint: str
    stats: dict[str, Any]
    checks: tuple[dict[str, Any], ...]
    providers: dict[str, dict[str, Any]]


class Agreed(Open):
    """`agreement`: a figure that is undefined is null; under `dimensions` the same for each rubric dimension."""

    items: int
    raters: int
    raw: float | None
    cohen: dict[str, float | None]
    fleiss: float | None
    krippendorff: dict[str, float | None]
    bradley_terry: dict[str, Any] | None
    dimensions: dict[str, Any]
    format: str
    skipped: dict[str, int]
    requirements: tuple[dict[str, Any], ...]


class WrittenFile(Part):
    """A file that was written."""

    path: str
    pairs: int
    bytes: int
    sha256: str
    notes: tuple[str, ...] = ()


class Converted(Document):
    """`convert`."""

    format: str
    files: tuple[WrittenFile, ...]
    skipped: dict[str, int]
    lost: dict[str, int]
    fingerprint: str


class Checked(Document):
    """`check`, and the plan file that `submit` takes: what would be sent, and what stands against it."""

    ok: bool
    place: str
    target: str
    route_reason: str
    problems: tuple[ProblemShown, ...]
    warnings: tuple[str, ...]
    ignored: tuple[str, ...]
    requests: tuple[Request, ...]
    quote: Quote | None
    effective: dict[str, Any]
    job: dict[str, Any]
    job_fingerprint: str
    run: str

    @classmethod
    def of(cls, plan: Plan, **more: Any) -> Checked:
        """Return what a plan says."""
        same = ("ok", "place", "target", "route_reason", "warnings", "ignored", "requests", "effective")
        said = {name: getattr(plan, name) for name in same}
        return cls(**said, problems=tuple(ProblemShown.of(problem) for problem in plan.problems), **more)


class Quoted(Document):
    """`quote`: null where a price cannot be known; the sum is null then too."""

    quotes: dict[str, Quote | None]
    total_usd: float | None


class SubmittedRun(Part):
    """One submitted run; `created` is false where it existed, `error` is what stopped one of several."""

    run: str
    place: str
    provider_job_id: str | None
    state: State
    created: bool
    remaining: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    error: ErrorShown | None = None

    @classmethod
    def of(cls, run: Run) -> SubmittedRun:
        """Return what is known of a run that was just submitted."""
        same = ("place", "provider_job_id", "state", "created", "remaining", "attempts")
        error = ErrorShown(**run.error.to_dict()) if run.error is not None else None  # type: ignore[arg-type]
        return cls(run=run.id, error=error, **{name: getattr(run, name) for name in same})


class SubmittedRuns(Document):
    """`submit`."""

    runs: tuple[SubmittedRun, ...]


class Results(Document):
    """`run` with several places, `wait`."""

    runs: tuple[Result, ...]


class EventLine(Event):
    """One line of `watch --json` and `logs --json`."""

    run: str


class ListedRun(Part):
    """One line of `list`; runs that were asked for together have one `group`."""

    run: str
    name: str | None
    place: str
    state: State
    created: float
    group: str | None = None


class Listed(Document):
    """`list`."""

    runs: tuple[ListedRun, ...]


class ImportedRun(Part):
    """One imported job; `created` is false where it was known."""

    run: str
    created: bool
    result: Result


class Imported(Document):
    """`import`."""

    runs: tuple[ImportedRun, ...]


class Cancelled(Document):
    """`cancel`."""

    run: str
    state: State


class Fetched(Document):
    """`fetch`."""

    artifacts: tuple[Artifact, ...]


class SampledRun(Part):
    """What one run's models wrote."""

    run: str
    samples: tuple[Sample, ...]


class Sampled(Document):
    """`sample`."""

    runs: tuple[SampledRun, ...]


class Places(Document):
    """`providers`."""

    providers: dict[str, Capabilities]


class Offered(Document):
    """`providers --model`: the places of which a source says that they have the model; others may have it too."""

    model: str
    offers: dict[str, Offer]


class JournalHealth(Part):
    """What `doctor` says of the journal."""

    path: str
    ok: bool
    runs: int | None
    detail: str


class ProviderHealth(Part):
    """What `doctor` says of a provider."""

    ok: bool
    detail: str
    checks: tuple[Diagnosis, ...] = ()


class SettingShown(Part):
    """Where a setting comes from."""

    name: str
    value: Any
    file: str
    hidden_by: str | None = None


class Diagnosed(Document):
    """`doctor`."""

    ok: bool
    home: str
    versions: dict[str, str]
    journal: JournalHealth
    providers: dict[str, ProviderHealth]
    settings: tuple[SettingShown, ...]
    retiring: tuple[Retirement, ...]
    rebuilt: dict[str, Any] | None = None


class Rehearsal(Document):
    """`sandbox` without a command: the variables to export, and where each provider is served."""

    env: dict[str, str]
    origins: dict[str, str]


class WrittenProvider(Document):
    """`provider new`."""

    files: tuple[str, ...]


DOCUMENTS: dict[str, type[Part]] = {
    "error": Failure,
    "init": Initialised,
    "lint": Linted,
    "agreement": Agreed,
    "convert": Converted,
    "check": Checked,
    "quote": Quoted,
    "submit": SubmittedRuns,
    "result": Result,
    "results": Results,
    "event": EventLine,
    "list": Listed,
    "sweep": Sweep,
    "import": Imported,
    "migrate": Migration,
    "cancel": Cancelled,
    "fetch": Fetched,
    "sample": Sampled,
    "evaluate": Measured,
    "compare": Compared,
    "providers": Places,
    "providers-model": Offered,
    "doctor": Diagnosed,
    "sandbox": Rehearsal,
    "provider-new": WrittenProvider,
}
