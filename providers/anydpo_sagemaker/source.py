"""The code that travels: the trainer's folder and the container's program in one archive, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from anydpo_sagemaker.container import TEMPLATE

TRAINER = "anydpo_trainer"
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest that the format can say


class Source(NamedTuple):
    """An archive with its hash."""

    data: bytes
    sha256: str


def archive(template: str | None = None) -> Source:
    """Return the archive, with the chat template of that file in it; raises `OSError` where it cannot be read."""
    return _archive(Path(template).read_bytes() if template else b"")


@cache
def _archive(template: bytes) -> Source:
    made = io.BytesIO()
    parts = {f"{TRAINER}/{name}": data for name, data in sorted(_parts(files(TRAINER)))}
    parts["__main__.py"] = (files("anydpo_sagemaker") / "container.py").read_bytes()
    if template:
        parts[TEMPLATE] = template
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in parts.items():
            packed.writestr(zipfile.ZipInfo(name, FIRST_DAY), data, zipfile.ZIP_DEFLATED)
    return Source(made.getvalue(), hashlib.sha256(made.getvalue()).hexdigest())


def _parts(folder: Traversable, path: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the folder's files; what Python compiled of them is left out."""
    for item in folder.iterdir():
        if item.is_file():
            yield f"{path}{item.name}", item.read_bytes()
        elif item.name != "__pycache__":
            yield from _parts(item, f"{path}{item.name}/")
