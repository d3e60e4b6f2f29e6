"""`evaluate` and `generate` as programs of their own, and what training leaves for other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from anydpo_trainer.config import ConfigError, Evaluation, Generation
from anydpo_trainer.engine import Engine
from anydpo_trainer.errors import TrainerError
from anydpo_trainer.evaluate import evaluate
from anydpo_trainer.generate import generate
from anydpo_trainer.shard import World
from tests.trainer.helpers import run, small_model, text_pairs, write_jsonl


def engine() -> Engine:
    return Engine(torch.device("cpu"), torch.float32, World())


def plain_logps(model: Any, tokenizer: Any, row: dict[str, Any]) -> dict[str, float]:
    """Log-probabilities of both answers by plain transformers, one sequence at a time, in float64."""
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    found = {}
    for side in ("chosen", "rejected"):
        whole = tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False)
        before = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        ids = tokenizer(whole, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=ids).logits.double()
        logps = torch.log_softmax(logits[0, :-1], dim=-1).gather(1, ids[0, 1:, None])[:, 0]
        found[side] = float(logps[before.shape[1] - 1 :].sum())
    return found


@pytest.fixture
def trained(tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(small_model(tmp_path / "model")),
        "train_data": str(write_jsonl(tmp_path / "train.jsonl", text_pairs(12))),
        "validation_data": str(write_jsonl(tmp_path / "val.jsonl", text_pairs(6, start=50))),
        "batch_size": 4,
        "epochs": 3,
        "learning_rate": 1e-2,
    }


@pytest.mark.parametrize("adapter", [None, {"r": 4}], ids=["full", "lora"])
def test_evaluate_equals_the_trainers_own_and_plain_transformers(
    trained: dict[str, Any], tmp_path: Path, adapter: Any
) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    report, _ = run(out, **trained, adapter=adapter)
    config = Evaluation.parse(
        {
            "model": str(out / "model"),
            "data": trained["validation_data"],
            "ref_model": None if adapter else trained["model"],
        }
    )
    again = tmp_path / "again"
    again.mkdir()
    found = evaluate(config, again, engine(), tmp_path / "cache")
    for name, value in found["metrics"].items():
        assert value == pytest.approx(report.metrics[name], abs=1e-6), name
    family: Any = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
    model: Any = family.from_pretrained(out / "model")
    base: Any = AutoModelForCausalLM.from_pretrained(trained["model"])
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    rows = [json.loads(line) for line in (again / "pairs.jsonl").read_text().splitlines()]
    for row, pair in zip(rows, text_pairs(6, start=50), strict=True):
        policy, reference = plain_logps(model, tokenizer, pair), plain_logps(base, tokenizer, pair)
        for side in ("chosen", "rejected"):
            assert row[f"logps/{side}"] == pytest.approx(policy[side], abs=1e-4)
            assert row[f"logps/ref_{side}"] == pytest.approx(reference[side], abs=1e-4)
        margin = 0.1 * (policy["chosen"] - reference["chosen"] - policy["rejected"] + reference["rejected"])
        assert row["margin"] == pytest.approx(margin, abs=1e-4)


def test_a_whole_model_needs_to_be_told_its_reference(trained: dict[str, Any], tmp_path: Path) -> None:
    config = Evaluation.parse({"model": trained["model"], "data": trained["validation_data"]})
    with pytest.raises(TrainerError, match="what is its reference"):
        evaluate(config, tmp_path, engine(), tmp_path / "cache")
    free = Evaluation.parse({**trained_free(trained), "method": {"loss_type": "simpo", "beta": 2.0}})
    assert "eval/loss" in evaluate(free, tmp_path, engine(), tmp_path / "cache")["metrics"]


def trained_free(trained: dict[str, Any]) -> dict[str, Any]:
    return {"model": trained["model"], "data": trained["validation_data"]}


def test_generation_repeats_and_shares_its_luck(trained: dict[str, Any], tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": row["prompt"]} for row in text_pairs(5)])
    wish = {
        "models": [trained["model"], trained["model"]],
        "prompts": str(prompts),
        "max_new_tokens": 8,
        "batch_size": 3,
    }
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / name
        out.mkdir()
        generate(Generation.parse({**wish, "seed": seed}), out, engine(), tmp_path / "cache")
        rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        assert [row["prompt"] for row in rows] == [*range(5), *range(5)]
        assert [row["text"] for row in rows[:5]] == [row["text"] for row in rows[5:]]  # the same model twice
        texts.append([row["text"] for row in rows])
    assert texts[0] == texts[1] != texts[2]


def test_greedy_generation_is_that_of_plain_transformers(trained: dict[str, Any], tmp_path: Path) -> None:
    """Left padding in a batch must not change what the model writes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": row["prompt"]} for row in text_pairs(4)])
    wish = {"models": [trained["model"]], "prompts": str(prompts), "max_new_tokens": 6, "temperature": 0.0}
    generate(Generation.parse(wish), tmp_path, engine(), tmp_path / "cache")
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    model: Any = AutoModelForCausalLM.from_pretrained(trained["model"])
    tokenizer = AutoTokenizer.from_pretrained(trained["model"])
    for row, pair in zip(rows, text_pairs(4), strict=True):
        text = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            for _ in range(6):
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
                if int(ids[0, -1]) == tokenizer.eos_token_id:
                    break
        start = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert row["text"] == tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match="no such option"):
        Generation.parse({"models": ["tiny"], "prompts": "x", "temprature": 1})
    with pytest.raises(ConfigError, match="is required"):
        Evaluation.parse({"model": "tiny"})
