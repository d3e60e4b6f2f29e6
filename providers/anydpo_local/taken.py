"""A folder in which TRL, or another user of transformers' Trainer, has trained on pairs, as a job of this place.

Nothing is copied and nothing of it is run: the metrics are read from `trainer_state.json`, the settings from the
instructions of `training_args.bin` without obeying them, and the weights are linked to.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from anydpo.adapter import canonical_metrics
from anydpo.errors import DataInvalid
from anydpo.home import home
from anydpo.provider import Described
from anydpo.result import METRICS as NAMES
from anydpo.result import TRAINING_ONLY
from anydpo.translate import trl
from anydpo.translate.reading import Theirs
from anydpo_local.pickled import state_of
from anydpo_trainer import config as rules
from anydpo_trainer.folder import METRICS, RESULT, write_json

DESCRIBED = "described.json"
STATE, ARGUMENTS, ADAPTER = "trainer_state.json", "training_args.bin", "adapter_config.json"
CANONICAL = {
    **{name: f"train/{name}" for name in NAMES},
    **{f"eval_{name}": f"eval/{name}" for name in NAMES if name not in TRAINING_ONLY},
}
ABOUT = ("step", "epoch")
WEIGHTS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
NOT_WEIGHTS = (STATE, "all_results.json", "train_results.json", "eval_results.json")
TOLD = ("r", "lora_alpha", "lora_dropout", "target_modules")


def take(folder: Path, config_name: str) -> str:
    """Return the id of the job that a folder is, made in one move; the same state of it is the same job."""
    folder = folder.absolute()
    state_file = _state_file(folder)
    content = state_file.read_bytes()
    try:
        state = json.loads(content)
        history = [dict(record) for record in state["log_history"]]
    except (ValueError, KeyError, TypeError):
        raise DataInvalid(f"{state_file}: is no state of a trainer") from None
    if not any("rewards/accuracies" in name for record in history for name in record):
        raise DataInvalid(f"{folder}: no training on pairs; its log has no rewards/accuracies")
    job = f"taken-{hashlib.sha256(str(folder).encode() + content).hexdigest()[:16]}"
    made = home() / "local" / job
    if made.is_dir():
        return job
    weights = folder if _has_weights(folder) else state_file.parent
    arguments = _arguments(folder, state_file.parent)
    adapter = _json(weights / ADAPTER)
    described = _described(folder, arguments, adapter, state_file)
    made.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".new-", dir=made.parent))
    model = str(described.job.get("model") or weights)
    write_json(unfinished / config_name, {**rules.Config(model=model, train_data="").to_dict(), "cache_dir": None})
    (unfinished / "python").write_text(sys.executable, "utf-8")
    records = _records(history, state, state_file)
    (unfinished / METRICS).write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    write_json(unfinished / RESULT, _result(folder, state, history, records, described, adapter))
    (unfinished / DESCRIBED).write_text(described.model_dump_json(), "utf-8")
    _link(weights, unfinished / "model")
    try:
        unfinished.rename(made)
    except OSError:  # another process was first
        shutil.rmtree(unfinished)
    return job


def described(folder: Path) -> Described | None:
    """Return what was asked for in the folder that a job was made of, None for a job of ours."""
    path = folder / DESCRIBED
    return Described.model_validate_json(path.read_text("utf-8")) if path.exists() else None


def _state_file(folder: Path) -> Path:
    """Return the latest state: the folder's own, else its last checkpoint's."""
    if (folder / STATE).is_file():
        return folder / STATE
    found = [path.parent.name for path in folder.glob(f"checkpoint-*/{STATE}")]
    numbered = [name for name in found if name.rpartition("-")[2].isdigit()]
    if not numbered:
        raise DataInvalid(
            f"{folder}: no {STATE}, here or in a checkpoint",
            hint="the output folder of TRL, or of another trainer that builds on transformers' Trainer",
        )
    return folder / max(numbered, key=lambda name: int(name.rpartition("-")[2])) / STATE


def _arguments(*folders: Path) -> dict[str, Any]:
    for folder in folders:
        if found := state_of(folder / ARGUMENTS):
            return found
    return {}


def _described(folder: Path, arguments: Mapping[str, Any], adapter: Mapping[str, Any], state: Path) -> Described:
    job: dict[str, Any] = {}
    lost: dict[str, str] = {"data": "the folder does not say what was trained on: name your own file"}
    base = adapter.get("base_model_name_or_path") or _json(folder / "config.json").get("_name_or_path")
    if base:
        job["model"] = base
    told = _asked(arguments)
    if told is None:
        lost["training_args"] = f"{ARGUMENTS} is not there or cannot be read without running it"
    elif "method" not in told:
        lost["method"] = f"{ARGUMENTS} names no loss and no beta"
    job |= told or {}
    if adapter:
        job["adapter"] = {name: adapter[name] for name in TOLD if adapter.get(name) is not None}
    elif base or arguments:
        job["adapter"] = "full"
    return Described(job=job, lost=lost, place="local", name=folder.name, created=state.stat().st_mtime)


def _asked(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the arguments say of the job, None where they say nothing that can be understood."""
    if not arguments:
        return None
    theirs = Theirs("TRL", arguments)
    try:
        made = {"method": trl.method_of(arguments)} if "beta" in arguments else {}
        trl.training(theirs, held_out=False)
    except (ValueError, TypeError, AttributeError):
        return None
    return made | {name: value for name, value in theirs.job.items() if name != "options"}


def _records(history: Iterable[Mapping[str, Any]], state: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    total = state.get("max_steps") or state.get("global_step")
    made: list[dict[str, Any]] = []
    for record in history:
        metrics = canonical_metrics(record, CANONICAL, skip=ABOUT)
        made.append({"stage": "dpo", "step": record.get("step"), "epoch": record.get("epoch"), **metrics})
        if any(name.startswith("train/") for name in metrics):
            made[-1]["total_steps"] = total
    made[-1]["time"] = path.stat().st_mtime  # the log itself tells no times
    return made


def _result(
    folder: Path,
    state: Mapping[str, Any],
    history: list[dict[str, Any]],
    records: list[dict[str, Any]],
    described: Described,
    adapter: Mapping[str, Any],
) -> dict[str, Any]:
    step, most = int(state.get("global_step") or 0), int(state.get("max_steps") or 0)
    summary: dict[str, Any] = next((record for record in reversed(history) if "train_runtime" in record), {})
    ended = step >= most or bool(summary) or _has_weights(folder)
    final = {name: value for record in records for name, value in record.items() if "/" in name}
    tokens = final.get("train/num_tokens")
    said = f"training has come to step {step} of {most}"
    return {
        "schema": 1,
        "state": "succeeded" if ended else "cancelled",
        "error": None if ended else {"code": "unfinished", "message": said, "hint": None},
        "effective": {name: value for name, value in described.job.items() if name != "model"},
        "data": {},
        "metrics": final,
        "stages": [{"stage": "dpo", "tokens": int(tokens)}] if tokens else [],
        "model": {"start": described.job.get("model"), "adapter": bool(adapter)},
        "seconds": summary.get("train_runtime"),
    }


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _link(source: Path, target: Path) -> None:
    """Make a folder of links to the weights and what belongs to them; copies where there are no links."""
    if not _has_weights(source):
        return
    target.mkdir()
    for path in sorted({path for pattern in WEIGHTS for path in source.glob(pattern)}):
        if path.name not in NOT_WEIGHTS and path.is_file():
            try:
                (target / path.name).symlink_to(path)
            except OSError:
                shutil.copy2(path, target / path.name)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
