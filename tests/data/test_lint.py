"""The linter's report: counts known beforehand, keys that scripts rely on."""

from __future__ import annotations

import csv
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from anydpo import samples
from anydpo.data.bias import agreement_checks
from anydpo.data.clean import fix
from anydpo.data.finding import Check
from anydpo.data.judgment import Judgment
from anydpo.data.pair import text_of
from anydpo.data.read import load, read
from anydpo.data.tokens import PER_MESSAGE, counter_for
from anydpo.errors import DataInvalid, ProviderMissing
from tests.trainer.helpers import small_model

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
        "few_pairs": ("warning", ()),
    }
    assert (report.errors, report.warnings) == (0, 3)
    assert all(c.why and c.advice for c in report.checks)


def test_no_pair_at_all_is_an_error() -> None:
    report = read([{**PAIR, "chosen": ""}]).lint()
    assert report.errors == 1
    assert report.to_dict()["pairs"] == 0


def test_length_is_measured_and_a_large_clean_set_has_no_other_finding(capsys: pytest.CaptureFixture[str]) -> None:
    report = load(samples.pairs(1200)).lint()
    assert report.stats["chosen_longer"] == 0.0
    assert report.stats["chosen_characters"] < report.stats["rejected_characters"]
    found = {check.code: check for check in report.checks}
    assert found.keys() == {"length_bias", "near_duplicate"}  # short answers are preferred; texts are from templates
    assert "245 characters" in found["length_bias"].message
    assert found["near_duplicate"].count < 10
    report.print()
    assert "1,200 rows = 1,200 pairs" in capsys.readouterr().out


def test_a_place_says_what_it_cannot_train() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    with_image = {"image": "x.png", **PAIR}
    assert load([PAIR]).lint(["local"]).providers == {"local": {"ok": True, "problems": [], "notes": []}}
    chat = {side: [{"role": role, "content": PAIR[side]}]
            for side, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))}  # fmt: skip
    assert load([{**chat, "tools": [tool]}]).lint(["local"]).providers["local"]["ok"]
    answer = load([with_image]).lint(["local"])
    assert answer.providers["local"]["problems"] == ["1 pair with images cannot be trained there"]
    assert answer.errors == 1


def test_keys_that_scripts_rely_on() -> None:
    report = read([PAIR, {**PAIR, "chosen": ""}]).lint().to_dict()
    assert report.keys() == {
        *("format", "files", "rows", "pairs", "skipped", "skipped_rows", "fingerprint", "stats", "checks", "providers")
    }
    assert report["skipped_rows"][0].keys() == {"file", "line", "reason", "detail"}
    assert report["checks"][0].keys() == {"code", "severity", "count", "message", "examples", "why", "advice"}


def text(seed: int, words: int = 40) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 8))) for _ in range(words))


def rows(count: int = 30) -> list[dict[str, Any]]:
    """Pairs that have nothing in common."""
    return [{"prompt": text(3 * i, 12), "chosen": text(3 * i + 1), "rejected": text(3 * i + 2)} for i in range(count)]


def found_in(given: list[dict[str, Any]], **options: Any) -> dict[str, Check]:
    return {check.code: check for check in read(given).lint(**options).checks}


def test_near_copies_are_found_and_exact_ones_are_not_said_twice() -> None:
    given = rows()
    near = {**given[4], "chosen": given[4]["chosen"] + " indeed"}
    found = found_in([*given, near, given[7]])
    assert found["near_duplicate"].examples == ("rows:31 ~ rows:5",)
    assert found["duplicate"].examples == ("rows:32 = rows:8",)
    assert found_in(given).keys() == {"few_pairs"}


def test_prompts_of_another_file_are_an_error(tmp_path: Path) -> None:
    given = rows()
    shown = {**given[2], "chosen": "Something else altogether."}
    against = load([given[0], shown, {**rows(40)[35], "prompt": given[5]["prompt"] + " please"}])
    report = read(given).lint(against=against)
    found = {check.code: check for check in report.checks}
    assert (found["leakage"].severity, found["leakage"].count) == ("error", 2)
    assert "1 of them the very same pair" in found["leakage"].message
    assert found["near_leakage"].examples == ("rows:6 ~ rows:3",)
    assert report.errors == 1


def test_what_needs_a_package_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    monkeypatch.setitem(sys.modules, "quicktok", None)
    report = read(rows()).lint(model="gpt-4.1", against=load(rows(2)))
    said = [check for check in report.checks if check.code == "not_checked"]
    assert [("rensa" in check.message, "quicktok-v1" in check.message) for check in said] == [(1, 0), (0, 1)]
    assert all('pip install "anydpo[quality]"' in check.message + check.advice for check in said)
    assert "leakage" in {check.code for check in report.checks}


CONTENTS = [
    ("Write to jane.doe@example.org", "personal_data", "e-mail"),
    ("Call (202) 555-0143 now", "personal_data", "phone"),
    ("My number is 078-05-1120.", "personal_data", "social security"),
    ("Card 4111 1111 1111 1111 works", "personal_data", "card"),
    ("Pay to GB82 WEST 1234 5698 7654 32", "personal_data", "IBAN"),
    ("key AKIAIOSFODNN7EXAMPLE", "secret", "AWS"),
    ("-----BEGIN RSA PRIVATE KEY-----", "secret", "private key"),
    ("token ghp_" + "a1B2" * 9, "secret", "GitHub"),
    ('password = "hunter2x"', "secret", "password"),
    ("The cafÃ© is open", "encoding_damage", "Ã© for é"),
    ("It is donâ€™t", "encoding_damage", "â€™ for "),
    ("A \ufffd here", "encoding_damage", "U+FFFD"),
    ("done <|im_end|>", "template_mark", "<|im_end|>"),
]


@pytest.mark.parametrize(("said", "code", "word"), CONTENTS)
def test_texts_that_should_not_be_sent_are_found(said: str, code: str, word: str) -> None:
    found = found_in([{"prompt": "Tell me.", "chosen": said, "rejected": "I would rather not."}])
    assert found.keys() == {code, "few_pairs"}
    check = found[code]
    assert word in f"{check.message} {check.examples}"
    if code in ("secret", "personal_data"):
        assert said not in str(check)


@pytest.mark.parametrize(
    "said",
    [
        "It was in 2019-2020, about 1 234 567 people.",
        "Order 1234-5678-9012-3456 is not a card.",
        "Version 10.12.2023, call 911.",
        "Ça va, garçon? Über Ärger, São Paulo: 5 € and naïve.",
        "İstanbul Ñandú Ångström “quoted” … done",
        "ask me @ noon",
        "the password is secret",
        "user name [INSERT] <b>bold</b>",
    ],
)
def test_ordinary_texts_raise_nothing(said: str) -> None:
    assert found_in([{"prompt": "Tell me.", "chosen": said, "rejected": "No."}]).keys() == {"few_pairs"}


def test_real_transcripts_hold_the_personal_data_of_the_fact_sheet(hh: Path) -> None:
    check = {c.code: c for c in load(hh / "harmless-base-train.jsonl.gz").lint().checks}["personal_data"]
    assert check.message.endswith("(9 phone number, 5 e-mail address, 1 social security number)")


def test_answers_in_two_languages_are_found() -> None:
    english = "You can find it in the garden and that is not far from the house."
    german = "Sie ist nicht in dem Haus und auch nicht auf der Wiese mit den Tieren."
    found = found_in([{"prompt": "Where is the cat?", "chosen": german, "rejected": english}])
    assert "German against English" in found["language_differs"].message
    russian = "Она сидит в саду под большим деревом и смотрит на птиц."
    assert "Cyrillic" in found_in([{"prompt": "?", "chosen": russian, "rejected": english}])["language_differs"].message


def test_tokens_are_those_of_the_models_own_vocabulary() -> None:
    """Published test vectors: `hello world` is two tokens of o200k and of cl100k; the rest is our count of messages."""
    pair = {"prompt": "hello world", "chosen": "hello world", "rejected": "hello"}
    for model in ("gpt-4.1-mini-2025-04-14", "gpt-4-0613"):
        stats = read([pair]).lint(model=model).stats
        assert stats["tokens_max"] == 2 + 2 + 2 * PER_MESSAGE
        assert stats["tokens"] == 2 * (2 + PER_MESSAGE) + 2 + 1 + 2 * PER_MESSAGE
    assert counter_for("gpt-4.1")[1].startswith("o200k_base")
    assert counter_for("gpt-4-turbo")[1].startswith("cl100k_base")
    assert counter_for("openai/gpt-oss-20b")[1].startswith("o200k_harmony")
    assert counter_for("Qwen/Qwen3-8B")[1].startswith("qwen3")
    assert counter_for("meta-llama/Llama-3.1-8B")[1].startswith("llama3")
    over = found_in([*rows(), pair], model="gpt-4.1", max_length=50)["too_many_tokens"]
    assert over.count == 30


def test_a_model_without_a_tokenizer_is_said_and_a_folder_has_its_own(tmp_path: Path) -> None:
    said = found_in(rows(), model="mistral-7b")["not_checked"]
    assert "no tokenizer of 'mistral-7b'" in said.message
    small_model(tmp_path / "model")
    stats = read(rows()).lint(model=str(tmp_path / "model")).stats
    assert stats["tokens_max"] > 50


