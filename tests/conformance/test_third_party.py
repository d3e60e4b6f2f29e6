"""A provider in a package of its own, built as a wheel and installed, is found, used and passes the suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(*command: str | Path, cwd: Path, **environment: str) -> Any:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_written_built_installed_and_conforming(tmp_path: Path) -> None:
    here = tmp_path / "anydpo-acme"
    run(sys.executable, "-m", "anydpo", "provider", "new", "acme", cwd=tmp_path)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", cwd=here)
    (wheel,) = (here / "dist").glob("*.whl")
    site = tmp_path / "site"
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        site,
        wheel,
        cwd=tmp_path,
    )
    found = json.loads(run(sys.executable, "-m", "anydpo", "providers", "--json", cwd=tmp_path, PYTHONPATH=str(site)))
    assert {"acme", "local"} <= found["providers"].keys()
    said = run(sys.executable, "-m", "pytest", "-q", here / "tests", cwd=here / "tests", PYTHONPATH=str(site))
    assert "21 passed" in said
    rows = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(8)]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = ("--model", "acme-8b", "--data", "prefs.jsonl", "-p", "acme", "--yes", "--json")
    sent = json.loads(run(sys.executable, "-m", "anydpo", "submit", *job, cwd=tmp_path, PYTHONPATH=str(site)))
    assert sent["runs"][0]["created"] is True
