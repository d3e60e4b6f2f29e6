"""The trainer as a code asset: its files, and a name that is a function of their content."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import anydpo_trainer

SUFFIXES = (".py", ".txt")


@cache
def files() -> dict[str, Path]:
    """Return the trainer's files by their path in the code asset."""
    root = Path(anydpo_trainer.__file__).parent
    found = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES and "__pycache__" not in path.parts)
    return {f"anydpo_trainer/{path.relative_to(root).as_posix()}": path for path in found}


@cache
def digest() -> str:
    """Return 24 hex digits of the trainer's content."""
    whole = hashlib.sha256()
    for name, path in files().items():
        whole.update(f"{name}\0{path.stat().st_size}\0".encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()[:24]


def name() -> str:
    """Return the name of the code asset; its version is always 1, for other content has another name."""
    return f"anydpo-trainer-{digest()}"
