"""Real human transcripts: what is a pair, what is not, and why."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

import anydpo
from anydpo import cli
from tests.conftest import SHARED

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


@pytest.mark.parametrize(
    ("name", "rows", "pairs", "skipped", "longer"),
    [
        ("harmless-base-train.jsonl.gz", 1253, 1247, {"no_shared_prompt": 2, "empty_completion": 4}, 0.443),
        ("harmless-base-test.jsonl.gz", 280, 279, {"no_shared_prompt": 1}, None),
    ],
)
def test_counts_are_those_of_the_fact_sheet(
    hh: Path, name: str, rows: int, pairs: int, skipped: dict[str, int], longer: float | None
) -> None:
    dataset = anydpo.load(hh / name)
    assert (dataset.format, dataset.rows, len(dataset), dataset.skipped) == ("hh_transcript", rows, pairs, skipped)
    assert all(row.file.endswith(name) and row.line > 0 and row.detail for row in dataset.skipped_rows)
    if longer is not None:
        assert dataset.lint().stats["chosen_longer"] == pytest.approx(longer, abs=0.006)


def shared(name: str) -> Path:
    path = SHARED / "data" / name
    if not path.is_file():
        pytest.skip(
            f"the real sample {name} is not in {SHARED / 'data'}; set ANYDPO_SHARED to the folder that holds data/"
        )
    return path


@pytest.mark.parametrize(
    ("name", "format_", "rows", "pairs", "skipped", "longer"),
    [
        # 434 decided items, of which 30 have an answer without text; 65 ties (section 2 of the fact sheet)
        ("pandalm/testset.json", "pandalm", 499, 404, {"tie": 65, "empty_completion": 30}, None),
        ("alpaca_eval/annotations.json.gz", "alpaca_eval", 1016, 1013, {"tie": 1, "empty_completion": 2}, 0.818),
        ("llmbar/dataset.json", "llmbar", 100, 100, {}, 0.560),
        ("llamafactory/dpo_en_demo.json", "llamafactory_sharegpt_ranking", 300, 300, {}, 0.437),
        ("llamafactory/kto_en_demo.json", "llamafactory_kto", 300, 1, {"unpaired": 298}, None),
    ],
)
def test_real_files_of_other_dialects(
    name: str, format_: str, rows: int, pairs: int, skipped: dict[str, int], longer: float | None
) -> None:
    dataset = anydpo.load(shared(name))
    assert (dataset.format, dataset.rows, len(dataset), dataset.skipped) == (format_, rows, pairs, skipped)
    assert dataset.rows == dataset.scan.used + sum(dataset.skipped.values())
    if longer is not None:
        assert dataset.scan.chosen_longer / len(dataset) == pytest.approx(longer, abs=0.0005)


def test_three_annotators_of_499_items_are_all_heard() -> None:
    """Section 2 of the fact sheet: majority 211 first, 223 second, 65 ties; 433 unanimous; no three-way split."""
    dataset = anydpo.load(shared("pandalm/testset.json"))
    votes: dict[str, list[str | None]] = {}
    for said in dataset.judgments:
        votes.setdefault(said.item, []).append(said.choice)
        assert said.models is not None
    assert {len(choices) for choices in votes.values()} == {3}
    top = [Counter(choices).most_common(1)[0] for choices in votes.values()]
    assert Counter(choice for choice, _ in top) == {"first": 211, "second": 223, "tie": 65}
    assert Counter(count for _, count in top) == {3: 433, 2: 66}
    assert len(anydpo.load(shared("pandalm/testset.json"), policy={"votes": "unanimous"})) < len(dataset)


def test_no_word_of_a_transcript_is_lost_or_moved(hh: Path) -> None:
    """Putting the turns back together gives the transcript, white space at the cuts aside.

    TRL's own reader moves the beginning of the reply into the prompt in 19 % of these rows.
    """
    path = hh / "harmless-base-train.jsonl.gz"
    with gzip.open(path) as file:
        rows = [json.loads(line) for line in file]
    checked = 0
    for pair in anydpo.load(path):
        row = rows[int(pair.source.rpartition(":")[2]) - 1]
        for side, completion in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            turns = [*pair.prompt, *completion]
            text = "".join((HUMAN if t["role"] == "user" else ASSISTANT) + t["content"] for t in turns)
            assert "".join(text.split()) == "".join(row[side].split())
        assert row["chosen"].rstrip().endswith(pair.chosen[0]["content"])
        assert len(pair.chosen) == len(pair.rejected) == 1
        checked += 1
    assert checked == 1247


def test_split_by_prompt_never_divides_a_prompt(hh: Path) -> None:
    pairs = anydpo.load(hh / "harmless-base-train.jsonl.gz")
    train, held_out = pairs.split(0.2, seed=3)
    assert len(train) + len(held_out) == len(pairs)
    assert 0.14 < len(held_out) / len(pairs) < 0.26
    prompts = [{json.dumps(pair.prompt) for pair in side} for side in (train, held_out)]
    assert not prompts[0] & prompts[1]
    assert train.skipped == pairs.skipped
    assert held_out.skipped == {}
    again, _ = pairs.split(0.2, seed=3)
    other, _ = pairs.split(0.2, seed=4)
    assert again.fingerprint == train.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("name", "longer"),
    [
        ("alpaca_eval/annotations.json.gz", 0.818),
        ("llamafactory/dpo_en_demo.json", 0.437),
        ("llmbar/dataset.json", 0.560),
    ],
)
def test_length_bias_is_that_of_the_fact_sheet(name: str, longer: float) -> None:
    """The set judged by models is heavily biased, the ones judged by people are not."""
    report = anydpo.load(shared(name)).lint()
    assert report.stats["chosen_longer"] == pytest.approx(longer, abs=0.0006)
    codes = {check.code for check in report.checks}
    assert ("length_bias" in codes) is (longer > 0.8)


def test_copies_in_the_demo_set_are_those_of_the_fact_sheet() -> None:
    checks = {c.code: c.count for c in anydpo.load(shared("llamafactory/dpo_en_demo.json")).lint().checks}
    assert checks["duplicate"] == 5


def test_agreement_of_three_people_from_the_file_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Through the reader and the command, with the six answers that the file holds as values and not as text."""
    path = shared("pandalm/testset.json")
    assert cli.run(["agreement", str(path), "--json", "--require", "krippendorff>=0.6"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["items"], found["raters"], found["unanimous"]) == (1, 499, 3, 433)
    assert found["fleiss"] == pytest.approx(0.854258, abs=5e-7)
    assert found["krippendorff"]["nominal"] == pytest.approx(0.854355, abs=5e-7)
    assert sorted(found["cohen"].values()) == pytest.approx([0.836868, 0.855613, 0.870362], abs=5e-7)
    assert found["bradley_terry"]["strengths"]["llama-7b"] == pytest.approx(0.6302, abs=5e-5)
    assert found["bradley_terry"]["ties"] == "dropped"
    assert found["bradley_terry"]["connected"] is True
    assert found["majority"] == {"first": 211, "second": 223, "tie": 65, "no_majority": 0}
    assert found["requirements"] == [
        {"require": "krippendorff>=0.6", "value": pytest.approx(0.854355, abs=5e-7), "ok": True}
    ]
