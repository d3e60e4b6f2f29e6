"""Choose how the forward passes of a run are made, once the model and its data are known."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from anydpo_trainer import memory
from anydpo_trainer import model as models
from anydpo_trainer.batch import Encoded, Fork
from anydpo_trainer.engine import Engine
from anydpo_trainer.fast import budget as budgets
from anydpo_trainer.fast.fit import adopt
from anydpo_trainer.fast.scorer import SharedScorer
from anydpo_trainer.logprobs import PlainScorer

log = logging.getLogger("anydpo_trainer")

UNKNOWN_ROOM = 4e9  # bytes, where the system does not say what is free


@dataclass(frozen=True)
class Passes:
    """What was chosen, and why not the fast path where it was not."""

    path: str
    reason: str | None
    tokens: int
    kept_bytes_per_token: int | None = None
    keeps_softmax: bool | None = None
    gradient_checkpointing: bool = False


def plain_scorer(vocabulary: int, device: torch.device) -> PlainScorer:
    """Return the plain path with as many tokens in a forward pass as keep its logits within about 1 GB."""
    logits_bytes = 4 * vocabulary * 4  # float32, with three temporaries of the same size alive
    room = 4e9 if device.type == "cuda" else 1e9
    return PlainScorer(max(512, min(16384, int(room / logits_bytes))))


def choose(
    model: Any,
    pairs: Sequence[Encoded],
    engine: Engine,
    *,
    wanted: bool = True,
    longest: int | None = None,
    tokens: int | None = None,
    checkpointed: bool = False,
) -> Passes:
    """Set the engine's scorer; `tokens` is what a resumed run began with, `longest` a row that may come later."""
    plain = plain_scorer(model.config.get_text_config().vocab_size, engine.device)
    engine.scorer = plain
    scorer = SharedScorer(in_place=not engine.sharded, plain=plain)
    sample = _sample(pairs)
    longest = max([longest or 0, *(pair.longest for pair in pairs)])
    with engine.precision():
        reason = adopt(model, scorer, sample, longest) if wanted else "prefix_sharing = false"
    reasons = [why for why in engine.world.gather(reason) if why]
    if reasons:
        log.info("each prompt is computed with each of its completions: %s", reasons[0])
        plain.tokens = tokens or plain.tokens
        return Passes("plain", reasons[0], plain.tokens, gradient_checkpointing=checkpointed)
    with engine.precision():
        kept = budgets.measure_kept(model, scorer, sample)
    room = min(engine.world.gather(_room(model, engine)))
    found = budgets.budget(model, max(engine.world.gather(kept)), [scorer.cost(pair.fork) for pair in pairs], room)
    if found.checkpoint and not checkpointed:
        log.info("activations are computed again in the backward pass: they would not fit into memory otherwise")
        models.checkpoint_activations(model)
    scorer.tokens, scorer.store_bytes = tokens or found.tokens, found.store
    engine.scorer = scorer
    log.info("forward passes of up to %d tokens, %.0f kB kept for each", scorer.tokens, kept / 1e3)
    return Passes("shared", None, scorer.tokens, round(kept), found.store > 0, checkpointed or found.checkpoint)


def prepare_too(model: Any, pairs: Sequence[Encoded], engine: Engine) -> None:
    """Let a second model, the reference, take the fast path as well if the first one does and this one can."""
    if isinstance(engine.scorer, SharedScorer):
        with engine.precision():
            reason = adopt(model, engine.scorer, _sample(pairs), max(pair.longest for pair in pairs))
        if reason is not None:
            log.info("the reference computes each prompt with each of its completions: %s", reason)


def _sample(pairs: Sequence[Encoded]) -> list[Fork]:
    """Return two short pairs of the first ones: enough to show any leak from one into the other."""
    return [pair.fork for pair in sorted(pairs[:16], key=lambda pair: pair.longest)[:2]]


def _room(model: Any, engine: Engine) -> float:
    """Return the bytes that a forward pass may keep, beside gradients and optimiser states that are still to come."""
    to_come: float = 12.0 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if engine.sharded:  # the weights are not there yet either, and each process has a part of all
        whole = 4.0 * sum(weight.numel() for weight in model.parameters())
        to_come = (to_come + whole) / engine.world.size
    if engine.device.type == "cuda":
        return 0.8 * (float(torch.cuda.mem_get_info(engine.device)[0]) - to_come)
    free = memory.available_ram()
    return UNKNOWN_ROOM if free is None else 0.5 * (free / int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - to_come)
