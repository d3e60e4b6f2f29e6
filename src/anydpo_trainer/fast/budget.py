"""How many tokens fit into a forward pass: measured on a small one, by what it keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anydpo_trainer.batch import Fork
from anydpo_trainer.fast.scorer import SharedScorer, whole

LEAST, MOST_CPU, MOST_GPU = 512, 1280, 65536  # tokens; a processor gains nothing from more than its caches hold


@dataclass(frozen=True)
class Budget:
    """What one forward pass may take. `store` is in bytes of exponentials kept by the output layer."""

    tokens: int
    store: float
    checkpoint: bool


def measure_kept(model: Any, scorer: SharedScorer, forks: Sequence[Fork]) -> float:
    """Return the bytes a token of the row keeps alive until the backward pass, logits left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    kept, scorer.store_bytes = scorer.store_bytes, 0.0
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        scorer.score(model, forks)
    scorer.store_bytes = kept
    return sum(seen.values()) / sum(scorer.cost(fork) for fork in forks)


def budget(model: Any, kept: float, costs: Sequence[int], room: float) -> Budget:
    """Return how to spend `room` bytes: first on one whole pass without checkpointing, then on keeping exponentials."""
    longest, head = max(costs), whole(model).get_output_embeddings().weight
    most = MOST_GPU if head.device.type == "cuda" else MOST_CPU
    wanted = max(longest, min(most, sum(costs)))
    logits = 4.0 * head.shape[0] if head.requires_grad else 0.0  # bytes a position read; at most all positions are
    if longest * kept > room:
        return Budget(max(LEAST, longest), 0.0, checkpoint=True)
    if logits and wanted * (kept + logits) > room:
        keep = longest * (kept + logits) <= room
        logits = logits if keep else 0.0
    tokens = int(min(wanted, max(longest, room / max(1.0, kept + logits))))
    return Budget(max(LEAST, tokens), tokens * logits, checkpoint=False)
