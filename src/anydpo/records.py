"""What the journal holds, as rows: a run is one user request, an attempt one job given to a provider for it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from anydpo.result import State

# intended: the files lie on this disk. staged: the provider has them. submitting: the create may have been sent.
# submitted: it was answered. refused: it was answered with no.
Phase: TypeAlias = Literal["intended", "staged", "submitting", "submitted", "refused"]


FOUND = "found-"  # how the id of a run begins of which only the provider's job is known


@dataclass(frozen=True)
class RunRow:
    """One user request."""

    id: str
    created: float
    name: str | None
    place: str
    target: str
    job: dict[str, Any]
    fingerprint: str
    data: dict[str, Any]
    state: State
    group: str | None = None


@dataclass(frozen=True)
class AttemptRow:
    """One job of a run at a place: its try `number`, which stage it is, and how far its dispatch has come.

    `key` is what the provider is given. A try that was refused leaves its key free, so that the next one has the same:
    whoever asks for the job again from an empty home folder finds it.
    """

    id: str
    key: str
    run: str
    number: int
    stage: Literal["sft", "dpo"]
    place: str
    plan: dict[str, Any]
    created: float
    files: list[dict[str, Any]] = field(default_factory=list)
    phase: Phase = "intended"
    staged: list[dict[str, Any]] = field(default_factory=list)
    provider_job_id: str | None = None
    state: State = State.PENDING
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    submitted: float | None = None
    finished: float | None = None


@dataclass(frozen=True)
class ChoiceRow:
    """One place of a run that may go on elsewhere: what would be sent there, and on which terms.

    `skipped` says why the place is passed over; `terms` are those of `anydpo.chain.Terms`, with the price here.
    """

    id: str
    run: str
    at: int
    place: str
    fingerprint: str
    plan: dict[str, Any]
    files: list[dict[str, Any]]
    terms: dict[str, Any]
    skipped: dict[str, Any] | None = None


class StepRow(NamedTuple):
    """When an attempt came to a phase."""

    name: str
    at: float


COLUMNS = {"attempt": tuple(AttemptRow.__dataclass_fields__), "choice": tuple(ChoiceRow.__dataclass_fields__)}
_PARSED = ("plan", "files", "staged", "error", "result")


def run_row(row: sqlite3.Row) -> RunRow:
    """Return a run as the journal has it."""
    return RunRow(
        **{name: row[name] for name in ("id", "created", "name", "place", "target", "fingerprint")},
        job=json.loads(row["job"]),
        data=json.loads(row["data"]),
        state=State(row["state"]),
        group=row["group_id"],
    )


def choice_row(row: sqlite3.Row) -> ChoiceRow:
    """Return a choice as the journal has it."""
    values: dict[str, Any] = {name: row[name] for name in COLUMNS["choice"]}
    values |= {name: json.loads(row[name]) for name in ("plan", "files", "terms")}
    return ChoiceRow(**{**values, "skipped": json.loads(row["skipped"]) if row["skipped"] else None})


def attempt_row(row: sqlite3.Row) -> AttemptRow:
    """Return an attempt as the journal has it."""
    values = {name: row[name] for name in COLUMNS["attempt"]}
    for name in _PARSED:
        values[name] = json.loads(values[name]) if values[name] else [] if name in ("files", "staged") else None
    return AttemptRow(**{**values, "state": State(values["state"])})
