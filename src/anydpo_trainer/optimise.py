"""Optimiser and learning-rate schedule, with the conventions of the Hugging Face trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anydpo_trainer.config import Config
from anydpo_trainer.shard import gathered


def make_optimiser(weights: Sequence[Tensor], config: Config) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay leaves out norms and biases, which are the one-dimensional weights."""
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optim == "sgd":
        return torch.optim.SGD(groups, lr=0.0)
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.adam_epsilon, fused=True)


def schedule(kind: str, steps: int, warmup_ratio: float) -> Callable[[int], float]:
    """Return the share of the full learning rate at a 0-based step: a linear rise, then as `kind` says.

    Warm-up takes ceil(warmup_ratio * steps) steps and begins at 0; linear and cosine end at 0 after the last.
    """
    warmup = math.ceil(warmup_ratio * steps)

    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        if kind == "constant":
            return 1.0
        done = (step - warmup) / max(1, steps - warmup)
        return 1 - done if kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return share


def clip(weights: Sequence[Tensor], limit: float) -> float:
    """Scale gradients to a norm of at most `limit` (0: leave them) and return the norm they had."""
    norm = torch.nn.utils.clip_grad_norm_(weights, limit if limit > 0 else math.inf)
    return float(gathered(norm))
