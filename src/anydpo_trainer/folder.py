"""The folder of a run: its lock, its log, how it is told to stop, and its `result.json`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Any

from anydpo_trainer.errors import TrainerError

LOCK, STOP, RESULT, METRICS, PAIRS = "lock", "stop", "result.json", "metrics.jsonl", "pairs.jsonl"
DIVERGENCE = "divergence.jsonl"


@contextlib.contextmanager
def locked(folder: Path, wait_s: float = 5.0) -> Iterator[None]:
    """Hold the run's folder for the life of this process; the kernel lets go when it dies, however that happens."""
    with (folder / LOCK).open("a") as file:
        deadline = time.monotonic() + wait_s  # one who looks whether we live holds it for a moment
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise TrainerError("in_use", f"another trainer works in {folder}", "wait for it, or stop it first")
            time.sleep(0.05)
        yield


def is_held(folder: Path) -> bool:
    """Say whether a trainer works in this folder now."""
    try:
        with (folder / LOCK).open("r+") as file:
            return not _try_lock(file, shared=True)
    except FileNotFoundError:
        return False


class StopSignals:
    """Notices SIGTERM, SIGINT and a file `stop` in the run's folder; the loop asks after each step."""

    def __init__(self, folder: Path) -> None:
        self._stop_file = folder / STOP
        self._signalled: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread: the file alone can stop us
                signal.signal(number, self._notice)

    def _notice(self, number: int, _frame: FrameType | None) -> None:
        if self._signalled is not None:
            raise KeyboardInterrupt  # asked twice: now
        self._signalled = number

    def asked(self) -> str | None:
        """Return "cancelled" for the file, "interrupted" for a signal, None if nobody asked."""
        if self._stop_file.exists():
            return "cancelled"
        return "interrupted" if self._signalled is not None else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that is there whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def log_to_stdout(*, first: bool) -> None:
    """Send the trainer's log to standard output, one plain line a message; other ranks tell their errors alone."""
    logger = logging.getLogger("anydpo_trainer")
    logger.handlers.clear()
    handler = logging.StreamHandler(sys.stdout)
    handler.setLevel(logging.INFO if first else logging.ERROR)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[str], *, shared: bool = False) -> bool:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        if shared:
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        return True
else:
    import fcntl

    def _try_lock(file: IO[str], *, shared: bool = False) -> bool:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
