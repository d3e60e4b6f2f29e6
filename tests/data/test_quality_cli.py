"""`lint` and `agreement` at the command line: flags, exit codes, what is printed where."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anydpo import cli
from tests.conftest import FORMATS

Said = tuple[int, str, str]
Run = Callable[..., Said]

MAPPING = """
[columns]
task = "task_id"
annotator = "annotator_id"
prompt = "prompt"
response_a = "response_a"
response_b = "response_b"
label = "preference"
strength = "preference_strength"
justification = "justification"
"score.tone.a" = "tone_a"
"score.tone.b" = "tone_b"
"""


@pytest.fixture
def anydpo(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder of its own and return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def lines(path: Path, rows: list[dict[str, Any]], more: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + more, "utf-8")
    return path


GOOD = [{"prompt": f"Question {i}?", "chosen": f"Yes, number {i}.", "rejected": f"No to {i}."} for i in range(4)]


def test_a_delivery_of_a_vendor_from_its_own_columns(anydpo: Run, tmp_path: Path) -> None:
    """The fixture's votes: t1 A A B, t2 B B, t3 tie; w1 and w2 agree on both, w3 with neither."""
    (tmp_path / "map.toml").write_text(MAPPING)
    csv = FORMATS / "vendor_csv.csv"
    code, out, err = anydpo("agreement", csv, "--mapping", "map.toml", "--json", "--rework", "redo.csv", "-o", "p.html")
    found = json.loads(out)
    assert code == 0
    assert (found["items"], found["raters"], found["format"]) == (3, 3, "vendor_csv")
    assert found["cohen"] == {"w1 / w2": 1.0, "w1 / w3": 0.0, "w2 / w3": 0.0}
    assert found["raw"] == 0.5
    assert found["majority"] == {"first": 1, "second": 1, "tie": 1, "no_majority": 0}
    assert found["dimensions"]["tone"]["krippendorff"].keys() == {"nominal", "ordinal", "interval", "ratio"}
    assert found["rework"] == {"contradicts_scores": 3}
    assert "t1,w3,contradicts_scores" in (tmp_path / "redo.csv").read_text("utf-8")
    assert "prefers-color-scheme" in (tmp_path / "p.html").read_text("utf-8")
    assert "redo.csv: 3 contradicts_scores" in err


