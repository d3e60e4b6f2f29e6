"""An adapter put into the weights of its base model, so that it can be served without peft."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from anydpo_trainer import model as models
from anydpo_trainer.config import Merge
from anydpo_trainer.engine import Engine
from anydpo_trainer.errors import TrainerError

log = logging.getLogger("anydpo_trainer")


def merge(config: Merge, out: Path, engine: Engine, cache: Path) -> dict[str, Any]:  # noqa: ARG001
    """Write `out/model`, base and adapter in one, in the precision in which the base is kept."""
    named = models.adapter_base(config.adapter)
    if named is None:
        raise TrainerError(
            "no_adapter", f"{config.adapter} holds no adapter_config.json", "a whole model needs no merge"
        )
    base = models.folder_of(config.base or named, cache, config.seed)
    dtype = getattr(models.load_config(base), "dtype", None) or torch.float32
    tokenizer = models.load_tokenizer(config.adapter)
    log.info("merging %s into %s, in %s", config.adapter, base, str(dtype).removeprefix("torch."))
    model = models.with_adapter(models.load_model(base, dtype, torch.device("cpu")), config.adapter)
    merged = model.merge_and_unload(safe_merge=True)
    merged.config.use_cache = True
    models.save(merged, tokenizer, out / "model")
    return {"model": {"base": base, "adapter": False, "weights": sum(w.numel() for w in merged.parameters())}}
