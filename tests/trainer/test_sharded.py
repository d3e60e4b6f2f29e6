"""Two processes that hold half the weights each: the numbers of one, and exact resuming after one was killed."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.helpers import metrics, run, same, small_model, text_pairs, write_jsonl
from tests.trainer.worker import context, train_as


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(small_model(tmp_path / "model")),
        "train_data": str(write_jsonl(tmp_path / "train.jsonl", text_pairs(21))),
        "validation_data": str(write_jsonl(tmp_path / "val.jsonl", text_pairs(5, start=100))),
        "batch_size": 7,
        "micro_batch_size": 3,  # three forward passes a step: one process has to run idle
        "eval_steps": 2,
        "save_steps": 1,
        "learning_rate": 1e-3,
        "dtype": "float64",
        "sharding": "full",
    }


def start(job: dict[str, Any], out: Path, size: int = 2) -> list[Any]:
    path = out.with_suffix(".json")
    path.write_text(json.dumps({**job, "cache_dir": str(out.parent / f"{out.name}-cache")}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = [context().Process(target=train_as, args=(rank, size, port, str(path), str(out))) for rank in range(size)]
    for process in made:
        process.start()
    return made


def finish(job: dict[str, Any], out: Path) -> None:
    processes = start(job, out)
    for process in processes:
        process.join(120)
    assert [p.exitcode for p in processes] == [0, 0], out.with_suffix(".log").read_text()[-3000:]


@pytest.mark.parametrize(
    "extra",
    [
        {"sft": {"data": "chosen", "learning_rate": 1e-3}, "method": {"loss_type": ["sigmoid", "sft"]}},
        {"method": {"loss_type": "aot"}, "prefix_sharing": False},
        {"method": {"sync_ref_model": True, "ref_model_sync_steps": 2}},
        {"adapter": {"r": 4, "lora_alpha": 8}, "gradient_checkpointing": True},
    ],
    ids=["sft", "plain-aot", "moving-reference", "lora"],
)
def test_sharded_equals_whole(job: dict[str, Any], tmp_path: Path, extra: dict[str, Any]) -> None:
    _, one = run(tmp_path / "one", **{**job, **extra, "sharding": "auto"})
    finish({**job, **extra}, tmp_path / "two")
    assert same(one, metrics(tmp_path / "two"), 1e-9)
    losses = [[r["train/loss"] for r in found if "train/loss" in r] for found in (one, metrics(tmp_path / "two"))]
    assert losses[1] == pytest.approx(losses[0], abs=1e-12)
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["effective"]["sharding"] == "full"
    assert result["effective"]["passes"]["path"] == ("shared" if extra.get("prefix_sharing", True) else "plain")


@pytest.mark.parametrize("after", [1, 2])
def test_one_of_two_is_killed_and_both_go_on(job: dict[str, Any], tmp_path: Path, after: int) -> None:
    """The other one notices, leaves no result that would end the run, and the next start ends in the same numbers."""
    finish(job, tmp_path / "unbroken")
    out = tmp_path / "broken"
    processes = start(job, out)
    while not (out / "checkpoints" / f"dpo-step-{after:06d}").is_dir():
        processes[0].join(0.01)
        assert processes[0].exitcode is None, out.with_suffix(".log").read_text()
    processes[1].kill()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [130, -signal.SIGKILL], out.with_suffix(".log").read_text()
    assert not (out / "result.json").exists()
    finish(job, out)
    assert metrics(out) == metrics(tmp_path / "unbroken")
    assert (out / "pairs.jsonl").read_text() == (tmp_path / "unbroken" / "pairs.jsonl").read_text()


def test_a_sharded_checkpoint_goes_on_in_one_process(job: dict[str, Any], tmp_path: Path) -> None:
    _, whole = run(tmp_path / "whole", **job)
    processes = start(job, tmp_path / "out")
    while not (tmp_path / "out" / "checkpoints" / "dpo-step-000001").is_dir():
        processes[0].join(0.01)
        assert processes[0].exitcode is None, (tmp_path / "out.log").read_text()
    for process in processes:
        process.kill()
        process.join()
    _, records = run(tmp_path / "out", **job)
    assert same(whole, records, 1e-9)
