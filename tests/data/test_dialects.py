"""Every dialect against its made-up file, whose pairs are written down in `expected.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anydpo.data.dataset import Skipped
from anydpo.data.dialect import DIALECTS
from anydpo.data.pair import PreferencePair
from anydpo.data.read import read
from tests.conftest import FORMATS

pytestmark = pytest.mark.dialects

EXPECTED: dict[str, Any] = json.loads((FORMATS / "expected.json").read_text("utf-8"))
FILES = [name for name, given in EXPECTED.items() if given["format"] in DIALECTS]


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
    return {
        **{side: parsed(pair[side]) for side in ("prompt", "chosen", "rejected")},
        "tools": pair.get("tools"),
    }


def of(pair: PreferencePair) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(pair.to_dict(meta=False)))
    return plain(found)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("detected", [True, False], ids=["detected", "named"])
def test_items_come_out_as_written_down(name: str, detected: bool) -> None:
    given = EXPECTED[name]
    dataset = read(FORMATS / name, None if detected else given["format"])
    assert dataset.format == given["format"]
    outcomes = {
        int(item.source.rpartition(":")[2]) if isinstance(item, PreferencePair) else item.line: item
        for item in dataset._outcomes()
    }
    by_row = [outcomes[line] for line in sorted(outcomes)]
    for item in given["items"]:
        found = [by_row[row] for row in item["rows"]]
        if "skip" in item:
            allowed = {item["skip"], *item.get("accept", ())}
            assert all(isinstance(row, Skipped) and row.reason in allowed for row in found)
            continue
        accepted = [item["pairs"], *item.get("alternatives", ())]
        pairs = [of(row) for row in found if isinstance(row, PreferencePair)]
        assert pairs in [[plain(pair) for pair in one] for one in accepted]
    assert dataset.rows == len(dataset) + sum(dataset.skipped.values())


def test_the_dialects_of_this_version_are_all_tried() -> None:
    """A dialect without a file here would be tested by nothing; canonical has its round trips."""
    assert set(DIALECTS) - {EXPECTED[name]["format"] for name in FILES} == {"canonical"}


def test_a_dialect_that_is_not_there_is_refused(tmp_path: Path) -> None:
    from anydpo.errors import DataInvalid

    with pytest.raises(DataInvalid, match="unknown format 'trl_chat'"):
        read(FORMATS / FILES[0], "trl_chat")
