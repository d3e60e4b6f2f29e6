"""SIGKILL at any moment: the run that goes on ends in the numbers of the unbroken one, and no half file is loaded."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from anydpo_trainer.folder import is_held
from tests.trainer.helpers import metrics, same, small_model, text_pairs, write_jsonl
from tests.trainer.worker import context, train


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A run with every kind of file: SFT, LoRA, reference cache, checkpoints, evaluation."""
    return {
        "model": str(small_model(tmp_path / "model")),
        "train_data": str(write_jsonl(tmp_path / "train.jsonl", text_pairs(40))),
        "validation_data": str(write_jsonl(tmp_path / "val.jsonl", text_pairs(8, start=100))),
        "sft": {"data": "chosen", "epochs": 1, "learning_rate": 1e-3},
        "adapter": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
        "method": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.1]},
        "batch_size": 4,
        "epochs": 2,
        "eval_steps": 5,
        "save_steps": 2,
        "learning_rate": 1e-3,
    }


def start(job: dict[str, Any], out: Path) -> Any:
    config = out.with_suffix(".json")
    config.write_text(json.dumps({**job, "cache_dir": str(out.parent / f"{out.name}-cache")}))
    process = context().Process(target=train, args=(str(config), str(out)))
    process.start()
    return process


def finish(job: dict[str, Any], out: Path) -> int:
    process = start(job, out)
    process.join(120)
    assert process.exitcode is not None, out.with_suffix(".log").read_text()
    return int(process.exitcode)


def whole_files_only(out: Path) -> None:
    for path in (out / "checkpoints").glob("*-step-*"):
        if not path.name.startswith("."):
            state = json.loads((path / "state.json").read_text())
            assert all((path / name).stat().st_size == size for name, (size, _) in state["files"].items())
    for line in (out / "metrics.jsonl").read_text().split("\n")[:-1] if (out / "metrics.jsonl").exists() else ():
        json.loads(line)


def test_killed_at_random_moments_and_resumed(job: dict[str, Any], tmp_path: Path, full: bool) -> None:
    unbroken = tmp_path / "unbroken"
    assert finish(job, unbroken) == 0
    began = time.monotonic()
    assert finish(job, tmp_path / "again") == 0
    length = time.monotonic() - began
    wanted = metrics(unbroken)
    assert metrics(tmp_path / "again") == wanted  # nothing but the kills may differ
    draw, kills, rounds = random.Random(3), 0, 0
    while kills < (30 if full else 4):
        rounds += 1
        assert rounds < 60, "the runs end before they can be killed"
        out, ended = tmp_path / f"broken{rounds}", False
        while not ended:
            process = start(job, out)
            process.join(draw.uniform(0.02, 0.7) * length)
            process.kill()  # of one that has just ended nothing comes
            process.join()
            if process.exitcode == -signal.SIGKILL:
                kills += 1
                assert not is_held(out)
                whole_files_only(out)
            else:
                assert process.exitcode == 0, out.with_suffix(".log").read_text()[-2000:]
                ended = True
        assert same(wanted, metrics(out), 1e-6)
        assert (out / "pairs.jsonl").read_text() == (unbroken / "pairs.jsonl").read_text()
        result = json.loads((out / "result.json").read_text())
        assert result["state"] == "succeeded"
    print(f"\nkilled {kills} times in {rounds} runs; every resumed run equals the unbroken one to 1e-6")  # noqa: T201


def test_sigterm_saves_and_goes_on(job: dict[str, Any], tmp_path: Path) -> None:
    """What a spot machine sends before it goes: the step is finished, a checkpoint written, the status says so."""
    assert finish(job, tmp_path / "unbroken") == 0
    out = tmp_path / "stopped"
    process = start(job, out)
    log = out / "metrics.jsonl"
    while not (log.exists() and log.read_text().count('"dpo"') >= 3):
        process.join(0.01)
        assert process.exitcode is None, out.with_suffix(".log").read_text()
    process.terminate()
    process.join(60)
    assert process.exitcode == 130
    assert not (out / "result.json").exists()
    assert finish(job, out) == 0
    assert same(metrics(tmp_path / "unbroken"), metrics(out), 1e-6)


def test_a_stop_file_cancels(job: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "cancelled"
    out.mkdir()
    (out / "stop").touch()
    assert finish(job, out) == 130
    assert json.loads((out / "result.json").read_text())["state"] == "cancelled"
    said = out.with_suffix(".log").read_text()
    assert "stopped: cancelled" in said
    assert "to train" not in said  # nothing is read for a run that nobody wants any more


def test_two_trainers_never_share_a_folder(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anydpo_trainer.errors import TrainerError
    from anydpo_trainer.folder import locked

    monkeypatch.setattr("time.sleep", lambda _: None)
    with locked(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(TrainerError, match="another trainer"), locked(tmp_path, wait_s=0.0):
            pass
    assert not is_held(tmp_path)


def test_a_finished_run_is_left_alone(job: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert finish(job, out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "lock"}
    assert finish(job, out) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
