"""Measure a policy on held-out pairs: the metrics of training under `eval/`, and one row a pair."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anydpo_trainer import model as models
from anydpo_trainer.batch import Encoded
from anydpo_trainer.config import Evaluation, Method
from anydpo_trainer.divergence import chosen, diverge
from anydpo_trainer.dpo import concatenate
from anydpo_trainer.engine import IDLE, Engine
from anydpo_trainer.errors import TrainerError
from anydpo_trainer.fast.choose import choose
from anydpo_trainer.folder import DIVERGENCE, PAIRS
from anydpo_trainer.logprobs import pair_scores
from anydpo_trainer.losses import Scores, pair_losses, rewards
from anydpo_trainer.metrics import PAIR_METRICS, TOKEN_METRICS, Sums, add_pairs, add_tokens
from anydpo_trainer.reference import ReferenceLogps, no_reference, with_every_batch
from anydpo_trainer.tokenise import Encoder, read_rows

log = logging.getLogger("anydpo_trainer")


def measure(
    model: Any,
    pairs: Sequence[Encoded],
    method: Method,
    engine: Engine,
    reference: ReferenceLogps,
    size: int | None = None,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return (`eval/` metrics, one row a pair in order) of a policy against its reference, without dropout.

    The loss is that of all pairs as one batch.
    """
    parts = whole_set(pairs, engine, size)
    sums, found = Sums(PAIR_METRICS + TOKEN_METRICS), list[tuple[list[int], Scores]]()
    training = model.training
    model.eval()
    with torch.no_grad():
        for done, (place, part) in enumerate(engine.mine(parts), 1):
            engine.check_stop()
            given = reference(pairs, part)
            with engine.precision():
                forks = [pairs[i].fork for i in part]
                tokens = engine.scorer.score(model, forks, wpo=method.use_weighting, stats=True)
            if place == IDLE:
                continue
            scores = pair_scores(tokens, method, given)
            add_pairs(sums, scores, method)
            add_tokens(sums, tokens)
            found.append((part, scores.map(lambda value: value.detach().cpu().double())))
            engine.say_progress("evaluation", done * engine.world.size, len(parts))
    model.train(training)
    everyone = [part for process in engine.world.gather(found) for part in process]
    order = torch.argsort(torch.tensor([i for part, _ in everyone for i in part]))
    whole = concatenate([scores for _, scores in everyone])
    whole = whole.map(lambda value: value[order])
    weights = torch.tensor([pair.weight for pair in pairs], dtype=torch.float64)
    losses = pair_losses(whole, method)
    means = sums.means(engine.world)
    means["loss"] = (weights * losses).mean().item()
    return {f"eval/{name}": value for name, value in means.items()}, _rows(pairs, whole, method)


def whole_set(pairs: Sequence[Encoded], engine: Engine, size: int | None) -> list[list[int]]:
    """Return the forward passes over all pairs, those of like length together."""
    return engine.scorer.cut(range(len(pairs)), [engine.scorer.cost(pair.fork) for pair in pairs], size)


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write `pairs.jsonl`: margin and log-probabilities of every held-out pair."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    unfinished.replace(path)


def _rows(pairs: Sequence[Encoded], scores: Scores, method: Method) -> list[dict[str, Any]]:
    chosen, rejected = rewards(scores, method)
    names = ("chosen", "rejected", "ref_chosen", "ref_rejected")
    return [
        {
            "pair": i,
            "source": pair.source,
            "margin": (chosen[i] - rejected[i]).item(),
            "rewards/chosen": chosen[i].item(),
            "rewards/rejected": rejected[i].item(),
            **{f"logps/{name}": getattr(scores, name)[i].item() for name in names},
            "tokens/chosen": len(pair.chosen),
            "tokens/rejected": len(pair.rejected),
        }
        for i, pair in enumerate(pairs)
    ]


def evaluate(config: Evaluation, out: Path, engine: Engine, cache: Path) -> dict[str, Any]:
    """Measure one model folder on a file of pairs; leaves `out/pairs.jsonl` and returns the result's fields.

    With `kl_prompts` the divergence from the reference is measured too, and its rows are in `out/divergence.jsonl`.
    """
    folder = models.folder_of(config.model, cache, config.seed)
    known = models.load_config(folder)
    limit = config.max_length or models.context_length(known)
    tokenizer = models.load_tokenizer(folder)
    encoder = Encoder(tokenizer, config.chat_template, limit, config.truncation)
    pairs = list(encoder.pairs(read_rows(config.data)))
    if not pairs:
        raise TrainerError("no_pairs", f"{config.data}: no pair can be measured")
    policy = models.load_model(folder, engine.dtype, engine.device)
    reference = _reference(config, policy, engine, cache)
    drawn: list[dict[str, Any]] = []
    if reference is not None and config.kl_prompts:  # before the fast path changes how the model attends
        engine.seed(config.seed, "divergence")
        prompts = chosen([list(pair.prompt) for pair in pairs], config.kl_prompts)
        drawn = diverge(policy, reference, tokenizer, prompts, engine, config.kl_tokens)
    choose(policy, pairs, engine, wanted=config.prefix_sharing)
    given = no_reference if reference is None else with_every_batch(reference, config.method, engine)
    metrics, rows = measure(policy, pairs, config.method, engine, given, config.micro_batch_size)
    if engine.world.first:
        write_rows(rows, out / PAIRS)
        write_rows(drawn, out / DIVERGENCE)
    return {
        "metrics": metrics,
        "data": {"pairs": len(pairs), "skipped": dict(encoder.refused.counts), "skipped_rows": encoder.refused.rows},
    }


def _reference(config: Evaluation, policy: Any, engine: Engine, cache: Path) -> models.Reference | None:
    if not config.method.needs_reference:
        return None
    separate = None
    if config.ref_model is not None:
        folder = models.folder_of(config.ref_model, cache, config.seed)
        separate = models.load_model(folder, engine.dtype, engine.device)
    elif not hasattr(policy, "peft_config"):
        raise TrainerError(
            "no_reference", f"{config.model} is a whole model: what is its reference?", "set ref_model to its start"
        )
    return models.Reference(policy, separate)
