"""Judging a delivery: real votes with known figures, and made-up deliveries with one fault each."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anydpo.data.accept import require, rework, write_rework
from anydpo.data.agreement import AgreementReport, agreement, groups_named
from anydpo.data.gold import read_gold
from anydpo.data.judgment import Choice, Judgment
from anydpo.data.sheet import cell
from anydpo.errors import DataInvalid
from anydpo.report.agreement import document
from anydpo.report.page import page
from anydpo.report.terminal import lines
from tests.conftest import SHARED

SIDES: list[Choice] = ["first", "second"]
VOTES: dict[int, Choice] = {0: "tie", 1: "first", 2: "second"}


@pytest.fixture(scope="module")
def pandalm() -> AgreementReport:
    """499 items judged by three people (real)."""
    path = SHARED / "data" / "pandalm" / "testset.json"
    if not path.is_file():
        pytest.skip(f"the PandaLM test set is not at {path}; set ANYDPO_SHARED to the folder that holds data/pandalm")
    return agreement(
        Judgment(
            item=str(row["idx"]),
            annotator=f"annotator{k}",
            choice=VOTES[row[f"annotator{k}"]],
            models=tuple(row["cmp_key"].split("_")),
        )
        for row in json.loads(path.read_text("utf-8"))
        for k in (1, 2, 3)
    )


def test_real_votes_have_the_figures_of_the_fact_sheet(pandalm: AgreementReport) -> None:
    found = pandalm.to_dict()
    assert (found["items"], found["raters"], found["judgments"], found["unanimous"]) == (499, 3, 1497, 433)
    assert found["fleiss"] == pytest.approx(0.854258, abs=5e-7)
    assert found["krippendorff"]["nominal"] == pytest.approx(0.854355, abs=5e-7)
    assert list(found["cohen"].values()) == pytest.approx([0.836868, 0.870362, 0.855613], abs=5e-7)
    assert list(found["cohen"])[1] == "annotator1 / annotator3"
    assert list(found["raw_pairs"].values()) == pytest.approx([0.9018, 0.9218, 0.9118], abs=5e-5)
    assert found["majority"] == {"first": 211, "second": 223, "tie": 65, "no_majority": 0}


def test_real_strengths_are_those_of_the_fact_sheet(pandalm: AgreementReport) -> None:
    found = pandalm.overall.bradley_terry
    assert found is not None
    assert (found["decided"], found["tied"], found["ties"], found["connected"]) == (434, 65, "dropped", True)
    expected = {
        "llama-7b": 0.6302,
        "bloom-7b": 0.0023,
        "pythia-6.9b": -0.0477,
        "opt-7b": -0.1406,
        "cerebras-gpt-6.7B": -0.4441,
    }
    assert found["strengths"] == pytest.approx(expected, abs=5e-5)


def delivery(
    *, items: int = 60, people: int = 3, seed: int = 0, noise: float = 0.1, turned: str = "", **odd: float
) -> Iterator[Judgment]:
    """Made-up judgements: w0, w1 … say the truth but for noise; `turned` one says the opposite."""
    draw = random.Random(seed)
    for i in range(items):
        truth = draw.choice(SIDES)
        other: Choice = "second" if truth == "first" else "first"
        for k in range(people):
            name = f"w{k}"
            choice = other if draw.random() < odd.get(name, noise) else truth
            if name == turned:
                choice = other if choice == truth else truth
            yield Judgment(item=f"t{i}", annotator=name, choice=choice, gold=truth if i % 6 == 0 else None)


def codes(report: AgreementReport) -> dict[str, str]:
    return {check.code: check.severity for check in report.checks}


def test_a_sound_delivery_has_nothing_to_object_to() -> None:
    report = agreement(delivery(noise=0.05))
    assert (report.errors, report.warnings) == (0, 0)
    assert report.overall.krippendorff["nominal"] is not None
    assert report.habits.gold_seen == 30


def test_an_annotator_who_says_the_opposite_is_an_error_with_a_name() -> None:
    report = agreement(delivery(turned="w1", noise=0.05))
    assert codes(report)["reversed_scale"] == "error"
    assert {c.examples for c in report.checks if c.code == "reversed_scale"} == {("w1",)}
    assert agreement(delivery(turned="w1", noise=0.05, people=2)).errors


def test_everybody_against_gold_is_a_reversed_scale() -> None:
    flipped = [
        Judgment(item=str(i), annotator="w", choice="first" if i % 2 else "second", gold="second" if i % 2 else "first")
        for i in range(8)
    ]
    report = agreement(flipped)
    assert report.errors == 1
    assert "8 of 8 decided gold answers" in report.checks[0].message


def scored(choice: Choice, high: Choice, **scores: tuple[float, float]) -> dict[str, Any]:
    return {"choice": choice, "scores": scores or {"tone": (5.0, 2.0) if high == "first" else (2.0, 5.0)}}


def test_labels_against_the_same_persons_scores_are_an_error() -> None:
    right = [Judgment(item=str(i), annotator="w", **scored("first", "first")) for i in range(20)]
    wrong = [Judgment(item=str(i), annotator="w", **scored("first", "second")) for i in range(20)]
    assert agreement(right).errors == 0
    report = agreement(wrong)
    assert [c.severity for c in report.checks if c.code == "reversed_scale"] == ["error"]
    assert "20 of 20" in report.checks[0].message


def test_one_dimension_turned_round_is_found_among_others() -> None:
    given = [
        Judgment(
            item=str(i),
            annotator="w",
            choice="first",
            scores={"tone": (5.0, 1.0), "help": (5.0, 1.0), "errors": (1.0, 3.0)},
        )
        for i in range(12)
    ]
    report = agreement(given)
    assert report.errors == 1
    assert report.checks[0].examples == ("errors",)


def test_strength_that_falls_as_scores_part_is_an_error() -> None:
    def judged(turned: bool) -> list[Judgment]:
        return [
            Judgment(
                item=str(i),
                annotator="w",
                choice="first",
                strength=float(4 - gap if turned else gap),
                scores={"tone": (1.0 + gap, 1.0)},
            )
            for i, gap in enumerate([1, 2, 3] * 10)
        ]

    assert agreement(judged(False)).errors == 0
    report = agreement(judged(True))
    assert [c.code for c in report.checks if c.severity == "error"] == ["reversed_scale"]
    assert "strength" in report.checks[0].message


def test_strong_votes_that_others_do_not_share_are_a_reversed_strength() -> None:
    draw = random.Random(3)
    given = []
    for i in range(120):
        truth = draw.choice(SIDES)
        hard = i % 2 == 0
        for k in range(3):
            choice = draw.choice(SIDES) if hard else truth
            given.append(Judgment(item=str(i), annotator=f"w{k}", choice=choice, strength=3.0 if hard else 1.0))
    assert "reversed_scale" in codes(agreement(given))


def test_an_annotator_who_guesses_is_named_and_sent_back() -> None:
    report = agreement(delivery(items=120, people=4, noise=0.03, w2=0.5))
    found = {check.code: check.examples for check in report.checks}
    assert found["annotator_apart"] == ("w2",)
    assert {task.annotator for task in rework(report) if "unreliable_annotator" in task.reasons} == {"w2"}


def test_tasks_to_redo_say_by_whom_and_why(tmp_path: Path) -> None:
    given = [
        Judgment(item="even", annotator="a", choice="first"),
        Judgment(item="even", annotator="b", choice="second"),
        Judgment(item="gold", annotator="a", choice="second", gold="first", batch="b1"),
        Judgment(item="odd", annotator="b", choice="first", scores={"tone": (1.0, 5.0)}),
        *[Judgment(item=f"x{i}", annotator="a", choice="first", seconds=40.0) for i in range(5)],
        Judgment(item="quick", annotator="=HYPERLINK(1)", choice="first", seconds=2.0),
    ]
    counts = write_rework(agreement(given), tmp_path / "redo.csv")
    assert counts == {"no_majority": 1, "gold_wrong": 1, "contradicts_scores": 1, "too_fast": 1}
    rows = list(csv.DictReader((tmp_path / "redo.csv").read_text("utf-8").splitlines()))
    assert [(r["task"], r["annotator"], r["reason"]) for r in rows] == [
        ("even", "", "no_majority"),
        ("gold", "a", "gold_wrong"),
        ("odd", "b", "contradicts_scores"),
        ("quick", "'=HYPERLINK(1)", "too_fast"),
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+49 30 1", "'+49 30 1"),
        ("-x", "'-x"),
        ("@A1", "'@A1"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("-5", "-5"),
        ("+1.5e3", "+1.5e3"),
        (-0.25, "-0.25"),
        ("a=b", "a=b"),
        (None, ""),
    ],
)
def test_no_cell_is_a_formula_and_numbers_stay(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_conditions_are_met_or_not_and_undefined_never_is(pandalm: AgreementReport) -> None:
    assert require(pandalm, "krippendorff>=0.6").ok
    assert not require(pandalm, "cohen >= 0.85").ok
    assert require(pandalm, "raw>=90%").ok
    assert require(pandalm, "krippendorff.ordinal>0.86").ok
    assert require(pandalm, "items==499").ok
    assert require(pandalm, "gold>=0.9").value is None
    assert not require(pandalm, "gold>=0.9").ok
    with pytest.raises(DataInvalid, match="no figure 'kripendorff'"):
        require(pandalm, "kripendorff>=0.6")
    with pytest.raises(DataInvalid, match="expected NAME>=NUMBER"):
        require(pandalm, "raw")
    alike = agreement([Judgment(item=str(i), annotator=w, choice="first") for i in range(5) for w in "ab"])
    assert alike.overall.fleiss is None
    assert not require(alike, "fleiss>=0").ok


def test_rubric_dimensions_have_their_own_figures() -> None:
    """Krippendorff's own four observers and twelve units, given as the scores of one dimension."""
    table = """1 2 3 3 2 1 4 1 2 . . . / 1 2 3 3 2 2 4 1 2 5 . 3 / . 3 3 3 2 3 4 2 2 5 1 . / 1 2 3 3 2 4 4 1 2 5 1 ."""
    given = [
        Judgment(item=f"u{i}", annotator=f"o{k}", scores={"tone": (float(value), None)})
        for k, row in enumerate(table.split("/"))
        for i, value in enumerate(row.split())
        if value != "."
    ]
    found = agreement(given).dimensions["tone"].krippendorff
    assert found == pytest.approx(
        {"nominal": 0.743421, "ordinal": 0.815388, "interval": 0.849107, "ratio": 0.797403}, abs=5e-7
    )


