"""Every exit code of the contract, and every JSON document, through the real command in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from anydpo.result import State
from tests.conformance.helpers import HEEDS_CTRL_C, Shell

ROOT = Path(__file__).parents[2]
JOB = """model = "some-model"
data = "prefs.jsonl"
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    rows = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(8)]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "job.toml").write_text(JOB)
    return made


@cache
def schema(name: str) -> Any:
    return json.loads((ROOT / "src" / "anydpo" / "schemas" / f"{name}.schema.json").read_text("utf-8"))


def document(name: str, text: str) -> Any:
    """Return the one JSON document, which its published schema accepts."""
    found = json.loads(text)
    jsonschema.validate(found, schema(name))
    assert found["schema"] == 1
    return found


SUBMIT = ("submit", "job.toml", "-p", "memory", "--json")


def test_0_a_day_without_trouble(shell: Shell) -> None:
    """Every command that needs no training, with its document."""
    document("lint", shell("lint", "prefs.jsonl", "--json").stdout)
    votes = ROOT / "tests" / "formats" / "pandalm.json"
    document("agreement", shell("agreement", votes, "--json").stdout)
    document("convert", shell("convert", "prefs.jsonl", "--to", "openai", "-o", "o.jsonl", "--json").stdout)
    document("init", shell("init", "new", "--json").stdout)
    document("check", shell("check", "job.toml", "-p", "memory", "--json").stdout)
    quoted = document("quote", shell("quote", "job.toml", "-p", "memory,local", "--set", "model=tiny", "--json").stdout)
    assert quoted["quotes"]["memory"]["cost"]["amount"] == pytest.approx(0.008)
    assert quoted["quotes"]["local"]["cost"]["amount"] == 0
    document("providers", shell("providers", "--json").stdout)
    done = shell(*SUBMIT, "--yes")
    assert done.returncode == 0, done.stderr
    (run,) = document("submit", done.stdout)["runs"]
    assert (run["place"], run["created"], run["state"]) == ("memory", True, "queued")
    (again,) = document("submit", shell(*SUBMIT).stdout)["runs"]  # there already: nothing is paid, nobody is asked
    assert (again["run"], again["created"]) == (run["run"], False)
    assert shell.service.requests("create") == 1
    lines = shell("watch", run["run"], "--json").stdout.splitlines()
    for line in lines:
        jsonschema.validate(json.loads(line), schema("event"))
    assert json.loads(lines[-1])["state"] == "succeeded"
    assert document("result", shell("wait", run["run"], "--timeout", "9", "--json").stdout)["state"] == "succeeded"
    document("result", shell("show", run["run"][:6], "--json").stdout)
    document("result", shell("run", "job.toml", "-p", "memory", "--json").stdout)
    for line in shell("logs", run["run"], "--json").stdout.splitlines():
        jsonschema.validate(json.loads(line), schema("event"))
    document("fetch", shell("fetch", run["run"], "-o", "weights", "--json").stdout)
    (listed,) = document("list", shell("list", "--json").stdout)["runs"]
    assert (listed["run"], listed["state"]) == (run["run"], "succeeded")
    told = document("doctor", shell("doctor", "--json").stdout)
    assert (told["ok"], told["journal"]["runs"]) == (True, 1)
    document("provider-new", shell("provider", "new", "acme", "--json").stdout)
    both = shell("run", "job.toml", "-p", "memory,memory/blind", "--set", "seed=1", "--yes", "--json")
    found = document("results", both.stdout)
    assert [(one["place"], one["state"]) for one in found["runs"]] == [
        ("memory", "succeeded"),
        ("memory/blind", "succeeded"),
    ]


def test_1_a_run_that_failed(shell: Shell) -> None:
    shell.service.set(ends="failed")
    done = shell("run", "job.toml", "-p", "memory", "--yes", "--json")
    assert done.returncode == 1
    assert document("result", done.stdout)["error"]["code"] == "job_failed"
    again = shell(*SUBMIT, "--yes")
    assert again.returncode == 1
    assert "--again" in document("error", again.stdout)["error"]["hint"]
    shell.service.set(ends="succeeded")
    assert shell("run", "job.toml", "-p", "memory", "--yes", "--again").returncode == 0
    assert shell.service.requests("create") == 2


