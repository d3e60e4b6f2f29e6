"""Checkpoints, whole or not at all, and exact: weights, optimiser and place in the data.

All randomness is a function of the seed and the step, so there is no random state to keep.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from anydpo_trainer import fsdp
from anydpo_trainer import model as models
from anydpo_trainer.errors import TrainerError
from anydpo_trainer.metrics_file import STAGES
from anydpo_trainer.shard import World, like

log = logging.getLogger("anydpo_trainer")

SHARDS = "optimiser"  # a folder, where each process has written a part
NAME = re.compile(r"(sft|dpo)-step-(\d{6,})")


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `step` optimiser steps of `stage` are done."""

    stage: str
    step: int
    tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    without_gain: int = 0
    pass_tokens: int | None = None  # what the forward passes were cut to, so that a resumed run cuts them alike


class Saved(Protocol):
    """What a checkpoint holds besides the optimiser."""

    model: Any
    tokenizer: Any
    reference: Any | None


class Checkpoints:
    """The checkpoints of one run, in its `checkpoints/` folder."""

    def __init__(self, folder: Path, keep: int, identity: str) -> None:
        self._folder, self._keep, self._identity = folder, keep, identity

    def save(self, progress: Progress, trainee: Saved, optimiser: torch.optim.Optimizer, world: World) -> Path:
        """Write a checkpoint, every process its part where the model is sharded; older ones go, except the best."""
        path = self.path(progress.stage, progress.step)
        whole, reference = fsdp.full_state(trainee.model), None
        if trainee.reference is not None:
            reference = fsdp.full_state(trainee.reference)
        shards = path.with_name(f".{path.name}.shards")
        if fsdp.in_parts(optimiser):
            if world.first:
                shutil.rmtree(shards, ignore_errors=True)  # of a run that was killed in the middle
            world.wait()
            fsdp.save_optimiser(optimiser, shards)

        def write(folder: Path) -> None:
            models.save(trainee.model, trainee.tokenizer, folder / "model", whole)
            if trainee.reference is not None:
                models.save(trainee.reference, trainee.tokenizer, folder / "reference", reference)
            if fsdp.in_parts(optimiser):
                shards.rename(folder / SHARDS)
            else:
                save_file(_optimiser_tensors(optimiser), folder / "optimiser.safetensors")
            files = {
                str(path.relative_to(folder)): [path.stat().st_size, _sha256(path)]
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            state = {"schema": 1, "identity": self._identity, "progress": asdict(progress), "files": files}
            (folder / "state.json").write_text(json.dumps(state, indent=1), "utf-8")

        if world.first:
            models.write_folder(path, write)
            self._prune(progress)
        world.wait()
        return path

    def path(self, stage: str, step: int) -> Path:
        """Return the folder of one checkpoint."""
        return self._folder / f"{stage}-step-{step:06d}"

    def latest(self) -> tuple[Path, Progress] | None:
        """Return the newest whole checkpoint of this run.

        Raises `TrainerError` if it is of another model or configuration; a damaged one is passed over.
        """
        for path in reversed(self._all()):
            try:
                state = json.loads((path / "state.json").read_text("utf-8"))
                whole = all(
                    (path / name).stat().st_size == size and _sha256(path / name) == digest
                    for name, (size, digest) in state["files"].items()
                )
            except (OSError, ValueError, KeyError):
                whole, state = False, {}
            if not whole:
                log.warning("checkpoint %s is damaged and is passed over", path.name)
                continue
            if state["identity"] != self._identity:
                raise TrainerError(
                    "foreign_checkpoint",
                    f"{path} is a checkpoint of another model or configuration",
                    "train into an empty folder, or with the configuration that began there",
                )
            return path, Progress(**state["progress"])
        return None

    def _all(self) -> list[Path]:
        found = [(match, path) for path in self._folder.glob("*-step-*") if (match := NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found, key=lambda f: (STAGES.index(f[0][1]), int(f[0][2])))]

    def _prune(self, progress: Progress) -> None:
        kept = set(self._all()[-self._keep :])
        if progress.best_step is not None:
            kept.add(self.path(progress.stage, progress.best_step))
        for path in self._all():
            if path not in kept:
                doomed = path.with_name(f".{path.name}.old")
                path.rename(doomed)  # a kill while deleting leaves no half checkpoint under its name
                shutil.rmtree(doomed, ignore_errors=True)


def load_weights(model: Any, folder: Path) -> None:
    """Put the weights of a checkpoint's `model/` into a model of the same shapes, to the bit."""
    state = {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}
    try:
        if hasattr(model, "peft_config"):
            from peft import set_peft_model_state_dict

            set_peft_model_state_dict(model, state, adapter_name="default")
        else:
            missing, unknown = fsdp.put(model, state)
            tied = set(getattr(model, "_tied_weights_keys", None) or ())
            if unknown or set(missing) - tied:
                raise RuntimeError(f"unknown {unknown}, missing {sorted(set(missing) - tied)}")
    except RuntimeError as exc:
        raise TrainerError(
            "foreign_checkpoint", f"{folder} does not fit the model: {str(exc).splitlines()[0]}"
        ) from exc


def load_optimiser(optimiser: torch.optim.Optimizer, folder: Path) -> None:
    """Put the saved optimiser state back."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    if (folder / SHARDS).is_dir():
        state = fsdp.load_optimiser(optimiser, folder / SHARDS)
    else:
        for name, tensor in load_file(folder / "optimiser.safetensors").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = like(tensor, weights[int(index)])
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{key}": value.detach().cpu().contiguous()
        for index, values in optimiser.state_dict()["state"].items()
        for key, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
