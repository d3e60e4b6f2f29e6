"""Which pairs go into which step, and how they become tensors. Every choice depends on the seed alone."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Fork(NamedTuple):
    """A prompt and the completions that may follow it: two of a pair, one where there is no other."""

    prompt: array[int]
    branches: tuple[array[int], ...]

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longest completion."""
        return len(self.prompt) + max(len(branch) for branch in self.branches)


class Encoded(NamedTuple):
    """One pair as token ids. `source` is the `file:line` it came from."""

    prompt: array[int]
    chosen: array[int]
    rejected: array[int]
    weight: float = 1.0
    source: str = ""

    @property
    def fork(self) -> Fork:
        """The pair as its prompt and what may follow."""
        return Fork(self.prompt, (self.chosen, self.rejected))

    @property
    def longest(self) -> int:
        """Tokens of the longer of its two sequences."""
        return self.fork.longest


@dataclass(frozen=True)
class Batch:
    """Forks as right-padded rows, [rows, T]: all first completions, then all second ones."""

    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def collate(forks: Sequence[Fork]) -> Batch:
    """Return forks, all with the same number of completions, as one batch."""
    completions = range(len(forks[0].branches))
    return Batch(*pad([(fork.prompt, fork.branches[number]) for number in completions for fork in forks]))


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


def micro_batches(
    indices: Sequence[int], costs: Sequence[int], size: int | None, tokens: int, *, padded: bool
) -> list[list[int]]:
    """Cut a batch into forward passes, those of like cost together.

    `size` items each, or as many as keep their cost within `tokens` (always at least one): the sum of their own, or
    where rows are `padded` what the dearest costs for each.
    """
    made: list[list[int]] = []
    spent = 0
    for i in sorted(indices, key=lambda i: (-costs[i], i)):
        cost = costs[made[-1][0]] if padded and made else costs[i]
        full = not made or (len(made[-1]) >= size if size else spent + cost > tokens)
        if full:
            made.append([])
            spent, cost = 0, costs[i]
        made[-1].append(i)
        spent += cost
    return made
