"""Run the trainer inside the test's own process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_log

from anydpo_trainer import tiny
from anydpo_trainer.config import Config
from anydpo_trainer.engine import Engine
from anydpo_trainer.metrics_file import read_metrics
from anydpo_trainer.shard import World
from anydpo_trainer.train import Report, train

quiet: Any = transformers_log.disable_progress_bar
quiet()


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def text_pairs(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Canonical rows of uneven length, all different."""
    words = "alpha beta gamma delta order return label store box card".split()
    rows = []
    for i in range(start, start + count):
        prompt = f"question {i} about the {words[i % 10]}"
        chosen = " ".join([words[(i + k) % 10] for k in range(2 + i % 5)])
        rejected = " ".join([words[(i * 3 + k + 1) % 10] for k in range(3 + i % 4)]) + " no"
        rows.append(
            {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        )
    return rows


def small_model(folder: Path, *, seed: int = 0) -> Path:
    """A Llama of 0.1 M weights with tiny's tokenizer, for tests that train many times."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.1,
        eos_token_id=1,
        pad_token_id=0,
    )
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return folder


def run(
    out: Path, *, stop: Callable[[], str | None] = lambda: None, device: str = "cpu", **options: Any
) -> tuple[Report, list[dict[str, Any]]]:
    """Train and return the report and the metrics, without their times."""
    out.mkdir(parents=True, exist_ok=True)
    config = Config.parse({"cache_dir": str(out.parent / "cache"), **options})
    dtype = torch.float64 if config.dtype == "float64" else torch.float32
    engine = Engine(torch.device(device), dtype, World(), stop_asked=stop)
    report = train(config, out, engine, out.parent / "cache")
    return report, metrics(out)


def metrics(out: Path) -> list[dict[str, Any]]:
    records = read_metrics(out / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key != "time"} for record in records]


def same(left: list[dict[str, Any]], right: list[dict[str, Any]], tolerance: float) -> bool:
    """Say whether two runs logged the same names with values within a tolerance, relative above 1."""
    if [record.keys() for record in left] != [record.keys() for record in right]:
        return False
    return all(
        value == other if not isinstance(value, float) else abs(value - other) <= tolerance * max(1.0, abs(value))
        for a, b in zip(left, right, strict=True)
        for value, other in zip(a.values(), b.values(), strict=True)
    )
