"""Tables of annotation vendors: what a mapping says, what is left out, and what an unexplained table is told."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from anydpo.data.dataset import PreferenceDataset
from anydpo.data.guess import UnknownColumns
from anydpo.data.mapping import ColumnMapping
from anydpo.data.read import load, read
from anydpo.errors import DataInvalid

TWO = {"prompt": "q", "response_a": "a", "response_b": "b"}
LIKERT = {"columns": {**TWO, "label": "score"}, "likert": {"min": 1, "max": 7, "low": "A"}}


def table(path: Path, text: str, mapping: Any, **more: Any) -> PreferenceDataset:
    path.write_bytes(text.encode(more.pop("encoding", "utf-8")))
    return read(path, mapping=mapping, **more)


def sides(dataset: PreferenceDataset) -> list[tuple[str, str]]:
    return [(pair.chosen[0]["content"], pair.rejected[0]["content"]) for pair in dataset]


def test_a_likert_scale_has_a_middle_a_strength_and_a_direction(tmp_path: Path) -> None:
    text = "q,a,b,score\n" + "".join(f"Q{i},one,two,{i}\n" for i in range(1, 8)) + "Q8,one,two,9\nQ9,one,two,\n"
    low_a = table(tmp_path / "x.csv", text, LIKERT)
    assert sides(low_a) == [("one", "two")] * 3 + [("two", "one")] * 3
    assert [p.margin for p in low_a] == [3.0, 2.0, 1.0, 1.0, 2.0, 3.0]
    assert low_a.skipped == {"tie": 1, "invalid_label": 1, "no_label": 1}
    low_b = read(tmp_path / "x.csv", mapping={**LIKERT, "likert": {"min": 1, "max": 7, "low": "B"}})
    assert sides(low_b) == [("two", "one")] * 3 + [("one", "two")] * 3


def test_a_scale_without_a_direction_is_asked_for_it(tmp_path: Path) -> None:
    text = "q,a,b,score\nQ,one,two,6\n"
    with pytest.raises(DataInvalid, match="there is no default") as found:
        table(tmp_path / "x.csv", text, {**LIKERT, "likert": {"min": 1, "max": 7}})
    assert 'low = "A" if 1 means that A is better' in (found.value.hint or "")
    with pytest.raises(DataInvalid, match="does not say what they mean") as found:
        len(table(tmp_path / "x.csv", text, {"columns": LIKERT["columns"]}))
    assert "no default" in (found.value.hint or "")


def test_words_mean_what_the_mapping_says(tmp_path: Path) -> None:
    text = "q,a,b,verdict\nQ1,one,two,A is slightly better\nQ2,one,two,much better: B\nQ3,one,two,cannot say\nQ4,one,two,hm\nQ5,one,two,ok\n"
    labels = {"A is slightly better": "A:1", "much better: B": "B:3", "cannot say": "tie", "ok": "skip"}
    dataset = table(tmp_path / "x.csv", text, {"columns": {**TWO, "label": "verdict"}, "labels": labels})
    assert [(*side, pair.margin) for side, pair in zip(sides(dataset), dataset, strict=True)] == [
        ("one", "two", 1.0), ("two", "one", 3.0),
    ]  # fmt: skip
    assert dataset.skipped == {"tie": 1, "invalid_label": 1, "no_label": 1}


def test_long_form_groups_a_task_in_whichever_order_the_answers_were_shown(tmp_path: Path) -> None:
    text = (
        "task,who,q,a,b,best,secs\nt1,w1,Q,one,two,A,5\nt2,w1,R,x,y,B,6\nt1,w2,Q,two,one,B,7.5\nt1,w3,Q,one,two,tie,\n"
    )
    columns = {**TWO, "task": "task", "annotator": "who", "label": "best", "seconds": "secs"}
    dataset = table(tmp_path / "x.csv", text, {"columns": columns})
    assert sides(dataset) == [("one", "two"), ("y", "x")]
    first = next(iter(dataset))
    assert first.meta["votes"] == {"first": 2, "second": 0, "tie": 1}
    assert first.meta["annotator_ids"] == ["w1", "w2", "w3"]
    assert (dataset.rows, dataset.scan.used) == (4, 4)
    said = [(j.item, j.annotator, j.choice, j.swapped, j.seconds) for j in dataset.judgments]
    assert said == [
        ("t1", "w1", "first", False, 5.0), ("t1", "w2", "first", True, 7.5), ("t1", "w3", "tie", False, None),
        ("t2", "w1", "second", False, 6.0),
    ]  # fmt: skip


def test_wide_form_has_an_annotator_a_column(tmp_path: Path) -> None:
    text = "q,a,b,ann,bob,cy\nQ,one,two,A,A,B\nR,one,two,B,,\nS,one,two,,,\n"
    columns = {**TWO, "label": ["ann", "bob", "cy"]}
    dataset = table(tmp_path / "x.csv", text, {"columns": columns})
    assert sides(dataset) == [("one", "two"), ("two", "one")]
    assert [j.annotator for j in dataset.judgments] == ["ann", "bob", "cy", "ann"]
    assert dataset.skipped == {"no_label": 1}
    words = [f"{key}={column}" for key, column in TWO.items()] + ["label=ann", "label=bob", "label=cy"]
    assert read(tmp_path / "x.csv", mapping=ColumnMapping.from_words(words)).fingerprint == dataset.fingerprint


def test_one_answer_a_row_is_ranked_by_the_mean_of_its_ratings(tmp_path: Path) -> None:
    text = "q,answer,model,rating\nQ,one,m1,4\nQ,two,m2,2\nQ,one,m1,2\nQ,two,m2,5\nR,x,m1,3\n"
    columns = {"prompt": "q", "response_a": "answer", "model_a": "model", "score": {"overall": "rating"}}
    dataset = table(tmp_path / "x.csv", text, {"columns": columns})
    (pair,) = dataset
    assert (sides(dataset), pair.margin, pair.meta["chosen_model"]) == ([("two", "one")], 0.5, "m2")
    assert (dataset.rows, dataset.skipped) == (5, {"too_few_candidates": 1})


def test_golden_and_refused_rows_make_no_pair_and_golden_ones_are_judged(tmp_path: Path) -> None:
    text = "q,a,b,best,gold,state\nQ,one,two,A,,approved\nG,one,two,B,A,approved\nH,one,two,A,TRUE,approved\nS,one,two,A,,Rejected\nT,one,two,A,false,done\n"
    mapping = {"columns": {**TWO, "label": "best", "gold": "gold", "status": "state"}}
    dataset = table(tmp_path / "x.csv", text, mapping)
    assert len(dataset) == 2
    assert dataset.skipped == {"test_question": 2, "annotator_skipped": 1}
    assert [(j.choice, j.gold) for j in dataset.judgments] == [
        ("first", None), ("second", "first"), ("first", None), ("first", None),
    ]  # fmt: skip
    other = {**mapping, "drop": {"state": ["done"], "q": "G"}}
    assert read(tmp_path / "x.csv", mapping=other).skipped == {"test_question": 1, "annotator_skipped": 3}


def test_a_dimension_decides_when_asked(tmp_path: Path) -> None:
    text = "q,a,b,best,tone_a,tone_b\nQ,one,two,A,2,5\nR,one,two,A,,3\n"
    mapping = {"columns": {**TWO, "label": "best", "score": {"tone": {"a": "tone_a", "b": "tone_b"}}}}
    by_tone = table(tmp_path / "x.csv", text, mapping, policy={"dimension": "tone"})
    assert (sides(by_tone), by_tone.skipped) == ([("two", "one")], {"no_label": 1})
    assert next(iter(read(tmp_path / "x.csv", mapping=mapping))).meta["scores"] == {"tone": [2.0, 5.0]}
    with pytest.raises(DataInvalid, match="no dimension 'wit' in the mapping"):
        len(read(tmp_path / "x.csv", mapping=mapping, policy={"dimension": "wit"}))


def test_decided_pairs_and_chats_in_cells(tmp_path: Path) -> None:
    chat = json.dumps([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Q"}]).replace('"', '""')
    text = f'p,good,poor\n"{chat}",yes,no\n'
    columns = {"prompt": "p", "chosen": "good", "rejected": "poor"}
    (pair,) = table(tmp_path / "x.csv", text, columns)
    assert [m["role"] for m in pair.prompt] == ["system", "user"]
    assert pair.chosen == ({"role": "assistant", "content": "yes"},)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ('\ufeffq,a,b,best\r\n"one\r\nline, ""quoted""",x,y,A\r\n\r\nR,x,y,B\r\n', "utf-8"),
        ('q;a;b;best\n"one\nline, ""quoted""";x;y;A\nR;x;y;B\n', "utf-8"),
        ('q\ta\tb\tbest\n"one\nline, ""quoted"""\tx\ty\tA\nR\tx\ty\tB', "utf-8"),
        ('q,a,b,best\n"one\nline, ""quoted""",x,y,A\nR,x,y,B\n', "utf-16"),
    ],
    ids=["bom-crlf", "semicolon", "tab", "utf-16"],
)
def test_tables_as_people_export_them(tmp_path: Path, text: str, encoding: str) -> None:
    mapping = {"columns": {**TWO, "label": "best"}, "encoding": encoding}
    dataset = table(tmp_path / "x.csv", text, mapping, encoding=encoding)
    assert sides(dataset) == [("x", "y"), ("y", "x")]
    assert next(iter(dataset)).prompt[0]["content"].replace("\r", "") == 'one\nline, "quoted"'


