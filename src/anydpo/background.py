"""Processes that outlive the one that starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from anydpo.errors import RunFailed

LAUNCH = "import subprocess as s, sys; s.Popen(sys.argv[1:], start_new_session=True, stderr=s.STDOUT)"


def start_detached(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> None:
    """Start a process that is no child of ours: it outlives us, and a Ctrl-C in our terminal is not meant for it.

    What it prints is added to `log`. Raises `RunFailed` where it cannot be started.
    """
    with log.open("ab") as file:
        started = subprocess.run(
            [sys.executable, "-I", "-c", LAUNCH, *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.PIPE,
            cwd=log.parent,
            env={**os.environ, **(environment or {})},
            check=False,
        )
    if started.returncode != 0:
        said = started.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RunFailed(f"{command[0]} could not be started: {said[-1] if said else 'it says nothing'}")


def watch_in_background(run: str, home: Path) -> Path:
    """Start a process that watches a run to its end, taking the steps that are due, and return its log."""
    folder = home / "watchers"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{run}.log"
    start_detached([sys.executable, "-m", "anydpo", "watch", run], log, {"ANYDPO_HOME": str(home)})
    return log
