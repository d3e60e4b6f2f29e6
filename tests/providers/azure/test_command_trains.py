"""Command jobs that run and do not succeed: one that breaks, one that is cancelled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import PreferenceJob
from anydpo.result import State
from anydpo.sandbox import serve


def test_a_broken_job_says_why_and_a_running_one_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    rows = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(40)]
    base: dict[str, Any] = {"model": "tiny", "data": anydpo.load(rows), "batch_size": 2}
    deadline = time.monotonic() + 240
    with serve(steps=100_000, providers=["azureml"], folder=tmp_path / "box") as box:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        broken = {"azure": {"compute": "cpu-cluster", "environment_variables": {"PYTHONHOME": "/nowhere"}}}
        run = anydpo.submit(PreferenceJob(**base, options=broken), "azure/command")
        while not run.refresh().done:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        error = run.result().error
        assert error is not None
        assert "exited with status" in error.message
        assert "std_log.txt" in error.message
        assert "encodings" in error.message  # the end of the service's own log
        if not full:
            return
        options = {"azure": {"compute": "cpu-cluster"}}
        run = anydpo.submit(PreferenceJob(**base, epochs=5_000, options=options), "azure/command")
        while not run.result().metrics.history:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        run.cancel()
        while not run.refresh().done:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert run.result().state is State.CANCELLED
