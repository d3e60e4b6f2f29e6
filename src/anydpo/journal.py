"""What we meant to do, written down before we do it: runs, their attempts, and each attempt's steps, in sqlite.

One process at a time acts for a run, under a lock that the kernel releases when the process dies. Secrets are never
written: plans and requests reach the journal masked. Every row carries a checksum, so that a damaged one is refused
and never taken for another truth.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anydpo.errors import JournalError
from anydpo.locks import held
from anydpo.records import (
    COLUMNS,
    AttemptRow,
    ChoiceRow,
    Phase,
    RunRow,
    StepRow,
    attempt_row,
    choice_row,
    run_row,
)
from anydpo.result import State

NAME, MARKER = "journal.db", "journal.id"
DONE = ("succeeded", "failed", "cancelled")

# Each entry is one schema version, applied in order; an entry never changes once released.
MIGRATIONS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE "group" (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, created REAL NOT NULL, request TEXT NOT NULL
    ) STRICT;
    CREATE TABLE run (
        id TEXT PRIMARY KEY, created REAL NOT NULL, name TEXT, place TEXT NOT NULL, target TEXT NOT NULL,
        job TEXT NOT NULL, fingerprint TEXT NOT NULL, data TEXT NOT NULL, state TEXT NOT NULL,
        group_id TEXT REFERENCES "group" (id), sum TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE TABLE attempt (
        id TEXT PRIMARY KEY, key TEXT NOT NULL, run TEXT NOT NULL REFERENCES run (id), number INTEGER NOT NULL,
        stage TEXT NOT NULL,
        place TEXT NOT NULL, plan TEXT NOT NULL, files TEXT NOT NULL, phase TEXT NOT NULL, staged TEXT,
        provider_job_id TEXT, state TEXT NOT NULL, error TEXT, result TEXT,
        created REAL NOT NULL, submitted REAL, finished REAL, sum TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX attempt_of_run ON attempt (run, number);
    CREATE INDEX attempt_of_key ON attempt (key);
    CREATE TABLE step (
        id INTEGER PRIMARY KEY, attempt TEXT NOT NULL REFERENCES attempt (id), name TEXT NOT NULL,
        at REAL NOT NULL, detail TEXT NOT NULL DEFAULT ''
    ) STRICT;
    """,
    """
    ALTER TABLE "group" ADD COLUMN sum TEXT NOT NULL DEFAULT '';
    """,
    """
    CREATE TABLE choice (
        id TEXT PRIMARY KEY, run TEXT NOT NULL REFERENCES run (id), at INTEGER NOT NULL, place TEXT NOT NULL,
        fingerprint TEXT NOT NULL, plan TEXT NOT NULL, files TEXT NOT NULL, terms TEXT NOT NULL, skipped TEXT,
        sum TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX choice_of_run ON choice (run, at);
    """,
)


