"""Several processes as one, equal to one process with the same batch: their world, and tensors in parts.

Every rank takes its share of each batch's forward passes. Where it holds the whole model, gradients are summed once a
step; `fsdp` is for models in parts. Losses are divided by the size of the whole batch beforehand, so the sum is the
gradient of its mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")
BUCKET = 1 << 25  # bytes of gradients sent at a time


@dataclass(frozen=True)
class World:
    """This process among its peers; a world of one needs no `torchrun`."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls) -> World:
        """Return the world that `torchrun` describes in the environment, connected to its peers."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        world = cls(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available():
            torch.cuda.set_device(world.local_rank)
        # Gradients go between GPUs, metrics and words between processors
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return world

    def leave(self) -> None:
        """Disconnect from the peers."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> list[tuple[int, T]]:
        """Return this process's share of a list, each with its place in the whole."""
        return list(enumerate(items))[self.rank :: self.size]

    def lost_a_peer(self, error: Exception) -> bool:
        """Say whether an error means that another process has ended, and nothing of this one."""
        said = str(error).lower()
        return self.size > 1 and (
            isinstance(error, dist.DistError) or any(word in said for word in ("gloo", "nccl", "closed by peer"))
        )

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, a bucket at a time."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            bucket.append(weight.grad)
            if sum(g.numel() * g.element_size() for g in bucket) >= BUCKET:
                _sum_in_place(bucket)
                bucket = []
        if bucket:
            _sum_in_place(bucket)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in order of rank."""
        if self.size == 1:
            return [value]
        made: list[Any] = [None] * self.size
        dist.all_gather_object(made, value)
        return made


def release(model: Any) -> None:
    """Let go of weights that a forward pass has gathered, so that each process sees its part alone."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gathered(value: Tensor) -> Tensor:
    """Return a whole tensor; every process has to ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, weight: Tensor) -> Tensor:
    """Return a whole tensor in the parts that a weight is in."""
    if not isinstance(weight, DTensor) or value.shape != weight.shape:
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)


def unsharded(weights: Iterable[Tensor]) -> list[Tensor]:
    """Return the weights that each process has whole."""
    return [weight for weight in weights if not isinstance(weight, DTensor)]


def _sum_in_place(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
