"""Votes, ratings and thumbs: what becomes a pair, under which policy, and what is kept of every judgement."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anydpo.data.policy import Policy
from anydpo.data.read import load, read
from anydpo.errors import DataInvalid


def panda(*votes: int | None, **more: Any) -> dict[str, Any]:
    names = {f"annotator{i}": vote for i, vote in enumerate(votes, 1)}
    return {"instruction": "Q", "input": "", "response1": "one", "response2": "two", **names, **more}


def outcome(row: dict[str, Any], **policy: Any) -> str:
    dataset = read([row], policy=policy)
    return next(iter(dataset.skipped), None) or next(iter(dataset)).chosen[0]["content"]


@pytest.mark.parametrize(
    ("votes", "majority", "ignoring_ties", "unanimous"),
    [
        ((1, 1, 1), "one", "one", "one"),
        ((1, 1, 2), "one", "one", "no_majority"),
        ((0, 0, 1), "tie", "one", "no_majority"),
        ((0, 1, 2), "no_majority", "no_majority", "no_majority"),
        ((0, 1), "no_majority", "one", "no_majority"),
        ((0, 0), "tie", "tie", "tie"),
        ((2, None, None), "two", "two", "two"),
        ((None, None), "no_label", "no_label", "no_label"),
        ((3, 1, 1), "invalid_label", "invalid_label", "invalid_label"),
    ],
)
def test_votes_decide(votes: tuple[int | None, ...], majority: str, ignoring_ties: str, unanimous: str) -> None:
    row = panda(*votes)
    assert outcome(row) == majority
    assert outcome(row, ties="ignore") == ignoring_ties
    assert outcome(row, votes="unanimous") == unanimous


def test_a_minimum_margin_is_the_lead_in_votes_the_score_ratio_or_the_difference() -> None:
    rows = [panda(1, 1, 2), panda(1, 1, 1)]
    assert read(rows, policy={"min_margin": 2}).skipped == {"tie": 1}
    comment = {"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "score_A": 9, "score_B": 6}
    assert read([{**comment, "score_ratio": 1.5}], policy={"min_margin": 2}).skipped == {"tie": 1}
    assert len(read([{**comment, "score_ratio": 2.5}], policy={"min_margin": 2})) == 1
    rated = {"instruction": "Q", "generations": ["a", "b", "c"], "ratings": [5, 4.5, 1]}
    assert len(read([rated], policy={"min_margin": 1, "pairs": "all"})) == 2


def test_ranked_rows_make_one_pair_or_all_and_count_once() -> None:
    rated = {"instruction": "Q", "generations": ["a", "b", "c", "d"], "ratings": [3, 5, 5, None]}
    (best,) = load([rated])
    assert (best.chosen[0]["content"], best.rejected[0]["content"], best.margin) == ("b", "a", 2.0)
    everything = load([rated], policy={"pairs": "all"})
    assert [(p.chosen[0]["content"], p.rejected[0]["content"]) for p in everything] == [("b", "a"), ("c", "a")]
    assert (everything.rows, len(everything), everything.scan.used) == (1, 2, 1)
    assert everything.account() == "1 rows = 1 in 2 pairs"


def test_a_score_that_contradicts_its_label_is_a_reason() -> None:
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "yes"}]
    other = [chat[0], {"role": "assistant", "content": "no"}]
    row = {"prompt": "Q", "chosen": chat, "rejected": other, "score_chosen": 3.0, "score_rejected": 4.0}
    assert read([row]).skipped == {"score_contradicts_label": 1}
    assert len(read([{**row, "score_chosen": None}])) == 1


def test_grouped_rows_are_one_item_wherever_they_stand() -> None:
    def row(prompt: str, response: str, helpfulness: int, verbosity: int) -> dict[str, Any]:
        return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "verbosity": verbosity}

    rows = [row("P", "a", 1, 4), row("Q", "x", 2, 0), row("P", "b", 3, 0), row("P", "c", 2, 2)]
    dataset = load(rows)
    (pair,) = dataset
    assert (pair.chosen[0]["content"], pair.rejected[0]["content"], pair.margin) == ("b", "a", 2.0)
    assert pair.meta["rows"] == ["rows:1", "rows:3", "rows:4"]
    assert (dataset.rows, dataset.scan.used, dataset.skipped) == (4, 3, {"too_few_candidates": 1})
    assert len(load(rows, policy={"pairs": "all"})) == 3
    (by_verbosity,) = load(rows, policy={"dimension": "verbosity"})
    assert by_verbosity.chosen[0]["content"] == "a"
    assert len(list(dataset.judgments)) == 3
    assert next(dataset.judgments).scores == {"helpfulness": (1.0, 3.0), "verbosity": (4.0, 0.0)}
    assert next(dataset.judgments).choice is None
    with pytest.raises(DataInvalid, match="no dimension 'tone' in this data") as found:
        load(rows, policy={"dimension": "tone"})
    assert "helpfulness" in (found.value.hint or "")


def thumbs(*rows: tuple[str, object]) -> list[dict[str, Any]]:
    return [{"prompt": "Q", "completion": said, "label": label} for said, label in rows]


def test_thumbs_are_paired_in_their_order_and_each_used_once() -> None:
    rows = thumbs(("good", True), ("bad", "false"), ("better", 1), ("worse", 0.0), ("best", "yes"))
    dataset = load(rows)
    assert [(p.chosen[0]["content"], p.rejected[0]["content"]) for p in dataset] == [
        ("good", "bad"),
        ("better", "worse"),
    ]
    assert (dataset.rows, dataset.scan.used, dataset.skipped) == (5, 4, {"unpaired": 1})
    assert dataset.skipped_rows[0].line == 5
    assert len(load(rows, policy={"pairs": "all"})) == 6


def test_a_thumb_both_up_and_down_is_none() -> None:
    dataset = read(thumbs(("same", True), (" same", False), ("other", False), ("odd", "perhaps")))
    assert (len(dataset), dataset.rows) == (0, 4)
    assert dataset.skipped == {"identical": 2, "unpaired": 1, "invalid_label": 1}


def test_every_judgement_is_there_ties_and_all() -> None:
    rows = [panda(1, 1, 0, idx=7, cmp_key="bloom-7b_llama-7b"), panda(0, 0, 0, response1="longer"), panda(1, 2, None)]
    judgments = list(read(rows).judgments)
    assert Counter(j.choice for j in judgments) == {"first": 3, "tie": 4, "second": 1}
    first = judgments[0]
    assert (first.item, first.annotator, first.models) == ("7", "annotator1", ("bloom-7b", "llama-7b"))
    assert (first.lengths, first.source) == ((3, 3), "rows:1")
    assert judgments[3].lengths == (6, 3)


def test_helpsteer3_keeps_the_three_annotators_beside_the_overall_preference() -> None:
    said = [{"score": -1, "reasoning": "why"}, {"score": 2, "reasoning": ""}, {"score": 0}]
    row = {"context": "Q", "response1": "a", "response2": "b", "overall_preference": -1, "individual_preference": said}
    dataset = load([row])
    (pair,) = dataset
    assert (pair.chosen[0]["content"], pair.margin) == ("a", 1.0)
    assert pair.meta["votes"] == {"first": 1, "second": 1, "tie": 1}
    assert [(j.choice, j.strength, j.justification) for j in dataset.judgments] == [
        ("first", 1.0, "why"), ("second", 2.0, None), ("tie", 0.0, None),
    ]  # fmt: skip


def test_rankings_are_choices_and_ratings_are_scores() -> None:
    ranked = {
        "prompt": "\n\nHuman: Q\n\nAssistant: ",
        "answers": [{"answer": x, "rank": r} for x, r in (("a", 2.0), ("b", 1.0), ("c", 2.0))],
    }
    assert [j.choice for j in load([ranked]).judgments] == ["second", "tie", "first"]


def test_label_studio_ground_truth_is_gold_and_choices_count() -> None:
    def annotation(label: str, who: int, **more: Any) -> dict[str, Any]:
        result = [{"type": "choices", "value": {"choices": [label]}}]
        return {"completed_by": {"id": who}, "was_cancelled": False, "lead_time": 3.5, "result": result, **more}

    data = {"prompt": "Q", "left": "one", "right": "two"}
    task = {
        "id": 4,
        "data": data,
        "annotations": [annotation("A", 1), annotation("right", 2, ground_truth=True), annotation("tie", 3)],
    }
    judgments = list(read([task]).judgments)
    assert [(j.annotator, j.choice, j.gold, j.seconds) for j in judgments] == [
        ("1", "first", "second", 3.5), ("2", "second", "second", 3.5), ("3", "tie", "second", 3.5),
    ]  # fmt: skip
    mapped = read([task], mapping={"prompt": "prompt", "response_a": "right", "response_b": "left"})
    assert next(mapped.judgments).choice == "first"
    assert mapped.format == "label_studio_pairwise"


def test_argilla_ignores_drafts_and_suggestions() -> None:
    fields = {"prompt": "Q", "a1": "one", "a2": "two"}
    drafts = [{"value": "a1", "user_id": "u1", "status": "draft"}, {"value": ["a2", "a1"], "user_id": "u2"}]
    ranks = [{"value": [{"value": "a1", "rank": 2}, {"value": "a2", "rank": 1}], "user_id": "u3"}]
    record = {"id": "r", "fields": fields, "responses": {"better": drafts}, "suggestions": {"better": {"value": "a1"}}}
    (pair,) = load([record])
    assert (pair.chosen[0]["content"], pair.meta["annotators"]) == ("two", 1)
    assert [j.choice for j in load([{**record, "responses": {"other": ranks}}]).judgments] == ["second"]
    assert read([{**record, "responses": {}}]).skipped == {"no_label": 1}


@pytest.mark.parametrize(
    ("policy", "said", "hint"),
    [
        ({"pair": "all"}, "no option 'pair'", "'pairs'"),
        ({"pairs": "some"}, "pairs is 'some'", "best_worst, all"),
        ({"min_margin": -1}, "min_margin is -1", ""),
        ({"dimension": 3}, "dimension is 3", ""),
    ],
)
def test_a_policy_that_is_none_is_refused(policy: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(DataInvalid, match=said) as found:
        load([panda(1)], policy=policy)
    assert hint in (found.value.hint or "")


def test_the_defaults_are_stated() -> None:
    assert Policy() == Policy("best_worst", "skip", "majority", 0.0, None)


def test_a_job_takes_mapping_and_policy_for_its_data(tmp_path: Path) -> None:
    """They count for nothing but the pairs: the same pairs have the same fingerprint."""
    from anydpo import PreferenceJob
    from anydpo.data.resolve import resolve

    (tmp_path / "votes.csv").write_text("q,left,right,best\nQ,one,two,L\n")
    (tmp_path / "map.toml").write_text(
        '[columns]\nprompt = "q"\nresponse_a = "left"\nresponse_b = "right"\nlabel = "best"\n[labels]\nL = "A"\n'
    )
    (tmp_path / "job.toml").write_text(
        'model = "tiny"\ndata = {path = "votes.csv", mapping = "map.toml", policy = {votes = "unanimous"}}\n'
    )
    pairs, _ = resolve(PreferenceJob.from_toml(tmp_path / "job.toml").data, None, 0)
    assert pairs.fingerprint == load([{"prompt": "Q", "chosen": "one", "rejected": "two"}]).fingerprint