def test_a_failed_requirement_exits_2_and_says_which(anydpo: Run, tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(MAPPING)
    arguments = ("agreement", FORMATS / "vendor_csv.csv", "--mapping", "map.toml")
    code, out, _ = anydpo(*arguments, "--require", "krippendorff>=0.6", "--require", "raw>=0.5")
    assert code == 2
    assert "1 of 2 requirements NOT met" in out
    code, out, _ = anydpo(*arguments, "--require", "krippendorff>=0.6", "--json")
    assert code == 2
    assert json.loads(out)["requirements"][0]["ok"] is False
    assert anydpo(*arguments, "--require", "raw>=0.5")[0] == 0
    code, _, err = anydpo(*arguments, "--require", "quality>=0.5")
    assert code == 2
    assert "no figure 'quality'" in err
    code, _, err = anydpo(*arguments, "--by", "mood")
    assert code == 2
    assert "one of annotator, batch, model" in err


def test_gold_answers_of_a_file_are_held_against_the_delivery(anydpo: Run, tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(MAPPING)
    lines(tmp_path / "gold.jsonl", [{"task": "t1", "gold": "A"}, {"task": "t2", "gold": "B"}])
    _, out, _ = anydpo(
        "agreement", FORMATS / "vendor_csv.csv", "--mapping", "map.toml", "--gold", "gold.jsonl", "--json"
    )
    found = json.loads(out)
    assert found["gold"] == {"seen": 5, "right": 4, "accuracy": 0.8}
    assert found["annotators"]["w3"]["gold_accuracy"] == 0.0


def test_pairs_without_judgements_cannot_be_judged(anydpo: Run, tmp_path: Path) -> None:
    lines(tmp_path / "pairs.jsonl", GOOD)
    code, _, err = anydpo("agreement", "pairs.jsonl")
    assert code == 2
    assert "no judgement of an annotator" in err


def test_lint_writes_a_page_and_a_cleaned_copy(anydpo: Run, tmp_path: Path) -> None:
    lines(tmp_path / "raw.jsonl", [*GOOD, GOOD[0]], "{bad\n")
    code, out, err = anydpo("lint", "raw.jsonl", "--fix", "clean.jsonl", "-o", "page.html", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["fix"]["left_out"] == {"duplicate": 1, "parse_error": 1}
    assert (tmp_path / "clean.jsonl").read_text() == "".join(
        json.dumps(row, separators=(",", ":")) + "\n" for row in GOOD
    )
    assert "clean.jsonl: 4 pairs as trl" in err
    assert (tmp_path / "page.html").is_file()
    code, _, err = anydpo("lint", "raw.jsonl", "--fix", "raw.jsonl")
    assert code == 2
    assert "one of the files read" in err


def test_strict_leak_and_places_decide_the_exit_code(anydpo: Run, tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", GOOD)
    lines(tmp_path / "held.jsonl", GOOD[3:])
    assert anydpo("lint", "train.jsonl")[0] == 0
    assert anydpo("lint", "train.jsonl", "--strict")[0] == 2
    code, out, _ = anydpo("lint", "train.jsonl", "--against", "held.jsonl")
    assert code == 2
    assert "1 pair with a prompt that stands in held.jsonl too" in out
    assert "line 4 = held.jsonl:1" in out
    code, out, _ = anydpo("lint", "train.jsonl", "-p", "nova,openai", "--json")
    assert code == 2
    assert {place: answer["ok"] for place, answer in json.loads(out)["providers"].items()} == {
        "nova": True,
        "openai": False,
    }


def test_a_delivery_is_held_against_what_was_bought_before(anydpo: Run, tmp_path: Path) -> None:
    """The mapping is for the tables among the files."""
    (tmp_path / "map.toml").write_text(MAPPING)
    csv = FORMATS / "vendor_csv.csv"
    lines(tmp_path / "before.jsonl", [{"prompt": "How do I return a pair of shoes?", "chosen": "a", "rejected": "b"}])
    code, out, _ = anydpo("lint", csv, "--mapping", "map.toml", "--against", "before.jsonl", "--against", csv, "--json")
    found = {check["code"]: check for check in json.loads(out)["checks"]}
    assert code == 2
    assert found["leakage"]["count"] == 2
    assert "2 of them the very same pair" in found["leakage"]["message"]


def test_tokens_need_a_model(anydpo: Run, tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", GOOD)
    code, _, err = anydpo("lint", "train.jsonl", "--max-length", "10")
    assert code == 2
    assert "needs --model" in err
    code, out, _ = anydpo("lint", "train.jsonl", "--max-length", "10", "--model", "qwen3-8b", "--json")
    assert code == 0
    assert {check["code"] for check in json.loads(out)["checks"]} == {"few_pairs", "too_many_tokens"}


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is made with pty, which Windows does not have")
def test_colour_and_wrapping_on_a_terminal_only(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [*GOOD, GOOD[0]])
    env = {**os.environ, "COLUMNS": "70", "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    command = [str(Path(sys.executable).parent / "anydpo"), "lint", "train.jsonl"]
    ours, theirs = pty.openpty()
    done = subprocess.run(command, cwd=tmp_path, env=env, stdout=theirs, check=False)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    text = shown.decode()
    assert done.returncode == 0
    assert "\x1b[33;1mwarning:\x1b[0m" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(len(line) for line in plain.splitlines() if "sha256:" not in line) <= 70
    piped = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert b"\x1b" not in piped.stdout
