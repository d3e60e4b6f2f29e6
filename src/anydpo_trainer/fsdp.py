"""Weights, gradients and optimiser states in parts over processes: FSDP2, and checkpoints to which each adds its part.

What is trained whole is sharded layer by layer. Under an adapter only the frozen base is; the adapter's few weights
stay on every process and their gradients are summed as without sharding.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from anydpo_trainer.engine import Engine
from anydpo_trainer.fast.scorer import METHOD, predictions, whole
from anydpo_trainer.shard import gathered, like, release

dcp: Any = torch.distributed.checkpoint  # it exports its names by importing them


def shard(model: Any, engine: Engine) -> None:
    """Give each process its part of every weight that is not an adapter's, on the engine's device."""
    mesh = init_device_mesh(engine.device.type, (engine.world.size,))
    precision = MixedPrecisionPolicy()
    if engine.dtype == torch.bfloat16:
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    kept = {weight for name, weight in model.named_parameters() if "lora_" in name}
    for weight in kept:
        weight.data = weight.data.to(engine.device)
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": precision, "ignored_params": kept}
    for layer in whole(model).get_decoder().layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)
    setattr(model, METHOD, types.MethodType(predictions, model))
    register_fsdp_forward_method(model, METHOD)


def full_state(model: Any) -> dict[str, Tensor] | None:
    """Return a sharded model's weights, whole and in memory, None for a model that is not; all have to ask.

    Of one with an adapter only the adapter's, which each process has.
    """
    if not any(isinstance(module, FSDPModule) for module in model.modules()):
        return None
    release(model)
    state = model.state_dict()
    if hasattr(model, "peft_config"):
        return {name: value.cpu() for name, value in state.items() if "lora_" in name}
    return {name: gathered(value).cpu() for name, value in state.items()}


def in_parts(optimiser: torch.optim.Optimizer) -> bool:
    """Say whether an optimiser's state is in parts over processes."""
    return any(isinstance(weight, DTensor) for group in optimiser.param_groups for weight in group["params"])


def put(model: Any, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Set a model's weights, sharded or not, to whole ones; return the names it misses and those it does not know."""
    release(model)
    known = model.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            if name in known:
                _copy(known[name], value)
    return sorted(set(known) - set(state)), sorted(set(state) - set(known))


def save_optimiser(optimiser: torch.optim.Optimizer, folder: Path) -> None:
    """Write each process's part of the optimiser's state; all have to take part."""
    dcp.save(_flat(optimiser.state_dict()["state"]), checkpoint_id=folder)


def load_optimiser(optimiser: torch.optim.Optimizer, folder: Path) -> dict[int, dict[str, Tensor]]:
    """Return the state that `save_optimiser` left, in the parts that this process has now."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    found: dict[str, Tensor] = {}
    for name in dcp.FileSystemReader(folder).read_metadata().state_dict_metadata:
        index, key = name.split(".", 1)
        found[name] = torch.zeros(()) if key == "step" else torch.zeros_like(weights[int(index)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process may go on alone
        dcp.load(found, checkpoint_id=folder)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in found.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return state


def _copy(weight: Tensor, value: Tensor) -> None:
    if weight.shape != value.shape:
        raise RuntimeError(f"size mismatch: {tuple(value.shape)} for {tuple(weight.shape)}")
    weight.copy_(like(value.to(weight.dtype), weight))


def _flat(state: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
