"""Which models can take the fast path, told from what they say of themselves and then from their numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anydpo_trainer.batch import Fork
from anydpo_trainer.fast import attention, trim
from anydpo_trainer.fast.scorer import PREPARED, SharedScorer, whole

log = logging.getLogger("anydpo_trainer")

# Configuration entries that change logits or attention in ways which are not followed here, and their neutral values
TWISTS: dict[str, tuple[Any, ...]] = {
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
    "logit_scale": (None, 1.0),
    "logits_scaling": (None, 1.0),
    "lm_head_multiplier": (None, 1.0),
    "alibi": (None, False),
    "position_embedding_type": (None, "absolute", "rope", "rotary"),
    "attention_chunk_size": (None,),
}
LENGTH_DEPENDENT = ("dynamic", "longrope")  # rotary tables that depend on how long the longest row is
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.5}  # of log p(token)


def refusal(model: Any, longest: int) -> str | None:
    """Return why a model cannot share prompts where rows have up to `longest` tokens, None if nothing is known."""
    inner = whole(model)
    config = inner.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or getattr(inner, "_is_stateful", False):
        return f"recurrent layers ({', '.join(sorted(kinds)) or type(inner).__name__})"
    if not getattr(inner, "_supports_attention_backend", False):
        return f"{type(inner).__name__} does not let its attention be replaced"
    for name, neutral in TWISTS.items():
        if getattr(config, name, None) not in neutral:
            return f"{name} = {getattr(config, name)}"
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < longest:
        return f"a sliding window of {window} tokens, shorter than the longest pair of {longest}"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in LENGTH_DEPENDENT:
        return f"rotary positions of type {rope['rope_type']}"
    head = inner.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return f"an output layer of type {type(head).__name__}"
    if getattr(inner.get_decoder(), "layers", None) is None:
        return f"{type(inner).__name__} has no list of layers"
    return None


def prepare(model: Any) -> None:
    """Let the model's attention and its last layer know layouts; without one they work as before."""
    inner = whole(model)
    attention.register()
    inner.set_attn_implementation(attention.NAME)
    trim.trim(inner.get_decoder().layers[-1])
    setattr(inner, PREPARED, True)


def adopt(model: Any, scorer: SharedScorer, forks: Sequence[Fork], longest: int) -> str | None:
    """Prepare a model if its numbers on these forks are those of the plain path; return why not, None if it is."""
    reason = refusal(model, longest)
    if reason is not None:
        return reason
    inner, training = whole(model), model.training
    before = inner.config._attn_implementation
    model.eval()
    try:
        with torch.no_grad():
            plain = scorer.plain.score(model, forks)
            prepare(model)
            fast = scorer.score(model, forks)
        wanted, found = plain.logps[plain.mask], fast.logps[fast.mask]
        difference = (wanted - found).abs().max().item()
        fits = difference <= TOLERANCE[_precision(wanted)] * max(1.0, wanted.abs().max().item())
        reason = None if fits else f"its log-probabilities would be off by up to {difference:.2g}"
    except (NotImplementedError, TypeError, ValueError, AttributeError, RuntimeError) as exc:
        reason, difference = f"{type(exc).__name__}: {str(exc).splitlines()[0]}", float("nan")
    finally:
        model.train(training)
    if reason is not None:
        inner.set_attn_implementation(before)
        if hasattr(inner, PREPARED):
            delattr(inner, PREPARED)
        return reason
    log.info("each prompt is computed once; checked against the plain path: differs by %.1g at most", difference)
    return None


def _precision(values: Tensor) -> torch.dtype:
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype
