"""The reference provider for several processes: an entry point on the path, a service in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anydpo
from anydpo import PreferenceJob
from anydpo.testing.service import Service

ROWS = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(8)]


def memory_job(**fields: Any) -> PreferenceJob:
    """A job that the reference provider takes."""
    return PreferenceJob(**{"model": "some-model", "data": anydpo.load(ROWS), **fields})


def installed_memory(folder: Path) -> Path:
    """Write what an installed package leaves, so that a new process finds the provider `memory`."""
    about = folder / "memory_provider-1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: memory-provider\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[anydpo.providers]\nmemory = anydpo.testing.memory:MemoryProvider\n")
    return folder


# The command line in a process that can be interrupted although its parent may be in the background, where SIGINT is
# ignored.
HEEDS_CTRL_C = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from anydpo.cli import main; main()"
)


class Shell:
    """The real command in a process of its own, with a home and a service in folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service = Service(folder / "service", seconds=0.0)
        self.service.set(queue=0.0, seconds=0.0, lag=0.0)
        self.environment = {
            **os.environ,
            "ANYDPO_HOME": str(folder / "home"),
            "ANYDPO_MEMORY": str(folder / "service"),
            "PYTHONPATH": str(installed_memory(folder / "site")),
            "NO_COLOR": "1",
        }

    def __call__(self, *arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anydpo", *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, **more
        )
