"""What one row of a file is, before anybody asks what it means."""

from __future__ import annotations

from typing import Any, NamedTuple

LONGEST_ROW = 1 << 28  # a row above 256 MiB is damage, not data


class Row(NamedTuple):
    """One row as it stands in a file. `value` is None where `error` says why it could not be parsed."""

    value: Any
    line: int
    error: str | None = None