def test_the_same_answers_shown_the_other_way_round_are_one_comparison() -> None:
    given = [
        Judgment(item="q", annotator="a", choice="first", models=("m1", "m2")),
        Judgment(item="q", annotator="b", choice="second", models=("m2", "m1")),
        Judgment(item="q", annotator="a", choice="first", models=("m1", "m3")),
    ]
    report = agreement(given)
    assert report.overall.items == 2
    assert report.overall.raw == 1.0
    shown = agreement([Judgment(item=str(i), annotator="a", choice="first", swapped=i % 2 == 0) for i in range(8)])
    assert shown.habits.first == 4


def test_a_judgement_given_again_replaces_the_first() -> None:
    given = [Judgment(item="q", annotator="a", choice=choice) for choice in SIDES]
    report = agreement(given)
    assert (report.replaced, report.majority["second"]) == (1, 1)
    assert "judged_again" in codes(report)


def test_habits_are_measured_and_named() -> None:
    given = [
        Judgment(item=str(i), annotator="left", choice="first", lengths=(200, 100), seconds=5.0) for i in range(40)
    ] + [
        Judgment(item=str(i), annotator="fair", choice="first" if i % 2 else "second", lengths=(200, 100), seconds=60.0)
        for i in range(40)
    ]
    found = {check.code: check for check in agreement(given).checks}
    assert {"position_bias", "annotator_side", "length_bias", "too_fast"} <= found.keys()
    assert found["annotator_side"].examples == ("left",)
    assert found["too_fast"].examples == ("left",)
    assert "75.0% of 80" in found["length_bias"].message


