"""Training behind the wire: the real trainer as a subprocess, or at once a curve that only looks like one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from anydpo.sandbox.lines import content_key
from anydpo.sandbox.merge import merge
from anydpo_trainer.config import TINY

RESULT, METRICS, LOG, CONFIG = "result.json", "metrics.jsonl", "trainer.log", "config.json"
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Task:
    """What a job trains, already cut to the sandbox's size. Rates are those of the stand-in model."""

    stage: Literal["sft", "dpo"]
    rows: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    method: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] | None = None
    epochs: int = 1
    batch_size: int = 8
    steps: int = 20
    rate: float = 1.0  # times the stand-in model's usual one
    options: Mapping[str, Any] = field(default_factory=dict)  # further fields of the trainer's configuration
    seed: int = 42
    evals: int = 0
    checkpoints: int = 1
    start_from: Path | None = None

    @property
    def key(self) -> str:
        """Return what the numbers depend on: the same data, hyperparameters and seed have the same key."""
        start = _origin(self.start_from) if self.start_from else None
        parts: list[Any] = [
            content_key(self.rows),
            content_key(self.validation),
            self.stage,
            self.method,
            self.adapter,
            start,
        ]
        parts += [self.epochs, self.batch_size, self.steps, self.rate, self.options, self.seed, self.evals]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=dict).encode()).hexdigest()


@dataclass
class Look:
    """How a training stands: its records so far, and how it ended if it has."""

    records: list[dict[str, Any]]
    ended: Literal["succeeded", "failed", "stopped"] | None = None
    error: str | None = None


class Training(Protocol):
    """One job's training in its folder."""

    def look(self) -> Look:
        """Return how it stands."""
        ...

    def stop(self) -> None:
        """Stop it; `start` on the same folder goes on where it stood."""
        ...


class Trainer(Protocol):
    """A way to train."""

    instant: bool

    def start(self, task: Task, folder: Path) -> Training:
        """Begin, or go on in a folder where it was stopped."""
        ...

    def merge(self, adapter: Path, target: Path) -> None:
        """Write the whole model of an adapter."""
        ...


def weights(folder: Path, stage: str, step: int | None) -> Path | None:
    """Return the folder with the weights of a step, None for the end; None where they are not kept."""
    if step is None:
        made = folder / ("sft" if stage == "sft" else "model")
        return made if made.is_dir() else None
    made = folder / "checkpoints" / f"{stage}-step-{step:06d}" / "model"
    return made if made.is_dir() else None


