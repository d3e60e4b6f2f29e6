"""A report as text: aligned, wrapped and coloured on a terminal; plain lines, one a finding, elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

from anydpo.data.finding import Check
from anydpo.report.document import Bars, Block, Document, Findings, Ranges, Section, Sides, Spans, Table, Text

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
TONES = {"ok": "green", "look": "yellow", "bad": "red", "error": "red", "warning": "yellow", "info": "cyan"}
BAR = 30


def show(document: Document) -> None:
    """Print a report on stdout."""
    width, coloured = _screen()
    for line in lines(document, width=width, coloured=coloured):
        sys.stdout.write(line + "\n")


def show_table(columns: Sequence[object], rows: Sequence[Sequence[object]], title: str = "", note: str = "") -> None:
    """Print one table on stdout as reports show theirs: aligned, numbers to the right, coloured on a terminal."""
    for line in _section(Section(title, (Table(columns, rows),), note), _Pen(*_screen())):
        sys.stdout.write(line + "\n")


def lines(document: Document, *, width: int = 0, coloured: bool = False) -> Iterator[str]:
    """Yield the lines of a report; `width` 0 wraps nothing, so that scripts find whole sentences."""
    pen = _Pen(width, coloured)
    yield pen.paint(clean(document.title), "bold")
    for text in document.summary:
        yield from pen.wrap(text)
    yield pen.paint(clean(document.verdict), TONES.get(document.tone, "bold"), "bold")
    for section in document.sections:
        yield ""
        yield from _section(section, pen)


def clean(text: str) -> str:
    """Return text without the control characters by which data could command a terminal."""
    return CONTROL.sub("�", text)


def _screen() -> tuple[int, bool]:
    """Return (columns, whether it has colours) of standard output; 0 columns where it is no terminal."""
    terminal = sys.stdout.isatty()
    width = min(shutil.get_terminal_size((100, 40)).columns, 120) if terminal else 0
    return width, terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _Pen:
    def __init__(self, width: int, coloured: bool) -> None:
        self.width, self.coloured = width, coloured

    def paint(self, text: str, *styles: str) -> str:
        if not self.coloured:
            return text
        return f"\x1b[{';'.join(CODES[style] for style in styles)}m{text}\x1b[0m"

    def wrap(self, text: str, indent: str = "", hanging: str | None = None) -> Iterator[str]:
        text = clean(text)
        if not self.width:
            yield indent + text
            return
        yield from textwrap.wrap(
            text,
            self.width,
            initial_indent=indent,
            subsequent_indent=indent if hanging is None else hanging,
            break_long_words=False,
            break_on_hyphens=False,
        )


def _section(section: Section, pen: _Pen) -> Iterator[str]:
    if section.title:
        yield pen.paint(clean(section.title), "bold")
    for block in section.blocks:
        yield from _block(block, pen)
    if section.note:
        yield from (pen.paint(line, "dim") for line in pen.wrap(section.note, "  "))


def _block(block: Block, pen: _Pen) -> Iterator[str]:
    match block:
        case Text():
            yield from pen.wrap(block.text, "  ")
        case Table():
            yield from _table(block, pen)
        case Bars():
            yield from _bars(block)
        case Findings():
            for check in block.checks:
                yield from _finding(check, pen)
        case Ranges():
            yield from (f"  {clean(f'{mark}: {text}')}" for mark, *_, text in block.rows)
        case Spans():
            yield from (f"  {clean(f'{mark}: {text}')}" for mark, *_, text in block.rows)
        case Sides():
            yield from pen.wrap(block.question, "  ")
            for head, text in block.answers:
                yield from pen.wrap(f"{head}: {text}", "    ", "      ")
        case _:
            yield "  (a chart, which a page shows: -o report.html)"


def _finding(check: Check, pen: _Pen) -> Iterator[str]:
    first, *more = pen.wrap(check.message, " " * (len(check.severity) + 2), " " * 4)
    yield pen.paint(f"{check.severity}:", TONES[check.severity], "bold") + first[len(check.severity) + 1 :]
    yield from more
    if check.examples:
        yield from pen.wrap(f"where: {', '.join(check.examples)}", " " * 4, " " * 11)
    if check.why:
        yield from pen.wrap(f"why:   {check.why}", " " * 4, " " * 11)
    if check.advice:
        yield from pen.wrap(f"do:    {check.advice}", " " * 4, " " * 11)


def _table(table: Table, pen: _Pen) -> Iterator[str]:
    from rich.cells import cell_len

    if not table.columns:
        return
    rows = [[clean(str(cell)) for cell in row] for row in (table.columns, *table.rows)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    right = [bool(table.rows) and all(numeric(row[i]) for row in rows[1:]) for i in range(len(widths))]
    for at, row in enumerate(rows):
        if at == 0 and not any(row):
            continue
        cells = [
            " " * (width - cell_len(cell)) + cell if to_right else cell + " " * (width - cell_len(cell))
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        line = "  " + "  ".join(cells).rstrip()
        if pen.width and cell_len(line) > pen.width:
            yield from _narrow(cells, row[-1], pen)
        else:
            yield pen.paint(line, "dim") if at == 0 else line


def _narrow(cells: list[str], last: str, pen: _Pen) -> Iterator[str]:
    """Wrap the last column under itself, or put it on lines of its own where the others leave it no room."""
    before = "  " + "".join(f"{cell}  " for cell in cells[:-1])
    if len(before) > pen.width // 2:
        yield before.rstrip()
        before, hanging = "      ", "      "
    else:
        hanging = " " * len(before)
    yield from pen.wrap(last, before, hanging)


def numeric(text: str) -> bool:
    """Whether a cell holds a figure, or says that there is none."""
    return bool(re.fullmatch(r"[-+−±]?[\d.,]+ ?[%s]?|–|undefined|", text))  # noqa: RUF001


def _bars(bars: Bars) -> Iterator[str]:
    from rich.cells import cell_len

    widest = max((cell_len(clean(label)) for label, _, _ in bars.rows), default=0)
    for label, value, text in bars.rows:
        label = clean(label)  # noqa: PLW2901
        full = round(max(0.0, min(1.0, value)) * BAR)
        drawn = list("█" * full + "·" * (BAR - full))
        if bars.middle is not None:
            drawn[round(bars.middle * BAR)] = "│"
        yield f"  {label}{' ' * (widest - cell_len(label))}  {''.join(drawn)}  {clean(text)}"
