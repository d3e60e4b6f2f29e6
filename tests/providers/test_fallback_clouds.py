"""OpenAI says not eligible, Together is out of quota, this machine trains: the real SDKs against their sandboxes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import dispatch, fallback, journal, sender, watcher
from anydpo.chain import Chain, chain_of
from anydpo.dispatch import Dispatch
from anydpo.errors import AnyDPOError
from anydpo.journal import Journal
from anydpo.result import State
from anydpo.sandbox import Sandbox, serve
from anydpo.testing.clock import ManualClock
from anydpo.testing.kill import dies_at, tracing
from tests.faults.test_kill_points import TRAINER, count_lines, in_child
from tests.providers.clouds import a_job

PLACES = ("openai", "together", "local")
MODELS = {"openai": "gpt-4.1-mini-2025-04-14", "together": "Qwen/Qwen3-8B", "default": "tiny"}
REFUSED = (
    {"fault": "not_eligible", "provider": "openai"},
    {"fault": "insufficient_quota", "provider": "together"},
)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with serve(trainer="instant", steps=4, providers=["openai", "together"], folder=tmp_path / "box") as made:
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        yield made


def jobs_at(box: Sandbox, name: str) -> list[Any]:
    service: Any = box.services[name]
    return list(service.jobs.all())


def test_not_eligible_then_out_of_quota_then_local_finishes(box: Sandbox) -> None:
    box.break_(*REFUSED)
    job = a_job(model=MODELS, max_steps=2, allow_ignored=["max_steps"])
    run = anydpo.submit(job, fallback=list(PLACES))
    assert (run.place, run.created) == ("local", True)
    result = run.wait()
    assert (result.state, result.place, result.sandbox) == (State.SUCCEEDED, "local", False)
    history = [(each.place, each.error.code if each.error else None) for each in result.attempts]
    assert history == [("openai", "not_eligible"), ("together", "quota_exceeded"), ("local", None)]
    assert all(each.when for each in result.attempts)
    assert "other_base" not in {notice.code for notice in result.warnings}  # tiny is this table's default
    assert jobs_at(box, "openai") == jobs_at(box, "together") == []
    again = anydpo.submit(job, fallback=list(PLACES))
    assert (again.id, again.created) == (run.id, False)
    assert len(box.requests("openai", "create")) == len(box.requests("together", "create")) == 1


def test_a_run_that_a_provider_broke_goes_on_and_says_that_its_base_is_another(box: Sandbox) -> None:
    box.break_({"fault": "job_fails", "provider": "openai", "code": "server_error", "message": "A node was lost."})
    run = anydpo.submit(a_job(), fallback=["openai", "together"])
    assert run.place == "openai"
    assert run.remaining == ("together, if need be",)
    result = run.wait()
    assert (result.state, result.place) == (State.SUCCEEDED, "together")
    first = result.attempts[0].error
    assert first is not None
    assert (first.code, first.message) == ("provider_fault", "A node was lost.")
    assert [job.state for job in jobs_at(box, "openai")] == ["failed"]
    assert [job.state for job in jobs_at(box, "together")] == ["succeeded"]
    other = anydpo.submit(a_job(seed=5), "openai").wait()
    assert "other_base" in {notice.code for notice in other.warnings}


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL: run it on Linux or macOS")
def test_killed_at_every_step_over_http(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """The same three places, and the process is killed: one run, one job here, none left anywhere else."""
    import_module("openai")
    import_module("together")
    box.break_(*REFUSED)
    python = tmp_path / "python"
    python.write_text(TRAINER)  # stands for the trainer, so that many deaths take seconds
    python.chmod(0o755)
    own = ("openai", "together", "local")
    modules = (dispatch, sender, fallback, journal, watcher, *(import_module(f"anydpo_{n}.provider") for n in own))
    options = {"local": {"python": str(python)}}

    def chain() -> Chain:
        return chain_of(a_job(model=MODELS, options=options), PLACES).or_raise()

    def carry_out(home: Path) -> None:
        monkeypatch.setenv("ANYDPO_HOME", str(home))
        at = Dispatch(Journal(home), ManualClock())
        try:
            list(at.watch(at.submit(chain()).run))
        finally:
            at.journal.close()

    lines = count_lines(lambda: carry_out(tmp_path / "h0"), modules)
    points = range(1, lines + 1, max(1, lines // (60 if full else 5)))
    killed = 0
    for last in points:
        home = tmp_path / f"h{last}"

        def die(home: Path = home, last: int = last) -> None:
            with tracing(modules, dies_at(last)):
                carry_out(home)

        killed += in_child(die) == signal.SIGKILL
        for _ in range(3):
            try:
                carry_out(home)
                break
            except AnyDPOError:
                continue
        known = Journal(home)
        (run,) = known.runs()
        assert run.state is State.SUCCEEDED, last
        assert len(list((home / "local").glob("anydpo-*"))) == 1, last
        assert [each.place for each in known.attempts(run.id)] == list(PLACES), last
        assert jobs_at(box, "openai") == jobs_at(box, "together") == [], last
        known.close()
        shutil.rmtree(home)
    assert killed >= len(points) - 1
    assert os.environ["OPENAI_BASE_URL"].startswith("http://127.0.0.1")
    print(f"\nthree places over HTTP: killed at {killed} of {lines} lines, 0 duplicates, 0 lost, nothing left running")  # noqa: T201
