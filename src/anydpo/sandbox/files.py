"""Uploaded files, on disk and never in memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydpo.sandbox.lines import Findings
from anydpo.sandbox.wire import CHUNK, Refusal


@dataclass
class File:
    """One file of an account."""

    id: str
    name: str
    purpose: str
    created: float
    path: Path | None = None  # None: announced, its bytes are not there yet
    size: int = 0
    sha256: str = ""
    expires: float | None = None
    status: str = ""
    looks: int = 0
    findings: Findings | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """Bytes that have arrived whole."""

    path: Path
    size: int
    sha256: str
    md5: str


async def store(chunks: AsyncIterator[bytes], path: Path, most: int) -> Stored:
    """Write a stream to disk; raises a 413 `Refusal` above `most` bytes, and leaves nothing where it breaks off."""
    size, sha, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise Refusal(413, f"The file is too large: at most {most} bytes are allowed.")
                file.write(chunk)
                sha.update(chunk)
                md5.update(chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Stored(path, size, sha.hexdigest(), md5.hexdigest())


async def chunks_of(upload: Any) -> AsyncIterator[bytes]:
    """Yield a multipart file's bytes."""
    while chunk := await upload.read(CHUNK):
        yield chunk


def join(parts: list[Path], path: Path) -> Stored:
    """Put parts together in order."""
    size, sha, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                while chunk := source.read(CHUNK):
                    size += len(chunk)
                    file.write(chunk)
                    sha.update(chunk)
                    md5.update(chunk)
    return Stored(path, size, sha.hexdigest(), md5.hexdigest())
