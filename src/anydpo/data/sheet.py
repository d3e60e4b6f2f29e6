"""Tables for spreadsheets, in which no cell of somebody's data can act as a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from anydpo.data.write import whole_file

FORMULA = ("=", "+", "-", "@", "\t", "\r")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def cell(value: object) -> str:
    """Return text that a spreadsheet shows and never runs; numbers stay numbers."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def write_sheet(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
    """Write a CSV file, whole or not at all, and return how many rows it has."""
    count = 0
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        out = csv.writer(text)
        out.writerow(columns)
        for row in rows:
            out.writerow([cell(value) for value in row])
            count += 1
        text.flush()
        text.detach()
    return count
