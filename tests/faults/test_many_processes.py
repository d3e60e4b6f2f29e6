"""Many processes at once: one job is one run, whoever asks, from however many homes."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anydpo.dispatch import Dispatch
from anydpo.journal import Journal
from anydpo.plan import prepare
from anydpo.registry import using
from anydpo.testing.clock import ManualClock
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import Service
from tests.conformance.helpers import memory_job

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork: run it on Linux or macOS")


def submit(home: Path, service: Path, seed: int) -> str:
    with using(MemoryProvider(Service(service, ManualClock()))):
        return Dispatch(Journal(home), ManualClock()).submit(prepare(memory_job(seed=seed), "memory")).run


def at_once(count: int, work: Callable[[int], str]) -> tuple[list[str], float]:
    """Run work(0) … work(count - 1) each in a process of its own, let go at the same moment."""
    fork = multiprocessing.get_context("fork")
    gate, answers = fork.Barrier(count + 1), fork.Queue()

    def one(number: int) -> None:
        gate.wait()
        try:
            answers.put(work(number))
        except BaseException as exc:
            answers.put(f"error: {exc!r}")

    processes = [fork.Process(target=one, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    gate.wait()
    began = time.monotonic()
    found = [answers.get() for _ in processes]
    took = time.monotonic() - began
    for process in processes:
        process.join()
    return found, took


@pytest.mark.parametrize("jobs", [1, 8])
def test_32_processes(jobs: int, tmp_path: Path) -> None:
    runs, took = at_once(32, lambda number: submit(tmp_path / "home", tmp_path / "service", number % jobs))
    assert not [run for run in runs if run.startswith("error")], runs
    assert len(set(runs)) == jobs
    assert len(Service(tmp_path / "service").jobs()) == jobs
    assert len(Journal(tmp_path / "home").runs()) == jobs
    print(f"\n32 processes, {jobs} jobs: {len(set(runs))} runs in {took:.1f} s")  # noqa: T201


def test_ten_empty_homes_are_one_create(tmp_path: Path) -> None:
    runs = [submit(tmp_path / f"home{number}", tmp_path / "service", 0) for number in range(10)]
    assert len(set(runs)) == 1
    service = Service(tmp_path / "service")
    assert (len(service.jobs()), service.requests("create")) == (1, 1)


def test_a_rehearsal_is_never_taken_for_the_real_run(tmp_path: Path) -> None:
    rehearsed, real = (submit(tmp_path / "home", tmp_path / endpoint, 0) for endpoint in ("sandbox", "cloud"))
    assert rehearsed != real
    assert [len(Service(tmp_path / endpoint).jobs()) for endpoint in ("sandbox", "cloud")] == [1, 1]
