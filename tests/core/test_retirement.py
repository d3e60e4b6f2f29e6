"""Runs whose model or service ends soon, by a clock that stands where the test puts it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from anydpo import cli
from anydpo.journal import Journal
from anydpo.provider import Plan
from anydpo.records import AttemptRow, RunRow
from anydpo.result import State
from anydpo.retirement import retiring
from anydpo.testing.clock import ManualClock

MINI, LAST_JOB, LAST_DAY = "gpt-4.1-mini-2025-04-14", date(2027, 1, 6), date(2027, 1, 14)


def at(year: int, month: int, day: int) -> ManualClock:
    return ManualClock(datetime(year, month, day, 12, tzinfo=UTC).timestamp())


def a_run(journal: Journal, id: str, place: str, model: str, **fields: Any) -> None:  # noqa: A002
    """Record a run as it stands once its job was made; `fields` are its state and whether it is a rehearsal."""
    state, sandbox = fields.get("state", State.SUCCEEDED), fields.get("sandbox", False)
    plan = Plan(place=place, route_reason="", model=model, format="", sandbox=sandbox)
    journal.add_run(
        RunRow(id, 1.0, "tone", place, "https://x", job={"model": model}, fingerprint=id, data={}, state=state)
    )
    row = AttemptRow(f"{id}.1.dpo", f"key-{id}", id, 1, "dpo", place, plan.model_dump(mode="json"), 1.0)
    journal.add_attempt(row)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "home")
    a_run(made, "base", "openai", MINI)
    a_run(made, "tuned", "openai", f"ft:{MINI}:org:tone:abc", state=State.RUNNING)
    a_run(made, "failed", "openai", MINI, state=State.FAILED)
    a_run(made, "rehearsal", "openai", MINI, sandbox=True)
    a_run(made, "weights", "together", "Qwen/Qwen3-8B")
    a_run(made, "here", "local", "tiny")
    a_run(made, "gone", "acme", "acme-1")
    return made


def test_what_ends_within_ninety_days_is_listed_and_the_day_before_nothing(journal: Journal) -> None:
    """90 days before 2027-01-06 is 2026-10-08."""
    assert retiring(journal, at(2026, 10, 7)) == ()
    first = retiring(journal, at(2026, 10, 8))
    assert {(row.run, row.date, row.days_left) for row in first} == {("base", LAST_JOB, 90), ("tuned", LAST_JOB, 90)}
    both = retiring(journal, at(2026, 11, 25))
    assert [(row.date, row.days_left) for row in both] == [
        (LAST_JOB, 42),
        (LAST_JOB, 42),
        (LAST_DAY, 50),
        (LAST_DAY, 50),
    ]
    assert {row.run for row in both} == {"base", "tuned"}
    assert all(MINI in row.what for row in both[2:])
    assert all(f"anydpo migrate {row.run} -p PLACE" in row.advice for row in both)


def test_what_has_ended_stays_listed(journal: Journal) -> None:
    assert min(row.days_left for row in retiring(journal, at(2027, 2, 1))) == -26


def test_doctor_shows_them(
    journal: Journal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anydpo.retirement.SystemClock", lambda: at(2026, 11, 25))
    cli.run(["doctor"])
    said = capsys.readouterr().out
    assert f"base\topenai\t{MINI}" in said
    assert "2027-01-14\t50\t`anydpo migrate base -p PLACE`" in said
    assert "rehearsal" not in said
