"""Making a journal again: what can still be read of a damaged one, and the runs that providers have of us."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anydpo.errors import AnyDPOError, JournalError
from anydpo.journal import MARKER, NAME, Journal, checksum
from anydpo.provider import CanList, JobRef, Plan, Provider
from anydpo.records import FOUND, AttemptRow, RunRow, attempt_row, choice_row, run_row
from anydpo.registry import installed, provider


def rebuild(home: Path, places: Sequence[str] | None = None) -> dict[str, Any]:
    """Ask these providers, or all that are installed, and return what came of it: `kept` and `found` runs,
    `aside` the damaged file, `not_asked` providers.

    A sound journal stays as it is; only what it does not know is added.
    """
    aside = None
    try:
        journal = Journal(home)
        for row in journal.runs():
            journal.attempts(row.id)
    except JournalError as exc:
        if "newer anydpo" in exc.message:
            raise
        aside = _put_aside(home)
        journal = Journal(home)
        if aside is not None:
            _keep(aside, journal)
    kept = len(journal.runs())
    found, not_asked = _find(journal, list(installed()) if places is None else places)
    return {"kept": kept, "found": found, "aside": str(aside) if aside else None, "not_asked": not_asked}


def _put_aside(home: Path) -> Path | None:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    (home / MARKER).unlink(missing_ok=True)
    for suffix in ("-wal", "-shm", ""):
        path = home / f"{NAME}{suffix}"
        if path.exists():
            path.rename(home / f"{NAME}.damaged-{stamp}{suffix}")
    aside = home / f"{NAME}.damaged-{stamp}"
    return aside if aside.exists() else None


def _keep(damaged: Path, journal: Journal) -> None:
    """Copy every whole row, a run before its attempts."""
    known: set[str] = set()
    choices = [choice_row(row) for row in _whole_rows(damaged, "choice")]
    for row in _whole_rows(damaged, "run"):
        run = run_row(row)
        if run.id not in known:
            known.add(run.id)
            journal.add_run(run, [choice for choice in choices if choice.run == run.id])
    seen: set[str] = set()
    for row in _whole_rows(damaged, "attempt"):
        attempt = attempt_row(row)
        if attempt.run in known and attempt.id not in seen:
            seen.add(attempt.id)
            journal.add_attempt(attempt)


def _whole_rows(path: Path, table: str) -> Iterator[sqlite3.Row]:
    """Yield each row of a damaged file that can be read and has its checksum, in order, passing over the others."""
    db = sqlite3.connect(path)
    db.row_factory = sqlite3.Row
    try:
        top = db.execute(f"SELECT max(rowid) AS top FROM {table}").fetchone()["top"] or 0
    except (sqlite3.Error, UnicodeError, TypeError):
        top = 10_000
    for number in range(1, min(int(top), 1_000_000) + 1):
        try:
            row = db.execute(f"SELECT * FROM {table} WHERE rowid = ?", (number,)).fetchone()
            if row is not None and row["sum"] == checksum(row):
                yield row
        except (sqlite3.Error, UnicodeError, IndexError):
            continue
    db.close()


def _find(journal: Journal, places: Sequence[str]) -> tuple[int, list[str]]:
    found, not_asked = 0, []
    for name in places:
        try:
            place = provider(name)
            if not isinstance(place, CanList):
                not_asked.append(f"{name} (cannot list its jobs)")
                continue
            for key, ref in place.found():
                if not journal.holding(key):
                    _add(journal, place, key, ref)
                    found += 1
        except AnyDPOError as exc:
            not_asked.append(f"{name} ({exc.message})")
    return found, not_asked


def _add(journal: Journal, place: Provider, key: str, ref: JobRef) -> None:
    """Record a job whose request is not known; the same job submitted again takes its place."""
    run = FOUND + hashlib.sha256(key.encode()).hexdigest()[:8]
    state, now = place.poll(ref).state, time.time()
    plan = Plan(place=ref.place, route_reason="found again at the provider", format="")
    journal.add_run(
        RunRow(id=run, created=now, name=None, place=ref.place, target="", job={}, fingerprint="", data={}, state=state)
    )
    attempt = AttemptRow(
        id=f"{run}.1.dpo",
        key=key,
        run=run,
        number=1,
        stage="dpo",
        place=ref.place,
        plan=plan.model_dump(mode="json"),
        created=now,
        phase="submitted",
        provider_job_id=ref.id,
        state=state,
        submitted=now,
    )
    journal.add_attempt(attempt)
