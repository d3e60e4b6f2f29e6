"""Causal attention on a processor, a block of queries at a time, with what the backward pass needs kept.

Torch's kernel for processors keeps nothing of the square of queries and keys and computes it again in the backward
pass. Up to some hundred keys the square is small beside the rest of a layer's activations, and keeping it saves a
fifth of the products; heads that share keys make one product of them all. Longer rows go to torch's kernel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

BLOCK = 96  # queries at a time: the fastest of 64 to 512 for rows of 128 to 512
KEYS = range(192, 769)  # fewer gain nothing; of more, what is kept would outgrow a layer's other activations

_BACK: Any = torch.ops.aten._softmax_backward_data.default  # of softmax, from its value


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Return attention [1, heads, Q, size] of queries that stand at the end of the keys [1, groups, K, size].

    A query sees every key up to its own place. The formula is softmax(QK' scale)V of Vaswani et al. 2017.
    """
    if query.shape[2] == 0:
        return query
    by_block = key.shape[2] in KEYS and query.dtype in (torch.float32, torch.float64)
    if by_block and torch.is_grad_enabled() and query.device.type == "cpu":
        factor = 1 / math.sqrt(query.shape[3]) if scale is None else scale
        made: Tensor = _Attend.apply(query, key, value, factor)  # type: ignore[no-untyped-call]
        return made
    grouped = query.shape[1] != key.shape[1]
    if query.shape[2] == key.shape[2]:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
    mask = _corner(query.shape[2], key.shape[2], query.device)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        _, heads, count, _ = query.shape
        k, v = key[0], value[0]
        groups, keys = k.shape[:2]
        out = query.new_empty(groups, heads // groups, count, v.shape[2])
        kept: list[Tensor] = []
        for start, end, seen in _blocks(count, keys):
            scores = torch.bmm(_rows(query, groups, start, end).mul(scale), k[:, :seen].transpose(1, 2))
            corner = scores.view(groups, -1, end - start, seen)[..., start - end :]
            corner.masked_fill_(_later(end - start), -torch.inf)
            weights = torch.softmax(scores, dim=-1)
            out[:, :, start:end] = torch.bmm(weights, v[:, :seen]).view(groups, -1, end - start, v.shape[2])
            kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scale = scale
        return out.view(1, heads, count, v.shape[2])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, *kept = ctx.saved_tensors
        _, heads, count, size = query.shape
        k, v = key[0], value[0]
        groups, keys = k.shape[:2]
        to_query = query.new_empty(groups, heads // groups, count, size)
        to_key, to_value = torch.zeros_like(k), torch.zeros_like(v)
        for weights, (start, end, seen) in zip(kept, _blocks(count, keys), strict=True):
            grad = _rows(grads[0], groups, start, end)
            through = torch.bmm(grad, v[:, :seen].transpose(1, 2))
            slope = _BACK(through, weights, -1, weights.dtype).mul_(ctx.scale)
            to_query[:, :, start:end] = torch.bmm(slope, k[:, :seen]).view(groups, -1, end - start, size)
            to_key[:, :seen].baddbmm_(slope.transpose(1, 2), _rows(query, groups, start, end))
            to_value[:, :seen].baddbmm_(weights.transpose(1, 2), grad)
        return to_query.view(1, heads, count, size), to_key.unsqueeze(0), to_value.unsqueeze(0), None


def _blocks(count: int, keys: int) -> Iterator[tuple[int, int, int]]:
    """Return where each block of queries begins and ends, and how many keys its last query sees."""
    for start in range(0, count, BLOCK):
        end = min(count, start + BLOCK)
        yield start, end, keys - count + end


def _rows(part: Tensor, groups: int, start: int, end: int) -> Tensor:
    """Return a block of [1, heads, Q, size] as [groups, queries of all heads of a group, size]."""
    return part[0, :, start:end].reshape(groups, -1, part.shape[3])


@functools.lru_cache(maxsize=BLOCK)
def _later(count: int) -> Tensor:
    return torch.ones(count, count, dtype=torch.bool).triu(1)


@functools.lru_cache(maxsize=256)
def _corner(queries: int, keys: int, device: torch.device) -> Tensor:
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