class Local:
    """Trains the `tiny` model with the trainer that every other place runs."""

    instant = False

    def __init__(self, cache: Path, python: str = sys.executable) -> None:
        self._cache, self._python = cache, python

    def start(self, task: Task, folder: Path) -> Training:
        """Start the trainer's process; it goes on from its last checkpoint where the folder has one."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "key").write_text(task.key, "utf-8")
        (folder / CONFIG).write_text(json.dumps(self._config(task, folder)), "utf-8")
        command = [self._python, "-m", "anydpo_trainer", "train", str(folder / CONFIG), "--out", str(folder)]
        settings = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **settings}
            )
        return Process(process, folder, task.stage)

    def merge(self, adapter: Path, target: Path) -> None:
        """Put an adapter into its base's weights."""
        merge(adapter, target)

    def _config(self, task: Task, folder: Path) -> dict[str, Any]:
        pairs = task.rows if task.stage == "dpo" else [_unlike(row) for row in task.rows[: task.batch_size]]
        config: dict[str, Any] = {
            "model": TINY,
            "train_data": _written(folder / "train.jsonl", pairs),
            "start_from": str(task.start_from) if task.start_from else None,
            "batch_size": task.batch_size,
            "seed": task.seed,
            "save_steps": max(1, task.steps // max(task.checkpoints, 1)),
            "save_total_limit": max(task.checkpoints, 1),
            "device": "cpu",
            "cache_dir": str(self._cache),
            "learning_rate": 5e-4 * task.rate,
        }
        if task.adapter is not None:
            config["adapter"] = dict(task.adapter)
        if task.stage == "sft":
            chats = _written(folder / "chats.jsonl", task.rows)
            config["sft"] = {"data": chats, "epochs": task.epochs, "learning_rate": 3e-3 * task.rate}
            return {**config, "max_steps": 1}
        config |= {"epochs": task.epochs, "max_steps": task.steps, "method": dict(task.method), **task.options}
        if task.validation:
            config["validation_data"] = _written(folder / "validation.jsonl", task.validation)
            config["eval_steps"] = max(1, task.steps // max(task.evals, 1))
        return config


class Process:
    """A trainer's process, a child of the sandbox that ends with it."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, stage: str) -> None:
        self._process, self._folder, self._stage = process, folder, stage

    def look(self) -> Look:
        """Read what the trainer has written."""
        status = self._process.poll()
        records = read_records(self._folder / METRICS, self._stage)
        if status is None:
            return Look(records)
        try:
            result = json.loads((self._folder / RESULT).read_text("utf-8"))
        except (OSError, ValueError):
            ended: Literal["stopped", "failed"] = "stopped" if status == 130 or status < 0 else "failed"
            return Look(records, ended, f"the trainer ended with status {status}")
        if result["state"] == "succeeded":
            return Look(records, "succeeded")
        error = result.get("error") or {}
        return Look(records, "stopped" if result["state"] == "cancelled" else "failed", error.get("message"))

    def stop(self) -> None:
        """Ask it to stop after its step, and end it if it does not."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Instant:
    """No training: a falling curve and empty weights, functions of data, hyperparameters and seed."""

    instant = True

    def start(self, task: Task, folder: Path) -> Training:
        """Write the whole curve and the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "key").write_text(task.key, "utf-8")
        records = curve(task)
        every = max(1, task.steps // max(task.checkpoints, 1))
        for step in range(every, task.steps + 1, every):
            checkpoint = folder / "checkpoints" / f"{task.stage}-step-{step:06d}" / "model"
            _synthetic(checkpoint, f"{task.key}{step}", adapter=task.adapter is not None)
        _synthetic(folder / ("sft" if task.stage == "sft" else "model"), task.key, adapter=task.adapter is not None)
        return Done(records)

    def merge(self, adapter: Path, target: Path) -> None:
        """Write other empty weights."""
        _synthetic(target, repr(_origin(adapter)), adapter=False)


@dataclass
class Done:
    """A training that has ended before anyone could look."""

    records: list[dict[str, Any]]

    def look(self) -> Look:
        """Return the curve."""
        return Look(self.records, "succeeded")

    def stop(self) -> None:
        """Do nothing."""


def curve(task: Task) -> list[dict[str, Any]]:
    """Return the records of a synthetic run."""
    noise = hashlib.sha256(task.key.encode()).digest()
    beta = float(task.method.get("beta", 0.1))
    per_epoch = max(1, math.ceil(len(task.rows) / task.batch_size))
    records = []
    for step in range(1, task.steps + 1):
        fall = math.exp(-step / task.steps - noise[step % 32] / 2560)
        loss = (math.log(2) if task.stage == "dpo" else 4.0) * fall
        margin = 2 * (1 - fall)
        record: dict[str, Any] = {
            "stage": task.stage,
            "step": step,
            "epoch": step / per_epoch,
            "train/loss": loss,
            "train/learning_rate": 5e-4 * task.rate * (1 - (step - 1) / task.steps),
            "train/grad_norm": 1 + noise[(step + 7) % 32] / 256,
            "train/mean_token_accuracy": 1 - 0.8 * fall,
            "train/num_tokens": step * task.batch_size * 32,
        }
        if task.stage == "dpo":
            record |= {
                "train/rewards/chosen": margin / 2,
                "train/rewards/rejected": -margin / 2,
                "train/rewards/margins": margin,
                "train/rewards/accuracies": 1 - fall / 2,
                "train/logps/chosen": -20 + margin / beta,
                "train/logps/rejected": -20 - margin / beta,
            }
        every = max(1, task.steps // max(task.evals, 1))
        if task.validation and task.stage == "dpo" and (step % every == 0 or step == task.steps):
            trained = {name: value for name, value in record.items() if name.startswith("train/") and "lea" not in name}
            record |= {name.replace("train/", "eval/"): value * 1.02 for name, value in trained.items()}
        records.append(record)
    return records


def read_records(path: Path, stage: str) -> list[dict[str, Any]]:
    """Return the whole records of one stage in a metrics file."""
    with contextlib.suppress(OSError):
        lines = path.read_text("utf-8").split("\n")[:-1]
        return [record for line in lines if (record := json.loads(line)).get("stage") == stage]
    return []


def _origin(folder: Path) -> list[str]:
    """Return what a start's weights depend on: the key of the job that made them, and which of its weights."""
    job = next(parent for parent in folder.parents if (parent / "key").is_file())
    return [(job / "key").read_text("utf-8"), str(folder.relative_to(job))]


def _written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def _unlike(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pair for the one preference step that the trainer takes after a supervised stage; it is not served."""
    turns = [turn for turn in row["messages"] if turn["role"] in {"user", "assistant"}]
    prompt = turns[:-1] or [{"role": "user", "content": "?"}]
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }


def _synthetic(folder: Path, key: str, *, adapter: bool) -> None:
    """Write a folder with one small safetensors file, the same for the same key."""
    folder.mkdir(parents=True, exist_ok=True)
    data = hashlib.sha256(key.encode()).digest()
    header = {
        "__metadata__": {"sandbox": "synthetic"},
        "weight": {"dtype": "U8", "shape": [32], "data_offsets": [0, 32]},
    }
    head = json.dumps(header).encode()
    name = "adapter_model.safetensors" if adapter else "model.safetensors"
    (folder / name).write_bytes(struct.pack("<Q", len(head)) + head + data)
    (folder / (ADAPTER if adapter else CONFIG)).write_text(json.dumps({"model_type": "synthetic"}), "utf-8")
