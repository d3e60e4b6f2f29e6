"""Which pairs go into which step, and how they become tensors. Every choice depends on the seed alone."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Encoded(NamedTuple):
    """One pair as token ids. `source` is the `file:line` it came from."""

    prompt: array[int]
    chosen: array[int]
    rejected: array[int]
    weight: float = 1.0
    source: str = ""

    @property
    def longest(self) -> int:
        """Tokens of the longer of its two sequences."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Batch:
    """B pairs as 2B right-padded rows, all chosen first; `indices` and `weights` have shape [B]."""

    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor
    weights: Tensor
    indices: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def collate(pairs: Sequence[Encoded], indices: Sequence[int]) -> Batch:
    """Return the pairs at `indices` as one batch."""
    chosen = [(pairs[i].prompt, pairs[i].chosen) for i in indices]
    rejected = [(pairs[i].prompt, pairs[i].rejected) for i in indices]
    input_ids, attention, completion = pad(chosen + rejected)
    weights = torch.tensor([pairs[i].weight for i in indices], dtype=torch.float64)
    return Batch(input_ids, attention, completion, weights, torch.tensor(list(indices)))


def pad(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, attention mask and completion mask, [rows, T], of (prompt, completion) rows.

    Padding is id 0 whatever the tokenizer says: it is masked, so which id it is cannot matter.
    """
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    completion_mask = torch.zeros(len(rows), width, dtype=torch.bool)
    attention_mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (prompt, completion) in enumerate(rows):
        start, end = len(prompt), len(prompt) + len(completion)
        input_ids[i, :start] = torch.tensor(prompt)
        input_ids[i, start:end] = torch.tensor(completion)
        completion_mask[i, start:end] = True
        attention_mask[i, :end] = 1
    return input_ids, attention_mask, completion_mask


class Plan:
    """The order of the data: `steps` batches of at most `batch_size` indices, the same on every machine.

    `max_steps` decides where it is given, however many epochs that takes.
    """

    def __init__(
        self, count: int, batch_size: int, epochs: int, max_steps: int | None, seed: int, *, shuffle: bool
    ) -> None:
        self.per_epoch = -(-count // batch_size)
        self.steps = max_steps or self.per_epoch * epochs
        self._count, self._size, self._seed, self._shuffle = count, batch_size, seed, shuffle
        self._epoch, self._order = -1, list[int]()

    def __getitem__(self, step: int) -> list[int]:
        """Return the indices of 0-based step `step`."""
        epoch, at = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._count))
            if self._shuffle:
                random.Random(f"{self._seed}:{epoch}").shuffle(self._order)
        return self._order[at * self._size : (at + 1) * self._size]

    def epoch(self, step: int) -> float:
        """Return how many passes over the data are done after 0-based step `step`."""
        whole, part = divmod(step + 1, self.per_epoch)
        return whole + min(part * self._size, self._count) / self._count


def micro_batches(indices: Sequence[int], lengths: Sequence[int], size: int | None, tokens: int) -> list[list[int]]:
    """Cut a batch into forward passes, pairs of like length together so that little is padding.

    `size` pairs each, or as many as keep 2 x pairs x longest within `tokens` (always at least one).
    """
    made: list[list[int]] = []
    for i in sorted(indices, key=lambda i: (-lengths[i], i)):
        full = not made or (len(made[-1]) >= size if size else 2 * (len(made[-1]) + 1) * lengths[made[-1][0]] > tokens)
        if full:
            made.append([])
        made[-1].append(i)
    return made
