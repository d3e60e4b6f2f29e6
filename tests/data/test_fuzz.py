"""Rows and bytes that nobody meant: never a traceback, never a silent drop."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anydpo.data.read import read
from anydpo.data.source import read_rows
from anydpo.errors import DataInvalid
from tests.conftest import FORMATS
from tests.data.test_dialects import EXPECTED, MAPPING

ROWS: dict[str, list[Any]] = {
    name: [row.value for row in read_rows(FORMATS / name)] for name in EXPECTED if not name.endswith(".parquet")
}
KEYS = sorted({key for rows in ROWS.values() for row in rows for key in row})
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2**70, 0.5, 1e308, float("nan"), "", " ", "A", "tie", "\ud800", "\n\nHuman: a\n\nAssistant:",
    "[{", '[{"role": "user"}]', [], {}, [[]], [None], [{}], {"role": "user"}, {"role": "assistant", "content": "x"}, [{"role": "wizard"}],
    [{"role": "user", "content": [{"type": "image"}]}], [{"role": "assistant", "content": None, "tool_calls": [{}]}],
]  # fmt: skip


def deep(levels: int) -> Any:
    made: Any = "x"
    for _ in range(levels):
        made = [made]
    return made


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "role", "content"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


def cases(full: bool, share: float, strategy: Any, check: Callable[..., None]) -> None:
    """Run a share of the 2,000 (`make proof`: 20,000) cases."""
    count = int((20_000 if full else 1_000) * share)
    limited: Any = settings(max_examples=count, deadline=None, suppress_health_check=quiet, database=None)
    drawn: Any = given(strategy)
    limited(drawn(check))()


def whole(source: Any, format: str | None, rows: int | None, policy: dict[str, Any] | None = None) -> None:  # noqa: A002
    """Read and use it all; our own error is an answer too."""
    try:
        mapping = MAPPING if format == "vendor_csv" else None
        dataset = read(source, format, mapping, policy)
        assert dataset.rows == dataset.scan.used + sum(dataset.skipped.values())
        if rows is not None:
            assert dataset.rows == rows
        assert len(list(dataset)) == len(dataset)
        for row in dataset.skipped_rows:
            assert row.reason in REASONS
            assert row.detail
        for said in dataset.judgments:
            assert said.choice in ("first", "second", "tie", None)
        json.dumps(dataset.lint().to_dict())
        if len(dataset):
            lines = b"".join(block.data for block in dataset.blocks("canonical")).splitlines(keepends=False)
            again = read([orjson.loads(line) for line in lines], "canonical")
            assert (list(again), again.fingerprint) == (list(dataset), dataset.fingerprint)
            assert sum(block.scan.pairs for block in dataset.blocks("trl_chat")) == len(dataset)
    except DataInvalid:
        pass


REASONS = frozenset(
    "parse_error unknown_format missing_field null_field empty_prompt invalid_label no_label annotator_skipped test_question "
    "score_contradicts_label tie no_majority too_few_candidates image_count_mismatch no_shared_prompt role_order "
    "empty_completion identical unpaired".split()
)


def changed_somewhere(value: Any, random_: random.Random) -> Any:
    """The value with one of its parts taken away, doubled, or replaced by something odd."""
    if isinstance(value, (dict, list)) and value and random_.random() < 0.8:
        at = random_.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if random_.random() < 0.2:
            del value[at]
        elif random_.random() < 0.1 and isinstance(value, list):
            value.append(copy.deepcopy(value[at]))
        else:
            value[at] = changed_somewhere(value[at], random_)
        return value
    return copy.deepcopy(random_.choice([*ODD, deep(300)]))


def test_no_changed_row_can_break_its_reader(full: bool) -> None:
    def check(given_: tuple[str, int, str, str]) -> None:
        name, seed, pairs, dimension = given_
        random_ = random.Random(seed)
        rows = copy.deepcopy(ROWS[name])
        for at in random_.sample(range(len(rows)), random_.randint(1, len(rows))):
            rows[at] = changed_somewhere(rows[at], random_)
        policy = {"pairs": pairs, **({"dimension": dimension} if dimension else {})}
        whole(rows, EXPECTED[name]["format"] if seed % 2 else None, len(rows), policy)

    strategy = st.tuples(
        st.sampled_from(sorted(ROWS)),
        st.integers(0, 2**32),
        st.sampled_from(["best_worst", "all"]),
        st.sampled_from(["", "", "", "safety", "helpfulness", "tone"]),
    )
    cases(full, 0.5, strategy, check)


def test_no_row_at_all_can_break_a_reader(full: bool) -> None:
    formats = sorted({given["format"] for given in EXPECTED.values()} | {"canonical", "webgpt"})

    def check(given_: tuple[str | None, list[dict[str, Any]]]) -> None:
        whole(given_[1], given_[0], len(given_[1]))

    rows = st.lists(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=6), min_size=1, max_size=4)
    cases(full, 0.25, st.tuples(st.none() | st.sampled_from(formats), rows), check)


def test_no_bytes_can_break_the_reader(tmp_path: Path, full: bool) -> None:
    """Cut, doubled and changed files, and bytes out of nowhere, in every kind of file there is."""
    files = {name: (FORMATS / name).read_bytes() for name in EXPECTED}

    def check(given_: tuple[str, int, bytes, str]) -> None:
        name, seed, extra, suffix = given_
        random_, content = random.Random(seed), bytearray(files[name] if seed % 4 else b"")
        for _ in range(random_.randint(0, 3)):
            at = random_.randint(0, len(content))
            content[at : at + random_.choice([0, 0, 1, 50])] = extra
        if random_.random() < 0.3:
            del content[random_.randint(0, len(content)) :]
        path = tmp_path / f"x{Path(name).suffix if seed % 4 else suffix}"
        path.write_bytes(gzip.compress(bytes(content)) if suffix == ".jsonl.gz" and not seed % 4 else bytes(content))
        try:
            rows = sum(1 for _ in read_rows(path))
        except DataInvalid:
            rows = None
        whole(path, EXPECTED[name]["format"] if path.suffix == ".csv" else None, rows)

    odd = st.sampled_from(
        [b"", b"\xff", b'"', b"\n", b"\r\n", b"\x00", b"\xe2\x80\xa8", b"[", b"{", b"}", b",", b"NaN", b"\xef\xbb\xbf"]
    )
    suffixes = st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".jsonl.zst"])
    strategy = st.tuples(st.sampled_from(sorted(files)), st.integers(0, 2**32), odd | st.binary(max_size=40), suffixes)
    cases(full, 0.25, strategy, check)


@pytest.mark.parametrize("levels", [200, 300, 2_000, 100_000])
def test_deep_nesting_is_a_reason(tmp_path: Path, levels: int) -> None:
    line = b'{"prompt": "a", "chosen": "b", "rejected": "c", "x": ' + b"[" * levels + b"]" * levels + b"}\n"
    path = tmp_path / "x.jsonl"
    path.write_bytes(line * 2)
    whole(path, None, 2)
    with_tools = b'{"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}], '
    with_tools += (
        b'"rejected": [{"role": "assistant", "content": "c"}], "tools": [{"x": '
        + b"[" * levels
        + b"]" * levels
        + b"}]}\n"
    )
    path.write_bytes(with_tools * 2)
    whole(path, None, 2)
