"""Tables of other libraries, Parquet, stores and the hub: the same pairs, or what to install and do."""

from __future__ import annotations

import base64
import builtins
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anydpo.data.read import load, read
from anydpo.errors import DataInvalid
from tests.conftest import FORMATS

pa = pytest.importorskip("pyarrow", reason="needs the extra `data`: pip install 'anydpo[data]'")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra `data`: pip install 'anydpo[data]'")

PLAIN = [{"prompt": f"Q{i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(5)]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"order": "7"}}}
CHAT = [
    {
        "prompt": [{"role": "user", "content": "Where is it?"}],
        "chosen": [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
        "rejected": [{"role": "assistant", "content": "No idea."}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    },
    {
        "prompt": [{"role": "user", "content": "Is it open?"}],
        "chosen": [{"role": "assistant", "content": "Yes."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "tools": None,
    },
]


@pytest.mark.parametrize("rows", [PLAIN, CHAT], ids=["text", "chat"])
def test_one_content_in_many_tables_is_one_data_set(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Tables with one type for all rows fill what a row does not have with nulls; those are nobody's data."""
    datasets = pytest.importorskip("datasets", reason="needs the extra `data`: pip install 'anydpo[data]'")
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    wanted = load(rows).fingerprint
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "x.parquet")
    for source in (table, tmp_path / "x.parquet", datasets.Dataset.from_list(rows), datasets.Dataset(table),
                   pandas.DataFrame(rows), pandas.read_parquet(tmp_path / "x.parquet")):  # fmt: skip
        dataset = load(source)
        assert (dataset.fingerprint, dataset.rows) == (wanted, len(rows)), source
        assert list(dataset) == list(dataset)


def test_parquet_rows_are_numbered_and_their_nulls_named(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([*PLAIN, {"prompt": "a", "chosen": None, "rejected": "b"}]), tmp_path / "x.parquet"
    )
    (row,) = load(tmp_path / "x.parquet").skipped_rows
    assert (row.line, row.reason) == (6, "null_field")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not at all PAR1")
    with pytest.raises(DataInvalid, match=r"no\.parquet: not a Parquet file that can be read"):
        load(tmp_path / "no.parquet")


def test_an_embedded_picture_becomes_a_data_uri() -> None:
    table = pq.read_table(FORMATS / "rlaif_v.parquet").to_pylist()
    for pair, row in zip(load(FORMATS / "rlaif_v.parquet"), table, strict=True):
        kind, _, encoded = pair.prompt[0]["content"][0]["image"].partition(";base64,")
        assert (kind, base64.b64decode(encoded)) == ("data:image/png", row["image"]["bytes"])


def test_a_column_of_pictures_of_datasets_is_not_decoded(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra `data`: pip install 'anydpo[data]'")
    made = datasets.load_dataset(
        "parquet", data_files=str(FORMATS / "rlaif_v.parquet"), cache_dir=str(tmp_path), split="train"
    )
    pictured = made.cast_column("image", datasets.Image())
    assert load(pictured).fingerprint == load(FORMATS / "rlaif_v.parquet").fingerprint


def test_a_split_is_chosen_or_asked_for() -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra `data`: pip install 'anydpo[data]'")
    one, other = datasets.Dataset.from_list(PLAIN[:2]), datasets.Dataset.from_list(PLAIN[2:])
    both = datasets.DatasetDict({"train": one, "test": other})
    assert (len(load(both)), len(load(both, split="test"))) == (2, 3)
    with pytest.raises(DataInvalid, match="which split is meant is not clear") as found:
        load(datasets.DatasetDict({"a": one, "b": other}))
    assert "a, b" in (found.value.hint or "")
    with pytest.raises(DataInvalid, match="the source has no splits"):
        load(PLAIN, split="train")


def test_a_name_of_the_hub_is_loaded_and_what_it_answers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra `data`: pip install 'anydpo[data]'")
    asked: list[str] = []

    def answering(name: str) -> Any:
        asked.append(name)
        if name == "somebody/pairs":
            return datasets.DatasetDict(
                {"train": datasets.Dataset.from_list(PLAIN), "test": datasets.Dataset.from_list(PLAIN[:2])}
            )
        raise ConnectionError("Couldn't reach the hub\n(some trace)")

    monkeypatch.setattr(datasets, "load_dataset", answering)
    assert load("hf://somebody/pairs").fingerprint == load(PLAIN).fingerprint
    assert len(load("hf://somebody/pairs", split="test")) == 2
    with pytest.raises(DataInvalid, match="hf://nobody/nothing: Couldn't reach the hub") as found:
        load("hf://nobody/nothing")
    assert "trace" not in found.value.message
    assert "path" in (found.value.hint or "")
    assert asked == ["somebody/pairs", "somebody/pairs", "nobody/nothing"]


@pytest.mark.parametrize(
    ("missing", "source", "hint"),
    [
        ("pyarrow", str(FORMATS / "nectar.parquet"), "anydpo[data]"),
        ("datasets", "hf://somebody/something", "anydpo[data]"),
        ("fsspec", "s3://bucket/x.jsonl", "anydpo[data]"),
        ("s3fs", "s3://bucket/x.jsonl", "anydpo[s3]"),
        ("adlfs", "abfs://box/x.jsonl", "anydpo[abfs]"),
    ],
)
def test_a_package_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, missing: str, source: str, hint: str
) -> None:
    real = builtins.__import__

    def refusing(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ImportError(f"no module named {missing}", name=missing)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refusing)
    for module in [name for name in __import__("sys").modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(__import__("sys").modules, module)
    with pytest.raises(DataInvalid) as found:
        load(source)
    assert found.value.hint == f"pip install '{hint}'"


def test_files_of_a_store_are_read_like_files(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs the extra `data`: pip install 'anydpo[data]'")
    store = fsspec.filesystem("memory")
    lines = "".join(json.dumps(row) + "\n" for row in PLAIN)
    store.pipe("/box/a.jsonl", lines.encode())
    store.pipe("/box/notes.txt", b"no")
    store.pipe("/box/deep/b.jsonl", b'{"prompt": "x", "chosen": "y", "rejected": "y"}\n' + lines.encode())
    with store.open("/box/c.jsonl.gz", "wb") as raw:
        import gzip

        raw.write(gzip.compress(lines.encode()))
    assert load("memory://box/a.jsonl").fingerprint == load(PLAIN).fingerprint
    assert load("memory://box/c.jsonl.gz").fingerprint == load(PLAIN).fingerprint
    assert len(load("memory://box/*.jsonl*")) == 10
    folder = load("memory://box")
    assert (len(folder), folder.skipped) == (15, {"identical": 1})
    assert folder.skipped_rows[0].file.endswith("box/deep/b.jsonl")
    for missing in ("memory://box/none.jsonl", "memory://box/*.csv"):
        with pytest.raises(DataInvalid, match=r"none\.jsonl|no file matches"):
            read(missing)
    with pytest.raises(DataInvalid, match="nowhere"):
        read("nowhere://box/a.jsonl")


@pytest.fixture
def address() -> Iterator[str]:
    class Serving(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/x.jsonl"
            body = "".join(json.dumps(row) + "\n" for row in PLAIN).encode() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name is the library's

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serving)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_address_is_read(address: str) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra `data`: pip install 'anydpo[data]'")
    assert load(f"{address}/x.jsonl").fingerprint == load(PLAIN).fingerprint
    with pytest.raises(DataInvalid, match=f"{address}/y.jsonl"):
        load(f"{address}/y.jsonl")
