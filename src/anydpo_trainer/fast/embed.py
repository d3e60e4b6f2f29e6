"""Token embeddings whose gradient is added where it belongs, without a table of zeros for every forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

ROWS = "anydpo_rows"  # set on a weight: the only rows of its gradient that are not zero


def embed(layer: Any, ids: Tensor) -> Tensor | None:
    """Return the embeddings of ids, None where the layer is not torch's plain one or is not trained here."""
    if type(layer) is not torch.nn.Embedding or not layer.weight.requires_grad or not layer.weight.is_leaf:
        return None
    if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
        return None
    made: Tensor = _Embed.apply(layer.weight, ids, layer.padding_idx)  # type: ignore[no-untyped-call]
    return made


def clear_gradients(weights: Iterable[Tensor], *, alone: bool) -> None:
    """Forget every gradient; one that is zero but for known rows keeps its place, with those rows set to zero.

    `alone` says that no other process adds to the gradients: then the rows of this one are all there are.
    """
    for weight in weights:
        rows: list[Tensor] | None = getattr(weight, ROWS, None) if alone else None
        if weight.grad is None or rows is None:
            weight.grad = None
            continue
        for ids in rows:
            weight.grad.index_fill_(0, ids, 0.0)
        rows.clear()


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.weight, ctx.padding = weight, padding
        ctx.save_for_backward(ids)
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        (ids,) = ctx.saved_tensors
        weight: Tensor = ctx.weight
        if ctx.padding is not None:  # torch keeps that row's gradient at 0
            grad = grad.masked_fill((ids == ctx.padding).unsqueeze(-1), 0.0)
        rows: list[Tensor] | None = getattr(weight, ROWS, None)
        if weight.grad is None:
            weight.grad, rows = torch.zeros_like(weight), []
            setattr(weight, ROWS, rows)
        weight.grad.index_add_(0, ids.flatten(), grad.reshape(-1, grad.shape[-1]).to(weight.dtype))
        if rows is not None:
            rows.append(ids.flatten())
        return None, None, None
