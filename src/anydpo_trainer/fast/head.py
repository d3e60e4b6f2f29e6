"""Log-probabilities of given tokens straight from hidden states, without logits of a whole batch.

The output layer is multiplied a slice of the vocabulary at a time. A slice of logits stays in the processor's cache
while its maximum, its sum of exponentials and the metrics are taken, and the softmax is put together online as in
FlashAttention. For the backward pass the exponentials are either kept (faster) or computed again (leaner). A frozen
output layer needs neither: all that its gradient needs is the mean of its rows under the softmax, which the forward
pass sums up on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

SLICE = 4096  # of the vocabulary at a time


class Predictions(NamedTuple):
    """N log-probabilities and, without gradient, what was asked for of the U positions that they come from."""

    logps: Tensor  # [N]
    log_sum_sq: Tensor | None = None  # [U], log of the sum over the vocabulary of p^2
    entropy: Tensor | None = None  # [U]
    logit: Tensor | None = None  # [U], mean over the vocabulary
    correct: Tensor | None = None  # [N], 1 where the token was the first choice


@dataclass(frozen=True)
class Head:
    """An output layer and how to go about it."""

    weight: Tensor  # [V, H]
    bias: Tensor | None
    dtype: torch.dtype  # of the products; sums are in float32 or better
    store: bool = True  # keep the exponentials for the backward pass
    in_place: bool = False  # add to `weight.grad` directly: it is a leaf and whole on this device
    squares: bool = False
    stats: bool = False

    @property
    def exact(self) -> torch.dtype:
        """The type of sums and log-probabilities."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def slices(self) -> Iterator[tuple[int, Tensor]]:
        """Return the weight's rows as slices, each with the first token that it stands for."""
        weight = self.weight.detach()
        for start in range(0, weight.shape[0], SLICE):
            yield start, weight[start : start + SLICE].to(self.dtype)

    def logits(self, states: Tensor, start: int, part: Tensor, out: Tensor) -> Tensor:
        """Fill `out` with the logits of one slice."""
        if out.dtype == states.dtype:
            torch.mm(states, part.t(), out=out)
        else:
            out.copy_(states @ part.t())
        if self.bias is not None:
            out += self.bias[start : start + part.shape[0]].detach().to(out.dtype)
        return out


def predict(hidden: Tensor, rows: Tensor, labels: Tensor, head: Head) -> Predictions:
    """Return log p(labels[n] | hidden[rows[n]]), hidden [U, H], with gradients for hidden and the output layer."""
    with torch.autocast(hidden.device.type, enabled=False):
        found = _Predict.apply(hidden, head.weight, head.bias, rows, labels, head)  # type: ignore[no-untyped-call]
    return Predictions(*found)


