"""The command line as people and scripts use it: what is printed where, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from anydpo import cli, samples
from anydpo.data.write import json_line
from tests.conformance.helpers import HEEDS_CTRL_C
from tests.trainer.helpers import small_model

Said = tuple[int, str, str]
Run = Callable[..., Said]

SCHEMAS = Path(__file__).parents[2] / "src" / "anydpo" / "schemas"
RESULT, SAMPLED = (json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8")) for name in ("result", "sample"))


@pytest.fixture
def anydpo(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder of its own and return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job that trains in a few seconds."""
    (tmp_path / "prefs.jsonl").write_bytes(b"".join(map(json_line, samples.pairs(40))))
    small_model(tmp_path / "model")
    path = tmp_path / "job.toml"
    path.write_text('name = "quick"\nmodel = "model"\ndata = "prefs.jsonl"\nvalidation = 0.2\nadapter = "full"\n')
    return path


def document(said: Said) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said[1])
    assert found["schema"] == 1
    return found


def test_a_day_at_the_command_line(anydpo: Run, job: Path, tmp_path: Path) -> None:
    code, out, _ = anydpo("lint", "prefs.jsonl")
    assert code == 0
    assert "40 rows = 40 pairs" in out
    code, out, err = anydpo("check", job)
    assert code == 0
    assert "anydpo_trainer train" in out
    assert "ready" in err
    code, out, err = anydpo("run", job)
    assert code == 0
    assert "quick on local: succeeded" in out
    assert "held out: loss" in out
    assert "dpo step" in err
    run = out.split()[1]
    code, out, _ = anydpo("show", run[:5])
    assert code == 0
    assert out.startswith(f"run {run} quick on local: succeeded")
    code, out, _ = anydpo("logs", "quick")
    assert code == 0
    assert "pairs to train" in out
    code, out, _ = anydpo("list")
    assert code == 0
    assert out.splitlines()[1].split("\t")[:3] == [run, "succeeded", "local"]
    code, out, _ = anydpo("sample", run, "--prompt", "Is it open?", "--max-tokens", "4")
    assert code == 0
    assert "before:" in out
    assert "after:" in out
    code, out, _ = anydpo("fetch", run, "-o", "mine")
    assert code == 0
    assert (tmp_path / "mine" / "model.safetensors").is_file()
    code, out, _ = anydpo("run", job)
    assert code == 0
    assert out.split()[1] == run
    documents_of_a_run(anydpo, job)


def documents_of_a_run(anydpo: Run, job: Path) -> None:
    found = document(anydpo("run", job, "--json"))
    jsonschema.validate(found, RESULT)
    assert found["state"] == "succeeded"
    shown = document(anydpo("show", found["run"], "--json"))
    assert shown == found
    lines = [json.loads(line) for line in anydpo("logs", found["run"], "--json")[1].splitlines()]
    assert {line["kind"] for line in lines} == {"log", "metrics", "state"}
    assert [line["step"] for line in lines if line["kind"] == "metrics"][:2] == [1, 2]
    listed = document(anydpo("list", "--json"))["runs"]
    assert [row["run"] for row in listed] == [found["run"]]
    sampled = document(anydpo("sample", found["run"], "--prompt", "Hi", "--max-tokens", "3", "--json"))
    jsonschema.validate(sampled, SAMPLED)
    assert sampled["runs"][0]["samples"][0].keys() == {"prompt", "base", "tuned"}


def test_json_is_one_document_and_talk_goes_to_stderr(anydpo: Run, job: Path) -> None:
    found = document(anydpo("lint", "prefs.jsonl", "--json"))
    assert (found["format"], found["rows"], found["pairs"]) == ("trl_standard_explicit", 40, 40)
    found = document(anydpo("check", job, "--json", "-o", "plan.json"))
    assert found.keys() >= {*("ok", "place", "route_reason", "problems", "warnings", "ignored", "requests", "quote")}
    assert found["requests"][0].keys() == {"method", "url", "body"}
    assert json.loads(Path("plan.json").read_text()) == found
    places = document(anydpo("providers", "--json"))["providers"]
    assert "local" in places
    assert "orpo" in places["local"]["losses"]


def test_a_place_that_is_not_installed(anydpo: Run, job: Path) -> None:
    code, out, err = anydpo("run", job, "-p", "locale", "--json")
    assert code == 2
    assert json.loads(out)["error"] == {
        "code": "provider_missing",
        "message": "no provider 'locale'",
        "hint": "did you mean 'local'?",
        "provider": None,
        "retryable": False,
        "failover": False,
        "problems": [],
    }
    assert "did you mean 'local'?" in err


