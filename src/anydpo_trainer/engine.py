"""The machine a run works on: device, precision, peers, and how it is told to stop or says how far it is."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from anydpo_trainer.logprobs import PlainScorer, Scorer
from anydpo_trainer.shard import World

log = logging.getLogger("anydpo_trainer")

T = TypeVar("T")
IDLE = -1


class Stopped(Exception):
    """The run was asked to stop; `why` is "cancelled" or "interrupted"."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass
class Engine:
    """What every stage of a run shares."""

    device: torch.device
    dtype: torch.dtype
    world: World
    scorer: Scorer = field(default_factory=PlainScorer)  # chosen when the model is known
    stop_asked: Callable[[], str | None] = lambda: None
    sharded: bool = False  # each process holds a part of the weights
    averaged: bool = False  # gradients are averaged over processes where ours are to be summed
    _said: float = field(default=0.0, repr=False)

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """Compute in bfloat16 where that was chosen; master weights stay in float32."""
        if self.dtype in (torch.float32, torch.float64):
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def mine(self, parts: Sequence[T]) -> list[tuple[int, T]]:
        """Return this process's share of forward passes, each with its place in the whole.

        Where weights are sharded every process has to run as often as the others; what it runs only for that reason
        has the place `IDLE` and counts for nothing.
        """
        share = self.world.mine(parts)
        missing = -(-len(parts) // self.world.size) - len(share) if self.sharded else 0
        return share + [(IDLE, parts[0])] * missing

    def backward(self, value: Tensor) -> None:
        """Add the gradient of a value to the weights, so that the sum over processes is what is meant."""
        torch.autograd.backward(value * self.world.size if self.averaged else value)

    def check_stop(self) -> None:
        """Raise `Stopped` if this process was asked to stop; for long passes without checkpoints."""
        if (why := self.stop_asked()) is not None:
            raise Stopped(why)

    def say_progress(self, what: str, done: int, total: int) -> None:
        """Log how far a long pass is, at most once in two seconds."""
        now = time.monotonic()
        if self.world.first and (now - self._said > 2 or done >= total):
            self._said = now
            log.info("%s: %d of %d", what, min(done, total), total)

    def seed(self, *parts: object) -> None:
        """Make the next random draws a function of these parts alone, on every device."""
        digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
