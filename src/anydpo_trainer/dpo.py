"""The preference stage: one optimiser step over a batch of pairs, in as many forward passes as it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anydpo_trainer.batch import Encoded, Plan
from anydpo_trainer.config import Config
from anydpo_trainer.engine import IDLE, Engine
from anydpo_trainer.errors import TrainerError
from anydpo_trainer.logprobs import TokenScores, pair_scores
from anydpo_trainer.losses import Scores, pair_losses
from anydpo_trainer.metrics import PAIR_METRICS, TOKEN_METRICS, Sums, add_pairs, add_tokens
from anydpo_trainer.reference import ReferenceLogps


class DpoStage:
    """The pairs, the policy, and what the reference says of them."""

    name = "dpo"
    prefix = "train"

    def __init__(
        self, model: Any, pairs: Sequence[Encoded], config: Config, engine: Engine, reference: ReferenceLogps
    ) -> None:
        if config.method.coupled and any(pair.weight != 1.0 for pair in pairs):
            raise TrainerError(
                "weights_with_sorting",
                f"{' + '.join(config.method.loss_type)} sorts pairs within a batch, so a pair has no loss to weight",
                "remove the weights, or use another loss",
            )
        self._model, self._pairs, self._config = model, pairs, config
        self._engine, self._reference = engine, reference
        self._costs = [engine.scorer.cost(pair.fork) for pair in pairs]
        self.plan = plan_of(len(pairs), config)

    def tokens_in(self, indices: Sequence[int]) -> int:
        """Return how many tokens the policy reads in these pairs, the prompt once for each answer."""
        chosen = (self._pairs[i] for i in indices)
        return sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in chosen)

    def accumulate(self, step: int, indices: Sequence[int]) -> Sums:
        """Add this process's share of the batch's gradient and return its metrics."""
        parts = self._engine.scorer.cut(indices, self._costs, self._config.micro_batch_size)
        mine = self._engine.mine(parts)
        sums = Sums(PAIR_METRICS + TOKEN_METRICS)
        gradients = self._coupled_gradients(step, indices, mine, sums) if self._coupled(parts) else None
        tokens_per_pair = sum(len(self._pairs[i].chosen) for i in indices) / len(indices)
        for place, part in mine:
            tokens, scores = self._forward(step, place, part, stats=True)
            if place == IDLE:
                self._engine.backward(0.0 * scores.chosen.sum())
                continue
            if gradients is not None:
                self._engine.backward(_given(scores, gradients[torch.tensor(part)]))
            else:
                weights = torch.tensor([self._pairs[i].weight for i in part]).to(scores.chosen)
                losses = weights * pair_losses(scores, self._config.method, tokens_per_pair=tokens_per_pair)
                self._engine.backward(losses.sum() / len(indices))
                sums.add("loss", losses.detach().sum(), len(part))
            add_pairs(sums, scores, self._config.method)
            add_tokens(sums, tokens)
        return sums

    def _forward(
        self, step: int, place: int, part: Sequence[int], *, stats: bool = False
    ) -> tuple[TokenScores, Scores]:
        method = self._config.method
        reference = self._reference(self._pairs, part)
        # Dropout depends on the step and the place in the batch, not on what ran before or on which process
        self._engine.seed(self._config.seed, self.name, step, place)
        with self._engine.precision():
            forks = [self._pairs[i].fork for i in part]
            tokens = self._engine.scorer.score(self._model, forks, wpo=method.use_weighting, stats=stats)
        return tokens, pair_scores(tokens, method, reference)

    def _coupled(self, parts: Sequence[object]) -> bool:
        return self._config.method.coupled and len(parts) > 1

    def _coupled_gradients(
        self, step: int, indices: Sequence[int], mine: Sequence[tuple[int, list[int]]], sums: Sums
    ) -> Tensor:
        """Return d loss / d (chosen, rejected, nll) for every pair, [pairs, 3], of a loss that needs all at once.

        A pass without gradients collects the batch's scores; the loss of the whole batch is a function of them.
        """
        parts: list[tuple[list[int], Scores]] = []
        with torch.no_grad():
            for place, part in mine:
                _, scores = self._forward(step, place, part)
                if place == IDLE:
                    continue
                parts.append((part, scores.map(lambda value: value.detach().cpu())))
        everyone = [part for process in self._engine.world.gather(parts) for part in process]
        order = [i for part, _ in everyone for i in part]
        whole = concatenate([scores for _, scores in everyone])
        leaves = [getattr(whole, name).requires_grad_() for name in ("chosen", "rejected", "chosen_nll")]
        losses = pair_losses(whole, self._config.method)
        found = torch.autograd.grad(losses.mean(), leaves, allow_unused=True)
        gradients = torch.zeros(len(self._pairs), 3, dtype=whole.chosen.dtype)
        columns = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]
        gradients[torch.tensor(order)] = torch.stack(columns, dim=1)
        if self._engine.world.first:
            sums.add("loss", losses.detach().sum(), len(indices))
        return gradients


def plan_of(pairs: int, config: Config) -> Plan:
    """Return the order in which the preference stage sees its pairs."""
    return Plan(pairs, config.batch_size, config.epochs, config.max_steps, config.seed, shuffle=config.shuffle)


def first_epoch(pairs: Sequence[Encoded], config: Config, engine: Engine, size: int | None) -> list[list[int]]:
    """Return the forward passes of the first epoch, in order."""
    plan, costs = plan_of(len(pairs), config), [engine.scorer.cost(pair.fork) for pair in pairs]
    steps = (engine.scorer.cut(plan[step], costs, size) for step in range(plan.per_epoch))
    return [part for parts in steps for part in parts]


def concatenate(parts: Sequence[Scores]) -> Scores:
    """Return the scores of several batches as one."""
    columns: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(Scores)):
        values = [getattr(part, name) for part in parts]
        columns[name] = None if values[0] is None else torch.cat(values)
    return Scores(**columns)


def _given(scores: Scores, gradients: Tensor) -> Tensor:
    """Return a value whose gradient in the scores is the given one."""
    columns = gradients.to(scores.chosen).unbind(dim=1)
    values = (scores.chosen, scores.rejected, scores.chosen_nll)
    return torch.stack([(gradient * value).sum() for gradient, value in zip(columns, values, strict=True)]).sum()
