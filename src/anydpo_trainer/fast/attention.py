"""Attention of a row in which several completions share a prompt and several forks share the row.

A position sees its own fork only, nothing after itself, and of its fork's branches only its own. On a CPU each
branch is one call of a kernel, so that no masked block is computed; on a GPU the whole row is one call of
FlexAttention, whose kernel skips the blocks that are masked.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from anydpo_trainer.fast.blocks import attend
from anydpo_trainer.fast.layout import Layout, Segment

NAME = "anydpo_shared"  # what transformers knows this attention by
BLOCK = 128  # rows are padded to a multiple of this for FlexAttention


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return attention as transformers' modules expect it, [1, T, heads, head size]; without a layout it is torch's."""
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return found[0], None
    if unknown := [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]:
        raise NotImplementedError(f"attention with {unknown[0]}")
    if query.device.type == "cuda":
        return _in_one_call(query, key, value, scaling, layout).transpose(1, 2), None
    return _by_segment(query, key, value, scaling, layout).transpose(1, 2), None


def register() -> None:
    """Make the attention known to transformers, with torch's masks where there is no layout."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _by_segment(query: Tensor, key: Tensor, value: Tensor, scale: float | None, layout: Layout) -> Tensor:
    made: list[Tensor] = []
    for segment in layout.segments:
        q, k, v = (part[:, :, segment.start : segment.end] for part in (query, key, value))
        made += _one_fork(q, k, v, scale, segment, last=layout.last)
    return torch.cat(made, dim=2)


def _one_fork(q: Tensor, k: Tensor, v: Tensor, scale: float | None, segment: Segment, *, last: bool) -> list[Tensor]:
    """Return the outputs of trunk and first branch, which lie together and are causal, and of each other branch."""
    trunk, first = segment.trunk, segment.trunk + segment.branches[0]
    begin = segment.read if last else 0  # nobody reads what the last layer would give for the prompt's positions
    made = [q.new_zeros(*q.shape[:2], begin, v.shape[3])] if begin else []
    made.append(attend(q[:, :, begin:first], k[:, :, :first], v[:, :, :first], scale))
    at = first
    for length in segment.branches[1:]:
        seen = [torch.cat((part[:, :, :trunk], part[:, :, at : at + length]), dim=2) for part in (k, v)]
        made.append(attend(q[:, :, at : at + length], seen[0], seen[1], scale))
        at += length
    return made


def sees(layout: Layout) -> tuple[Tensor, Tensor]:
    """Return, for each position of the row, its fork and its branch (0 is the trunk): what a mask is made of."""
    forks, branches = [], []
    for number, segment in enumerate(layout.segments):
        lengths = torch.tensor([segment.trunk, *segment.branches])
        branches.append(torch.repeat_interleave(torch.arange(len(lengths)), lengths))
        forks.append(torch.full((int(lengths.sum()),), number))
    return torch.cat(forks), torch.cat(branches)


def _in_one_call(query: Tensor, key: Tensor, value: Tensor, scale: float | None, layout: Layout) -> Tensor:
    length = query.shape[2]
    if "mask" not in layout.memo:
        layout.memo["mask"] = _block_mask(layout)
    mask = layout.memo["mask"]
    padded = (F.pad(part, (0, 0, 0, mask.shape[-1] - length)) for part in (query, key, value))
    made: Tensor = _flex()(*padded, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1])
    return made[:, :, :length]


def _block_mask(layout: Layout) -> Any:
    """Return FlexAttention's mask of a layout, the same for every layer of a forward pass."""
    from torch.nn.attention.flex_attention import create_block_mask

    device, length = layout.input_ids.device, layout.input_ids.shape[1]
    size = -(-length // BLOCK) * BLOCK
    # The padding is a fork of its own, so that each of its rows sees something and none is NaN
    fork, branch = (F.pad(part, (0, size - length), value=-1).to(device) for part in sees(layout))

    def visible(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (fork[q] == fork[k]) & (k <= q) & ((branch[k] == 0) | (branch[k] == branch[q]))

    return create_block_mask(visible, None, None, size, size, device=device, BLOCK_SIZE=BLOCK)


@functools.cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
