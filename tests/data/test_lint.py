"""The linter's report: counts known beforehand, keys that scripts rely on."""

from __future__ import annotations

from typing import Any

import pytest

from anydpo import samples
from anydpo.data.read import load, read

PAIR = {"prompt": "Is it open?", "chosen": "Yes, until six.", "rejected": "No idea."}


def codes(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {check.code: check.count for check in read(rows).lint().checks}


def test_duplicates_and_contradictions_are_counted_and_named() -> None:
    swapped = {**PAIR, "chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}
    spaced = {**PAIR, "chosen": PAIR["chosen"] + " "}
    other = {**PAIR, "prompt": "And tomorrow?"}
    found = codes([PAIR, other, PAIR, spaced, swapped])
    assert found == {"duplicate": 2, "contradiction": 1, "few_pairs": 5}
    (check,) = [c for c in read([PAIR, other, swapped]).lint().checks if c.code == "contradiction"]
    assert check.examples == ("rows:3 against rows:1",)


def test_skipped_rows_are_warnings_with_examples() -> None:
    report = read([PAIR, {**PAIR, "chosen": ""}, {**PAIR, "rejected": PAIR["chosen"]}]).lint()
    assert {c.code: (c.severity, c.examples) for c in report.checks if c.severity == "warning"} == {
        "empty_completion": ("warning", ("rows:2",)),
        "identical": ("warning", ("rows:3",)),
    }
    assert (report.errors, report.warnings) == (0, 2)


def test_no_pair_at_all_is_an_error() -> None:
    report = read([{**PAIR, "chosen": ""}]).lint()
    assert report.errors == 1
    assert report.to_dict()["pairs"] == 0


def test_length_is_measured_and_a_large_clean_set_has_no_finding(capsys: pytest.CaptureFixture[str]) -> None:
    report = load(samples.pairs(1200)).lint()
    assert report.stats["chosen_longer"] == 0.0
    assert report.stats["chosen_characters"] < report.stats["rejected_characters"]
    assert report.checks == ()
    report.print()
    assert "1,200 rows = 1,200 pairs" in capsys.readouterr().out


def test_a_place_says_what_it_cannot_train() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    with_image = {"image": "x.png", **PAIR}
    assert load([PAIR]).lint(["local"]).providers == {"local": {"ok": True, "problems": []}}
    chat = {side: [{"role": role, "content": PAIR[side]}]
            for side, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))}  # fmt: skip
    assert load([{**chat, "tools": [tool]}]).lint(["local"]).providers["local"]["ok"]
    answer = load([with_image]).lint(["local"])
    assert answer.providers["local"]["problems"] == ["1 pairs with images cannot be trained there"]
    assert answer.errors == 1


def test_keys_that_scripts_rely_on() -> None:
    report = read([PAIR, {**PAIR, "chosen": ""}]).lint().to_dict()
    assert report.keys() == {
        *("format", "files", "rows", "pairs", "skipped", "skipped_rows", "fingerprint", "stats", "checks", "providers")
    }
    assert report["skipped_rows"][0].keys() == {"file", "line", "reason", "detail"}
    assert report["checks"][0].keys() == {"code", "severity", "count", "message", "examples"}
