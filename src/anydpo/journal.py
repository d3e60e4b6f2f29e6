"""What we meant to do, written down before we do it: runs, their attempts, and each attempt's steps, in sqlite.

One process at a time acts for a run, under a lock that the kernel releases when the process dies. Secrets are never
written: plans and requests reach the journal masked.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from anydpo.errors import JournalError
from anydpo.result import State

# Each entry is one schema version, applied in order; an entry never changes once released.
MIGRATIONS = (
    """
    CREATE TABLE "group" (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, created REAL NOT NULL, request TEXT NOT NULL
    ) STRICT;
    CREATE TABLE run (
        id TEXT PRIMARY KEY, created REAL NOT NULL, name TEXT, place TEXT NOT NULL, target TEXT NOT NULL,
        job TEXT NOT NULL, fingerprint TEXT NOT NULL, data TEXT NOT NULL, state TEXT NOT NULL,
        group_id TEXT REFERENCES "group" (id)
    ) STRICT;
    CREATE TABLE attempt (
        key TEXT PRIMARY KEY, run TEXT NOT NULL REFERENCES run (id), number INTEGER NOT NULL,
        place TEXT NOT NULL, stage TEXT NOT NULL, plan TEXT NOT NULL, phase TEXT NOT NULL, staged TEXT,
        provider_job_id TEXT, state TEXT NOT NULL, cursor TEXT NOT NULL DEFAULT '', error TEXT, result TEXT,
        created REAL NOT NULL, submitted REAL, started REAL, finished REAL
    ) STRICT;
    CREATE INDEX attempt_of_run ON attempt (run, number);
    CREATE TABLE step (
        id INTEGER PRIMARY KEY, attempt TEXT NOT NULL REFERENCES attempt (key), name TEXT NOT NULL,
        at REAL NOT NULL, detail TEXT NOT NULL DEFAULT ''
    ) STRICT;
    """,
)


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


@dataclass(frozen=True)
class AttemptRow:
    """One try of a run at a place. `phase` is intended, staged, submitting or submitted."""

    key: str
    run: str
    number: int
    place: str
    stage: str
    plan: dict[str, Any]
    phase: str
    staged: list[dict[str, Any]]
    provider_job_id: str | None
    state: State
    cursor: str
    error: dict[str, Any] | None
    result: dict[str, Any] | None
    created: float
    submitted: float | None
    started: float | None
    finished: float | None


class Journal:
    """The record of one home folder. Raises `JournalError` with a way to repair it; it is never silently empty."""

    def __init__(self, home: Path) -> None:
        self.home = home
        path = home / "journal.db"
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._migrate(path)
        except (OSError, sqlite3.Error) as exc:
            raise JournalError(
                f"{path}: {exc}", hint="check the folder's rights and free space, or set ANYDPO_HOME to another one"
            ) from exc

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextmanager
    def acting(self, run: str) -> Iterator[None]:
        """Wait until this process alone acts for a run."""
        folder = self.home / "locks"
        folder.mkdir(exist_ok=True)
        with (folder / f"{run}.lock").open("w") as file:
            _lock(file)
            yield

    def add_run(self, row: RunRow) -> None:
        """Record a request."""
        self._do(
            "INSERT INTO run (id, created, name, place, target, job, fingerprint, data, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row.id, row.created, row.name, row.place, row.target),
                *(_text(row.job), row.fingerprint, _text(row.data), row.state),
            ),
        )

    def add_attempt(self, key: str, run: str, number: int, plan: dict[str, Any], at: float) -> None:
        """Record an attempt that is intended, before anything of it is sent."""
        self._do(
            "INSERT INTO attempt (key, run, number, place, stage, plan, phase, state, created) "
            "VALUES (?, ?, ?, ?, 'dpo', ?, 'intended', 'pending', ?)",
            (key, run, number, plan["place"], _text(plan), at),
        )

    def step(self, key: str, phase: str, at: float, **values: Any) -> None:
        """Move an attempt to a phase and note when; `values` are columns to set with it."""
        columns = {name: _text(v) if isinstance(v, (dict, list)) else v for name, v in values.items()}
        assignments = "".join(f", {name} = ?" for name in columns)
        with self._transaction():
            self._db.execute(
                f"UPDATE attempt SET phase = ?{assignments} WHERE key = ?", (phase, *columns.values(), key)
            )
            self._db.execute("INSERT INTO step (attempt, name, at) VALUES (?, ?, ?)", (key, phase, at))

    def observe(self, key: str, run: str, state: State, **values: Any) -> None:
        """Record a state that the provider reported; a terminal state is never overwritten."""
        columns = {name: _text(v) if isinstance(v, (dict, list)) else v for name, v in values.items()}
        assignments = "".join(f", {name} = ?" for name in columns)
        done = ("succeeded", "failed", "cancelled")
        with self._transaction():
            changed = self._db.execute(
                f"UPDATE attempt SET state = ?{assignments} WHERE key = ? AND state NOT IN (?, ?, ?)",
                (state, *columns.values(), key, *done),
            ).rowcount
            if changed:
                self._db.execute("UPDATE run SET state = ? WHERE id = ?", (state, run))

    def run(self, prefix: str) -> RunRow:
        """Return the run whose id, or whose name, this is or begins with."""
        rows = self._ask("SELECT * FROM run WHERE id LIKE ? || '%' OR name = ?", (prefix, prefix))
        exact = [row for row in rows if row["id"] == prefix]
        if len(exact or rows) == 1:
            return _run_row((exact or rows)[0])
        if rows:
            raise JournalUnknown(f"{prefix!r} fits {len(rows)} runs: {', '.join(row['id'] for row in rows[:5])}")
        raise JournalUnknown(f"no run {prefix!r}", hint="`anydpo list` shows the runs of this home folder")

    def known(self, run: str) -> RunRow | None:
        """Return the run of exactly this id, None where there is none."""
        rows = self._ask("SELECT * FROM run WHERE id = ?", (run,))
        return _run_row(rows[0]) if rows else None

    def runs(self) -> list[RunRow]:
        """Return all runs, the newest first."""
        return [_run_row(row) for row in self._ask("SELECT * FROM run ORDER BY created DESC, id", ())]

    def attempts(self, run: str) -> list[AttemptRow]:
        """Return a run's attempts, the first first."""
        return [_attempt_row(row) for row in self._ask("SELECT * FROM attempt WHERE run = ? ORDER BY number", (run,))]

    def _migrate(self, path: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise JournalError(
                f"{path} was written by a newer anydpo (schema {version}, this one knows {len(MIGRATIONS)})",
                hint="pip install --upgrade anydpo",
            )
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {number}; COMMIT;")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc

    def _do(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._transaction():
            self._db.execute(statement, values)

    def _ask(self, statement: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc

    def _broken(self, exc: sqlite3.Error) -> JournalError:
        return JournalError(f"{self.home / 'journal.db'}: {exc}", hint="check the folder's rights and free space")


class JournalUnknown(JournalError):
    """The journal has no such run; the user named it wrongly."""

    code, exit_code = "unknown_run", 2


def _run_row(row: sqlite3.Row) -> RunRow:
    return RunRow(
        **{name: row[name] for name in ("id", "created", "name", "place", "target", "fingerprint")},
        job=json.loads(row["job"]),
        data=json.loads(row["data"]),
        state=State(row["state"]),
    )


def _attempt_row(row: sqlite3.Row) -> AttemptRow:
    values = {name: row[name] for name in AttemptRow.__dataclass_fields__}
    for name in ("plan", "error", "result"):
        values[name] = json.loads(values[name]) if values[name] else None
    values["staged"] = json.loads(values["staged"]) if values["staged"] else []
    return AttemptRow(**{**values, "state": State(values["state"])})


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)
