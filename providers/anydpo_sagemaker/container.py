"""What a training job runs: reads SageMaker's `/opt/ml`, starts the trainer, leaves what SageMaker collects.

It is the `__main__.py` of the archive that is sent as channel `code`, with the trainer's folder beside it, and finds
`/opt/ml` by where that archive lies. Standard library only, Python 3.10. The contract it keeps: hyperparameters are
texts, here JSON under dotted names; `resourceconfig.json` names the hosts; `/opt/ml/checkpoints` is kept in S3 while
the job runs and is there again after an interruption; SIGTERM comes two minutes before SIGKILL.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

MARK = "anydpo-metrics "  # a line of the log that is a record of metrics, as JSON
TEMPLATE = "chat_template.jinja"
PORT = "7777"
PACKAGES = {"peft": "peft>=0.18", "bitsandbytes": "bitsandbytes>=0.46"}
STOPPED = 143  # as a shell has it for SIGTERM


def main(archive: Path) -> int:
    """Train, and return the container's exit status."""
    root = archive.resolve().parents[3]
    code, out = root / "anydpo", root / "checkpoints"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(code)  # noqa: S202 - our own archive
    out.mkdir(parents=True, exist_ok=True)
    config = config_of(json.loads((root / "input/config/hyperparameters.json").read_text("utf-8")), root, code)
    first, command, network = launch(root, config)
    (code / "config.json").write_text(json.dumps(config), "utf-8")
    needed = {"peft": config.get("adapter"), "bitsandbytes": config.get("load_in_4bit")}
    missing = [PACKAGES[name] for name, used in needed.items() if used and importlib.util.find_spec(name) is None]
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=False)
    if (out / "result.json").exists() and not any((root / "model").glob("*")):
        (out / "result.json").unlink()  # an earlier machine ended, and its model was lost with it
    settings = {"PYTHONPATH": str(code), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", **network}
    command += ["-m", "anydpo_trainer", "train", str(code / "config.json"), "--out", str(out)]
    records = Records(out / "metrics.jsonl")
    process = subprocess.Popen(command, cwd=code, env={**os.environ, **settings})
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        asked.append(number)
        process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, pass_on)
    while process.poll() is None:
        time.sleep(0.1)
        if first:
            records.tell()
    if first:
        records.tell()
    if process.returncode != 0 and asked:
        return STOPPED
    return finish(process.returncode, root, first=first)


def launch(root: Path, config: Mapping[str, Any]) -> tuple[bool, list[str], dict[str, str]]:
    """Return (whether this host writes the files, how the trainer is started, what its network needs)."""
    about = json.loads((root / "input/config/resourceconfig.json").read_text("utf-8"))
    hosts = sorted(about["hosts"])
    rank = hosts.index(about["current_host"])
    devices = config.get("processes") or max(1, gpus() if config.get("device") != "cpu" else 0)
    if len(hosts) * devices == 1:
        return True, [sys.executable], {}
    made = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(hosts))]
    made += ["--nproc_per_node", str(devices), "--node_rank", str(rank), "--master_addr", hosts[0]]
    network = {}
    if name := about.get("network_interface_name"):
        network = {"NCCL_SOCKET_IFNAME": name, "GLOO_SOCKET_IFNAME": name}
    if Path("/dev/infiniband").exists():
        network |= {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1"}
    return rank == 0, [*made, "--master_port", os.environ.get("MASTER_PORT", PORT)], network


def gpus() -> int:
    """Return how many GPUs this host has."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    said = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in said.stdout.splitlines())


def config_of(given: Mapping[str, str], root: Path, code: Path) -> dict[str, Any]:
    """Return the trainer's configuration: dotted names become tables, channels become paths."""
    config: dict[str, Any] = {}
    for name, text in given.items():
        if name.startswith(("_", "sagemaker_")):  # SageMaker's own
            continue
        *path, last = name.split(".")
        table = config
        for part in path:
            table = table.setdefault(part, {})
        table[last] = json.loads(text)
    channels = root / "input/data"
    config["train_data"] = str(channels / "train/train.jsonl")
    if (channels / "validation").is_dir():
        config["validation_data"] = str(channels / "validation/validation.jsonl")
    if (channels / "sft").is_dir():
        config["sft"]["data"] = str(channels / "sft/sft.jsonl")
    if (channels / "start_from").is_dir():
        config["start_from"] = str(weights_in(channels / "start_from", root / "start_from"))
    if (code / TEMPLATE).is_file():
        config["chat_template"] = str(code / TEMPLATE)
    return {**config, "cache_dir": str(root / "cache")}


def weights_in(channel: Path, target: Path) -> Path:
    """Return the folder with the weights of a channel: itself, or what its archive holds, unpacked."""
    archive = channel / "model.tar.gz"
    if not archive.is_file():
        return channel
    with tarfile.open(archive) as packed:
        packed.extractall(target, filter="data")  # nothing outside the folder
    return target


class Records:
    """Prints each new record of the metrics file, so that CloudWatch has it to the last digit."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._told = {self._key(line) for line in self._lines()}

    def tell(self) -> None:
        """Print what was not printed before; a run that goes on from a checkpoint cuts its file back."""
        for line in self._lines():
            if (key := self._key(line)) not in self._told:
                self._told.add(key)
                print(MARK + line.decode(), flush=True)  # noqa: T201 - the log of the job

    def _lines(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._at:
                    self._at = 0
                file.seek(self._at)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        self._at += len(whole) + bool(whole)
        return whole.splitlines()

    @staticmethod
    def _key(line: bytes) -> tuple[Any, ...]:
        record = json.loads(line)
        return record.get("stage"), record.get("step"), record.get("final")


def finish(status: int, root: Path, *, first: bool) -> int:
    """Put the model, or why there is none, where SageMaker looks for it, and return the exit status."""
    try:
        result = json.loads((root / "checkpoints/result.json").read_text("utf-8"))
    except (OSError, ValueError):
        result = {}
    if status == 0:
        if first:
            (root / "model").mkdir(exist_ok=True)
            for path in (root / "checkpoints/model").iterdir():
                shutil.move(str(path), root / "model" / path.name)
        return 0
    error = result.get("error") or {"code": "failed", "message": f"the trainer ended with status {status}"}
    words = f"{error['code']}: {error['message']}" + (f" ({error['hint']})" if error.get("hint") else "")
    (root / "output").mkdir(exist_ok=True)
    (root / "output/failure").write_text(words[:1024], "utf-8")
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0])))
