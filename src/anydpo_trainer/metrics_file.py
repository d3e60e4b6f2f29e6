"""`metrics.jsonl`: one canonical record a step, written as it happens and read from anywhere. Standard library only."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STAGES = ("sft", "dpo")


class MetricsFile:
    """The file of one run, appended to and cut back when a run goes on from a checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; a value that is not finite is written as null."""
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **clean}, sort_keys=True) + "\n")
            file.flush()

    def keep_until(self, stage: str, step: int) -> None:
        """Drop what was written after a checkpoint, the evaluation at the end, and a line that a kill cut short."""
        limit = (STAGES.index(stage), step)
        kept = [
            json.dumps(record, sort_keys=True) + "\n"
            for record in read_metrics(self._path)
            if (STAGES.index(record["stage"]), record["step"]) <= limit and "final" not in record
        ]
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text("".join(kept), "utf-8")
        unfinished.replace(self._path)

    def last(self, stage: str) -> dict[str, Any]:
        """Return the newest record of a stage."""
        return next((r for r in reversed(read_metrics(self._path)) if r["stage"] == stage), {})


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the whole records of a metrics file; a line cut short at the end is left out."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def read_since(path: Path, offset: int, limit: int | None) -> tuple[list[str], int, bool]:
    """Return (whole lines after a byte offset, the next offset, whether `limit` lines cut the reading short).

    A file shorter than the offset was cut back by a resumed run and is read from its beginning.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < offset:
                offset = 0
            file.seek(offset)
            lines: list[str] = []
            while limit is None or len(lines) < limit:
                line = file.readline()
                if not line.endswith(b"\n"):
                    return lines, offset, False
                lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                offset += len(line)
            return lines, offset, True
    except FileNotFoundError:
        return [], offset, False
