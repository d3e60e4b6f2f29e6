"""How commands speak: one JSON document or readable text on stdout, talk and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from anydpo.errors import AnyDPOError

if TYPE_CHECKING:
    from anydpo.result import Part

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def emit(document: Part) -> None:
    """Print the command's one JSON document."""
    sys.stdout.write(json.dumps(document.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n")


def emit_line(document: Part) -> None:
    """Print one line of a command that prints JSON lines."""
    sys.stdout.write(json.dumps(document.model_dump(mode="json"), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def out(text: str = "") -> None:
    """Print a line of the answer."""
    sys.stdout.write(clean(text) + "\n")


def say(text: str) -> None:
    """Print a line of talk."""
    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def clean(text: str) -> str:
    """Return text without the control characters by which data could command a terminal."""
    return CONTROL.sub("�", text)


@contextlib.contextmanager
def warnings_said() -> Iterator[None]:
    """Say every warning as a note, when it is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: say(f"note: {message}")
        yield


def fail(error: AnyDPOError, *, as_json: bool) -> int:
    """Report an error and return its exit code."""
    if as_json:
        from anydpo.cli.documents import ErrorShown, Failure

        emit(Failure(error=ErrorShown(**error.to_dict())))  # type: ignore[arg-type]
    where = f"[{error.provider}] " if error.provider else ""
    say(f"error: {where}{error.message}")
    if error.hint:
        say(f"  hint: {error.hint}")
    return error.exit_code


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: drawn on a terminal, tab-separated elsewhere."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            out("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(clean(str(cell))) for cell in row))
    Console().print(made)


def number(value: object) -> str:
    """Return a metric as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
