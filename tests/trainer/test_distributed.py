"""Two processes under torchrun equal one with the same batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.helpers import metrics, run, same, small_model, text_pairs, write_jsonl


def torchrun(config: dict[str, Any], out: Path, processes: int = 2) -> None:
    path = out.with_suffix(".json")
    path.write_text(json.dumps(config))
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    trainer = ["-m", "anydpo_trainer", "train", str(path), "--out", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, *command, *trainer], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize(
    ("adapter", "extra"),
    [
        (None, {"method": {"loss_type": ["sigmoid", "sft"]}, "sft": {"data": "chosen", "learning_rate": 1e-3}}),
        ({"r": 4, "lora_alpha": 8, "lora_dropout": 0.3}, {"method": {"loss_type": "aot"}}),
    ],
    ids=["full-sft", "lora-aot"],
)
def test_two_processes_equal_one(tmp_path: Path, adapter: Any, extra: dict[str, Any]) -> None:
    config = {
        "model": str(small_model(tmp_path / "model")),
        "train_data": str(write_jsonl(tmp_path / "train.jsonl", text_pairs(21))),
        "validation_data": str(write_jsonl(tmp_path / "val.jsonl", text_pairs(7, start=100))),
        "adapter": adapter,
        "batch_size": 8,
        "micro_batch_size": 3,
        "epochs": 2,
        "eval_steps": 2,
        "learning_rate": 1e-3,
        "dtype": "float64",
        **extra,
    }
    _, one = run(tmp_path / "one", **config)
    torchrun({**config, "cache_dir": str(tmp_path / "cache2")}, tmp_path / "two")
    two = metrics(tmp_path / "two")
    assert same(one, two, 1e-6)
    rows = [json.loads(line) for line in (tmp_path / "two" / "pairs.jsonl").read_text().splitlines()]
    wanted = [json.loads(line) for line in (tmp_path / "one" / "pairs.jsonl").read_text().splitlines()]
    assert [row["margin"] for row in rows] == pytest.approx([row["margin"] for row in wanted], abs=1e-6)
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["state"] == "succeeded"
    assert result["effective"]["processes"] == 2


def test_each_machine_makes_the_model_for_its_own_cache(tmp_path: Path) -> None:
    """transformers writes nothing on a rank other than 0 once the peers have joined."""
    config = {
        "model": "tiny",
        "train_data": str(write_jsonl(tmp_path / "train.jsonl", text_pairs(4))),
        "batch_size": 4,
        "max_steps": 1,
    }
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1]), "WORLD_SIZE": "2"}
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    machines = []
    for rank in ("0", "1"):
        path = tmp_path / f"machine-{rank}.json"
        path.write_text(json.dumps({**config, "cache_dir": str(tmp_path / f"cache-{rank}")}))
        command = [sys.executable, "-m", "anydpo_trainer", "train", str(path), "--out", str(tmp_path / f"out-{rank}")]
        env = {**quiet, **meeting, "RANK": rank, "LOCAL_RANK": "0"}
        machines.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [machine.communicate(timeout=240)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    for rank in ("0", "1"):
        assert list(tmp_path.glob(f"cache-{rank}/tiny-*/model.safetensors"))
