"""Many runs watched by one thread: what is asked, and that nothing grows; `benchmarks/watch.py` prints the times."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "watch.py"


def watched(runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    benchmark: Any = runpy.run_path(str(BENCHMARK))
    with benchmark["sandbox"]("together") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        found: dict[str, Any] = benchmark["watched"]("together", runs, tmp_path / f"{runs}", variables["ORIGIN"])
    return found


@pytest.mark.timeout(3600)
def test_a_thousand_runs_are_watched_without_growth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    one = watched(1, tmp_path, monkeypatch)
    many = 1000 if full else 24
    found = watched(many, tmp_path, monkeypatch)
    assert found["succeeded"] == many
    assert found["polls"] == many * one["polls"]  # nobody is asked more often for not being alone
    assert found["retrieved"] == many * one["retrieved"]
    handles, objects = found["handles"], found["objects"]
    assert len(handles) >= 5
    assert max(handles) <= handles[1]
    assert objects[-1] - objects[1] < 500, objects  # events are handed on, not kept
    assert max(objects) - objects[1] < 10 * many + 500, objects
    print(f"\n{many} runs, {found['polls']} polls, {found['own_ms_per_poll']} ms own time a poll")  # noqa: T201
