"""From a model's forward pass to the log-probability of every completion.

The plain path: one forward over chosen and rejected rows, logits only from the first completion token on, float32
log-softmax. Prompt and padding positions never enter a sum. This is the reference that faster paths must equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from anydpo_trainer.batch import Batch, Fork, collate, micro_batches
from anydpo_trainer.config import Method
from anydpo_trainer.losses import Scores


@dataclass(frozen=True)
class TokenStats:
    """Sums over completion tokens, without gradient: [rows] each, rows = chosen then rejected."""

    entropy: Tensor
    logit: Tensor  # of the mean logit over the vocabulary
    correct: Tensor  # tokens that were the model's first choice


@dataclass(frozen=True)
class TokenScores:
    """Per-token values of completions, [rows, T]; 0 outside them."""

    logps: Tensor
    mask: Tensor
    log_sum_sq: Tensor | None = None  # log of the sum over the vocabulary of p^2
    stats: TokenStats | None = None


class Scorer(Protocol):
    """A way to get log-probabilities out of a model: how a batch is cut into forward passes, and one of them."""

    name: str
    tokens: int  # most tokens in a forward pass whose size the job leaves open

    def cost(self, fork: Fork) -> int:
        """Return how many tokens a fork takes in a forward pass."""
        ...

    def cut(self, indices: Sequence[int], costs: Sequence[int], size: int | None) -> list[list[int]]:
        """Return a batch as forward passes."""
        ...

    def score(self, model: Any, forks: Sequence[Fork], *, wpo: bool = False, stats: bool = False) -> TokenScores:
        """Return the log-probability of each completion token given all before it."""
        ...


@dataclass
class PlainScorer:
    """Each completion is a row of its own behind its prompt."""

    tokens: int = 4096
    name: str = "plain"

    def cost(self, fork: Fork) -> int:
        """Return the tokens of its rows, padding included."""
        return len(fork.branches) * fork.longest

    def cut(self, indices: Sequence[int], costs: Sequence[int], size: int | None) -> list[list[int]]:
        """Return a batch as forward passes of rows that need little padding."""
        return micro_batches(indices, costs, size, self.tokens, padded=True)

    def score(self, model: Any, forks: Sequence[Fork], *, wpo: bool = False, stats: bool = False) -> TokenScores:
        """Run the model on all rows and take what is asked for from its logits."""
        return score_tokens(model, collate(forks).to(device_of(model)), wpo=wpo, stats=stats)


def device_of(model: Any) -> torch.device:
    """Return where a model's weights are."""
    found: torch.device = next(model.parameters()).device
    return found


def score_tokens(model: Any, batch: Batch, *, wpo: bool = False, stats: bool = False) -> TokenScores:
    """Run the model and return the log-probability of each completion token given all before it."""
    first = int(batch.completion_mask.any(dim=0).nonzero()[0])
    length = batch.input_ids.shape[1]
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        logits_to_keep=length - first + 1,
        use_cache=False,
    )
    # Position t predicts token t + 1, so the last position predicts nothing of ours.
    mask, labels = batch.completion_mask[:, first:], batch.input_ids[:, first:]
    logits = output.logits[:, first - length - 1 : -1][mask]
    if logits.dtype != torch.float64:
        logits = logits.float()
    log_z = torch.logsumexp(logits, dim=-1)
    chosen_logit = logits.gather(-1, labels[mask].unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        squares = torch.logsumexp(2 * logits, dim=-1) - 2 * log_z if wpo else None
        totals = _token_stats(logits, log_z, labels[mask], mask) if stats else None
    return TokenScores(
        _spread(chosen_logit - log_z, mask), mask, None if squares is None else _spread(squares, mask), totals
    )


def pair_scores(tokens: TokenScores, method: Method, reference: tuple[Tensor, Tensor] | None = None) -> Scores:
    """Sum token log-probabilities to sequences, [B] each, with LD-DPO damping and WPO weights where they are on.

    `reference` holds the reference's own sums, already damped alike; None stands for zeros.
    """
    chosen_mask, rejected_mask = tokens.mask.chunk(2)
    chosen_tokens, rejected_tokens = chosen_mask.sum(dim=1), rejected_mask.sum(dim=1)
    chosen, rejected = sequence_sums(tokens, method).chunk(2)
    if reference is None:
        reference = (torch.zeros_like(chosen), torch.zeros_like(rejected))
    return Scores(
        chosen=chosen,
        rejected=rejected,
        ref_chosen=reference[0],
        ref_rejected=reference[1],
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
        chosen_nll=-tokens.logps.chunk(2)[0].sum(dim=1),
        wpo_weight=_wpo_weight(tokens) if method.use_weighting else None,
    )


def sequence_sums(tokens: TokenScores, method: Method) -> Tensor:
    """Return the log-probability of each completion, [rows]. LD-DPO (2409.06411) damps the longer one's tail."""
    if method.ld_alpha is None:
        return tokens.logps.sum(dim=1)
    position = tokens.mask.cumsum(dim=1)
    shared = torch.minimum(*tokens.mask.sum(dim=1).chunk(2)).repeat(2).unsqueeze(1)
    return torch.where(position <= shared, tokens.logps, method.ld_alpha * tokens.logps).sum(dim=1)


def _wpo_weight(tokens: TokenScores) -> Tensor:
    """w_w * w_l with w = exp(mean_t(log p(y_t) - log sum_v p_v^2)). Paper: WPO 2406.11827, eq. 2."""
    assert tokens.log_sum_sq is not None
    aligned = (tokens.logps.detach() - tokens.log_sum_sq).sum(dim=1) / tokens.mask.sum(dim=1)
    chosen, rejected = torch.exp(aligned).chunk(2)
    return chosen * rejected


def _token_stats(logits: Tensor, log_z: Tensor, labels: Tensor, mask: Tensor) -> TokenStats:
    expected = (torch.softmax(logits, dim=-1) * logits).sum(dim=-1)
    return TokenStats(
        entropy=_spread(log_z - expected, mask).sum(dim=1),
        logit=_spread(logits.mean(dim=-1), mask).sum(dim=1),
        correct=_spread((logits.argmax(dim=-1) == labels).to(logits.dtype), mask).sum(dim=1),
    )


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Put the values of the masked positions back into their rows, [rows, T]."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
