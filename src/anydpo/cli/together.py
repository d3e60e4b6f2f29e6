"""Several runs as they go: one live table on a terminal, plain lines elsewhere, JSON lines for scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from anydpo.cli import output
from anydpo.cli.progress import Lines, numbers_of, stage_of
from anydpo.errors import AnyDPOError
from anydpo.fanout import at_once
from anydpo.handle import watch_all
from anydpo.provider import Event

if TYPE_CHECKING:
    from anydpo.handle import Run

AT_ONCE = 16  # threads that watch; more runs than that share them


def follow_together(runs: Sequence[Run]) -> None:
    """Show several runs until all have ended or paused."""
    if not sys.stderr.isatty():
        lines = {one.id: Lines() for one in runs}
        _watch(runs, lambda one, event: lines[one.id].say(event, f"{one.id} "))
        return
    from rich.console import Console
    from rich.live import Live

    rows = {one.id: Row(one) for one in runs}
    console = Console(stderr=True)
    with Live(get_renderable=lambda: _table(rows.values()), console=console, refresh_per_second=4):
        _watch(runs, lambda one, event: rows[one.id].see(event))


def print_events(runs: Sequence[Run]) -> None:
    """Print every event of these runs as a line of JSON."""
    from anydpo.cli.documents import EventLine

    _watch(runs, lambda one, event: output.emit_line(EventLine(run=one.id, **event.model_dump())))


def _watch(runs: Sequence[Run], see: Callable[[Run, Event], None]) -> None:
    """Watch in as many threads as are sensible; what ends the watch of one run is its `error` and a line of its log."""

    def watch(share: Sequence[Run]) -> None:
        for run, found in watch_all(share):
            if isinstance(found, AnyDPOError):
                run.error = found
                see(run, Event(kind="log", text=f"error: {found.message}"))
            else:
                see(run, found)

    live = [one for one in runs if one.error is None]
    shares = [live[at::AT_ONCE] for at in range(min(AT_ONCE, len(live)))]
    for raised in at_once([partial(watch, share) for share in shares]):
        if isinstance(raised, Exception):
            raise raised


class Row:
    """What one line of the table shows of a run."""

    def __init__(self, run: Run) -> None:
        self.run, self.place, self.state = run, run.place, str(run.state)
        self.step, self.numbers = "", ""
        self.note = run.error.message if run.error is not None else ""
        self._began: tuple[float, int] | None = None

    def see(self, event: Event) -> None:
        """Take in one event."""
        if event.kind == "state" and event.state is not None:
            self.state, self.place = str(event.state), self.run.place
        elif event.kind == "log" and self.run.error is not None:
            self.note = event.text
        elif event.kind == "metrics":
            self.numbers = numbers_of(event) or self.numbers
            if event.step is not None:
                of = f"/{event.total_steps}" if event.total_steps else ""
                self.step = f"{stage_of(event)} {event.step}{of}{self._left(event.step, event.total_steps)}"

    def _left(self, step: int, total: int | None) -> str:
        """Say how much time is left, as the steps that were seen so far make it likely."""
        now = time.monotonic()
        if self._began is None or step <= self._began[1]:
            self._began = self._began or (now, step)
            return ""
        each = (now - self._began[0]) / (step - self._began[1])
        return f", {output.duration(each * (total - step))} left" if total else ""


def _table(rows: Iterable[Row]) -> Any:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "place", "state", "step", "", ""):
        made.add_column(column, overflow="fold")
    for row in rows:
        cells = (row.run.id, row.place, row.state, row.step, row.numbers, row.note)
        made.add_row(*(Text(output.clean(cell)) for cell in cells))
    return made
