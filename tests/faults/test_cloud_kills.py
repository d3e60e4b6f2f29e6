"""SIGKILL while a cloud's adapter works, with the real SDK over HTTP: never two jobs, never one that is lost."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from anydpo import adapter, dispatch, journal, outgoing, watcher
from anydpo.dispatch import Dispatch
from anydpo.journal import Journal
from anydpo.plan import prepare
from anydpo.registry import provider, using
from anydpo.sandbox import Sandbox, serve
from anydpo.testing.clock import ManualClock
from anydpo.testing.kill import dies_at, tracing
from tests.providers.clouds import PLACES, a_job

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL: run it on Linux or macOS")

CORE = (dispatch, journal, watcher, outgoing, adapter)
PATIENCE = 60  # seconds after which a forked process that hangs ends itself


@pytest.fixture(params=PLACES)
def box(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with serve(trainer="instant", steps=4, providers=[request.param], folder=tmp_path / "box") as made:
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        yield made


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process, which opens connections of its own; return the signal that ended it, or its exit."""
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def submit(place: str, home: Path, seed: int, each: Callable[[int], None], count: Path) -> None:
    mine = provider(place)
    modules = (*CORE, import_module(f"anydpo_{place}.provider"), import_module("anydpo_openai.provider"))
    with using(mine), tracing(modules, each) as lines:
        Dispatch(Journal(home), ManualClock()).submit(prepare(a_job(seed=seed), place).or_raise())
    count.write_text(str(lines[0]))


def test_killed_while_a_cloud_is_asked(box: Sandbox, tmp_path: Path, full: bool) -> None:
    (place,) = box.services
    import_module("together" if place == "together" else "openai")  # once, and not in every child
    service: Any = box.services[place]
    count = tmp_path / "count"
    assert in_child(partial(submit, place, tmp_path / "h0", 0, lambda _: None, count)) == 0
    lines = int(count.read_text())
    points = range(1, lines + 1, max(1, lines // (60 if full else 6)))
    killed = 0
    for seed, last in enumerate(points, 1):
        before, home = len(service.jobs.all()), tmp_path / f"h{seed}"
        ended = in_child(partial(submit, place, home, seed, dies_at(last), count))
        assert ended in (0, signal.SIGKILL)
        killed += ended == signal.SIGKILL
        assert in_child(partial(submit, place, home, seed, lambda _: None, count)) == 0
        assert len(service.jobs.all()) == before + 1, last
        (run,) = Journal(home).runs()
        (attempt,) = Journal(home).attempts(run.id)
        assert attempt.phase == "submitted"
        shutil.rmtree(home)
    assert killed >= len(points) - 1
    print(f"\n{place}: killed at {killed} of {lines} lines, 0 duplicates, 0 lost")  # noqa: T201
