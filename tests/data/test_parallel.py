"""Large files by several processes: the same result and the same bytes as by one."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anydpo.data import parallel
from anydpo.data.read import read
from anydpo.errors import DataInvalid


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large, with every kind of line and rows on every side of a range's end."""
    random_ = random.Random(7)
    lines = [b"\xef\xbb\xbf" + b"\n"]
    for i in range(3000):
        row = {"prompt": f"Question {i}\u2028?", "chosen": "y" * random_.choice([1, 10, 300]), "rejected": "no"}
        match random_.randint(0, 20):
            case 0:
                lines.append(b"\n")
            case 1:
                lines.append(b'{"cut": \n')
            case 2:
                row["chosen"] = " "
                lines.append(json.dumps(row).encode() + b"\r\n")
            case _:
                lines.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"".join(lines).rstrip(b"\n"))
    monkeypatch.setattr(parallel, "LARGE", 1000)
    return path


def found(path: Path, workers: int) -> tuple[Any, ...]:
    dataset = read(path, workers=workers)
    return dataset.scan, dataset.rows, dataset.fingerprint


@pytest.mark.parametrize("size", [1000, 4096, 1 << 20])
def test_a_scan_by_several_is_the_scan_by_one(large: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Ranges of one process: what the workers read is cut at the same places."""
    alone = found(large, 1)
    monkeypatch.setattr(parallel, "RANGE", size)
    reading = read(large, workers=1)
    with large.open("rb") as file:
        lines = [row for at in range(-(-large.stat().st_size // size)) for row in _rows(file, at)]
    assert len(lines) == reading.rows == alone[1]


def _rows(file: Any, at: int) -> list[Any]:
    return list(parallel.Lines(file, at, parallel.RANGE))


def test_several_processes_find_and_write_the_same(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "RANGE", 10_000)
    assert large.stat().st_size > 20 * parallel.RANGE
    alone, together = read(large, workers=1), read(large, workers=3)
    assert together.scan == alone.scan
    assert together.skipped_rows == alone.skipped_rows
    assert together.skipped_rows[-1].line > 1000
    digests = set()
    for workers in (1, 2):
        for name, dataset in zip(
            ("train", "held"), read(large, workers=workers).weighted(2.0).split(0.2, 1), strict=True
        ):
            written = dataset.write(tmp_path / f"{name}.{workers}.jsonl", "canonical")
            assert written.sha256 == hashlib.sha256((tmp_path / f"{name}.{workers}.jsonl").read_bytes()).hexdigest()
            digests.add((name, written.sha256, written.pairs, written.bytes))
    assert len(digests) == 2
    with pytest.raises(DataInvalid, match=r"large\.jsonl:\d+: ") as first:
        len(read(large, on_bad="raise", workers=2))
    assert f"{alone.skipped_rows[0].file}:{alone.skipped_rows[0].line}" in first.value.message


def test_the_first_bad_row_ends_a_reading_that_should_stop_at_it(large: Path) -> None:
    with pytest.raises(DataInvalid) as by_one:
        len(read(large, on_bad="raise", workers=1))
    with pytest.raises(DataInvalid) as by_two:
        len(read(large, on_bad="raise", workers=2))
    assert by_one.value.message == by_two.value.message


def test_a_worker_that_dies_is_an_error_and_leaves_nobody_behind(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "RANGE", 10_000)
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(DataInvalid, match="ended early"):
        len(read(large, workers=2))


def test_a_script_without_a_main_guard_is_read_by_several(large: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, anydpo\nfrom anydpo.data import parallel\nparallel.LARGE, parallel.RANGE = 1, 10_000\n"
        "print(anydpo.load(sys.argv[1], workers=2).fingerprint)\n"
    )
    done = subprocess.run([sys.executable, script, large], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == read(large, workers=1).fingerprint


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.jsonl.gz", "x.json"])
def test_small_packed_and_other_files_are_read_by_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anydpo.data.dialect import DIALECTS
    from anydpo.data.policy import Options
    from anydpo.data.reading import Reading, Rows

    path = tmp_path / name
    path.write_bytes(b"[" + b" " * 2000 + b"]")
    dialect = DIALECTS["trl_standard_explicit"]
    reading = Reading(str(path), Rows(path, Options()), dialect, dialect.name, Options())
    assert parallel.workers_for(reading, 4) == 1
    monkeypatch.setattr(parallel, "LARGE", 1000)
    assert parallel.workers_for(reading, 4) == 1  # an array, a table, a stream: not lines


def test_what_was_not_read_yet_is_read_once_and_written(large: Path, tmp_path: Path) -> None:
    """One pass finds and writes the same as a scan and a pass for the file."""
    scanned = read(large, workers=1)
    assert len(scanned)
    for workers in (1, 2):
        fresh = read(large, workers=workers)
        written = fresh.write(tmp_path / f"{workers}.jsonl", "openai")
        assert fresh.is_scanned
        assert fresh.scan.refused == {"openai": {}}
        assert replace(fresh.scan, refused={}) == replace(scanned.scan, refused={})
        assert written.sha256 == scanned.write(tmp_path / "two.jsonl", "openai").sha256
        assert written.pairs == len(scanned)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_what_a_provider_refuses_is_named_with_its_lines(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "LARGE", 1000)
    monkeypatch.setattr(parallel, "RANGE", 4000)
    path, target = tmp_path / "chats.jsonl", tmp_path / "out.jsonl"
    late = [{"role": role, "content": "So."} for role in ("user", "system", "user")]
    answers = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    rows = [{"prompt": late if i in (7, 300, 301) else late[:1], **answers} for i in range(1, 400)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataInvalid, match="3 pairs: a system message has to be the first one") as found:
        read(path, workers=workers).write(target, "sagemaker_chat")
    assert f"({path}:7, {path}:300, {path}:301)" in str(found.value)
    assert not target.exists()


def test_one_pass_leaves_nothing_where_the_dialect_cannot_hold_the_pairs(tmp_path: Path) -> None:
    source, target = tmp_path / "chat.jsonl", tmp_path / "out.jsonl"
    turn = {"role": "assistant", "content": "yes"}
    row = {"prompt": [{"role": "user", "content": "?"}], "chosen": [turn, turn], "rejected": [turn]}
    source.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataInvalid, match="openai cannot hold"):
        read(source).write(target, "openai")
    assert list(tmp_path.iterdir()) == [source]
    source.write_text('{"prompt": "x", "chosen": "", "rejected": ""}\n')
    with pytest.raises(DataInvalid, match="no row of 1 is a pair"):
        read(source).write(target, "openai")
    assert list(tmp_path.iterdir()) == [source]
