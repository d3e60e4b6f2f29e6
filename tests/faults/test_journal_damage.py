"""A journal that is cut, flipped, full, unwritable or newer: it opens with all it had, or refuses and says what helps."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anydpo.dispatch import Dispatch
from anydpo.errors import JournalError
from anydpo.journal import MARKER, MIGRATIONS, NAME, Journal
from anydpo.plan import prepare
from anydpo.rebuild import rebuild
from anydpo.registry import using
from anydpo.testing.clock import ManualClock
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import Service
from tests.conformance.helpers import memory_job

Contents = list[tuple[str, str, str, str | None]]
RUNS = 12


@pytest.fixture
def service() -> Service:
    return Service(clock=ManualClock())


@pytest.fixture
def home(tmp_path: Path, service: Service) -> Path:
    """A journal with twelve submitted runs."""
    folder = tmp_path / "filled"
    journal = Journal(folder)
    with using(MemoryProvider(service)):
        for seed in range(RUNS):
            job = memory_job(seed=seed, name=f"run number {seed} with a name that takes some room")
            Dispatch(journal, ManualClock()).submit(prepare(job, "memory"))
    journal.close()
    return folder


def contents(home: Path) -> Contents:
    journal = Journal(home)
    try:
        return sorted(
            (row.id, str(row.job), attempt.state.value, attempt.provider_job_id)
            for row in journal.runs()
            for attempt in journal.attempts(row.id)
        )
    finally:
        journal.close()


def damaged(home: Path, tmp_path: Path, change: Callable[[bytearray], bytes | bytearray]) -> Contents | JournalError:
    """Return what a copy of the journal, changed, opens with, or how it refuses."""
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    (copy / MARKER).write_bytes((home / MARKER).read_bytes())
    (copy / NAME).write_bytes(change(bytearray((home / NAME).read_bytes())))
    try:
        return contents(copy)
    except JournalError as exc:
        if exc.exit_code != 6 or not exc.hint:
            raise
        return exc


def test_cut_at_every_page(home: Path, tmp_path: Path) -> None:
    whole, size = contents(home), (home / NAME).stat().st_size
    pages = range(0, size, 4096)
    for length in pages:
        found = damaged(home, tmp_path, lambda data, length=length: data[:length])  # type: ignore[misc]
        assert isinstance(found, JournalError) or found == whole, length
    assert isinstance(damaged(home, tmp_path, lambda data: data), list)
    print(f"\ncut at each of {len(pages)} pages: never a run lost in silence")  # noqa: T201


def test_random_bit_flips(home: Path, tmp_path: Path) -> None:
    whole, draw = contents(home), random.Random(1)
    refused, flips = 0, 1000
    for _ in range(flips):
        at = draw.randrange((home / NAME).stat().st_size * 8)

        def flip(data: bytearray, at: int = at) -> bytearray:
            data[at // 8] ^= 1 << at % 8
            return data

        found = damaged(home, tmp_path, flip)
        assert isinstance(found, JournalError) or found == whole, at
        refused += isinstance(found, JournalError)
    assert 0 < refused < flips
    print(f"\n{flips} bit flips: {refused} refused, the others opened with everything")  # noqa: T201


def test_a_newer_schema_is_refused(home: Path) -> None:
    db = sqlite3.connect(home / NAME)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(JournalError, match="newer anydpo") as found:
        Journal(home)
    assert found.value.hint == "pip install --upgrade anydpo"


@pytest.mark.parametrize("gone", [NAME, "emptied"])
def test_a_journal_that_is_gone_is_not_begun_anew(home: Path, gone: str) -> None:
    if gone == NAME:
        (home / NAME).unlink()
    else:
        (home / NAME).write_bytes(b"")
    with pytest.raises(JournalError, match="though runs were recorded here") as found:
        Journal(home)
    assert "doctor --rebuild" in (found.value.hint or "")


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(JournalError, match="file") as found:
        Journal(tmp_path / "file" / "home")
    assert "ANYDPO_HOME" in (found.value.hint or "")
    if Path("/proc").is_dir():
        with pytest.raises(JournalError):
            Journal(Path("/proc/anydpo"))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from anydpo.errors import JournalError
from anydpo.dispatch import Dispatch
from anydpo.journal import Journal
from anydpo.plan import prepare
from anydpo.registry import using
from anydpo.testing.clock import ManualClock
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import Service
from tests.conformance.helpers import memory_job
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
home, service = Path(sys.argv[1]), Service(clock=ManualClock())
journal = Journal(home)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
sent = 0
try:
    with using(MemoryProvider(service)):
        for seed in range(200):
            Dispatch(journal, ManualClock()).submit(prepare(memory_job(seed=seed), "memory"))
            sent += 1
except JournalError as exc:
    assert "free space" in exc.hint, exc
    print(sent, len(service.jobs()))
"""


@pytest.mark.parametrize("room", [100_000, 130_000, 170_000])
def test_a_full_disk_stops_before_anything_is_sent(tmp_path: Path, room: int) -> None:
    """What was sent before the disk was full stays known; of the run that met it, nothing or a key is known."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "home"), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    sent, jobs = map(int, done.stdout.split())
    assert sent >= 1
    assert jobs - sent in (0, 1)
    journal = Journal(tmp_path / "home")
    attempts = [attempt for row in journal.runs() for attempt in journal.attempts(row.id)]
    assert len([attempt for attempt in attempts if attempt.phase == "submitted"]) == sent
    assert len([attempt for attempt in attempts if attempt.phase in ("submitting", "submitted")]) >= jobs


def test_rebuilt_from_what_can_be_read_and_what_the_provider_has(home: Path, service: Service) -> None:
    whole = contents(home)
    data = bytearray((home / NAME).read_bytes())
    at = data.index(b"run number 3")
    data[at] ^= 1
    (home / NAME).write_bytes(data)
    with pytest.raises(JournalError, match="damaged"):
        contents(home)
    with using(MemoryProvider(service)):
        told = rebuild(home, places=("memory",))
        assert told["kept"] == RUNS - 1
        assert told["found"] == 1
        assert Path(told["aside"]).is_file()
        jobs = {job for _, _, _, job in contents(home)}
        assert jobs == {job for _, _, _, job in whole}
        # the same job again finds its own, and the nameless one gives way to it
        job = memory_job(seed=3, name="run number 3 with a name that takes some room")
        assert Dispatch(Journal(home), ManualClock()).submit(prepare(job, "memory")).created is False
    assert len(service.jobs()) == RUNS
    assert {run for run, _, _, _ in contents(home)} == {run for run, _, _, _ in whole}
    again = rebuild(home, places=())
    assert (again["kept"], again["found"], again["aside"]) == (RUNS, 0, None)
