"""Completions of prompts by one or more models, for looking at what training changed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from anydpo_trainer import model as models
from anydpo_trainer.config import Generation
from anydpo_trainer.engine import Engine
from anydpo_trainer.tokenise import Encoder, read_rows

log = logging.getLogger("anydpo_trainer")

SAMPLES = "samples.jsonl"


def generate(config: Generation, out: Path, engine: Engine, cache: Path) -> int:
    """Write `out/samples.jsonl`, one row a prompt and model, in order; return how many rows.

    The same seed draws alike for every model, so that two models are compared on the same luck.
    """
    rows = list(read_rows(config.prompts))
    made: list[dict[str, Any]] = []
    for name in config.models:
        folder = models.folder_of(name, cache, config.seed)
        tokenizer = models.load_tokenizer(folder)
        model = models.load_model(folder, engine.dtype, engine.device)
        encoder = Encoder(tokenizer, config.chat_template, models.context_length(model.config))
        prompts = [encoder.prompt(row["prompt"], row.get("tools")) for row in rows]
        for at in range(0, len(prompts), config.batch_size):
            engine.check_stop()
            engine.seed(config.seed, "generate", at)
            batch = prompts[at : at + config.batch_size]
            ids = draw(model, tokenizer, batch, engine, tokens=config.max_new_tokens, temperature=config.temperature)
            texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
            made += [{"model": name, "prompt": at + i, "text": text} for i, text in enumerate(texts)]
            engine.say_progress(f"completions by {Path(name).name}", at + len(texts), len(prompts))
        del model
    unfinished = (out / SAMPLES).with_suffix(".tmp")
    unfinished.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), "utf-8")
    unfinished.replace(out / SAMPLES)
    return len(made)


def draw(
    model: Any, tokenizer: Any, prompts: list[list[int]], engine: Engine, *, tokens: int, temperature: float = 1.0
) -> list[list[int]]:
    """Return the ids that a model writes after each prompt, its end token included where it came to an end."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    how: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    end = tokenizer.eos_token_id
    with torch.no_grad(), engine.precision():
        output = model.generate(
            input_ids=ids.to(engine.device),
            attention_mask=mask.to(engine.device),
            max_new_tokens=tokens,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end,
            eos_token_id=end,
            use_cache=True,
            **how,
        )
    rows: list[list[int]] = output[:, width:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]
