"""Pairs out, in any dialect that has a writer: whole or not at all, and never losing a field in silence."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import orjson

from anydpo.data import amazon, openai, trl  # noqa: F401 - each registers its writers
from anydpo.data.dataset import PreferenceDataset
from anydpo.data.dialect import WRITERS, Writer
from anydpo.data.limits import LIMITS, LOOKED_AT, Refused, in_words, refused_pairs
from anydpo.data.pair import PreferencePair
from anydpo.errors import DataInvalid

WORDS = {
    "system": "a system message",
    "multi_turn": "earlier turns",
    "tools": "tools",
    "images": "images",
    "many_messages": "an answer of several messages",
    "weight": "a weight",
    "margin": "a margin",
    "meta": "annotation data",
}


class FieldsLost(UserWarning):
    """The dialect written has no place for something the pairs carry."""


@dataclass(frozen=True)
class Written:
    """One written file: `lost` counts, per feature, the pairs whose value has no place in the dialect."""

    path: Path
    format: str
    pairs: int
    bytes: int
    sha256: str
    lost: dict[str, int]
    notes: tuple[str, ...] = ()


def write(dataset: PreferenceDataset, path: Path, format: str) -> Written:  # noqa: A002
    """Write `dataset` in the dialect `format` to `path` (`.gz` and `.zst` compress).

    Warns with `FieldsLost` before the file is there when a field has no place in it, and raises `DataInvalid`,
    leaving nothing, when a pair cannot be said in that dialect at all or its provider does not accept it. What the
    provider may say of the whole file (too few pairs, too many bytes) is in `notes`. Rows are read once, for the
    checks and the file together.
    """
    to = writer_of(format)
    lost = _told(dataset, to) if is_stream(path) else None  # what is written there cannot be taken back
    digest, size = hashlib.sha256(), 0
    with whole_file(path) as file:
        for data in dataset.encoded(to.name):
            file.write(data)
            digest.update(data)
            size += len(data)
        if lost is None:
            lost = _told(dataset, to)
    count = len(dataset)
    return Written(path, format, count, size, digest.hexdigest(), lost, tuple(file_notes(to.name, count, size)))


def _told(dataset: PreferenceDataset, to: Writer) -> dict[str, int]:
    """Raise or warn of what does not fit, and return what is lost."""
    if not len(dataset) and dataset.rows:
        from anydpo.data.read import no_pairs

        raise no_pairs(dataset)
    lost = check_fits(dataset, to)
    if lost:
        warnings.warn(lost_sentence(to, lost), FieldsLost, stacklevel=4)
    return lost


def is_stream(path: Path) -> bool:
    """Say whether a path is a pipe or a device."""
    return path.exists() and not stat.S_ISREG(path.stat().st_mode)


def writer_of(format: str) -> Writer:  # noqa: A002
    """Return the writer of that name."""
    if format not in WRITERS:
        raise DataInvalid(f"cannot write the format {format!r}", hint=f"one of {', '.join(sorted(WRITERS))}")
    return WRITERS[format]


def check_fits(dataset: PreferenceDataset, to: Writer) -> dict[str, int]:
    """Return what would be lost, as feature → pairs; raise `DataInvalid` where a pair cannot be written."""
    features = dataset.scan.features
    refused = {name: features[name] for name in sorted(to.refuses) if features[name]}
    if refused:
        listed = ", ".join(f"{count:,} with {WORDS[name]}" for name, count in refused.items())
        able = [w.name for w in WRITERS.values() if not w.refuses & refused.keys()]
        raise DataInvalid(
            f"{to.name} cannot hold {listed} (of {len(dataset):,} pairs); nothing was written",
            hint=f"these can: {', '.join(able)}",
        )
    if refused_there := refused_by(dataset, to.name):
        raise DataInvalid(
            f"{to.name} does not accept {'; '.join(map(str, refused_there))}; nothing was written",
            hint="leave these rows out (lint --fix), or write canonical, which holds everything",
        )
    return {name: features[name] for name in sorted(to.loses) if features[name]}


def refused_by(dataset: PreferenceDataset, format: str) -> list[Refused]:  # noqa: A002
    """Return why the provider who reads this dialect refuses pairs; where all are plain, they are not read again."""
    if format in dataset.scan.refused:
        return in_words(dataset.scan.refused[format])
    limits = LIMITS.get(format)
    if limits is None or not any(dataset.scan.features[name] for name in LOOKED_AT):
        return []
    return refused_pairs(dataset, limits.rule)


def file_notes(format: str, pairs: int, size: int) -> Iterator[str]:  # noqa: A002
    """Yield what the provider who reads this dialect may say of a file of so many pairs and bytes."""
    limits = LIMITS.get(format)
    if limits is None:
        return
    if pairs < limits.min_pairs:
        yield f"{limits.provider} asks for at least {limits.min_pairs} pairs; these are {pairs}"
    if limits.max_bytes is not None and size > limits.max_bytes:
        yield f"{size:,} bytes are more than {limits.provider} takes ({limits.bytes_are})"


def lost_sentence(to: Writer, lost: dict[str, int]) -> str:
    """Say in words what a dialect has no place for."""
    listed = ", ".join(f"{WORDS[name]} ({count:,} pairs)" for name, count in lost.items())
    return f"{to.name} has no place for {listed}; it is left out"


def lines(pairs: Iterable[PreferencePair], to: Writer) -> Iterator[bytes]:
    """Yield each pair as one JSON line in that dialect."""
    for pair in pairs:
        yield json_line(to.row(pair))


def json_line(row: dict[str, Any]) -> bytes:
    """Return one compact JSON line, ended by a newline."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a file that appears under `path` only when everything was written and is on disk."""
    if is_stream(path):
        with path.open("wb") as file:  # there is nothing to put in place later
            yield file
        return
    if not path.parent.is_dir():
        raise DataInvalid(f"{path.parent}: no such folder", hint=f"mkdir -p {path.parent}")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb", buffering=1 << 20) as raw:
            with _compressing(raw, path) as file:
                yield file
            raw.flush()
            os.fsync(raw.fileno())
        umask = os.umask(0)
        os.umask(umask)
        unfinished.chmod(0o666 & ~umask)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def _compressing(raw: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed:
            yield cast("IO[bytes]", packed)
    elif path.suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as packed:
            yield cast("IO[bytes]", packed)
    else:
        yield raw