def test_votes_in_the_data_tell_of_sides_and_division() -> None:
    given = [
        Judgment(item=str(i), annotator=w, choice="first" if w == "a" or i % 2 else "second")
        for i in range(20)
        for w in "ab"
    ]
    found = {check.code: check for check in agreement_checks(given)}
    assert found["position_bias"].message == "the answer shown first is preferred in 75.0% of 40 judgements"
    assert (found["divided_votes"].count, found["divided_votes"].severity) == (10, "warning")


def test_length_bias_says_how_large_it_is() -> None:
    """Numbers computed by hand: 40 against 20 characters, 25 of 25."""
    given = [{"prompt": f"p{i}", "chosen": f"{i:040}", "rejected": f"{i:020}"} for i in range(25)]
    report = read(given).lint()
    check = {c.code: c for c in report.checks}["length_bias"]
    assert "100.0% of 25" in check.message
    assert "40 against 20 characters on average (2.00 times)" in check.message
    assert report.stats["length_correlation"] == pytest.approx(1.0)


def test_a_place_may_be_named_by_its_dialect_and_says_what_it_refuses() -> None:
    turns = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    answer = read([{"prompt": turns, "chosen": "Hello!", "rejected": "What?"}] * 12).lint(["openai", "nova", "trl"])
    assert answer.providers["openai"]["problems"] == [
        "12 pairs: the role 'developer' is not in OpenAI's fine-tuning schema (rows:1, rows:2, rows:3, rows:4, rows:5)"
    ]
    assert not answer.providers["trl"]["ok"]
    few = read(rows(3)).lint(["openai", "together"]).providers
    assert few["openai"]["problems"] == ["3 pairs; OpenAI asks for at least 10"]
    assert few["together"]["ok"]
    with pytest.raises(ProviderMissing):
        read(rows(3)).lint(["nowhere"])


def test_the_basic_report_looks_into_no_text() -> None:
    report = read([*rows(), rows()[0]]).lint(basic=True)
    assert [check.code for check in report.checks] == ["duplicate", "few_pairs"]


def made(folder: Path) -> Path:
    given = rows()
    given += [given[0], {**given[1], "chosen": given[1]["rejected"], "rejected": given[1]["chosen"]}]
    given += [{**given[2], "rejected": given[2]["rejected"] + " so"}, {"prompt": "a", "chosen": "", "rejected": "b"}]
    given += [{"prompt": "Key?", "chosen": "AKIAIOSFODNN7EXAMPLE", "rejected": "No."}]
    given += [{"prompt": "CafÃ©?", "chosen": "Yes, a cafÃ©.", "rejected": "No."}]
    path = folder / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given) + "{not json\n", "utf-8")
    return path


def test_a_cleaned_copy_holds_the_rest_and_the_list_every_row_left_out(tmp_path: Path) -> None:
    path = made(tmp_path)
    report = read(path).lint()
    cleaned = fix(report, tmp_path / "good.jsonl")
    assert (cleaned.written.format, cleaned.repaired) == ("trl", 1)
    assert cleaned.left_out == {
        "contradiction": 2, "duplicate": 1, "near_duplicate": 1, "empty_completion": 1, "secret": 1, "parse_error": 1,
    }  # fmt: skip
    kept = load(tmp_path / "good.jsonl")
    assert len(kept) + sum(cleaned.left_out.values()) == report.dataset.rows
    assert kept.lint().checks == tuple(c for c in kept.lint().checks if c.code == "few_pairs")
    assert [text_of(p.chosen[0]) for p in kept][-1] == "Yes, a café."
    listed = list(csv.DictReader(cleaned.list_path.read_text("utf-8").splitlines()))
    assert len(listed) == sum(cleaned.left_out.values()) + 1
    assert [row["line"] for row in listed] == sorted((row["line"] for row in listed), key=int)
    assert {row["file"] for row in listed} == {str(path)}
    with pytest.raises(DataInvalid, match="one of the files read"):
        fix(report, path)


def test_a_cleaned_copy_keeps_what_its_dialect_cannot_hold(tmp_path: Path) -> None:
    chat = {"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"}
    cleaned = fix(load([{**chat, "weight": 2.0}, chat], "canonical").lint(), tmp_path / "x.jsonl")
    assert cleaned.written.format == "canonical"


def test_pages_are_self_contained_and_escape_everything(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script><img src=http://x.example/y>"
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"prompt": nasty, "chosen": f"jane@example.org {nasty}", "rejected": "b"}) + f'\n"{nasty}"\n'
    )
    read(path).lint(["local"]).save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert not re.search(r"(src|href)\s*=|url\(|@import", page)
    assert "default-src 'none'" in page
