"""The supervised stage before DPO: likelihood of the answers, a mean over their tokens in the whole batch."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from anydpo_trainer.batch import Fork, Plan
from anydpo_trainer.config import Config, Sft
from anydpo_trainer.engine import IDLE, Engine
from anydpo_trainer.metrics import Sums

METRICS = ("loss", "mean_token_accuracy", "entropy")


class SftStage:
    """Answers to imitate, as (prompt, completion) token ids."""

    name = "sft"
    prefix = "sft"

    def __init__(
        self,
        model: Any,
        answers: Sequence[tuple[array[int], array[int]]],
        config: Config,
        sft: Sft,
        engine: Engine,
    ) -> None:
        self._model, self._config, self._engine = model, config, engine
        self._answers = [Fork(prompt, (completion,)) for prompt, completion in answers]
        self._costs = [engine.scorer.cost(answer) for answer in self._answers]
        self.plan = Plan(len(answers), config.batch_size, sft.epochs, None, config.seed, shuffle=config.shuffle)

    def tokens_in(self, indices: Sequence[int]) -> int:
        """Return how many tokens the policy reads in these rows."""
        return sum(self._answers[i].longest for i in indices)

    def accumulate(self, step: int, indices: Sequence[int]) -> Sums:
        """Add this process's share of the batch's gradient and return its metrics."""
        size = self._config.micro_batch_size  # in pairs: twice as many answers are as much
        parts = self._engine.scorer.cut(indices, self._costs, 2 * size if size else None)
        total = sum(len(self._answers[i].branches[0]) for i in indices)
        sums = Sums(METRICS)
        for place, part in self._engine.mine(parts):
            self._engine.seed(self._config.seed, self.name, step, place)
            with self._engine.precision():
                tokens = self._engine.scorer.score(self._model, [self._answers[i] for i in part], stats=True)
            nll = -tokens.logps.sum()
            self._engine.backward(nll / total if place != IDLE else 0.0 * nll)
            if place == IDLE:
                continue
            count = tokens.mask.sum()
            sums.add("loss", nll.detach(), count)
            if tokens.stats is not None:
                sums.add("mean_token_accuracy", tokens.stats.correct.sum(), count)
                sums.add("entropy", tokens.stats.entropy.sum(), count)
        return sums
