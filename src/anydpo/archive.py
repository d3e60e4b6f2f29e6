"""Weights that arrive as an archive: into a new folder, whole or not at all, and nothing outside of it."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from anydpo.errors import DataInvalid, JobInvalid

MOST_BYTES = 2 << 40  # unpacked; the largest open weights are about 2 TB
MOST_FILES = 100_000
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder that appears under `folder` when all went well; raises `JobInvalid` if something is there."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise JobInvalid(f"{folder} is not empty", hint="fetch into a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def unpack(archive: Path, folder: Path, *, most_bytes: int = MOST_BYTES) -> int:
    """Unpack a tar, tar.gz or tar.zst into a folder and return the bytes written.

    Raises `DataInvalid` for a damaged archive, a path that leads out of the folder, a link or a device, and for more
    than `most_bytes`.
    """
    written = 0
    try:
        with archive.open("rb") as raw, _opened(raw) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            for number, member in enumerate(tar, 1):
                target = _inside(folder, member)
                written += member.size
                if written > most_bytes or number > MOST_FILES:
                    raise DataInvalid(f"the archive holds more than {most_bytes:,} bytes or {MOST_FILES:,} files")
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    shutil.copyfileobj(cast("IO[bytes]", tar.extractfile(member)), file, 1 << 20)
                if target.stat().st_size != member.size:
                    raise DataInvalid(f"{member.name} is shorter than the archive says")
    except (tarfile.TarError, EOFError, OSError, ValueError) as exc:
        if isinstance(exc, DataInvalid):
            raise
        raise DataInvalid(f"the archive is damaged: {exc}", hint="fetch it again") from None
    return written


def _inside(folder: Path, member: tarfile.TarInfo) -> Path:
    """Return where a member goes; raises `DataInvalid` where that is not a plain place in the folder."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        raise DataInvalid(f"the archive leads out of its folder: {member.name!r}", hint="nothing was kept")
    if not (member.isreg() or member.isdir()):
        raise DataInvalid(f"the archive holds a link or a device: {member.name!r}", hint="nothing was kept")
    return folder.joinpath(*name.parts)


@contextmanager
def _opened(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    start = raw.read(4)
    raw.seek(0)
    if start.startswith(GZIP):
        with gzip.GzipFile(fileobj=raw) as plain:
            yield cast("IO[bytes]", plain)
    elif start == ZSTD:
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as packed:
                yield cast("IO[bytes]", io.BufferedReader(cast("io.RawIOBase", packed), 1 << 20))
        except zstandard.ZstdError as exc:
            raise DataInvalid(f"the archive is damaged: {exc}", hint="fetch it again") from None
    else:
        yield raw
