"""Weights as one file to download, the same bytes for the same folder."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path

import zstandard


@dataclass(frozen=True)
class Archive:
    """A packed folder on disk."""

    path: Path
    size: int
    sha256: str


def pack(folder: Path, target: Path) -> Archive:
    """Return a folder's files as `.tar.zst`, packed once."""
    if not target.exists():
        unfinished = target.with_suffix(".part")
        with (
            unfinished.open("wb") as file,
            zstandard.ZstdCompressor(level=1).stream_writer(file) as packed,
            tarfile.open(fileobj=packed, mode="w|") as tar,
        ):
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    info = tarfile.TarInfo(str(path.relative_to(folder)))
                    info.size, info.mode = path.stat().st_size, 0o644
                    with path.open("rb") as source:
                        tar.addfile(info, source)
        unfinished.replace(target)
    with target.open("rb") as packed_file:
        found = hashlib.file_digest(packed_file, "sha256").hexdigest()
    return Archive(target, target.stat().st_size, found)
