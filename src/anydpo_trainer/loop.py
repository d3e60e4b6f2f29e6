"""The training loop: accumulate, sum over processes, clip, step, record; evaluate, save and stop on time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from anydpo_trainer import checkpoint as checkpoints
from anydpo_trainer.batch import Plan
from anydpo_trainer.checkpoint import Checkpoints, Progress
from anydpo_trainer.config import Config
from anydpo_trainer.engine import Engine, Stopped
from anydpo_trainer.errors import TrainerError
from anydpo_trainer.fast.embed import clear_gradients
from anydpo_trainer.metrics import Sums
from anydpo_trainer.metrics_file import MetricsFile
from anydpo_trainer.optimise import clip, make_optimiser, schedule
from anydpo_trainer.shard import unsharded

log = logging.getLogger("anydpo_trainer")


class Stage(Protocol):
    """A kind of training step: what is in a batch, and its gradient."""

    name: str
    prefix: str
    plan: Plan

    def tokens_in(self, indices: Sequence[int]) -> int: ...
    def accumulate(self, step: int, indices: Sequence[int]) -> Sums: ...


@dataclass
class Trainee:
    """The model in training, the weights that change, and where they are kept."""

    model: Any
    tokenizer: Any
    weights: list[Tensor]
    checkpoints: Checkpoints
    metrics: MetricsFile
    reference: Any | None = None  # a reference model that moves and so has to be saved too


class Loop:
    """One stage's training, from its first step or from where a checkpoint left it.

    With early stopping the weights at the end are those of the best evaluation.
    """

    def __init__(
        self,
        stage: Stage,
        trainee: Trainee,
        config: Config,
        engine: Engine,
        *,
        evaluate: Callable[[], dict[str, float]] | None = None,
        after_step: Callable[[int], None] | None = None,
    ) -> None:
        self.stage, self.trainee, self.config, self.engine = stage, trainee, config, engine
        self._evaluate = evaluate if config.eval_steps and stage.name == "dpo" else None
        self._after_step = after_step
        self.steps = stage.plan.steps
        self._share = schedule(config.lr_scheduler_type, self.steps, config.warmup_ratio)
        self._rate = config.stage_learning_rate(stage.name)
        self._saves = config.save_steps or max(1, math.ceil(self.steps / 5))
        self._optimiser = make_optimiser(trainee.weights, config)

    def run(self, done: Progress | None) -> Progress:
        """Train to the end and return where that is; raises `Stopped` when told to, `TrainerError` when it cannot."""
        progress = replace(done or Progress(self.stage.name, 0), pass_tokens=self.engine.scorer.tokens)
        if done is not None:
            checkpoints.load_optimiser(self._optimiser, self.trainee.checkpoints.path(done.stage, done.step))
        clock = _Clock(self.steps, progress.step)
        self.trainee.model.train()
        while progress.step < self.steps and not self._has_stalled(progress):
            indices = self.stage.plan[progress.step]
            record = self._step(indices, progress.step)
            tokens = progress.tokens + self.stage.tokens_in(indices)
            progress = replace(progress, step=progress.step + 1, tokens=tokens)
            if self._after_step is not None:
                self._after_step(progress.step)
            progress, measured = self._judge(progress)
            if self.engine.world.first:
                self._report({**record, **measured}, progress, clock)
            stop = _stop_asked(self.engine)
            if stop or self._saves_at(progress):
                self._save(progress)
            if stop:
                raise Stopped(stop)
        if self._has_stalled(progress):
            self._back_to_best(progress)
        return progress

    def _step(self, indices: Sequence[int], step: int) -> dict[str, Any]:
        """Take one optimiser step on a batch and return what it logged."""
        prefix, learning_rate = self.stage.prefix, self._rate * self._share(step)
        clear_gradients(self.trainee.weights, alone=self.engine.world.size == 1)
        sums = self.stage.accumulate(step, indices)
        self.engine.world.sum_gradients(unsharded(self.trainee.weights))
        norm = clip(self.trainee.weights, self.config.max_grad_norm)
        means = sums.means(self.engine.world)
        if not math.isfinite(means["loss"]) or not math.isfinite(norm):
            raise TrainerError(
                "not_finite",
                f"{self.stage.name} step {step + 1}: loss {means['loss']}, gradient norm {norm}",
                "lower learning_rate, look for extreme pairs, or use dtype float32",
            )
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        self._optimiser.step()
        logged = {f"{prefix}/{name}": value for name, value in means.items()}
        return {**logged, f"{prefix}/grad_norm": norm, f"{prefix}/learning_rate": learning_rate}

    def _judge(self, progress: Progress) -> tuple[Progress, dict[str, float]]:
        """Evaluate where that is due and keep count of the best; the end is evaluated by the caller."""
        every = self.config.eval_steps
        if self._evaluate is None or not every or progress.step % every or progress.step == self.steps:
            return progress, {}
        measured = self._evaluate()
        if progress.best_loss is None or measured["eval/loss"] < progress.best_loss:
            best = replace(progress, best_loss=measured["eval/loss"], best_step=progress.step, without_gain=0)
            return best, measured
        return replace(progress, without_gain=progress.without_gain + 1), measured

    def _has_stalled(self, progress: Progress) -> bool:
        patience = self.config.early_stopping_patience
        return patience is not None and progress.without_gain >= patience

    def _saves_at(self, progress: Progress) -> bool:
        best_now = progress.best_step == progress.step and self.config.early_stopping_patience is not None
        due = progress.step % self._saves == 0 or progress.step == self.steps
        return due or best_now or self._has_stalled(progress)

    def _save(self, progress: Progress) -> None:
        self.trainee.checkpoints.save(progress, self.trainee, self._optimiser, self.engine.world)

    def _back_to_best(self, progress: Progress) -> None:
        assert progress.best_step is not None
        patience = self.config.early_stopping_patience
        log.info("no gain in %s evaluations: back to step %d, the best", patience, progress.best_step)
        folder = self.trainee.checkpoints.path(progress.stage, progress.best_step)
        checkpoints.load_weights(self.trainee.model, folder / "model")

    def _report(self, record: dict[str, Any], progress: Progress, clock: _Clock) -> None:
        prefix = self.stage.prefix
        self.trainee.metrics.append(
            {
                "stage": self.stage.name,
                "step": progress.step,
                "total_steps": self.steps,
                "epoch": round(self.stage.plan.epoch(progress.step - 1), 6),
                f"{prefix}/num_tokens": progress.tokens,
                **record,
            }
        )
        shown = [f"{prefix}/{name}" for name in ("loss", "rewards/margins", "rewards/accuracies")]
        shown += [name for name in record if name.startswith("eval/")]
        parts = [f"{name}={record[name]:.6g}" for name in shown if name in record]
        log.info(
            "%s step %d/%d  %s  %s",
            self.stage.name,
            progress.step,
            self.steps,
            "  ".join(parts),
            clock.left(progress.step),
        )


def _stop_asked(engine: Engine) -> str | None:
    """Return why to stop, the same for every process: whichever was asked, all stop after the same step."""
    asked = [why for why in engine.world.gather(engine.stop_asked()) if why]
    return asked[0] if asked else None


class _Clock:
    """Says how long is left from the steps this process made."""

    def __init__(self, steps: int, start: int) -> None:
        self._steps, self._start, self._began = steps, start, time.monotonic()

    def left(self, step: int) -> str:
        """Return the time left in words."""
        seconds = (time.monotonic() - self._began) / max(1, step - self._start) * (self._steps - step)
        return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"
