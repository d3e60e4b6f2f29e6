"""The trainer as a program of its own: the core runs it and never imports it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydpo.errors import ProviderMissing, RunFailed

QUIET = {"TOKENIZERS_PARALLELISM": "false"}
NEEDED = ("torch", "transformers", "safetensors", "peft")


def run_trainer(
    command: str,
    config: Mapping[str, Any],
    out: Path,
    python: str | None = None,
    *,
    provider: str | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Run a command of the trainer to its end in a folder, and return the result it leaves there.

    Raises `RunFailed` with its own words where it fails, or where it takes more than `seconds`, and
    `ProviderMissing` where its packages are not installed.
    """
    python = python or sys.executable
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None] if python == sys.executable else []
    if missing:
        raise ProviderMissing(f"{', '.join(missing)} is not installed", hint="pip install 'anydpo[local]'")
    out.mkdir(parents=True, exist_ok=True)
    asked = out / "config.json"
    asked.write_text(json.dumps(config), "utf-8")
    arguments = [python, "-m", "anydpo_trainer", command, str(asked), "--out", str(out)]
    env = {**os.environ, **QUIET}
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=env, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"{command} took more than {seconds:g} s", provider=provider) from None
    try:
        result: dict[str, Any] = json.loads((out / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        result = {}
    if done.returncode == 0:
        return result
    error = result.get("error") or {}
    said = error.get("message") or (done.stderr or done.stdout).strip()[-500:] or f"ended with {done.returncode}"
    raise RunFailed(said, provider=provider, hint=error.get("hint"))