def test_damaged_lines_are_named_and_the_others_read(tmp_path: Path) -> None:
    content = b'q,a,b,best\nQ1,x,y,A\nQ2,x\nQ3,caf\xe9,y,A\nQ4,x,y,B,more\nQ5,x,y,B\nQ6,"never closed,y,A\n'
    (tmp_path / "x.csv").write_bytes(content)
    dataset = read(tmp_path / "x.csv", mapping={"columns": {**TWO, "label": "best"}})
    assert [(r.line, r.reason) for r in dataset.skipped_rows] == [(n, "parse_error") for n in (3, 4, 5, 7)]
    assert len(dataset) == 2
    details = [row.detail for row in dataset.skipped_rows]
    assert "2 cells, but the header has 4" in details[0]
    assert "cp1252" in details[1]
    assert "never closed" in details[3]
    latin = read(tmp_path / "x.csv", mapping={"columns": {**TWO, "label": "best"}, "encoding": "cp1252"})
    assert [p.chosen[0]["content"] for p in latin][1] == "café"


def test_an_unexplained_table_is_answered_with_rows_and_a_mapping_to_paste(tmp_path: Path) -> None:
    text = "Task ID,Worker,Prompt,Response A,Response B,Overall preference,Tone A,Tone B,Comments\n" + "".join(
        f"t{i},w,Q{i},one,two,{label},3,4,why\n"
        for i, label in enumerate(["A is much better", "B is slightly better", "About the same", "A is better"])
    )
    path = tmp_path / "delivery.csv"
    path.write_text(text)
    with pytest.raises(UnknownColumns, match="what its columns mean has to be said") as found:
        load(path)
    assert found.value.message.count("\n  row ") == 3
    assert found.value.mapping in (found.value.hint or "")
    mapping = tomllib.loads(found.value.mapping)
    assert mapping["labels"] == {
        "A is much better": "A:3", "B is slightly better": "B:1", "About the same": "tie", "A is better": "A:2",
    }  # fmt: skip
    dataset = read(path, mapping=mapping)
    assert [pair.margin for pair in dataset] == [3.0, 1.0, 2.0]
    assert next(dataset.judgments).scores == {"tone": (3.0, 4.0)}
    assert next(dataset.judgments).justification == "why"