def test_1_cancelled(shell: Shell) -> None:
    shell.service.set(seconds=1e6)
    (run,) = document("submit", shell(*SUBMIT, "--yes").stdout)["runs"]
    assert document("cancel", shell("cancel", run["run"], "--json").stdout)["state"] == "cancelled"
    assert shell("wait", run["run"]).returncode == 1
    assert shell("wait", run["run"], "--timeout", "0", "--json").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("submit", "job.toml", "-p", "memory"), "there is no terminal to ask on"),
        (("submit", "job.toml", "-p", "nowhere"), "no provider 'nowhere'"),
        (("submit", "nothing.toml", "-p", "memory"), "no such job file"),
        (("submit", "job.toml", "-p", "memory", "--set", "weight_decay=0.1"), "weight_decay has no effect here"),
        (("submit", "job.toml", "-p", "memory", "--set", "options.memory.prise=1"), "no such option"),
        (("submit", "plan.json"), "plan.json"),
        (("show", "nothing"), "no run 'nothing'"),
        (("run", "job.toml", "-p", "memory", "--detach"), "submit JOB --detach"),
        (("provider", "new", "Not Good"), "cannot name a provider"),
        (("submit", "job.toml", "-p", "memory,local", "--adopt", "x"), "--adopt takes one job"),
    ],
)
def test_2_wrong_input(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    done = shell(*arguments, "--json")
    assert done.returncode == 2, done.stderr
    error = document("error", done.stdout)["error"]
    assert said in f"{error['message']} {error['hint']}"
    assert "Traceback" not in done.stderr
    assert shell.service.requests("create") == 0


@pytest.mark.parametrize(
    ("word", "code", "exit_code"),
    [
        ("auth", "auth_failed", 3),
        ("refuse", "provider_refused", 4),
        ("quota", "quota_exceeded", 4),
        ("capacity", "capacity_unavailable", 4),
        ("retired", "model_retired", 4),
        ("safety", "safety_refused", 4),
    ],
)
def test_3_and_4_the_provider_says_no(shell: Shell, word: str, code: str, exit_code: int) -> None:
    shell.service.script("create", word)
    done = shell(*SUBMIT, "--yes")
    assert done.returncode == exit_code
    error = document("error", done.stdout)["error"]
    assert (error["code"], error["provider"]) == (code, "memory")
    assert shell(*SUBMIT, "--yes").returncode == 0  # nothing had run: a new attempt of the same run
    assert len(shell.service.jobs()) == 1


def test_5_the_outcome_is_unknown(shell: Shell) -> None:
    blind = ("submit", "job.toml", "-p", "memory/blind", "--json", "--yes")
    shell.service.script("create", "lost_reply")
    done = shell(*blind)
    assert done.returncode == 5
    assert "--adopt" in document("error", done.stdout)["error"]["hint"]
    assert shell(*blind).returncode == 5
    assert shell.service.requests("create") == 1
    (listed,) = document("list", shell("list", "--json").stdout)["runs"]
    assert listed["state"] == "unknown"
    assert shell("wait", listed["run"]).returncode == 5
    assert shell("cancel", listed["run"]).returncode == 5
    (job,) = shell.service.jobs()
    (run,) = document("submit", shell(*blind, "--adopt", job["id"]).stdout)["runs"]
    assert (run["provider_job_id"], run["created"]) == (job["id"], False)


def test_5_then_sent_again_because_the_user_says_so(shell: Shell) -> None:
    shell.service.script("create", "no_answer")
    blind = ("submit", "job.toml", "-p", "memory/blind", "--json", "--yes")
    assert shell(*blind).returncode == 5
    (run,) = document("submit", shell(*blind, "--resubmit").stdout)["runs"]
    assert run["created"] is True
    assert len(shell.service.jobs()) == 1


def test_6_the_journal_is_damaged(shell: Shell) -> None:
    shell(*SUBMIT, "--yes")
    path = shell.folder / "home" / "journal.db"
    path.write_bytes(path.read_bytes()[:8192])
    done = shell("list", "--json")
    assert done.returncode == 6
    assert "doctor --rebuild" in document("error", done.stdout)["error"]["hint"]
    told = shell("doctor", "--json")
    assert told.returncode == 6
    assert document("doctor", told.stdout)["journal"]["ok"] is False
    rebuilt = document("doctor", shell("doctor", "--rebuild", "--json").stdout)
    assert rebuilt["journal"]["ok"] is True
    assert rebuilt["rebuilt"]["found"] == 1
    assert document("submit", shell(*SUBMIT, "--yes").stdout)["runs"][0]["created"] is False


def test_7_refused_by_the_users_own_cap(shell: Shell) -> None:
    done = shell(*SUBMIT, "--max-cost-usd", "0.001")
    assert done.returncode == 7
    assert "nothing was sent" in document("error", done.stdout)["error"]["message"]
    unknown = (*SUBMIT, "--max-cost-usd", "5", "--set", "options.memory.price=unknown")
    assert shell(*unknown).returncode == 7
    assert shell.service.requests("create") == 0
    assert shell(*unknown, "--allow-unknown-price").returncode == 0
    several = ("submit", "job.toml", "-p", "memory,memory/blind", "--set", "seed=3", "--json")
    assert shell(*several, "--max-cost-usd", "0.009").returncode == 7  # each fits, together they do not
    assert shell.service.requests("create") == 1
    assert shell(*several, "--max-cost-usd", "0.02").returncode == 0


def test_130_interrupted(shell: Shell) -> None:
    shell.service.set(seconds=1e6)
    (run,) = document("submit", shell(*SUBMIT, "--yes").stdout)["runs"]
    command = [sys.executable, "-c", HEEDS_CTRL_C, "watch", run["run"]]
    with subprocess.Popen(command, cwd=shell.folder, env=shell.environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"running" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
    assert process.returncode == 130
    assert f"anydpo watch {run['run']}" in said
    assert shell.service.state(shell.service.jobs()[0]["id"]) in (State.QUEUED, State.RUNNING)


def test_a_plan_sends_exactly_what_it_shows(shell: Shell) -> None:
    plan = document("check", shell("check", "job.toml", "-p", "memory", "-o", "plan.json", "--json").stdout)
    assert shell("submit", "plan.json", "--json", "--yes").returncode == 0
    (job,) = shell.service.jobs()
    (request,) = plan["requests"]
    assert {**request["body"], "training_file": job["body"]["training_file"]} == job["body"]
    shell("check", "job.toml", "-p", "memory", "--epochs", "2", "-o", "other.json")
    (shell.folder / "prefs.jsonl").write_text((shell.folder / "prefs.jsonl").read_text().replace("Yes, 1.", "No, 1."))
    done = shell("submit", "other.json", "--json", "--yes")
    assert done.returncode == 2
    assert "the data or a field of the job changed" in document("error", done.stdout)["error"]["message"]
    assert len(shell.service.jobs()) == 1


def test_settings_stand_below_the_job(shell: Shell) -> None:
    (shell.folder / "home").mkdir()
    (shell.folder / "home" / "config.toml").write_text(
        '[defaults]\nepochs = 3\nseed = 7\n[options.memory]\ntier = "a"\n'
    )
    (shell.folder / "anydpo.toml").write_text("[defaults]\nepochs = 4\n[defaults.method]\nbeta = 0.3\n")
    plan = document("check", shell("check", "job.toml", "-p", "memory", "--seed", "9", "--json").stdout)
    assert plan["job"]["epochs"] == 4
    assert plan["job"]["seed"] == 9
    assert plan["requests"][0]["body"]["beta"] == 0.3
    assert plan["requests"][0]["body"]["tier"] == "a"
    told = document("doctor", shell("doctor", "--json").stdout)
    files = {(one["name"], Path(one["file"]).name): one["hidden_by"] for one in told["settings"]}
    assert files["epochs", "config.toml"] == "anydpo.toml"
    assert files["epochs", "anydpo.toml"] is None
    (shell.folder / "anydpo.toml").write_text("[default]\nepochs = 4\n")
    wrong = shell("check", "job.toml", "--json")
    assert wrong.returncode == 2
    assert "did you mean [defaults]?" in document("error", wrong.stdout)["error"]["hint"]


def answering(shell: Shell, answer: bytes, *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal and answer its question."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "anydpo", *arguments]
    process = subprocess.Popen(
        command, cwd=shell.folder, env=shell.environment, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    said = b""
    for part in parts(ours):
        said += part
        if b"send it?" in part:
            os.write(ours, answer)
    os.close(ours)
    return process.wait(), said.decode()


def parts(terminal: int) -> Iterator[bytes]:
    while select.select([terminal], [], [], 60)[0]:
        try:
            yield os.read(terminal, 4096)
        except OSError:
            return


def test_a_terminal_is_asked_before_paying(shell: Shell) -> None:
    code, said = answering(shell, b"n\n", "submit", "job.toml", "-p", "memory")
    assert "about 0.01 USD (provider quote)" in said
    assert code == 130
    assert shell.service.requests("create") == 0
    code, _ = answering(shell, b"y\n", "submit", "job.toml", "-p", "memory")
    assert code == 0
    assert shell.service.requests("create") == 1


def test_detached_a_watcher_takes_the_second_stage(shell: Shell) -> None:
    done = shell("submit", "job.toml", "-p", "memory", "--set", "sft.data=chosen", "--yes", "--detach", "--json")
    (run,) = document("submit", done.stdout)["runs"]
    assert run["remaining"] == ["the dpo stage"]
    result = document("result", shell("wait", run["run"], "--json").stdout)
    assert [(stage["stage"], stage["state"]) for stage in result["stages"]] == [
        ("sft", "succeeded"),
        ("dpo", "succeeded"),
    ]
    assert len(shell.service.jobs()) == 2
    log = shell.folder / "home" / "watchers" / f"{run['run']}.log"
    assert log.is_file()


def test_completion_is_offered(shell: Shell) -> None:
    shown = shell("--help").stdout
    assert "--install-completion" in shown


def test_schemas_are_those_of_the_code() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from schemas import schemas  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    for name, text in schemas().items():
        assert (ROOT / "src" / "anydpo" / "schemas" / name).read_text("utf-8") == text, "python scripts/schemas.py"
