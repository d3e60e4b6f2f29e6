"""In the last layer only the positions that are read are worth computing, beside the keys and values of the others.

Done with hooks on the modules that work on each position alone: they get the positions that are read, and zeros stand
for the rest. So any architecture whose layers have such modules is served, adapters included. Everything hangs on the
modules themselves, so that a copy of a model is trimmed too, and starts in the attention, so that it also happens when
a checkpointed layer is computed again.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

ATTENTION, MODULES = "self_attn", ("self_attn.q_proj", "self_attn.o_proj", "mlp")


def trim(layer: Any) -> None:
    """Prepare a model's last layer; one whose modules have other names stays as it is."""
    if not _has(layer, ATTENTION):
        return
    found = [layer.get_submodule(name) for name in MODULES if _has(layer, name)]
    attention = layer.get_submodule(ATTENTION)
    attention.anydpo_trimmed = found  # a list, so that none becomes a part of the attention
    attention.register_forward_pre_hook(_begin, with_kwargs=True)
    for module in found:
        module.anydpo_layout = None
        module.register_forward_pre_hook(_narrow)
        module.register_forward_hook(_widen)


def _has(layer: Any, name: str) -> bool:
    try:
        layer.get_submodule(name)
    except AttributeError:
        return False
    return True


def _begin(attention: Any, positional: Any, named: dict[str, Any]) -> Any:
    """Tell each module of the layer which row comes now, None where it is no row of ours."""
    layout = named.get("layout")
    for module in attention.anydpo_trimmed:
        module.anydpo_layout = layout
    return None if layout is None else (positional, {**named, "layout": dataclasses.replace(layout, last=True)})


def _narrow(module: Any, positional: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    layout = module.anydpo_layout
    return None if layout is None else (positional[0].index_select(1, layout.read), *positional[1:])


def _widen(module: Any, _positional: Any, output: Tensor) -> Tensor | None:
    layout = module.anydpo_layout
    if layout is None:
        return None
    whole = output.new_zeros(1, layout.input_ids.shape[1], *output.shape[2:])
    return torch.index_copy(whole, 1, layout.read, output)
