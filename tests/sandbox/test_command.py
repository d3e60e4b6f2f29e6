"""`anydpo sandbox` as a command, and what it runs can reach."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import anydpo
from anydpo.errors import Invalid
from anydpo.sandbox import Sandbox

ANYDPO = Path(sys.executable).with_name("anydpo")
REACH = """
import httpx, json, os, sys
def reach(url):
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.HTTPError as exc:
        return type(exc).__name__
names = ("OPENAI_API_KEY", "OPENAI_ORG_ID", "AWS_SECRET_ACCESS_KEY", "TOGETHER_API_KEY", "HF_TOKEN", "MY_SERVICE_TOKEN")
print(json.dumps({
    "own": reach(os.environ["OPENAI_BASE_URL"] + "/models"),
    "https": reach("https://api.openai.com/v1/models"),
    "http": reach("http://192.0.2.1/"),
    "env": {name: os.environ.get(name) for name in names},
}))
"""


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    whole = {**os.environ, **env}
    return subprocess.run([str(ANYDPO), "sandbox", *arguments], env=whole, capture_output=True, text=True, check=False)


def test_a_command_sees_dummies_and_reaches_the_sandbox_alone() -> None:
    secret = "canary"
    names = (
        "OPENAI_API_KEY",
        "OPENAI_ORG_ID",
        "AWS_SECRET_ACCESS_KEY",
        "TOGETHER_API_KEY",
        "HF_TOKEN",
        "MY_SERVICE_TOKEN",
    )
    done = run("--trainer", "instant", "--", sys.executable, "-c", REACH, **dict.fromkeys(names, secret))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["own"] == 401  # reached, without a key
    assert (found["https"], found["http"]) == ("ProxyError", "ConnectError")  # https meets the emulator of Azure ML
    ours = {"OPENAI_API_KEY": "sk-sandbox", "TOGETHER_API_KEY": "tgp-sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}
    assert found["env"] == {**dict.fromkeys(names), **ours}
    assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_output_and_exit_code_are_the_commands(script: str, status: int) -> None:
    done = run("--trainer", "instant", "--json", "--", "sh", "-c", f"echo out; {script}")
    assert (done.returncode, done.stdout, done.stderr) == (status, "out\n", "")


def test_what_cannot_be_run_or_served_says_so() -> None:
    missing = run("--", "no-such-command")
    assert (missing.returncode, missing.stdout) == (127, "")
    for arguments in (("--providers", "nobody"), ("--trainer", "magic"), ("--port", "70000"), ("--steps", "0")):
        done = run("--json", *arguments)
        assert done.returncode == 2
        assert json.loads(done.stdout)["error"]["code"] == "invalid"
        assert "Traceback" not in done.stderr


def in_a_row() -> Sandbox:
    """Return a sandbox on ports in a row; other programs of this machine take some of them now and then."""
    for port in random.Random().sample(range(20_000, 30_000), 50):
        with contextlib.suppress(Invalid):
            return anydpo.sandbox.serve(trainer="instant", port=port)
    raise AssertionError("50 times no six free ports in a row")


def test_ports_follow_one_another() -> None:
    with anydpo.sandbox.serve(trainer="instant") as free:
        taken = int(free.origins["openai"].rpartition(":")[2])
        with pytest.raises(Invalid, match="cannot be used"):
            anydpo.sandbox.serve(port=taken)
    with in_a_row() as box:
        ports = [int(origin.rpartition(":")[2]) for origin in box.origins.values()]
        assert ports == list(range(ports[0], ports[0] + 6))
        assert list(box.origins) == ["azure", "azureml", "openai", "sagemaker", "together", "storage"]


def test_the_example_for_ci_runs() -> None:
    example = Path(__file__).parents[2] / "examples" / "sandbox_in_ci.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "no answer; jobs there are now: 2" in done.stdout
