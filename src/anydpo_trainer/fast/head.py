"""Log-probabilities of given tokens straight from hidden states, without logits of a whole batch.

The output layer is multiplied a slice of the vocabulary at a time. A slice of logits stays in the cache of the
processor while its maximum, its sum of exponentials and the metrics are taken, and the softmax is put together online
as in FlashAttention. For the backward pass the exponentials are either kept (faster) or computed again (leaner); a
frozen output layer needs neither, because the only thing that its gradient needs is the mean of its rows under the
softmax, which the forward pass can sum up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SLICE = 4096  # of the vocabulary at a time


@dataclass
class Predictions:
    """N log-probabilities and, without gradient, what is asked for of the U positions that they come from."""

    logps: Tensor  # [N]
    log_sum_sq: Tensor | None = None  # [U], log of the sum over the vocabulary of p^2
    entropy: Tensor | None = None  # [U]
    logit: Tensor | None = None  # [U], mean over the vocabulary
    correct: Tensor | None = None  # [N], 1 where the token was the first choice


@dataclass
class Head:
    """An output layer and how to go about it. `in_place`: add to `weight.grad` directly, as a leaf on one device."""

    weight: Tensor  # [V, H]
    bias: Tensor | None
    dtype: torch.dtype  # of the product; the sums are in float32 or better
    store: bool = True
    in_place: bool = False
    squares: bool = False
    stats: bool = False


def predict(hidden: Tensor, rows: Tensor, labels: Tensor, head: Head) -> Predictions:
    """Return log p(labels[n] | hidden[rows[n]]), hidden [U, H], with gradients for hidden and the output layer."""
    made = Predictions(torch.empty(0))
    made.logps = _Predict.apply(hidden, head.weight, head.bias, rows, labels, head, made)  # type: ignore[no-untyped-call]
    return made


class _Online:
    """Maximum, sum of exponentials and what is weighted by them, over slices of the vocabulary; [U] each."""

    def __init__(self, count: int, like: Tensor, head: Head) -> None:
        def empty(wanted: bool = True) -> Tensor | None:
            return torch.zeros(count, dtype=like.dtype, device=like.device) if wanted else None

        self.top = torch.full((count,), -torch.inf, dtype=like.dtype, device=like.device)
        self.total = torch.zeros_like(self.top)
        self.weighted, self.plain = empty(head.stats), empty(head.stats)
        self.squared = empty(head.squares)

    def add(self, logits: Tensor, exponentials: Tensor) -> tuple[Tensor, Tensor]:
        """Fill `exponentials` with exp(logits - the slice's maximum); return the maximum and the old sums' factor."""
        here = logits.amax(dim=1)
        torch.sub(logits, here.unsqueeze(1), out=exponentials).exp_()
        top = torch.maximum(self.top, here)
        before, now = torch.exp(self.top - top), torch.exp(here - top)
        self.total.mul_(before).addcmul_(exponentials.sum(dim=1), now)
        if self.weighted is not None and self.plain is not None:
            self.weighted.mul_(before).addcmul_(torch.linalg.vecdot(exponentials, logits), now)
            self.plain += logits.sum(dim=1)
        if self.squared is not None:
            self.squared.mul_(before**2).addcmul_(torch.linalg.vecdot(exponentials, exponentials), now**2)
        self.top = top
        return here, before

    @property
    def log_z(self) -> Tensor:
        """The logarithm of the softmax's denominator."""
        return self.top + torch.log(self.total)


class _Predict(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor,
        labels: Tensor,
        head: Head,
        made: Predictions,
    ) -> Tensor:
        states = hidden.detach().to(head.dtype)
        exact = torch.float64 if head.dtype == torch.float64 else torch.float32
        count, vocabulary = states.shape[0], weight.shape[0]
        online = _Online(count, torch.empty(0, dtype=exact, device=hidden.device), head)
        chosen = torch.zeros(len(labels), dtype=exact, device=hidden.device)
        trained = ctx.needs_input_grad[1]
        keep = trained and head.store
        mean = (
            torch.zeros(states.shape, dtype=exact, device=hidden.device)
            if ctx.needs_input_grad[0] and not trained
            else None
        )
        kept: list[tuple[Tensor, Tensor]] = []
        scratch = torch.empty(2, count * min(SLICE, vocabulary), dtype=exact, device=hidden.device)
        for start in range(0, vocabulary, SLICE):
            part = weight[start : start + SLICE].detach().to(head.dtype)
            width = part.shape[0]
            logits = scratch[0, : count * width].view(count, width)
            _multiply(states, part, bias[start : start + SLICE] if bias is not None else None, logits)
            exponentials = torch.empty_like(logits) if keep else scratch[1, : count * width].view(count, width)
            here, before = online.add(logits, exponentials)
            at = ((labels >= start) & (labels < start + width)).nonzero().squeeze(1)
            chosen[at] = logits[rows[at], labels[at] - start]
            if keep:
                kept.append((exponentials, here))
            if mean is not None:
                now = torch.exp(here - online.top)
                mean.mul_(before.unsqueeze(1)).add_((exponentials.to(head.dtype) @ part) * now.unsqueeze(1))
        log_z = online.log_z
        if mean is not None:
            mean.div_(online.total.unsqueeze(1))
        if head.stats:
            made.entropy, made.logit = log_z - online.weighted / online.total, online.plain / vocabulary
            made.correct = (chosen >= online.top[rows]).to(exact)
        if head.squares:
            made.log_sum_sq = torch.log(online.squared) - 2 * torch.log(online.total)
        ctx.save_for_backward(hidden, weight, bias, rows, labels, log_z, mean)
        ctx.kept, ctx.head = kept, head
        return chosen - log_z[rows]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight, bias, rows, labels, log_z, mean = ctx.saved_tensors
        head: Head = ctx.head
        states = hidden.detach().to(head.dtype)
        falling = torch.zeros_like(log_z).index_add_(0, rows, grad)  # [U], of every logit by its probability
        to_hidden = (
            torch.zeros(states.shape, dtype=log_z.dtype, device=hidden.device) if ctx.needs_input_grad[0] else None
        )
        if mean is not None:
            rising = weight[labels].to(log_z.dtype) * grad.unsqueeze(1)
            to_hidden = (mean * -falling.unsqueeze(1)).index_add_(0, rows, rising)
        to_weight = to_bias = None
        if ctx.needs_input_grad[1]:
            to_weight, to_bias = _through_slices(ctx, states, grad, falling, to_hidden)
        if to_hidden is not None:
            to_hidden = to_hidden.to(hidden.dtype)
        return to_hidden, to_weight, to_bias, None, None, None, None


def _through_slices(
    ctx: Any, states: Tensor, grad: Tensor, falling: Tensor, to_hidden: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Add to `to_hidden` and return the gradients of weight and bias, a slice of the vocabulary at a time."""
    _, weight, bias, rows, labels, log_z, _ = ctx.saved_tensors
    head: Head = ctx.head
    in_place = head.in_place and weight.is_leaf
    fresh = weight.grad is None or not in_place
    to_weight = torch.empty_like(weight) if fresh else weight.grad
    to_bias = torch.empty_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
    kept: list[tuple[Tensor, Tensor]] = ctx.kept
    for number, start in enumerate(range(0, weight.shape[0], SLICE)):
        part = weight[start : start + SLICE].detach().to(head.dtype)
        if kept:
            slope, here = kept[number]
            slope.mul_((torch.exp(here - log_z) * -falling).unsqueeze(1))
        else:
            slope = torch.empty(states.shape[0], part.shape[0], dtype=log_z.dtype, device=states.device)
            _multiply(states, part, bias[start : start + SLICE] if bias is not None else None, slope)
            slope.sub_(log_z.unsqueeze(1)).exp_().mul_(-falling.unsqueeze(1))
        at = ((labels >= start) & (labels < start + part.shape[0])).nonzero().squeeze(1)
        slope.index_put_((rows[at], labels[at] - start), grad[at], accumulate=True)
        low = slope.to(head.dtype)
        if to_hidden is not None:
            if to_hidden.dtype == low.dtype:
                to_hidden.addmm_(low, part)
            else:
                to_hidden += low @ part
        rows_of = to_weight[start : start + SLICE]
        if rows_of.dtype == low.dtype:
            torch.addmm(rows_of, low.t(), states, beta=0 if fresh else 1, out=rows_of)
        elif fresh:
            rows_of.copy_(low.t() @ states)
        else:
            rows_of.add_(low.t() @ states)
        if to_bias is not None:
            to_bias[start : start + SLICE] = slope.sum(dim=0)
    kept.clear()
    if in_place:
        if fresh:
            weight.grad = to_weight
        return None, to_bias
    return to_weight, to_bias


def _multiply(states: Tensor, part: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if out.dtype == states.dtype:
        torch.mm(states, part.t(), out=out)
    else:
        out.copy_(states @ part.t())
    if bias is not None:
        out += bias.to(out.dtype)
