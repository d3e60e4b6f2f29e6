"""Several forks as one row of tokens: each prompt once, its completions behind it, and what is read where."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anydpo_trainer.batch import Fork


class Segment(NamedTuple):
    """Where one fork lies in the row: its trunk from `start`, then its branches, one after the other.

    The trunk is the prompt and what all completions begin with; `read` is the first of its positions, counted from
    `start`, that predicts a token of a completion. A completion's last token predicts nothing and is left out.
    """

    start: int
    trunk: int
    read: int
    branches: tuple[int, ...]

    @property
    def end(self) -> int:
        """The first position behind the fork."""
        return self.start + self.trunk + sum(self.branches)


@dataclass(frozen=True, eq=False)
class Layout:
    """One row of T tokens; N completion tokens are predicted from U of its positions.

    `input_ids` and `position_ids` are [1, T], a branch's positions go on where its trunk ends. `read` [U] are the
    positions whose hidden states are needed; prediction n is of token `labels[n]` from `read[rows[n]]` and belongs at
    `slots[n]` of the flattened [completions, longest] table of `shape`, first completions of all forks first.
    `last` marks the variant for a layer of which only the positions in `read` are needed.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: tuple[Segment, ...]
    read: Tensor
    rows: Tensor
    labels: Tensor
    slots: Tensor
    shape: tuple[int, int]
    last: bool = False
    memo: dict[str, Any] = field(default_factory=dict, repr=False)  # what an attention kernel keeps for the row

    def to(self, device: torch.device) -> Layout:
        """Return the layout on a device."""
        names = ("input_ids", "position_ids", "read", "rows", "labels", "slots")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return dataclasses.replace(self, **moved)

    def spread(self, values: Tensor) -> Tensor:
        """Put values of the predictions, [N], into their table, 0 elsewhere."""
        table = values.new_zeros(self.shape[0] * self.shape[1])
        return table.index_copy(0, self.slots, values).view(self.shape)


def tokens_of(fork: Fork) -> int:
    """Return how many tokens of the row a fork takes."""
    trunk, branches = _cut(fork)
    return trunk + sum(branches)


def lay_out(forks: Sequence[Fork]) -> Layout:
    """Return the row of these forks; all have the same number of completions."""
    count, width = len(forks[0].branches), max(len(branch) for fork in forks for branch in fork.branches)
    made: list[list[Tensor]] = [[] for _ in range(6)]
    ids, positions, read, rows, labels, slots = made
    segments: list[Segment] = []
    start = reads = 0
    for at, fork in enumerate(forks):
        trunk, branches = _cut(fork)
        prompt, shared = len(fork.prompt), trunk - len(fork.prompt)
        segment = Segment(start, trunk, prompt - 1, branches)
        segments.append(segment)
        ids += [_tensor(fork.prompt), _tensor(fork.branches[0][:shared])]
        positions.append(torch.arange(trunk))
        read.append(torch.arange(start + prompt - 1, segment.end))
        behind = shared + 1  # of this fork's read positions, the first of the branch at hand
        for number, (branch, own) in enumerate(zip(fork.branches, branches, strict=True)):
            ids.append(_tensor(branch[shared : shared + own]))
            positions.append(torch.arange(trunk, trunk + own))
            in_trunk = min(shared + 1, len(branch))
            rows += [torch.arange(in_trunk) + reads, torch.arange(behind, behind + own) + reads]
            labels.append(_tensor(branch))
            slots.append((number * len(forks) + at) * width + torch.arange(len(branch)))
            behind += own
        start, reads = segment.end, reads + behind
    return Layout(
        input_ids=torch.cat(ids).unsqueeze(0),
        position_ids=torch.cat(positions).unsqueeze(0),
        segments=tuple(segments),
        read=torch.cat(read),
        rows=torch.cat(rows),
        labels=torch.cat(labels),
        slots=torch.cat(slots),
        shape=(count * len(forks), width),
    )


def _cut(fork: Fork) -> tuple[int, tuple[int, ...]]:
    """Return the trunk's length and how many tokens of each branch follow it."""
    shared = 0
    if len(fork.branches) > 1:
        for tokens in zip(*fork.branches, strict=False):
            if len(set(tokens)) > 1:
                break
            shared += 1
        if all(len(branch) == shared for branch in fork.branches):
            shared -= 1  # equal completions: the last token predicts nothing here either
    return len(fork.prompt) + shared, tuple(max(0, len(branch) - shared - 1) for branch in fork.branches)


def _tensor(ids: Sequence[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.long)