class Journal:
    """The record of one home folder. Raises `JournalError` with a way to repair it; it is never silently empty."""

    def __init__(self, home: Path) -> None:
        self.home, self.path = home, home / NAME
        self._guard = threading.RLock()
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            with held(home / "journal.lock"):
                self._db = self._open()
        except (sqlite3.Error, UnicodeError) as exc:
            raise self._broken(exc) from exc
        except OSError as exc:
            raise JournalError(
                f"{self.path}: {exc.strerror or exc}", hint="check the folder's rights, or set ANYDPO_HOME to another"
            ) from exc

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextmanager
    def acting(self, run: str, *, wait: bool = True) -> Iterator[bool]:
        """Let this process alone act for a run; with `wait=False` yield whether it may."""
        folder = self.home / "locks"
        folder.mkdir(exist_ok=True)
        with held(folder / f"{run}.lock", wait=wait) as mine:
            yield mine

    def add_run(self, row: RunRow, choices: Sequence[ChoiceRow] = ()) -> None:
        """Record a request, and with it the places at which it may be met, in order."""
        values = {
            **{name: getattr(row, name) for name in ("id", "created", "name", "place", "target", "fingerprint")},
            "job": _text(row.job),
            "data": _text(row.data),
            "state": row.state.value,
        }
        with self._transaction():
            self._insert("run", values)
            for choice in choices:
                self._insert("choice", {name: _column(getattr(choice, name)) for name in COLUMNS["choice"]})

    def set_terms(self, run: str, terms: Sequence[dict[str, Any]]) -> None:
        """Record on which terms a run may go on at each of its places, as the latest request has them."""
        with self._transaction():
            for choice, said in zip(self.choices(run), terms, strict=True):
                self._update("choice", choice.id, {"terms": said})

    def add_attempt(self, row: AttemptRow) -> None:
        """Record an attempt that is intended, before anything of it is sent; the run is where its latest attempt is."""
        with self._transaction():
            (run,) = self._ask("SELECT place FROM run WHERE id = ?", (row.run,))
            if run["place"] != row.place:
                self._update("run", row.run, {"place": row.place})
            self._insert("attempt", {name: _column(getattr(row, name)) for name in COLUMNS["attempt"]})
            self._note(row.id, row.phase, row.created)

    def step(
        self,
        attempt: str,
        phase: Phase,
        at: float,
        *,
        state: State | None = None,
        of_run: State | None = None,
        **values: Any,
    ) -> None:
        """Move an attempt to a phase, and with it the run to a state, and note when; `values` are columns to set."""
        with self._transaction():
            self._update("attempt", attempt, {"phase": phase, **values})
            self._note(attempt, phase, at)
            if state is not None:
                self._set_state(attempt, state, of_run or state, {})

    def note(self, attempt: str, name: str, at: float) -> None:
        """Note that something was begun for an attempt which leaves its phase as it is."""
        with self._transaction():
            self._note(attempt, name, at)

    def observe(self, attempt: str, state: State, *, of_run: State | None = None, **values: Any) -> bool:
        """Record a state and say whether it counts: a terminal one is never overwritten.

        `of_run` is what it means for the run, where that is something else.
        """
        with self._transaction():
            return self._set_state(attempt, state, of_run or state, values)

    def run(self, prefix: str) -> RunRow:
        """Return the run whose id, or whose name, this is or begins with."""
        like = prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        rows = self._ask("SELECT * FROM run WHERE id LIKE ? || '%' ESCAPE '\\' OR name = ?", (like, prefix))
        exact = [row for row in rows if row["id"] == prefix]
        if len(exact or rows) == 1:
            return run_row(self._checked("run", (exact or rows)[0]))
        if rows:
            raise JournalUnknown(f"{prefix!r} fits {len(rows)} runs: {', '.join(row['id'] for row in rows[:5])}")
        raise JournalUnknown(f"no run {prefix!r}", hint="`anydpo list` shows the runs of this home folder")

    def known(self, run: str) -> RunRow | None:
        """Return the run of exactly this id, None where there is none."""
        rows = self._ask("SELECT * FROM run WHERE id = ?", (run,))
        return run_row(self._checked("run", rows[0])) if rows else None

    def runs(self) -> list[RunRow]:
        """Return all runs, the newest first."""
        rows = self._ask("SELECT * FROM run ORDER BY created DESC, id", ())
        return [run_row(self._checked("run", row)) for row in rows]

    def attempts(self, run: str) -> list[AttemptRow]:
        """Return a run's attempts in the order in which they were made."""
        rows = self._ask("SELECT * FROM attempt WHERE run = ? ORDER BY number, rowid", (run,))
        return [attempt_row(self._checked("attempt", row)) for row in rows]

    def choices(self, run: str) -> list[ChoiceRow]:
        """Return the places at which a run may be met, in order; none for one that was asked for at one place."""
        rows = self._ask("SELECT * FROM choice WHERE run = ? ORDER BY at", (run,))
        return [choice_row(self._checked("choice", row)) for row in rows]

    def attempt(self, id: str) -> AttemptRow:  # noqa: A002
        """Return the attempt of this id."""
        (row,) = self._ask("SELECT * FROM attempt WHERE id = ?", (id,))
        return attempt_row(self._checked("attempt", row))

    def holding(self, key: str) -> list[AttemptRow]:
        """Return the attempts that were given this key."""
        rows = self._ask("SELECT * FROM attempt WHERE key = ? ORDER BY rowid", (key,))
        return [attempt_row(self._checked("attempt", row)) for row in rows]

    def of_job(self, provider_job_id: str) -> list[AttemptRow]:
        """Return the attempts whose job has this id at its provider."""
        rows = self._ask("SELECT * FROM attempt WHERE provider_job_id = ? ORDER BY rowid", (provider_job_id,))
        return [attempt_row(self._checked("attempt", row)) for row in rows]

    def group(self, id: str) -> dict[str, Any] | None:  # noqa: A002
        """Return what was asked for as a group, None where there is none of this id."""
        rows = self._ask('SELECT * FROM "group" WHERE id = ?', (id,))
        return dict(json.loads(self._checked("group", rows[0])["request"])) if rows else None

    def keep_group(self, id: str, kind: str, at: float, request: dict[str, Any], runs: Sequence[str] = ()) -> None:  # noqa: A002
        """Record a group, or what is known of it by now, and which runs belong to it."""
        with self._transaction():
            if self._ask('SELECT id FROM "group" WHERE id = ?', (id,)):
                self._update("group", id, {"request": request})
            else:
                self._insert("group", {"id": id, "kind": kind, "created": at, "request": _text(request)})
            for run in runs:
                self._update("run", run, {"group_id": id})

    def forget(self, run: str) -> None:
        """Remove a run that `doctor --rebuild` had found without its job, once the job itself is known."""
        with self._transaction():
            self._db.execute("DELETE FROM step WHERE attempt IN (SELECT id FROM attempt WHERE run = ?)", (run,))
            self._db.execute("DELETE FROM attempt WHERE run = ?", (run,))
            self._db.execute("DELETE FROM choice WHERE run = ?", (run,))
            self._db.execute("DELETE FROM run WHERE id = ?", (run,))

    def steps(self, attempt: str) -> list[StepRow]:
        """Return the steps of an attempt, the first first."""
        rows = self._ask("SELECT name, at FROM step WHERE attempt = ? ORDER BY id", (attempt,))
        return [StepRow(row["name"], row["at"]) for row in rows]

    def _open(self) -> sqlite3.Connection:
        marker = self.home / MARKER
        made = marker.read_text("utf-8").strip() if marker.exists() else None
        if made and (not self.path.exists() or self.path.stat().st_size == 0):
            raise JournalError(
                f"{self.path} is {'empty' if self.path.exists() else 'gone'}, though runs were recorded here",
                hint=f"restore it, or `anydpo doctor --rebuild` to find runs again; delete {marker} to begin anew",
            )
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=60, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "recursive_triggers=OFF"):
            self._db.execute(f"PRAGMA {setting}")
        self._migrate()
        (said,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if said != "ok":
            raise sqlite3.DatabaseError(said)
        found = self._db.execute("SELECT value FROM meta WHERE name = 'id'").fetchone()
        identity = found["value"] if found else self._name_itself()
        if made is not None and made != identity:
            raise JournalError(
                f"{self.path} is not the journal of this folder ({identity} instead of {made})",
                hint=f"restore the right one, or delete {marker} to go on with this one",
            )
        if made is None:
            marker.write_text(identity + "\n", "utf-8")
        return self._db

    def _name_itself(self) -> str:
        identity = uuid.uuid4().hex
        self._db.execute("INSERT INTO meta VALUES ('id', ?)", (identity,))
        return identity

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise JournalError(
                f"{self.path} was written by a newer anydpo (schema {version}, this one knows {len(MIGRATIONS)})",
                hint="pip install --upgrade anydpo",
            )
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {number}; COMMIT;")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._guard:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
                # Into the main file at once: damage to the log beside it can then cost nothing that was recorded
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except sqlite3.Error as exc:
                raise self._broken(exc) from exc

    def _insert(self, table: str, values: dict[str, Any]) -> None:
        names = ", ".join(values)
        self._db.execute(
            f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(values))})', tuple(values.values())
        )
        self._seal(table, values["id"])

    def _update(self, table: str, name: str, values: dict[str, Any]) -> None:
        for row in self._ask(f'SELECT * FROM "{table}" WHERE id = ?', (name,)):
            self._checked(table, row)  # damage must not be sealed in
        assignments = ", ".join(f"{column} = ?" for column in values)
        changed = (*(_column(value) for value in values.values()), name)
        self._db.execute(f'UPDATE "{table}" SET {assignments} WHERE id = ?', changed)
        self._seal(table, name)

    def _seal(self, table: str, name: str) -> None:
        (row,) = self._ask(f'SELECT * FROM "{table}" WHERE id = ?', (name,))
        self._db.execute(f'UPDATE "{table}" SET sum = ? WHERE id = ?', (checksum(row), name))

    def _set_state(self, attempt: str, state: State, of_run: State, values: dict[str, Any]) -> bool:
        (found,) = self._ask("SELECT run, state FROM attempt WHERE id = ?", (attempt,))
        if found["state"] in DONE:
            return False
        self._update("attempt", attempt, {"state": state, **values})
        self._update("run", found["run"], {"state": of_run})
        return True

    def _note(self, attempt: str, name: str, at: float) -> None:
        self._db.execute("INSERT INTO step (attempt, name, at) VALUES (?, ?, ?)", (attempt, name, at))

    def _ask(self, statement: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        with self._guard:
            try:
                return self._db.execute(statement, values).fetchall()
            except (sqlite3.Error, UnicodeError) as exc:
                raise self._broken(exc) from exc

    def _checked(self, table: str, row: sqlite3.Row) -> sqlite3.Row:
        if row["sum"] != checksum(row):
            raise self._broken(sqlite3.DatabaseError(f"a row of {table} is damaged"))
        return row

    def _broken(self, exc: Exception) -> JournalError:
        said = str(exc)
        trouble = any(word in said for word in ("full", "readonly", "read-only", "unable to open", "locked", "I/O"))
        hint = (
            "check the folder's rights and free space, or set ANYDPO_HOME to another"
            if trouble
            else "restore a copy, or `anydpo doctor --rebuild` keeps what can be read and finds the rest again"
        )
        return JournalError(f"{self.path}: {said}", hint=hint)


_OPENED: dict[tuple[Path, int], Journal] = {}


def journal_of(home: Path) -> Journal:
    """Return the journal of a home folder, opened once a process."""
    at = (home, os.getpid())
    if at not in _OPENED or not _OPENED[at].path.exists():
        _OPENED[at] = Journal(home)
    return _OPENED[at]


class JournalUnknown(JournalError):
    """The journal has no such run; the user named it wrongly."""

    code, exit_code = "unknown_run", 2


def checksum(row: sqlite3.Row) -> str:
    """Return the checksum of a row's columns: what it says, whichever way sqlite stores it."""
    values = [(name, row[name]) for name in row.keys() if name != "sum"]  # noqa: SIM118 - a Row's names
    return hashlib.blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _column(value: Any) -> Any:
    if isinstance(value, (dict, list, tuple)):
        return _text(value)
    return value.value if isinstance(value, State) else value


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