class _Online:
    """Maximum, sum of exponentials and what is weighted by them, over slices of the vocabulary; [U] each."""

    def __init__(self, count: int, head: Head) -> None:
        zeros = torch.zeros(count, dtype=head.exact, device=head.weight.device)
        self.top = torch.full_like(zeros, -torch.inf)
        self.total, self.weighted, self.plain, self.squared = (zeros.clone() for _ in range(4))
        self._stats, self._squares, self._vocabulary = head.stats, head.squares, head.weight.shape[0]

    def add(self, logits: Tensor, exponentials: Tensor) -> tuple[Tensor, Tensor]:
        """Fill `exponentials` with exp(logits - the slice's maximum); return the maximum and the old sums' factor."""
        here = logits.amax(dim=1)
        torch.sub(logits, here.unsqueeze(1), out=exponentials).exp_()
        top = torch.maximum(self.top, here)
        before, now = torch.exp(self.top - top), torch.exp(here - top)
        self.total.mul_(before).addcmul_(exponentials.sum(dim=1), now)
        if self._stats:
            self.weighted.mul_(before).addcmul_(torch.linalg.vecdot(exponentials, logits), now)
            self.plain += logits.sum(dim=1)
        if self._squares:
            self.squared.mul_(before**2).addcmul_(torch.linalg.vecdot(exponentials, exponentials), now**2)
        self.top = top
        return here, before

    def results(self, chosen: Tensor, rows: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Return log Z, and the predictions' fields from `log_sum_sq` on."""
        log_z = self.top + torch.log(self.total)
        squares = torch.log(self.squared) - 2 * torch.log(self.total) if self._squares else None
        if not self._stats:
            return log_z, (squares, None, None, None)
        correct = (chosen >= self.top[rows]).to(chosen.dtype)
        return log_z, (squares, log_z - self.weighted / self.total, self.plain / self._vocabulary, correct)


class _Predict(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, _bias: Tensor | None, rows: Tensor, labels: Tensor, head: Head
    ) -> Any:
        states = hidden.detach().to(head.dtype)
        count = states.shape[0]
        exact: dict[str, Any] = {"dtype": head.exact, "device": hidden.device}
        online, chosen = _Online(count, head), torch.zeros(len(labels), **exact)
        keep = ctx.needs_input_grad[1] and head.store
        # Of a frozen layer: sum over the vocabulary of p times its row, for each position
        mean = torch.zeros(states.shape, **exact) if ctx.needs_input_grad[0] and not ctx.needs_input_grad[1] else None
        kept: list[tuple[Tensor, Tensor]] = []
        scratch = torch.empty(2, count * min(SLICE, weight.shape[0]), **exact)
        for start, part in head.slices():
            free = scratch[:, : count * part.shape[0]].view(2, count, -1)
            logits = head.logits(states, start, part, free[0])
            exponentials = torch.empty_like(logits) if keep else free[1]
            here, before = online.add(logits, exponentials)
            at, inside = _place(labels, start, part)
            chosen += torch.where(inside, logits[rows, at], 0.0)
            if keep:
                kept.append((exponentials, here))
            if mean is not None:
                now = torch.exp(here - online.top)
                mean.mul_(before.unsqueeze(1)).add_((exponentials.to(head.dtype) @ part) * now.unsqueeze(1))
        log_z, rest = online.results(chosen, rows)
        if mean is not None:
            mean.div_(online.total.unsqueeze(1))
        ctx.save_for_backward(hidden, weight, rows, labels, log_z, mean)
        ctx.kept, ctx.head = kept, head
        ctx.mark_non_differentiable(*(value for value in rest if value is not None))
        return chosen - log_z[rows], *rest

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad: Tensor = grads[0]
        hidden, weight, rows, labels, log_z, mean = ctx.saved_tensors
        falling = torch.zeros_like(log_z).index_add_(0, rows, grad)  # of each position's logits, times probability
        to_hidden = to_weight = to_bias = None
        if mean is not None:
            rising = weight[labels].to(log_z.dtype) * grad.unsqueeze(1)
            to_hidden = (mean * -falling.unsqueeze(1)).index_add_(0, rows, rising)
        elif ctx.needs_input_grad[0]:
            to_hidden = torch.zeros(hidden.shape, dtype=log_z.dtype, device=hidden.device)
        if ctx.needs_input_grad[1]:
            to_weight, to_bias = _through_slices(ctx, grad, falling, to_hidden)
        return None if to_hidden is None else to_hidden.to(hidden.dtype), to_weight, to_bias, None, None, None


def _through_slices(
    ctx: Any, grad: Tensor, falling: Tensor, to_hidden: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Add to `to_hidden` and return the gradients of weight and bias, a slice of the vocabulary at a time."""
    hidden, weight, rows, labels, log_z, _ = ctx.saved_tensors
    head: Head = ctx.head
    states = hidden.detach().to(head.dtype)
    in_place = head.in_place and weight.is_leaf
    given: Tensor | None = weight.grad if in_place else None
    first = given is None
    to_weight = torch.empty_like(weight) if given is None else given
    to_bias = torch.empty_like(head.bias) if head.bias is not None and ctx.needs_input_grad[2] else None
    kept: list[tuple[Tensor, Tensor]] = ctx.kept
    for number, (start, part) in enumerate(head.slices()):
        if kept:
            slope, here = kept[number]
            slope.mul_((torch.exp(here - log_z) * -falling).unsqueeze(1))
        else:
            slope = torch.empty(states.shape[0], part.shape[0], dtype=log_z.dtype, device=states.device)
            head.logits(states, start, part, slope).sub_(log_z.unsqueeze(1)).exp_().mul_(-falling.unsqueeze(1))
        at, inside = _place(labels, start, part)
        slope.index_put_((rows, at), torch.where(inside, grad, 0.0), accumulate=True)
        low = slope.to(head.dtype)
        if to_hidden is not None:
            _add_product(to_hidden, low, part, first=False)
        _add_product(to_weight[start : start + SLICE], low.t(), states, first=first)
        if to_bias is not None:
            to_bias[start : start + SLICE] = slope.sum(dim=0)
    kept.clear()
    if not in_place:
        return to_weight, to_bias
    if first:
        weight.grad = to_weight
    return None, to_bias


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """Add a product to a total, which holds nothing yet where this is the first."""
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, beta=0 if first else 1, out=total)
    elif first:
        total.copy_(left @ right)
    else:
        total.add_(left @ right)


def _place(labels: Tensor, start: int, part: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each label is in a slice, and whether it is in there at all."""
    at = labels - start
    return at.clamp(0, part.shape[0] - 1), (at >= 0) & (at < part.shape[0])
