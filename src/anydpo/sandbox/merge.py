"""A trained adapter put into its base's weights, as a cloud does it before it hands out a merged model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

PREFIX = "base_model.model."


def merge(adapter: Path, target: Path) -> None:
    """Write a model folder of base + adapter; needs the packages of the local trainer."""
    from safetensors.numpy import load_file, save_file  # only there where training is real

    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    base = Path(config["base_model_name_or_path"])
    scale = config["lora_alpha"] / config["r"]
    low_rank: dict[str, Any] = load_file(adapter / "adapter_model.safetensors")
    unfinished = target.with_name(f"{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(base, unfinished)
    for file in unfinished.glob("*.safetensors"):
        merged: dict[str, Any] = load_file(file)
        for name, down in low_rank.items():
            if name.endswith(".lora_A.weight"):
                stem = name.removesuffix(".lora_A.weight")
                up, key = low_rank[f"{stem}.lora_B.weight"], f"{stem.removeprefix(PREFIX)}.weight"
                if key in merged:
                    merged[key] = merged[key] + (scale * (up @ down)).astype(merged[key].dtype)
        save_file(merged, file, metadata={"format": "pt"})
    unfinished.replace(target)
