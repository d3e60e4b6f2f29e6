"""Warnings about a run's numbers, the same for every provider's: what was seen, what it usually means, what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from anydpo.result import Notice
from anydpo_trainer.config import LOSSES

ENOUGH = 5  # steps before a trend is called one


def diagnose(history: Sequence[dict[str, Any]], method: dict[str, Any] | None = None) -> list[Notice]:
    """Return what a person should know about a run's metrics; `method` is what was really run, where known."""
    method = method or {}
    steps = [record for record in history if "train/loss" in record]
    found = [
        *_not_finite(steps),
        *_stuck(steps, method),
        *_both_falling(steps, method),
        *_memorised(history),
    ]
    return list({notice.code: notice for notice in found}.values())


def _not_finite(steps: Sequence[dict[str, Any]]) -> list[Notice]:
    for record in steps:
        value = record["train/loss"]
        if value is None or not math.isfinite(value):
            return [
                Notice(
                    code="loss_not_finite",
                    message=f"the loss is not a number at step {record.get('step')}. Usually the learning rate is too "
                    "high, a pair is extreme, or half precision overflows. Lower learning_rate, look at the longest "
                    "pairs, or train in float32.",
                )
            ]
    return []


def _stuck(steps: Sequence[dict[str, Any]], method: dict[str, Any]) -> list[Notice]:
    start = _start(method)
    values = [record["train/loss"] for record in steps[1:] if record["train/loss"] is not None]
    if start is None or len(values) < ENOUGH or any(abs(value - start) > 1e-3 * start for value in values):
        return []
    what = "ln 2 = 0.6931" if abs(start - math.log(2)) < 1e-9 else f"{start:g}, its value at the start"
    return [
        Notice(
            code="loss_stuck",
            message=f"the loss stays at {what}: policy and reference still agree. Usually the learning rate is far too "
            "low, or the reference is the model in training. Raise learning_rate tenfold; with LoRA 1e-5 to 1e-4 is "
            "usual.",
        )
    ]


def _both_falling(steps: Sequence[dict[str, Any]], method: dict[str, Any]) -> list[Notice]:
    rewards = [
        (record["train/rewards/chosen"], record["train/rewards/rejected"])
        for record in steps
        if record.get("train/rewards/chosen") is not None and record.get("train/rewards/rejected") is not None
    ]
    if len(rewards) < ENOUGH:
        return []
    last = rewards[-max(ENOUGH, len(rewards) // 5) :]
    chosen = sum(pair[0] for pair in last) / len(last)
    rejected = sum(pair[1] for pair in last) / len(last)
    beta = method.get("beta") or 0.1
    if chosen / beta > -1 or rejected >= chosen:
        return []
    names = method.get("loss_type") or "sigmoid"
    has_sft = "sft" in ([names] if isinstance(names, str) else list(names))
    remedy = "raise its weight" if has_sft else 'add "sft" to loss_type, with a weight of about 1,'
    return [
        Notice(
            code="both_falling",
            message=f"chosen and rejected answers both became less likely (by {-chosen / beta:.1f} and "
            f"{-rejected / beta:.1f} nats). DPO pushes the two apart, and that often takes chosen down too; a little "
            "is usual and harmless where the two answers are alike. If generations get worse, "
            f'{remedy} or raise beta, or try loss_type = "apo_zero", which holds chosen up.',
        )
    ]


def _memorised(history: Sequence[dict[str, Any]]) -> list[Notice]:
    steps = [record for record in history if record.get("train/rewards/accuracies") is not None]
    last = steps[-max(ENOUGH, len(steps) // 5) :]
    if len(last) < ENOUGH or any(
        record["train/rewards/accuracies"] < 1 or (record["train/loss"] or 1) > 0.01 for record in last
    ):
        return []
    held_out = [r["eval/rewards/accuracies"] for r in history if r.get("eval/rewards/accuracies") is not None]
    seen = f"held-out accuracy is {held_out[-1]:.2f}" if held_out else "there are no held-out pairs to compare with"
    return [
        Notice(
            code="memorised",
            message=f"every training pair is told apart with almost no loss, and {seen}. Usually the pairs are "
            "memorised: train fewer epochs, lower learning_rate, raise beta, or add pairs.",
        )
    ]


def _start(method: dict[str, Any]) -> float | None:
    """Return the loss where policy and reference agree, for a single loss that has one."""
    names = method.get("loss_type") or "sigmoid"
    names = [names] if isinstance(names, str) else list(names)
    smoothing_keeps_it = names[0] in LOSSES
    return LOSSES[names[0]].start if len(names) == 1 and smoothing_keeps_it else None
