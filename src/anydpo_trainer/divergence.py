"""KL(policy || reference) over answers that the policy itself writes to held-out prompts.

For an answer y drawn from the policy the sum over its positions of the exact divergence of the two next-token
distributions has the mean KL(policy || reference), with less noise than log policy(y) - log reference(y). Paper:
Amini, Vieira and Cotterell 2025, "Better Estimation of the KL Divergence Between Language Models" (2504.10637).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anydpo_trainer import model as models
from anydpo_trainer.batch import pad
from anydpo_trainer.engine import Engine
from anydpo_trainer.generate import draw

BATCH = 16  # answers drawn at once
ROOM = 5e8  # bytes for the logits of one model in one pass


def diverge(
    policy: Any, reference: models.Reference, tokenizer: Any, prompts: Sequence[list[int]], engine: Engine, tokens: int
) -> list[dict[str, Any]]:
    """Return one row a prompt: the divergence over the answer drawn, in nats, and the ids of the answer.

    An answer longer than `tokens` is cut there, and so is what is measured. The draws depend on the engine's seed.
    """
    rows: list[dict[str, Any]] = []
    for at in range(0, len(prompts), BATCH):
        engine.check_stop()
        part = list(prompts[at : at + BATCH])
        answers = draw(policy, tokenizer, part, engine, tokens=tokens)
        for few in _passes(part, answers, policy):
            rows += _measured(policy, reference, few, engine)
        engine.say_progress("divergence", len(rows), len(prompts))
    return rows


def chosen(prompts: Sequence[list[int]], count: int) -> list[list[int]]:
    """Return at most so many different prompts, spread over all of them."""
    different = [list(ids) for ids in dict.fromkeys(map(tuple, prompts))]
    if len(different) <= count:
        return different
    return [different[i * len(different) // count] for i in range(count)]


def _measured(
    policy: Any, reference: models.Reference, rows: Sequence[tuple[list[int], list[int]]], engine: Engine
) -> list[dict[str, Any]]:
    ids, attention, completion = (tensor.to(engine.device) for tensor in pad(rows))
    with torch.no_grad(), engine.precision():
        ours = _log_probabilities(policy, ids, attention)
        with reference.active() as model:
            theirs = _log_probabilities(model, ids, attention)
    each = (ours.exp() * (ours - theirs)).sum(dim=-1) * completion[:, 1:]
    totals = each.double().sum(dim=1).tolist()
    return [
        {"kl": total, "tokens": len(answer), "answer": answer, "prompt": prompt}
        for total, (prompt, answer) in zip(totals, rows, strict=True)
    ]


def _log_probabilities(model: Any, ids: Tensor, attention: Tensor) -> Tensor:
    """Return the log-probabilities of every next token, [rows, T - 1, vocabulary], at least in float32."""
    logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1]
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def _passes(prompts: list[list[int]], answers: list[list[int]], model: Any) -> list[list[tuple[list[int], list[int]]]]:
    """Return (prompt, answer) rows in parts whose logits fit."""
    rows = list(zip(prompts, answers, strict=True))
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    each = max(1, int(ROOM / (4 * longest * model.config.get_text_config().vocab_size)))
    return [rows[at : at + each] for at in range(0, len(rows), each)]
