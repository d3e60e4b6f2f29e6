"""What every part of a comparison uses: the letter of a run, a table with the runs beside one another, figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anydpo.report.document import Mark, Table
from anydpo.result import Estimate

if TYPE_CHECKING:
    from anydpo.comparison import Comparison

WIDE = 6  # runs that stand as columns; more stand as rows


def marks_of(comparison: Comparison) -> dict[str, Mark]:
    """Return run → its letter and the shortest name that tells it from the others."""
    made: dict[str, Mark] = {}
    for key, one in enumerate(comparison.results):
        there = [other for other in comparison.results if other.place == one.place]
        own = one.name if one.name and sum(other.name == one.name for other in there) == 1 else one.run
        everywhere = len({other.place for other in comparison.results}) > 1
        place_and_name = f"{own} · {one.place}" if everywhere else own
        made[one.run] = Mark(key, one.place if len(there) == 1 else place_and_name)
    return made


def beside(comparison: Comparison, rows: Sequence[tuple[str, Sequence[object]]]) -> Table:
    """Return a table with a column a run, or a row a run where they are many."""
    marks = list(marks_of(comparison).values())
    if len(marks) <= WIDE:
        return Table(("", *marks), [(name, *cells) for name, cells in rows], pinned=True)
    return Table(
        ("", *(name for name, _ in rows)),
        [(mark, *(cells[i] for _, cells in rows)) for i, mark in enumerate(marks)],
        pinned=True,
    )


def figure_text(figure: Estimate | None) -> str:
    """Return a figure and its interval as people read them, a dash where there is none."""
    if figure is None:
        return "–"  # noqa: RUF001
    if figure.low is None or figure.high is None:
        return f"{figure.value:.4g}"
    return "{} [{}, {}]".format(*(_three(value) for value in (figure.value, figure.low, figure.high)))


def _three(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no minus before a zero


def seconds(value: float | None) -> str:
    """Return a time as people read it, a dash where it is not known."""
    if value is None:
        return "–"  # noqa: RUF001
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def when(value: float | None) -> str:
    """Return a moment in UTC."""
    return "–" if value is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(value))  # noqa: RUF001
