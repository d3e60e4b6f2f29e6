"""Token embeddings whose gradient is added where it belongs, without a table of zeros for every forward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def embed(layer: Any, ids: Tensor) -> Tensor | None:
    """Return the embeddings of ids, None where the layer is not torch's plain one or is not trained here."""
    if type(layer) is not torch.nn.Embedding or not layer.weight.requires_grad or not layer.weight.is_leaf:
        return None
    if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
        return None
    made: Tensor = _Embed.apply(layer.weight, ids, layer.padding_idx)  # type: ignore[no-untyped-call]
    return made


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
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids.flatten(), grad.reshape(-1, grad.shape[-1]).to(weight.dtype))
        return None, None, None