def test_a_scale_is_proposed_without_a_direction(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("prompt,response_1,response_2,rating\n" + "".join(f"Q,a,b,{i}\n" for i in (1, 4, 7)))
    with pytest.raises(UnknownColumns) as found:
        load(path)
    proposed = tomllib.loads(found.value.mapping)
    assert proposed["likert"] == {"min": 1, "max": 7}
    with pytest.raises(DataInvalid, match="there is no default"):
        load(path, mapping=proposed)


def test_an_appen_report_is_recognised(tmp_path: Path) -> None:
    header = "_unit_id,_golden,_tainted,_trusted_judgments,_worker_id,prompt,response_a,response_b,which,which:confidence,which_gold"
    rows = (
        "1,false,false,3,w1,Q,one,two,a,0.9,\n2,true,false,3,w1,G,one,two,b,1.0,a\n3,false,true,3,w2,R,one,two,b,1.0,\n"
    )
    path = tmp_path / "full.csv"
    path.write_text(f"{header}\n{rows}")
    with pytest.raises(UnknownColumns, match="an Appen or Figure Eight report") as found:
        load(path)
    mapping = tomllib.loads(found.value.mapping)
    assert mapping["columns"] | {"prompt": 0, "response_a": 0, "response_b": 0} == {
        "task": "_unit_id", "annotator": "_worker_id", "label": "which", "gold": "which_gold", "prompt": 0, "response_a": 0, "response_b": 0,
    }  # fmt: skip
    dataset = read(path, mapping=mapping)
    assert (len(dataset), dataset.skipped) == (1, {"test_question": 1, "annotator_skipped": 1})
    assert [(j.choice, j.gold) for j in dataset.judgments] == [("first", None), ("second", "first")]


@pytest.mark.parametrize(
    ("mapping", "said", "hint"),
    [
        ({"columns": {**TWO, "lable": "best"}}, "no column key 'lable'", "'label'"),
        ({"column": TWO, "labels": {}}, "no table 'column'", "'columns'"),
        ({"columns": {**TWO, "label": "bets"}}, "label is 'bets', which is no column", "'best'"),
        ({"columns": {"prompt": "q"}}, "makes no pair", "response_a, response_b and label"),
        ({"columns": {**TWO, "label": "best"}, "labels": {"x": "C"}}, "the label 'x' means 'C'", '"A:2"'),
        ({"columns": {**TWO, "label": "best"}, "likert": {"min": 7, "max": 1, "low": "A"}}, "min 7 and max 1", ""),
        ({"columns": {**TWO, "label": "best"}, "encoding": "utf-9"}, "no encoding 'utf-9'", "cp1252"),
        ({"columns": {**TWO, "label": "best"}, "policy": {"votes": "all"}}, "votes is 'all'", "majority"),
    ],
)
def test_a_mapping_that_cannot_work_is_told_why(tmp_path: Path, mapping: Any, said: str, hint: str) -> None:
    with pytest.raises(DataInvalid, match=said) as found:
        len(table(tmp_path / "x.csv", "q,a,b,best\nQ,one,two,A\n", mapping))
    assert hint in (found.value.hint or "")


def test_the_command_line_prints_what_can_be_pasted(tmp_path: Path) -> None:
    """What the error says is saved as it stands and works."""
    path = tmp_path / "votes.csv"
    path.write_text("question,answer_a,answer_b,winner\nQ,one,two,A\nR,one,two,tie\n")

    def anydpo(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).parent / "anydpo", *words], capture_output=True, text=True, check=False
        )

    refused = anydpo("lint", str(path))
    assert (refused.returncode, refused.stdout) == (2, "")
    _, columns, rest = refused.stderr.partition("[columns]")
    (tmp_path / "mapping.toml").write_text(columns + rest)
    found = anydpo("lint", str(path), "--mapping", str(tmp_path / "mapping.toml"), "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["skipped"] == {"tie": 1}
    words = [
        "--map",
        "prompt=question",
        "--map",
        "response_a=answer_a",
        "--map",
        "response_b=answer_b",
        "--map",
        "label=winner",
    ]
    made = anydpo("convert", str(path), *words, "--to", "canonical", "-o", str(tmp_path / "out.jsonl"), "--json")
    assert json.loads(made.stdout)["fingerprint"] == json.loads(found.stdout)["fingerprint"]
