"""Several places at once: list in, list out; what goes wrong at one is that run's, and the exit code says so."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import anydpo
from anydpo.errors import CapacityUnavailable, Invalid, JobInvalid, JournalError
from anydpo.fanout import at_once
from anydpo.home import home
from anydpo.journal import journal_of
from anydpo.result import State
from anydpo.testing.clock import ManualClock
from anydpo.testing.service import Service
from tests.conformance.helpers import HEEDS_CTRL_C, Shell, memory_job
from tests.core.places import NAMES, Places
from tests.core.test_exit_codes import document, shell  # noqa: F401 - a fixture


@pytest.fixture
def places() -> Iterator[Places]:
    made = Places(ManualClock())
    with made.known():
        yield made


def test_tasks_run_at_the_same_time_and_answer_in_order() -> None:
    together = threading.Barrier(3, timeout=30)

    def task(number: int) -> int:
        together.wait()
        if number == 1:
            raise ValueError("one")
        return number

    first, second, third = at_once([lambda n=n: task(n) for n in range(3)])  # type: ignore[misc]
    assert (first, third) == (0, 2)
    assert isinstance(second, ValueError)


def test_partial_failure_is_a_result(places: Places) -> None:
    places.two.script("create", "capacity")
    runs = anydpo.submit(memory_job(), list(NAMES))
    assert [run.place for run in runs] == list(NAMES)
    assert [run.created for run in runs] == [True, False, True]
    assert [run.error is None for run in runs] == [True, False, True]
    assert isinstance(runs[1].error, CapacityUnavailable)
    result = runs[1].result()
    assert (result.state, result.error and result.error.code) == (State.FAILED, "capacity_unavailable")
    assert places.made() == [1, 0, 1]


def test_credentials_that_are_missing_at_one_place_stop_no_other(places: Places) -> None:
    places.one.script("find", "auth")
    first, second = anydpo.submit(memory_job(), ["one", "two"])
    assert first.error is not None
    assert first.error.exit_code == 3
    known = first.known()
    assert (known.state, known.error and known.error.code) == (State.PENDING, "auth_failed")
    assert second.created
    assert anydpo.submit(memory_job(), "one").created  # nothing was decided: the same attempt goes on


def test_nothing_is_sent_where_one_place_has_a_problem(places: Places) -> None:
    with pytest.raises(JobInvalid):
        anydpo.submit(memory_job(options={"two": {"prise": 1}}), list(NAMES))
    assert places.made() == [0, 0, 0]


def test_runs_asked_for_together_are_one_group(places: Places) -> None:
    runs = anydpo.submit(memory_job(), list(NAMES))
    rows = [journal_of(home()).run(run.id) for run in runs]
    assert len({row.group for row in rows}) == 1
    assert rows[0].group is not None
    anydpo.submit(memory_job(seed=1), "one")
    assert journal_of(home()).runs()[0].group is None or journal_of(home()).runs()[-1].group is not None


def test_trouble_with_our_own_journal_is_raised(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    from anydpo.dispatch import Dispatch

    def broken(*_: object, **__: object) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr(Dispatch, "submit", broken)
    with pytest.raises(JournalError):
        anydpo.submit(memory_job(), ["one", "two"])


# On the command line, where the two places are the memory provider's routes

BOTH = ("job.toml", "-p", "memory,memory/blind", "--yes", "--json")


def test_submit_tells_each_run_and_leaves_with_the_worst(shell: Shell) -> None:  # noqa: F811
    shell.service.script("create", "quota")
    done = shell("submit", *BOTH)
    runs = document("submit", done.stdout)["runs"]
    codes = sorted(str(run["error"] and run["error"]["code"]) for run in runs)
    assert codes == ["None", "quota_exceeded"]
    assert done.returncode == 4, done.stderr
    again = shell("run", *BOTH)
    assert again.returncode == 0, again.stderr
    assert [run["state"] for run in document("results", again.stdout)["runs"]] == ["succeeded", "succeeded"]


def test_run_of_several_places_prints_every_result(shell: Shell) -> None:  # noqa: F811
    shell.service.script("create", "no_answer", "no_answer")
    done = shell("run", *BOTH)
    assert done.returncode == 5, done.stderr
    assert {run["state"] for run in document("results", done.stdout)["runs"]} == {"unknown"}


def test_watch_of_several_prints_lines_of_json(shell: Shell) -> None:  # noqa: F811
    runs = [run["run"] for run in document("submit", shell("submit", *BOTH).stdout)["runs"]]
    done = shell("watch", *runs, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["run"] for line in lines} == set(runs)
    assert sum(line.get("state") == "succeeded" for line in lines) == 2
    listed = document("list", shell("list", "--json").stdout)["runs"]
    assert len({run["group"] for run in listed}) == 1
    told = shell("watch", *runs)
    assert all(f"{run} succeeded" in told.stderr for run in runs)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal: run it on Linux or macOS")
def test_a_terminal_shows_one_table_and_ctrl_c_leaves_all_of_them_running(shell: Shell) -> None:  # noqa: F811
    shell.service.set(seconds=1e6)
    runs = [run["run"] for run in document("submit", shell("submit", *BOTH).stdout)["runs"]]
    ours, theirs = pty.openpty()
    environment = {**shell.environment, "COLUMNS": "120", "TERM": "xterm"}
    command = [sys.executable, "-c", HEEDS_CTRL_C, "watch", *runs]
    with subprocess.Popen(command, cwd=shell.folder, env=environment, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"running") < 2 or any(run.encode() not in shown for run in runs):
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal is gone when the process is
            while more := os.read(ours, 4096):
                shown += more
    os.close(ours)
    assert process.returncode == 130
    assert f"come back: anydpo watch {' '.join(runs)}".encode() in shown
    assert {str(shell.service.state(job["id"])) for job in shell.service.jobs()} == {"running"}


def test_fallback_on_the_command_line(shell: Shell) -> None:  # noqa: F811
    shell.service.script("create", "quota")
    arguments = ("submit", "job.toml", "-p", "memory", "--fallback", "memory/blind", "--json")
    refused = shell(*arguments)
    assert refused.returncode == 2
    assert "memory, memory/blind is paid for" in document("error", refused.stdout)["error"]["message"]
    done = shell(*arguments, "--yes")
    assert done.returncode == 0, done.stderr
    (run,) = document("submit", done.stdout)["runs"]
    assert run["place"] == "memory/blind"
    assert [attempt["error"] and attempt["error"]["code"] for attempt in run["attempts"]] == ["quota_exceeded", None]
    result = document("result", shell("wait", run["run"], "--json").stdout)
    assert [attempt["place"] for attempt in result["attempts"]] == ["memory", "memory/blind"]
    assert document("submit", shell(*arguments).stdout)["runs"][0]["created"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-p", "memory,memory/blind", "--fallback", "local"), "after at most one first place"),
        (("-p", "memory", "--max-wait", "3"), "there is no place to go on with"),
        (("--fallback", "memory,nowhere"), "no provider 'nowhere'"),
        (("-p", "memory", "--fallback", "memory/blind,memory/blind"), "is there twice"),
    ],
)
def test_wrong_flags_of_a_fallback(shell: Shell, arguments: tuple[str, ...], said: str) -> None:  # noqa: F811
    done = shell("submit", "job.toml", *arguments, "--json")
    assert done.returncode == 2, done.stderr
    assert said in document("error", done.stdout)["error"]["message"]


def test_a_cap_refuses_a_fallback_with_nothing_sent(shell: Shell) -> None:  # noqa: F811
    done = shell("submit", "job.toml", "--fallback", "memory,memory/blind", "--max-cost-usd", "0.001", "--json")
    assert done.returncode == 7
    assert shell.service.requests("create") == 0


def test_one_of_several_that_cannot_be_asked_keeps_its_state(places: Places) -> None:
    from anydpo.handle import watch_all

    runs = anydpo.submit(memory_job(), ["one", "two"])
    places.one.script("poll", *["refuse"] * 3)
    for service in (places.two,):
        service.end(service.jobs()[0]["id"], State.SUCCEEDED)
    seen = [(run.place, found) for run, found in watch_all(runs)]
    errors = [found for place, found in seen if place == "one"]
    assert isinstance(errors[-1], anydpo.AnyDPOError)
    assert runs[1].state is State.SUCCEEDED
    assert isinstance(places.one, Service)
    with pytest.raises(Invalid):
        anydpo.submit(memory_job(), [], fallback=[])  # type: ignore[call-overload]


@pytest.mark.parametrize(("seconds", "code"), [(9000.0, 2), (None, 2), (30.0, 0)])
def test_hours_of_this_cpu_in_the_place_of_a_cloud_need_a_yes(
    places: Places,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float | None,
    code: int,
) -> None:
    from anydpo import spend
    from anydpo.cli import run
    from anydpo.provider import Quote
    from anydpo.result import Cost

    (tmp_path / "prefs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 4)
    free = Quote(cost=Cost(amount=0.0, basis="nothing is billed here"), seconds=seconds)
    monkeypatch.setattr(spend, "estimate_of", lambda _: free)
    job = ["--model", "tiny", "--data", str(tmp_path / "prefs.jsonl"), "--fallback", "one,local"]
    assert run(["submit", *job, "--max-cost-usd", "5"]) == code
    said = capsys.readouterr().err
    if code:
        how_long = "about 2 h 30 min" if seconds else "for a time that is not known"
        assert f"local would train on the CPU, {how_long}" in said
        assert places.made() == [0, 0, 0]
        assert run(["submit", *job, "--yes"]) == 0
    assert places.made() == [1, 0, 0]
