"""A job as the text of a job file, with a remark beside a line where there is something to say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

BARE = re.compile(r"[A-Za-z0-9_-]+")
TABLES = ("method", "adapter", "sft", "options", "tags")  # these stand last, under a heading of their own


def job_text(fields: Mapping[str, Any], remarks: Mapping[str, str] | None = None, head: str = "") -> str:
    """Return TOML that reads back as these fields; `remarks` is dotted field → what is said beside it."""
    said = dict(remarks or {})
    tables = {name: fields[name] for name in TABLES if isinstance(fields.get(name), Mapping)}
    lines = [f"# {line}" for line in head.splitlines()]
    for name, value in fields.items():
        if name not in tables and value is not None:
            lines.append(_line(name, value, said.get(name)))
    for name, table in tables.items():
        for heading, inner in _flat(name, table):
            plain = {key: value for key, value in inner.items() if value is not None}
            if plain or heading == "adapter":
                lines += ["", f"[{heading}]"]
                lines += [_line(key, value, said.get(f"{heading}.{key}")) for key, value in plain.items()]
    return "\n".join(lines) + "\n"


def _flat(name: str, table: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    if name != "options":
        return [(name, table)]
    return [(f"options.{_key(place)}", inner) for place, inner in table.items()]


def _line(name: str, value: Any, remark: str | None) -> str:
    line = f"{_key(name)} = {toml(value)}"
    return f"{line}  # {' '.join(remark.split())}" if remark else line


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else json.dumps(name)


def toml(value: Any) -> str:
    """Return a value as TOML writes it; tables stand inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # the escapes of JSON are those of TOML, but for half of a surrogate pair and DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {toml(item)}" for key, item in value.items() if item is not None)
        return f"{{{inner}}}"
    return f"[{', '.join(toml(item) for item in value)}]"
