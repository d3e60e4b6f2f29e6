"""The same job here and as a command job in the sandbox, on one node and on two: the same numbers, the same weights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import anydpo
from anydpo import LoRA, PreferenceJob
from anydpo.result import Result, State
from anydpo.sandbox import serve

STEPS = 2


def hh_job(hh: Path, **fields: Any) -> PreferenceJob:
    return PreferenceJob(
        model="tiny",
        data={"path": str(hh / "harmless-base-train.jsonl.gz"), "max_pairs": 16},
        validation=0.25,
        method=anydpo.DPO(loss_type="apo_zero"),
        adapter=LoRA(r=4, lora_alpha=8),
        dtype="float64",
        batch_size=6,
        micro_batch_size=2,
        max_steps=STEPS,
        save_steps=1,
        max_length=256,
        learning_rate=1e-3,
        **fields,
    )


def ended(run: Any, seconds: float = 240) -> Result:
    deadline = time.monotonic() + seconds
    while not run.refresh().done:
        assert time.monotonic() < deadline, run.result()
        time.sleep(0.2)  # another program's work, not ours: it has no clock to be moved
    result: Result = run.result()
    assert result.state is State.SUCCEEDED, result.error
    return result


def numbers(result: Result) -> dict[tuple[Any, ...], float]:
    return {
        (record["step"], "final" in record, name): value
        for record in result.metrics.history
        for name, value in record.items()
        if "/" in name and value is not None
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_a_command_job_equals_the_local_one_and_two_nodes_equal_one(
    hh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ended(anydpo.submit(hh_job(hh, options={"local": {"device": "cpu"}}), "local"))
    folders = {0: Path(str(here.model.weights))}
    there: dict[int, Result] = {}
    with serve(steps=STEPS, providers=["azureml"], folder=tmp_path / "box") as box:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        for nodes in (1, 2):
            azure = {"compute": "gpu-cluster", "instance_count": nodes, "device": "cpu"}
            run = anydpo.submit(hh_job(hh, options={"azure": azure}), "azure")
            assert run.place == "azure/command"
            there[nodes] = ended(run)
            folders[nodes] = tmp_path / f"fetched-{nodes}"
            run.fetch(folders[nodes])
        run.fetch(tmp_path / "checkpoint", checkpoint=1)
        logged = [event.text for event in run.watch() if event.kind == "log"]
    assert any("to train" in line for line in logged)
    assert [there[nodes].method.effective["processes"] for nodes in (1, 2)] == [1, 2]
    assert there[1].sandbox
    wanted = numbers(here)
    assert len({step for step, _, _ in wanted}) == STEPS
    for nodes in (1, 2):
        found = numbers(there[nodes])
        assert found.keys() == wanted.keys()
        worst = max(abs(found[key] - wanted[key]) for key in wanted)
        said = f"azure/command, {nodes} node(s): largest difference of {len(wanted)} numbers {worst:.2e}"
        print(said)  # noqa: T201
        assert worst < 1e-5
        assert there[nodes].metrics.final == pytest.approx(here.metrics.final, abs=1e-5)
        mine, theirs = weights(folders[0]), weights(folders[nodes])
        assert mine.keys() == theirs.keys()
        assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 1e-5
    assert weights(tmp_path / "checkpoint").keys() == weights(folders[1]).keys()


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
