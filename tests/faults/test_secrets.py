"""Canary secrets in every credential of the environment: none of them is found in anything we leave or say."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from tests.conformance.helpers import Shell

NAMES = (
    *("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "TOGETHER_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_CLIENT_SECRET"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "WANDB_API_KEY"),
)


def forms(secret: str) -> list[bytes]:
    return [
        secret.encode(),
        base64.b64encode(secret.encode()).rstrip(b"="),
        urllib.parse.quote(secret).encode(),
        secret.encode().hex().encode(),
    ]


def test_no_canary_is_found_anywhere(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    canaries = {name: f"canary+{name.lower()}/7f3a9" for name in NAMES}
    shell.environment.update(canaries)
    rows = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(8)]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = ("--model", "m", "--data", "prefs.jsonl", "-p", "memory", "--yes")
    said = b""
    for word in ("auth", "lost_reply", "refuse", "ok"):
        shell.service.script("create", word)
        done = shell("submit", *job, "--seed", str(len(said) % 97), "--json")
        said += (done.stdout + done.stderr).encode()
    for command in (
        ("doctor", "--json"),
        ("list", "--json"),
        ("check", *job[:6], "--json"),
        ("submit", *job, "--detach"),
    ):
        done = shell(*command)
        said += (done.stdout + done.stderr).encode()
    trained = shell("run", "--model", "tiny", "--data", "prefs.jsonl", "--max-steps", "1", "--json")
    assert trained.returncode == 0, trained.stderr
    said += (trained.stdout + trained.stderr).encode()
    told = shell("show", json.loads(trained.stdout)["run"], "--json")
    said += told.stdout.encode()
    looked = 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            looked += 1
            said += path.read_bytes()
    assert looked > 10
    for name, secret in canaries.items():
        for form in forms(secret):
            assert form not in said, name


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="process titles are read from /proc: run on Linux")
def test_no_canary_in_process_titles(tmp_path: Path) -> None:
    """What `ps` shows of a watcher and of the trainer is their command line; no credential is ever put there."""
    shell = Shell(tmp_path)
    shell.environment["OPENAI_API_KEY"] = "canary-ps"
    shell.service.set(seconds=1e6)
    (tmp_path / "prefs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    shell("submit", "--model", "m", "--data", "prefs.jsonl", "-p", "memory", "--yes")
    command = [sys.executable, "-m", "anydpo", "watch"]
    with subprocess.Popen(command, cwd=tmp_path, env=shell.environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        title = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.terminate()
    assert b"watch" in title
    assert b"canary" not in title