def test_flags_override_the_file_and_stand_alone(anydpo: Run, job: Path) -> None:
    flags = (
        "--beta",
        "0.3",
        "--loss-type",
        "ipo",
        "--epochs",
        "2",
        "--set",
        "method.use_weighting=true",
        "--seed",
        "5",
    )
    body = document(anydpo("check", job, *flags, "--json"))["requests"][0]["body"]
    assert body["method"]["beta"] == 0.3
    assert body["method"]["loss_type"] == ["ipo"]
    assert body["method"]["use_weighting"] is True
    assert (body["epochs"], body["seed"]) == (2, 5)
    alone = ("--model", "tiny", "--data", "prefs.jsonl", "--lora-r", "4", "--set", "options.local.shuffle=false")
    body = document(anydpo("check", *alone, "--json"))["requests"][0]["body"]
    assert body["adapter"]["r"] == 4
    assert body["shuffle"] is False
    assert body["validation_data"] is None
    body = document(anydpo("check", *alone[:4], "--adapter", "lora", "--learning-rate", "auto", "--json"))["requests"][
        0
    ]
    assert body["body"]["adapter"]["r"] == 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "none.toml"), "none.toml: no such job file"),
        (("run",), "model: is required"),
        (("run", "job.toml", "--beta", "0"), "beta: is 0, expected above 0"),
        (("run", "job.toml", "--beta", "x"), "--beta"),
        (("run", "job.toml", "--set", "epochs"), "expected KEY=VALUE"),
        (("run", "job.toml", "--set", "num_train_epochs=3"), "did you mean epochs?"),
        (("run", "job.toml", "--loss-type", "sigmod"), "did you mean 'sigmoid'?"),
        (("run", "job.toml", "--model", "/nowhere"), "is not there"),
        (("run", "job.toml", "--data", "pref.jsonl"), "did you mean prefs.jsonl?"),
        (("run", "job.toml", "--data", "empty.jsonl"), "the file is empty"),
        (("run", "job.toml", "--data", "bad.jsonl"), "bad.jsonl:1: identical"),
        (("run", "job.toml", "--validation", "2"), "a share between 0 and 1"),
        (("run", "job.toml", "--adapter", "lorra"), "'auto' or 'full'"),
        (("check", "job.toml", "-p", "local/gpu"), "no route 'gpu'"),
        (("lint", "other.jsonl"), "unknown dialect; the rows have the keys question, good, bad"),
        (("lint", "empty.jsonl"), "the file is empty"),
        (("lint", "prefs.jsonl", "--format", "trl"), "unknown format 'trl'"),
        (("convert", "prefs.jsonl", "--to", "opnai", "-o", "x"), "cannot write the format 'opnai'"),
        (("convert", "prefs.jsonl", "--to", "openai", "-o", "no/x"), "no such folder"),
        (("convert", "prefs.jsonl", "--to", "openai"), "--output"),
        (("show", "nothing"), "no run 'nothing'"),
        (("fetch", "nothing", "-o", "x"), "no run 'nothing'"),
        (("init", "."), "is there already"),
        (("lnt", "prefs.jsonl"), "lint"),
        (("sample", "x"), "no prompt"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_wrong_input_is_a_sentence_and_exit_2(
    anydpo: Run, job: Path, tmp_path: Path, arguments: tuple[str, ...], said: str, as_json: bool
) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
    (tmp_path / "other.jsonl").write_text('{"question": "a", "good": "b", "bad": "c"}\n')
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = anydpo(*arguments, *(["--json"] if as_json else []))
    assert code == 2
    assert "Traceback" not in err
    if as_json and arguments[0] != "lnt":
        error = json.loads(out)["error"]
        assert said in f"{error['message']} {error['hint']}"
        assert error.keys() >= {"code", "message", "hint", "provider", "retryable", "failover"}
    else:
        assert said in err
        assert out == "" or as_json
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == before


def test_only_bad_rows_are_reported_row_by_row(anydpo: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(
        '{"prompt": "a", "chosen": "b", "rejected": "b"}\n{"prompt": "a", "chosen": "b"}\n'
    )
    said = anydpo("lint", "bad.jsonl", "--json", "--format", "trl_standard_explicit")
    assert said[0] == 2
    found = document(said)
    assert found["skipped"] == {"identical": 1, "missing_field": 1}
    assert [(row["line"], row["reason"]) for row in found["skipped_rows"]] == [(1, "identical"), (2, "missing_field")]
    assert found["checks"][0]["code"] == "no_pairs"


def test_strict_makes_skipped_rows_errors(anydpo: Run, tmp_path: Path) -> None:
    rows = [*samples.pairs(3), {"prompt": "a", "chosen": "b", "rejected": "b"}]
    (tmp_path / "x.jsonl").write_bytes(b"".join(map(json_line, rows)))
    assert anydpo("lint", "x.jsonl")[0] == 0
    assert anydpo("lint", "x.jsonl", "--strict")[0] == 2


def test_convert_any_dialect_to_any(anydpo: Run, job: Path, tmp_path: Path) -> None:
    fingerprint = document(anydpo("lint", "prefs.jsonl", "--json"))["fingerprint"]
    for to in ("openai", "together", "azure", "canonical", "trl", "trl_chat"):
        found = document(anydpo("convert", "prefs.jsonl", "--to", to, "-o", f"{to}.jsonl.gz", "--json"))
        assert (found["files"][0]["pairs"], found["lost"], found["skipped"]) == (40, {}, {})
        assert document(anydpo("lint", f"{to}.jsonl.gz", "--json"))["fingerprint"] == fingerprint
    code, out, _ = anydpo("convert", "prefs.jsonl", "--to", "openai", "-o", "t.jsonl", "--validation", "0.25")
    assert code == 0
    counts = [int(line.split()[1]) for line in out.splitlines()]
    assert sum(counts) == 40
    assert (tmp_path / "t.validation.jsonl").exists()


def test_convert_says_what_is_lost_before_it_is(anydpo: Run, tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}],
           "rejected": [{"role": "assistant", "content": "c"}], "weight": 2.0, "margin": 1.0}  # fmt: skip
    (tmp_path / "w.jsonl").write_bytes(json_line(row))
    code, _, err = anydpo("convert", "w.jsonl", "--to", "openai", "-o", "x.jsonl")
    assert code == 0
    assert "openai has no place for a margin (1 pairs), a weight (1 pairs)" in err
    assert document(anydpo("convert", "w.jsonl", "--to", "together", "-o", "y.jsonl", "--json"))["lost"] == {
        "margin": 1
    }


