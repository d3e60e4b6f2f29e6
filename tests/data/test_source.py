"""Files as people have them: what is read, and what each unreadable row or file is told."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from anydpo.data.read import load, read
from anydpo.data.source import parse, read_rows
from anydpo.errors import DataInvalid

ROW = {"prompt": "Is it open?", "chosen": "Yes, until six.", "rejected": "No idea."}
LINE = json.dumps(ROW).encode() + b"\n"


def made(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def other(i: int) -> bytes:
    return json.dumps({**ROW, "prompt": f"Is shop {i} open?"}).encode() + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        LINE + other(2),
        b"\xef\xbb\xbf" + LINE + other(2),
        LINE.replace(b"\n", b"\r\n") + other(2).replace(b"\n", b"\r\n"),
        b"\n\n" + LINE + b"  \n\r\n" + other(2) + b"\n",
        LINE + other(2).rstrip(b"\n"),
        b"[" + LINE + b"," + other(2) + b"]",
        json.dumps([ROW, json.loads(other(2))], indent=2).encode(),
        b"\xef\xbb\xbf [\n" + LINE + b",\n" + other(2) + b"]\n",
        json.dumps({"data": [ROW, json.loads(other(2))]}, indent=1).encode(),
    ],
    ids=["plain", "bom", "crlf", "blank", "no-newline", "array", "indented", "bom-array", "wrapped"],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_one_content_in_many_files_is_one_data_set(tmp_path: Path, content: bytes, suffix: str) -> None:
    if b'"data"' in content and suffix == ".jsonl":
        return  # lines are lines: an object over several is not one
    assert list(load(made(tmp_path / f"x{suffix}", content))) == list(load([ROW, json.loads(other(2))]))


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0b", "\x1c"])
def test_only_a_newline_ends_a_row(tmp_path: Path, separator: str) -> None:
    row = {**ROW, "chosen": f"Yes{separator}until six."}
    path = made(tmp_path / "x.jsonl", json.dumps(row, ensure_ascii=False).encode() + b"\n")
    (pair,) = load(path)
    assert pair.chosen[0]["content"] == row["chosen"]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"prompt": "a", "chosen": "b"', "parse_error", "unexpected end"),
        (b'{"prompt": "caf\xe9", "chosen": "b", "rejected": "c"}', "parse_error", "not UTF-8 at byte 16"),
        (b'{"prompt": "a\\ud83d", "chosen": "b", "rejected": "c"}', "parse_error", "lone surrogate \\ud83d"),
        (b"[" * 100_000, "parse_error", ""),
        (b"just words", "parse_error", ""),
        (b"42", "unknown_format", "not an object"),
        (b'{"prompt": "a", "chosen": "b"}', "missing_field", "no field 'rejected'"),
        (b'{"prompt": "a", "chosen": null, "rejected": "c"}', "null_field", "'chosen' is null"),
        (b'{"prompt": " ", "chosen": "b", "rejected": "c"}', "empty_prompt", "no text"),
        (b'{"prompt": "a", "chosen": " \\n", "rejected": "c"}', "empty_completion", "'chosen' is empty"),
        (b'{"prompt": "a", "chosen": "b", "rejected": " b "}', "identical", "the same"),
        (b'{"prompt": 3, "chosen": "b", "rejected": "c"}', "unknown_format", "'prompt' is a number"),
        (b'{"prompt": "a", "chosen": [{"role": "wizard", "content": "x"}], "rejected": "c"}', "role_order", "wizard"),
        (b'{"prompt": "a", "chosen": [{"content": "x"}], "rejected": "c"}', "missing_field", "role"),
        (b'{"prompt": "a", "chosen": [{"role": "user", "content": "x"}], "rejected": "c"}', "role_order", "user message"),
        (b'{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", "rejected": "\\n\\nHuman: a\\n\\nAssistant: c"}',
         "unknown_format", "a hh_transcript row in a trl_standard_explicit file"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_line_reason_and_detail(
    tmp_path: Path, line: bytes, reason: str, detail: str
) -> None:
    path = made(tmp_path / "x.jsonl", other(1) + other(2) + b"\n" + line + b"\n" + other(3))
    dataset = load(path)
    (skipped,) = dataset.skipped_rows
    assert (skipped.file, skipped.line, skipped.reason) == (str(path), 4, reason)
    assert detail in skipped.detail
    assert len(dataset) == 3
    with pytest.raises(DataInvalid, match=rf"x\.jsonl:4: {reason}"):
        load(path, on_bad="raise")


def test_numbers_that_json_forbids_are_null(tmp_path: Path) -> None:
    path = made(tmp_path / "x.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": "c", "score": NaN}\n')
    assert len(load(path)) == 1
    assert parse(b'{"a": [NaN, Infinity, -Infinity]}') == ({"a": [None, None, None]}, None)


def test_an_array_that_is_cut_keeps_what_was_whole(tmp_path: Path) -> None:
    path = made(tmp_path / "x.json", b"[\n" + LINE + b",\n" + other(2)[:-30])
    dataset = load(path)
    assert len(dataset) == 1
    assert [(r.line, r.reason) for r in dataset.skipped_rows] == [(4, "parse_error")]


def test_line_numbers_of_an_indented_array(tmp_path: Path) -> None:
    rows = [ROW, {"prompt": "a", "chosen": "b"}, ROW | {"prompt": "other"}]
    path = made(tmp_path / "x.json", json.dumps(rows, indent=1).encode())
    (skipped,) = load(path).skipped_rows
    assert path.read_text().splitlines()[skipped.line - 1].strip() == "{"
    assert skipped.line == 7


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("blank.jsonl", b"\n \n", "is empty"),
        ("none.json", b"[]", "is empty"),
        ("bad.jsonl", b"{\n{\n", "parse_error"),
        ("numbers.jsonl", b"1\n2\n", "not JSON objects"),
        ("other.jsonl", b'{"promt": "a", "chosn": "b", "rejectd": "c"}\n', "unknown dialect; the rows have the keys promt"),
        ("x.csv", b"a,b\n", "is empty"),
        ("x.docx", b"a", r"cannot read \.docx"),
        ("cut.jsonl.gz", gzip.compress(LINE * 100)[:-20], "end-of-stream|end of stream|Compressed"),
        ("no.jsonl.gz", b"plain", "Not a gzipped file"),
        ("no.jsonl.zst", b"plain", "frame|magic|decompress"),
    ],
)  # fmt: skip
def test_a_file_without_a_pair_is_an_error_with_a_reason(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = made(tmp_path / name, content)
    with pytest.raises(DataInvalid, match=said) as found:
        load(path)
    assert name in found.value.message


def test_an_unknown_dialect_is_answered_with_the_closest(tmp_path: Path) -> None:
    path = made(tmp_path / "x.jsonl", b'{"input": {}, "prefered_output": [], "non_prefered_output": []}\n')
    with pytest.raises(DataInvalid) as found:
        load(path)
    assert "openai_preference" in (found.value.hint or "")
    assert "prefered_output" in found.value.message


def test_only_bad_rows_name_the_first(tmp_path: Path) -> None:
    row = json.dumps({**ROW, "rejected": ROW["chosen"]}).encode() + b"\n"
    path = made(tmp_path / "x.jsonl", row * 3)
    with pytest.raises(DataInvalid, match=r"no row of 3 is a pair \(3 identical\)") as found:
        load(path)
    assert "x.jsonl:1: identical" in (found.value.hint or "")
    assert len(read(path)) == 0


def test_a_file_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    made(tmp_path / "prefs.jsonl", LINE)
    with pytest.raises(DataInvalid, match="no such file") as found:
        load(tmp_path / "pref.jsonl")
    assert "prefs.jsonl" in (found.value.hint or "")


def test_lists_folders_and_globs(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / ".hidden.jsonl").write_bytes(b"no")
    (folder / "notes.txt").write_bytes(b"no")
    for i in range(3):
        made(folder / f"{i}.jsonl", other(i))
    (folder / "3.jsonl.gz").write_bytes(gzip.compress(other(3)))
    wanted = [f"Is shop {i} open?" for i in range(4)]

    def prompts(source: Any) -> list[str]:
        return [pair.prompt[0]["content"] for pair in load(source)]

    assert prompts(folder) == wanted
    assert prompts(str(folder / "*.jsonl*")) == wanted
    assert prompts([folder / f"{i}.jsonl" for i in range(3)]) == wanted[:3]
    assert prompts(json.loads(other(i)) for i in range(4)) == wanted
    with pytest.raises(DataInvalid, match="no file matches"):
        load(str(folder / "*.csv"))
    with pytest.raises(DataInvalid, match="the source is empty"):
        load([])


def test_each_file_has_its_own_dialect(tmp_path: Path) -> None:
    chat = {side: [{"role": role, "content": ROW[side]}]
            for side, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))}  # fmt: skip
    one, two = made(tmp_path / "a.jsonl", LINE), made(tmp_path / "b.jsonl", json.dumps(chat).encode())
    dataset = load([one, two])
    assert dataset.format == "trl_standard_explicit+trl_conversational_explicit"
    first, second = dataset
    assert first == second


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        for i in range(60_000):
            file.write(other(i))
    assert path.stat().st_size > 5e6
    tracemalloc.start()
    dataset = load(path)
    assert sum(1 for _ in dataset) == 60_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6


def test_a_row_of_fifty_megabytes(tmp_path: Path) -> None:
    row = {**ROW, "chosen": "y" * 50_000_000}
    path = made(tmp_path / "x.jsonl", json.dumps(row).encode() + b"\n" + LINE)
    assert [row.line for row in read_rows(path)] == [1, 2]
    array = made(tmp_path / "x.json", json.dumps([row, ROW]).encode())
    assert len(load(array)) == 2
