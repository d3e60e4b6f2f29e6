"""Numbers a run reports: sums that add up over forward passes and processes."""

from __future__ import annotations

import torch
from torch import Tensor

from anydpo_trainer.config import Method
from anydpo_trainer.logprobs import TokenScores
from anydpo_trainer.losses import Scores, rewards
from anydpo_trainer.shard import World

PAIR_METRICS = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
TOKEN_METRICS = ("logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy")


class Sums:
    """Named totals with what each is divided by; additive, so that any cut into parts gives the same means."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._totals = torch.zeros(len(names), 2, dtype=torch.float64)

    def add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add to one name's total and divisor."""
        row = self._totals[self._names.index(name)]
        row += torch.tensor([float(total), float(count)], dtype=torch.float64)

    def means(self, world: World) -> dict[str, float]:
        """Return each name's mean over all processes."""
        totals = world.sum(self._totals)
        return {name: (total / count).item() for name, (total, count) in zip(self._names, totals, strict=True) if count}


def add_pairs(sums: Sums, scores: Scores, method: Method) -> None:
    """Add what TRL logs of a batch of pairs; rewards use the plain log-ratio whatever the divergence."""
    count = scores.chosen.shape[0]
    chosen, rejected = rewards(scores, method)
    sums.add("rewards/chosen", chosen.sum(), count)
    sums.add("rewards/rejected", rejected.sum(), count)
    sums.add("rewards/accuracies", (chosen > rejected).sum(), count)
    sums.add("rewards/margins", (chosen - rejected).sum(), count)
    sums.add("logps/chosen", scores.chosen.detach().sum(), count)
    sums.add("logps/rejected", scores.rejected.detach().sum(), count)


def add_tokens(sums: Sums, tokens: TokenScores) -> None:
    """Add what TRL logs of a batch's completion tokens."""
    if tokens.stats is None:
        return
    chosen, rejected = tokens.mask.sum(dim=1).chunk(2)
    better, worse = tokens.stats.logit.chunk(2)
    sums.add("logits/chosen", better.sum(), chosen.sum())
    sums.add("logits/rejected", worse.sum(), rejected.sum())
    sums.add("entropy", tokens.stats.entropy.sum(), tokens.mask.sum())
    sums.add("mean_token_accuracy", tokens.stats.correct.chunk(2)[0].sum(), chosen.sum())