def test_a_full_disk(anydpo: Run, job: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full to stand for a full disk")
    code, _, err = anydpo("convert", "prefs.jsonl", "--to", "openai", "-o", "/dev/full")
    assert code == 2
    assert "No space left on device" in err
    assert "make room" in err


def test_init_writes_what_runs(anydpo: Run, tmp_path: Path) -> None:
    assert document(anydpo("init", "new", "--json"))["pairs"] == 300
    found = document(anydpo("lint", "new/support_tone.jsonl", "--json"))
    assert (found["pairs"], found["skipped"]) == (300, {})
    plan = document(anydpo("check", "new/job.toml", "--json"))
    assert plan["ok"]
    assert plan["requests"][0]["body"]["model"] == "tiny"


def test_a_failed_run_exits_1_with_its_reason(anydpo: Run, job: Path) -> None:
    code, out, _ = anydpo("run", job, "--max-length", "3")
    assert code == 1
    assert "error: " in out
    assert "too_long" in out
    code, _, err = anydpo("run", job, "--max-length", "3", "--json")
    assert code == 1
    assert "--again" in err


def test_control_characters_in_data_do_not_reach_the_terminal(anydpo: Run, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        '{"\\u001b[31mprompt": "a", "chosen": "\\u001b]0;owned\\u0007", "rejected": "c"}\n'
    )
    _, out, err = anydpo("lint", "x.jsonl", "--format", "trl_standard_explicit")
    assert "\x1b" not in out + err


def test_help_names_every_command_of_this_version(anydpo: Run) -> None:
    code, out, _ = anydpo("--help")
    assert code == 0
    for command in "init lint convert check run show logs sample fetch providers list resume cancel".split():
        assert re.search(rf"\b{command}\b", out)
        assert anydpo(command, "--help")[0] == 0


def test_ctrl_c_leaves_the_run_alone_and_says_how_to_come_back(anydpo: Run, job: Path) -> None:
    arguments = [sys.executable, "-c", HEEDS_CTRL_C, "run", str(job), "--set", "epochs=400"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stderr is not None
    said = b""
    while b"running" not in said:
        said += os.read(process.stderr.fileno(), 1000)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130
    assert "goes on without this terminal" in rest
    run = re.search(r"anydpo watch (\w+)", rest)
    assert run is not None
    assert document(anydpo("show", run[1], "--json"))["state"] in ("queued", "running")
    assert anydpo("cancel", run[1])[0] == 0


def test_a_terminal_gets_a_bar_with_loss_and_margin(job: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from anydpo.cli import main; main()", "run", str(job)],
        stderr=theirs,
        stdout=subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    while True:
        if select.select([ours], [], [], 60)[0]:
            try:
                block = os.read(ours, 4096)
            except OSError:  # Linux's word for the end of a terminal
                break
            if not block:
                break
            shown += block
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"succeeded" in out
    assert b"margin" in shown
    assert b"\x1b[" in shown
