"""The machines of a training job: each host a process with an `/opt/ml` of its own, lost and given again.

What a host sees is SageMaker's container contract: input channels and configuration, checkpoints that are kept in S3,
SIGTERM before SIGKILL, the failure file. Two hosts are two processes that find each other on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydpo.sandbox.training import Look, Task, Trainer, Training, read_records
from anydpo_sagemaker.sandbox_s3 import S3
from anydpo_trainer.config import SMOLLM2, TINY

GRACE = 120.0  # seconds between SIGTERM and SIGKILL, as SageMaker has it
OPT_ML, LOG = "/opt/ml", "host.log"
KNOWN = (TINY, SMOLLM2)


@dataclass(frozen=True)
class Containers(Task):
    """A training job's request instead of rows: what its containers run is in there."""

    request: Mapping[str, Any] = field(default_factory=dict)
    interruptions: tuple[int, ...] = ()  # steps after which the machines are taken away
    grace: float = GRACE
    tell: Callable[[str], None] = lambda _: None  # called with what happens to the machines


class Hosts:
    """Starts the containers of training jobs, and whatever else as the sandbox's own trainer does."""

    def __init__(self, inner: Trainer, s3: S3) -> None:
        self._inner, self._s3, self.instant = inner, s3, inner.instant

    def start(self, task: Task, folder: Path) -> Training:
        """Begin."""
        return Machines(task, folder, self._s3) if isinstance(task, Containers) else self._inner.start(task, folder)

    def merge(self, adapter: Path, target: Path) -> None:
        """Put an adapter into its base's weights."""
        self._inner.merge(adapter, target)


class Machines:
    """The hosts of one job."""

    def __init__(self, task: Containers, folder: Path, s3: S3) -> None:
        self._task, self._folder, self._s3 = task, folder, s3
        self._due = list(task.interruptions)
        self._lives = 0
        self._count = count_of(task.request)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._boot()

    def look(self) -> Look:
        """Return how the job stands; where its machines are due to be taken away, that happens now."""
        records = self._records()
        if self._due and records and records[-1]["step"] >= self._due[0] and self._running():
            self._due.pop(0)
            self._take_away()
            return Look(records)
        if self._running():
            return Look(records)
        self._keep()
        records = self._records()
        statuses = [process.returncode for process in self._processes]
        if not any(statuses):
            return Look(records, "succeeded")
        for root in self._roots():
            with contextlib.suppress(OSError):
                return Look(records, "failed", (root / "output/failure").read_text("utf-8")[:1024])
        return Look(records, "failed", f"AlgorithmError: , exit code: {next(filter(None, statuses))}")

    def stop(self) -> None:
        """Stop it as StopTrainingJob does; what was saved stays in S3."""
        self._end(self._task.grace)
        self._keep()

    def model(self) -> Path:
        """Return what the first host left as its model."""
        return self._roots()[0] / "model"

    def _roots(self) -> list[Path]:
        return [self._folder / f"algo-{number + 1}" for number in range(self._count)]

    def _records(self) -> list[dict[str, Any]]:
        return read_records(self._roots()[0] / "checkpoints/metrics.jsonl", "dpo")

    def _running(self) -> bool:
        alive = [process for process in self._processes if process.poll() is None]
        if alive and any(process.returncode for process in self._processes if process not in alive):
            self._end(5)  # one host failed: SageMaker ends the others
            return False
        return bool(alive)

    def _boot(self) -> None:
        """Give the job new machines: nothing on them but its inputs and its checkpoints."""
        self._lives += 1
        port = str(_free_port())
        for number, root in enumerate(self._roots()):
            shutil.rmtree(root, ignore_errors=True)
            self._furnish(root, number)
        self._processes = [self._run(number, root, port) for number, root in enumerate(self._roots())]

    def _furnish(self, root: Path, number: int) -> None:
        request = self._task.request
        for given in request["InputDataConfig"]:
            uri = given["DataSource"]["S3DataSource"]["S3Uri"]
            for name, data in self._s3.below(uri).items():
                _write(root / "input/data" / given["ChannelName"] / name, data)
        if checkpoints := request.get("CheckpointConfig"):
            for name, data in self._s3.below(checkpoints["S3Uri"].rstrip("/") + "/").items():
                _write(root / "checkpoints" / name, data)
        (root / "model").mkdir(parents=True)
        hosts = addresses(self._count)
        about = {"current_host": hosts[number], "hosts": hosts, "network_interface_name": "lo"}
        configuration = root / "input/config"
        _write(configuration / "hyperparameters.json", json.dumps(self._hyperparameters()).encode())
        _write(configuration / "resourceconfig.json", json.dumps(about).encode())
        channels = {one["ChannelName"]: {"TrainingInputMode": "File"} for one in request["InputDataConfig"]}
        _write(configuration / "inputdataconfig.json", json.dumps(channels).encode())

    def _hyperparameters(self) -> dict[str, str]:
        """Return the job's own, with a stand-in for a model that cannot be had here, and no more steps than allowed."""
        given = dict(self._task.request.get("HyperParameters") or {})
        if json.loads(given.get("model", '""')) not in KNOWN:
            given["model"] = json.dumps(TINY)
        given.pop("load_in_4bit", None)  # that needs a GPU
        if self._task.steps:
            given["max_steps"] = json.dumps(self._task.steps)
        return given

    def _run(self, number: int, root: Path, port: str) -> subprocess.Popen[bytes]:
        algorithm = self._task.request["AlgorithmSpecification"]
        whole: list[str] = [*algorithm["ContainerEntrypoint"], *algorithm.get("ContainerArguments", [])]
        entry, rest = whole[0], whole[1:]
        command = [
            sys.executable if entry.startswith("python") else entry,
            *(a.replace(OPT_ML, str(root)) for a in rest),
        ]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))}
        settings = {
            **self._task.request.get("Environment", {}),
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRAINING_JOB_NAME": self._task.request["TrainingJobName"],
        }
        with (self._folder / f"algo-{number + 1}-{self._lives}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**kept, **settings},
                start_new_session=True,
            )

    def _take_away(self) -> None:
        self._task.tell("interrupted")
        self._end(self._task.grace)
        self._keep()
        self._task.tell("restarting")
        self._boot()

    def _end(self, grace: float) -> None:
        """Ask every container to stop, and end what still runs after the grace."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
            with contextlib.suppress(ProcessLookupError):  # the whole container, also what its first process left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _keep(self) -> None:
        """Bring the checkpoints to S3; SageMaker does so all the time."""
        if checkpoints := self._task.request.get("CheckpointConfig"):
            for root in reversed(self._roots()):  # what the first host says of a file holds
                if (root / "checkpoints").is_dir():
                    self._s3.put_folder(root / "checkpoints", checkpoints["S3Uri"].rstrip("/"))


def count_of(request: Mapping[str, Any]) -> int:
    """Return how many machines a job has."""
    resources = request.get("ResourceConfig") or {}
    preferred = (resources.get("InstancePreferences") or [{}])[0]
    return int(resources.get("InstanceCount") or preferred.get("InstanceCount") or 1)


def addresses(count: int) -> list[str]:
    """Return a name a host that other hosts of this machine find it by."""
    return [f"127.0.0.{number + 1}" for number in range(count)]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