def test_label_smoothing_from_votes() -> None:
    """Errors of 10 % make two annotators contradict each other in 2 * 0.1 * 0.9 = 18 %."""
    given = [
        Judgment(item=str(i), annotator=w, choice=SIDES[w == "b" and i < 18]) for i in range(100) for w in ("a", "b")
    ]
    smoothing = agreement(given).smoothing
    assert smoothing is not None
    assert smoothing.disagreement == pytest.approx(0.18)
    assert smoothing.single == pytest.approx(0.1)


def test_groups_by_batch_and_model() -> None:
    given = [
        Judgment(item=f"{b}{i}", annotator="ab"[k], choice=SIDES[k * (b == "new")], batch=b, models=("m1", "m2"))
        for b in ("old", "new")
        for i in range(6)
        for k in (0, 1)
    ]
    found = agreement(given, by=groups_named("batch,model")).groups
    assert found["batch"]["old"].raw == 1.0
    assert found["batch"]["new"].raw == 0.0
    assert found["model"].keys() == {"m1", "m2"}
    with pytest.raises(DataInvalid, match="unknown group"):
        groups_named("person")


def test_no_judgement_is_an_error_that_says_what_is_needed() -> None:
    with pytest.raises(DataInvalid, match="no judgement"):
        agreement([])


def test_gold_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "gold.csv").write_text("\ufefftask_id,label\nt1,A\nt2,tie\n", "utf-8")
    (tmp_path / "gold.jsonl").write_text('{"task": "t1", "gold": "first"}\n{"task": "t2", "gold": 0}\n')
    assert read_gold(tmp_path / "gold.csv") == read_gold(tmp_path / "gold.jsonl") == {"t1": "first", "t2": "tie"}
    (tmp_path / "bad.jsonl").write_text('{"task": "t1", "gold": "maybe"}\n')
    with pytest.raises(DataInvalid, match=r"bad.jsonl:1: the label 'maybe'"):
        read_gold(tmp_path / "bad.jsonl")
    given = [Judgment(item="t1", annotator="w", choice="second"), Judgment(item="t2", annotator="w", choice="tie")]
    assert agreement(given, gold={"t1": "first", "t2": "tie"}).habits.gold_accuracy == 0.5


def test_report_for_people_has_text_without_control_and_a_page_without_scripts() -> None:
    name = "<script>alert(1)</script>\x1b[31m"
    given = [Judgment(item=str(i), annotator=w, choice="first") for i in range(3) for w in (name, "b")]
    made = document(agreement(given, files=(name,)))
    text = "\n".join(lines(made))
    assert "\x1b" not in text
    assert "undefined" in text
    html = page(made)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "prefers-color-scheme:dark" in html
    narrow = list(lines(made, width=60))
    assert max(map(len, narrow)) <= 60 or "│" in text
