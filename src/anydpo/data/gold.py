"""Known right answers for items, from a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anydpo.data.judgment import Choice
from anydpo.data.source import read_rows
from anydpo.errors import DataInvalid

ITEM = ("task", "task_id", "item", "item_id", "id", "idx", "prompt_id", "_unit_id")
LABEL = ("gold", "label", "choice", "preference", "preferred", "winner", "answer")
WORDS: dict[str, Choice] = {
    **dict.fromkeys(("a", "first", "1", "left", "response_a", "model_a"), "first"),
    **dict.fromkeys(("b", "second", "2", "right", "response_b", "model_b"), "second"),
    **dict.fromkeys(("tie", "0", "equal", "same", "both"), "tie"),
}
HINT = 'one {"task": ID, "gold": "A", "B" or "tie"} a row, or CSV with these two columns; A is the answer shown first'


def read_gold(path: Path) -> dict[str, Choice]:
    """Return item → right choice from JSON, JSONL or CSV; raises `DataInvalid` for what cannot be read."""
    found: dict[str, Choice] = {}
    for row, line in _rows(path):
        item = next((row[key] for key in ITEM if row.get(key) not in (None, "")), None)
        label = next((row[key] for key in LABEL if row.get(key) not in (None, "")), None)
        if item is None or label is None:
            raise DataInvalid(f"{path}:{line}: no item or no label in {', '.join(row)}", hint=HINT)
        if (choice := WORDS.get(str(label).strip().lower())) is None:
            raise DataInvalid(f"{path}:{line}: the label {label!r} is not known", hint=HINT)
        found[str(item)] = choice
    if not found:
        raise DataInvalid(f"{path}: no gold row", hint=HINT)
    return found


def _rows(file: Path) -> list[tuple[dict[str, Any], int]]:
    if file.suffix == ".csv":
        import csv

        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            return [({key.strip(): value for key, value in row.items() if key}, reader.line_num) for row in reader]
    rows: list[tuple[dict[str, Any], int]] = []
    for value, line, error in read_rows(file):
        if error is not None or not isinstance(value, dict):
            raise DataInvalid(f"{file}:{line}: {error or 'the row is not an object'}", hint=HINT)
        rows.append((value, line))
    return rows
