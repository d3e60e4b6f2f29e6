"""Canary secrets in every credential of the environment: none of them is found in anything we leave or say."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

import pytest

from anydpo import cli
from anydpo.journal import Journal
from anydpo.sandbox import serve
from tests.conformance.helpers import Shell
from tests.providers.clouds import MODELS

CLOUDS = {  # what each adapter, or the SDK below it, takes for a credential
    "openai": ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_WEBHOOK_SECRET", "WANDB_API_KEY"),
    "azure": ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_PASSWORD"),
    "together": ("TOGETHER_API_KEY", "WANDB_API_KEY", "HF_TOKEN"),
}
NAMES = (
    *(name for names in CLOUDS.values() for name in names),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)


def canary(name: str) -> str:
    """A credential with characters that JSON, addresses and base64 each write in their own way."""
    return f"canary+{name.lower()}/7f3a9"


def forms(secret: str) -> list[bytes]:
    """The credential as it is, and in whatever somebody may put it into: base64 at each of its three places."""
    plain = secret.encode()
    shifted = [base64.b64encode(b"x" * at + plain)[4 if at else 0 : -4] for at in range(3)]
    safe = [text.replace(b"+", b"-").replace(b"/", b"_") for text in shifted]
    quoted = [urllib.parse.quote(secret, safe="").encode(), json.dumps(secret).replace("/", "\\/").encode()[1:-1]]
    return [plain, *shifted, *safe, *quoted, plain.hex().encode(), plain.hex().upper().encode()]


def found_in(said: bytes, names: Iterable[str]) -> list[tuple[str, bytes]]:
    return [(name, form) for name in names for form in forms(canary(name)) if form in said]


def test_the_search_would_find_them() -> None:
    secret = canary("OPENAI_API_KEY").encode()
    for said in (
        secret,
        base64.b64encode(b"user:" + secret),
        base64.b64encode(b"Bearer " + secret),
        secret.hex().encode(),
    ):
        assert found_in(said, NAMES)


def text_of(path: Path) -> bytes:
    """A file; of weights their header, which is all that is no number."""
    with path.open("rb") as file:
        if path.suffix != ".safetensors":
            return file.read()
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def test_no_canary_is_found_anywhere(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.environment.update({name: canary(name) for name in NAMES})
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
            said += text_of(path)
    assert looked > 10
    assert found_in(said, NAMES) == []


OPTIONS = {
    "openai": 'wandb = { project = "tone" }',
    "azure": 'training_type = "Standard"',
    "together": 'wandb_project_name = "tone"\nhf_output_repo_name = "me/tone"',
}


@pytest.mark.parametrize("place", CLOUDS)
def test_no_canary_of_a_cloud_is_found_anywhere(
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Commands through the real SDK over HTTP, where all is well and where the service says no and repeats the key."""
    caplog.set_level("DEBUG")
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(12)]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = MODELS[place]
    (tmp_path / "job.toml").write_text(f'model = "{model}"\ndata = "prefs.jsonl"\n[options.{place}]\n{OPTIONS[place]}')
    job = ("job.toml", "-p", place, "--json")
    with serve(trainer="instant", steps=2, providers=[place], folder=tmp_path / "box") as box:
        for name, value in {**box.env, **{name: canary(name) for name in NAMES}}.items():
            monkeypatch.setenv(name, value)
        for status, code in ((401, 3), (400, 2), (403, 4)):
            box.break_({"fault": "storm", "status": status, "message": f"not with {canary(CLOUDS[place][0])}"})
            assert cli.run(["submit", *job, "--yes"]) == code
            assert cli.run(["doctor"]) == 0
            box.mend()
        commands = [["check", *job, "-o", "plan.json"], ["quote", *job], ["run", *job, "--yes"], ["list"], ["doctor"]]
        assert [cli.run(command) for command in commands] == [0] * len(commands)
        (run,) = (row.id for row in Journal(tmp_path / "home").runs())
        fetched = 0 if place == "together" else 4
        for words, code in ((["show", run], 0), (["logs", run, "--json"], 0), (["fetch", run, "-o", "out"], fetched)):
            assert cli.run(words) == code
        told = json.dumps(box.requests())
    captured = capfd.readouterr()
    told += captured.out + captured.err + "".join(repr(record.__dict__) for record in caplog.records)
    kept = [text_of(path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 5
    assert found_in(b"".join([told.encode(), *kept]), NAMES) == []


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
