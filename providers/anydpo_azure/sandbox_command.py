"""Runs a command job as the service does: code, inputs and outputs in their places, one process a node."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydpo.sandbox.training import METRICS, RESULT, Instant, Look, Task, Training, read_records
from anydpo_trainer.azureml import CONFIG, LOG
from anydpo_trainer.config import TINY

BINDING = re.compile(r"\$\{\{\s*(inputs|outputs)\.(\w+)\s*\}\}")
BASH = "/bin/bash"


@dataclass(frozen=True)
class Command(Task):
    """A command job instead of rows: what was asked for, and its paths on this disk."""

    properties: Mapping[str, Any] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)  # "inputs.train" → path
    code: Path = Path()
    out: Path = Path()
    log: Path = Path()

    @property
    def nodes(self) -> int:
        """Return how many machines were asked for."""
        return int((self.properties.get("resources") or {}).get("instanceCount", 1))


class Nodes:
    """A trainer that runs commands; with `instant`, one that only leaves what they would."""

    def __init__(self, cache: Path, steps: int, *, instant: bool) -> None:
        self.instant, self._cache, self._steps = instant, cache, steps

    def start(self, task: Any, folder: Path) -> Training:
        """Start one process a node."""
        config = self._stand_in(task)
        task.out.mkdir(parents=True, exist_ok=True)
        task.log.parent.mkdir(parents=True, exist_ok=True)
        if self.instant:
            return _at_once(task, config, self._steps)
        given = dict(task.properties.get("environmentVariables") or {})
        if config is not None:
            given[CONFIG] = json.dumps(config)
        shared = {**given, **self._usual(), **_meeting(task.nodes)}
        line = BINDING.sub(lambda found: task.paths[f"{found[1]}.{found[2]}"], task.properties["command"])
        return Running([_start(task, folder, line, shared, node) for node in range(task.nodes)], task)

    def merge(self, adapter: Path, target: Path) -> None:
        """Do nothing: nobody asks this service for a merged model."""

    def _usual(self) -> dict[str, str]:
        return {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(self._cache)}

    def _stand_in(self, task: Command) -> dict[str, Any] | None:
        """Return the trainer's configuration for this machine: the small model, the CPU, few steps."""
        given = (task.properties.get("environmentVariables") or {}).get(CONFIG)
        if given is None:
            return None
        config: dict[str, Any] = {**json.loads(given), "model": TINY, "ref_model": None, "device": "cpu"}
        config["load_in_4bit"] = False
        with open(task.paths["inputs.train"], "rb") as file:  # noqa: PTH123
            pairs = sum(1 for _ in file)
        due = config["max_steps"] or math.ceil(pairs / config["batch_size"]) * config["epochs"]
        if due > self._steps:
            config["max_steps"] = self._steps
        return config


class Running:
    """The processes of one job, children of the sandbox that end with it."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], task: Command) -> None:
        self._processes, self._task = processes, task

    def look(self) -> Look:
        """Read what the trainer has written; a node that fails takes the others with it."""
        statuses = [process.poll() for process in self._processes]
        records = read_records(self._task.out / METRICS, "dpo")
        if any(statuses):
            self.stop()
            code = next(status for status in statuses if status)
            return Look(records, "failed", f"Execution failed. User process 'bash' exited with status code {code}.")
        return Look(records, "succeeded" if all(status == 0 for status in statuses) else None)

    def stop(self) -> None:
        """Ask every process to stop after its step, and end those that do not."""
        for process in self._processes:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + 10
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.wait()


@dataclass
class AtOnce:
    """A job that has ended before anyone could look."""

    records: list[dict[str, Any]]

    def look(self) -> Look:
        """Return the curve."""
        return Look(self.records, "succeeded")

    def stop(self) -> None:
        """Do nothing."""


def _at_once(task: Command, config: Mapping[str, Any] | None, steps: int) -> AtOnce:
    """Leave in the run's folder what the trainer would: a curve, empty weights, a result."""
    config = config or {"method": {}}
    size = config.get("batch_size", 8)
    rows = [json.loads(line) for line in Path(task.paths["inputs.train"]).read_text("utf-8").splitlines()]
    held = task.paths.get("inputs.validation")
    known = Task(
        stage="dpo",
        rows=rows,
        validation=[json.loads(line) for line in Path(held).read_text("utf-8").splitlines()] if held else [],
        method=config["method"],
        adapter=config.get("adapter"),
        steps=min(steps, config.get("max_steps") or math.ceil(len(rows) / size) * config.get("epochs", 1)),
        batch_size=size,
        evals=1,
    )
    records = [{**record, "time": time.time()} for record in Instant().start(known, task.out).look().records]
    (task.out / METRICS).write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    (task.out / LOG).write_text("nothing was trained: the sandbox is instant\n", "utf-8")
    task.log.write_text("nothing was trained: the sandbox is instant\n", "utf-8")
    last = {name: value for name, value in records[-1].items() if "/" in name}
    model = {"start": TINY, "adapter": bool(config.get("adapter"))}
    result = {"schema": 1, "state": "succeeded", "error": None, "metrics": last, "model": model, "effective": {}}
    (task.out / RESULT).write_text(json.dumps(result), "utf-8")
    return AtOnce(records)


def _meeting(nodes: int) -> dict[str, str]:
    """Return how nodes find each other: what the service sets for a PyTorch distribution."""
    if nodes == 1:
        return {}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(nodes)}


def _start(task: Command, folder: Path, line: str, shared: Mapping[str, str], node: int) -> subprocess.Popen[bytes]:
    """Start a node's process in its own copy of the code."""
    place = folder / f"node-{node}"
    shutil.copytree(task.code, place, dirs_exist_ok=True)
    log = task.log if task.nodes == 1 else task.log.with_name(f"std_log_process_{node}.txt")
    mine = {"RANK": str(node), "NODE_RANK": str(node), "LOCAL_RANK": "0"} if task.nodes > 1 else {}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    with log.open("ab") as file:
        return subprocess.Popen(
            [BASH, "-c", line],
            cwd=place,
            env={**kept, "PATH": path, **shared, **mine},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
