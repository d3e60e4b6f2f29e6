"""Every dialect against its made-up file, whose pairs are written down in `expected.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from anydpo.data.dataset import PreferenceDataset, Skipped
from anydpo.data.dialect import DIALECTS
from anydpo.data.pair import PreferencePair
from anydpo.data.read import load, read
from anydpo.data.source import read_rows
from anydpo.errors import DataInvalid
from tests.conftest import FORMATS

pytestmark = pytest.mark.dialects

EXPECTED: dict[str, Any] = json.loads((FORMATS / "expected.json").read_text("utf-8"))
FILES = list(EXPECTED)
# What a person would write for the made-up vendor file; a table is never read without it.
MAPPING = {
    "columns": {
        "task": "task_id",
        "annotator": "annotator_id",
        "prompt": "prompt",
        "response_a": "response_a",
        "response_b": "response_b",
        "label": "preference",
        "strength": "preference_strength",
        "justification": "justification",
        "score": {name: {side: f"{name}_{side}" for side in "ab"} for name in ("tone", "accuracy")},
    }
}


def opened(name: str, format: str | None = None, policy: dict[str, Any] | None = None) -> PreferenceDataset:  # noqa: A002
    mapping = MAPPING if EXPECTED[name]["format"] == "vendor_csv" else None
    return read(FORMATS / name, format, mapping, policy)


def parsed(messages: Any) -> Any:
    """Messages with tool arguments as objects: their JSON text may be spelled in many ways."""
    made = []
    for message in messages:
        kept = dict(message)
        if "tool_calls" in kept:
            kept["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
                for call in kept["tool_calls"]
            ]
        made.append(kept)
    return made


def plain(pair: dict[str, Any]) -> dict[str, Any]:
    made = {**{side: parsed(pair[side]) for side in ("prompt", "chosen", "rejected")}, "tools": pair.get("tools")}
    # `<bytes:NAME>` stands for an embedded picture, which we hold as a data URI.
    text = re.sub(r'"(<bytes:[^"]*>|data:image/[^"]*)"', '"<picture>"', json.dumps(made))
    found: dict[str, Any] = json.loads(text)
    return found


def of(pair: PreferencePair) -> dict[str, Any]:
    return plain(json.loads(json.dumps(pair.to_dict(meta=False))))


def agrees(pair: PreferencePair, extra: dict[str, Any]) -> bool:
    """Whether what the source says beside the texts was kept: only the keys that are given count."""
    held = {**pair.meta, "margin": pair.margin}
    return all(
        held[key].items() >= value.items() if isinstance(value, dict) else held.get(key) == value
        for key, value in extra.items()
    )


class Found:
    """What became of each row, by its place among the rows of the file."""

    def __init__(self, name: str, dataset: PreferenceDataset) -> None:
        number = {row.line: at for at, row in enumerate(read_rows(FORMATS / name))}
        self.pairs: dict[int, list[PreferencePair]] = {}
        self.skipped: dict[int, Skipped] = {}
        for pair in dataset:
            for source in pair.meta.get("rows", [pair.source]):
                self.pairs.setdefault(number[int(source.rpartition(":")[2])], []).append(pair)
        for row in dataset.skipped_rows:
            self.skipped[number[row.line]] = row

    def of_rows(self, rows: list[int]) -> list[PreferencePair]:
        seen = {id(pair): pair for row in rows for pair in self.pairs.get(row, [])}
        return list(seen.values())


def reasons(item: dict[str, Any]) -> set[str]:
    """The reasons that would be right for an item which need not be a pair."""
    if "skip" in item:
        return {item["skip"], *item.get("accept", ())}
    other = item.get("alternatives_skip", ())
    return {other} if isinstance(other, str) else set(other)


def accepted(item: dict[str, Any]) -> list[list[dict[str, Any]]]:
    given = [item["pairs"]] if "pairs" in item else []
    given += item.get("alternatives", ())
    given += [item["alternatives_pairs"]] if "alternatives_pairs" in item else []
    return given


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("detected", [True, False], ids=["detected", "named"])
def test_items_come_out_as_written_down(name: str, detected: bool) -> None:
    given = EXPECTED[name]
    dataset = opened(name, None if detected else given["format"])
    assert dataset.format == given["format"]
    found = Found(name, dataset)
    for item in given["items"]:
        pairs = found.of_rows(item["rows"])
        if not pairs:
            assert {found.skipped[row].reason for row in item["rows"]} <= reasons(item), item
            continue
        assert [of(pair) for pair in pairs] in [[plain(pair) for pair in one] for one in accepted(item)]
        for pair, expected in zip(pairs, item.get("pairs", pairs), strict=True):
            if isinstance(expected, dict) and of(pair) == plain(expected):
                assert agrees(pair, expected.get("extra", {})), (pair.meta, pair.margin, expected["extra"])
    assert sorted({*found.pairs, *found.skipped}) == sorted(row for item in given["items"] for row in item["rows"])
    assert dataset.rows == sum(len(item["rows"]) for item in given["items"])


@pytest.mark.parametrize(
    "name", [n for n in FILES if any("pairs_all" in item for item in EXPECTED[n]["items"])]
)  # fmt: skip
def test_the_other_policy_makes_all_strictly_ordered_pairs(name: str) -> None:
    found = Found(name, opened(name, policy={"pairs": "all"}))
    for item in EXPECTED[name]["items"]:
        if "pairs_all" in item:
            assert len(found.of_rows(item["rows"])) == item["pairs_all"]


@pytest.mark.parametrize(
    ("name", "dimension"),
    sorted({(n, d) for n in FILES for item in EXPECTED[n]["items"] for d in item.get("alt_dimension", ())}),
)
def test_another_dimension_decides_when_asked(name: str, dimension: str) -> None:
    found = Found(name, opened(name, policy={"dimension": dimension}))
    for item in EXPECTED[name]["items"]:
        if dimension in item.get("alt_dimension", ()):
            assert [of(p) for p in found.of_rows(item["rows"])] == [plain(p) for p in item["alt_dimension"][dimension]]


def test_the_dialects_of_this_version_are_all_tried() -> None:
    """A dialect without a file would be tested by nothing: canonical has its round trips, webgpt its test below."""
    assert set(DIALECTS) - {given["format"] for given in EXPECTED.values()} <= {"canonical", "webgpt"}


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith(".csv")])
def test_a_table_is_not_read_without_a_mapping(name: str) -> None:
    with pytest.raises(DataInvalid, match="what its columns mean has to be said"):
        read(FORMATS / name)


def test_webgpt_goes_by_its_scores() -> None:
    row = {
        "question": {"full_text": "Why?"},
        "answer_0": "Because.",
        "answer_1": "No.",
        "score_0": 0.5,
        "score_1": -0.5,
    }
    dataset = load([row, {**row, "score_1": 0.5}, {**row, "score_0": -1.0}])
    assert (dataset.format, dataset.skipped) == ("webgpt", {"tie": 1})
    assert [(p.chosen[0]["content"], p.margin) for p in dataset] == [("Because.", 1.0), ("No.", 0.5)]


def test_a_dialect_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="unknown format 'trl_chat'"):
        read(FORMATS / FILES[0], "trl_chat")
