"""Where a run's events may go besides the screen: the protocol of a sink, and a guard that lets none break a run.

A tracker of yours is a class with three methods; named in the entry-point group `anydpo.sinks` it is `--track NAME`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from anydpo.errors import AnyDPOError, Invalid, ProviderMissing
from anydpo.provider import Event
from anydpo.result import Notice, Result

if TYPE_CHECKING:
    from anydpo.handle import Run

GROUP = "anydpo.sinks"


@runtime_checkable
class EventSink(Protocol):
    """What is told of runs that are watched. Events of a run come from its beginning each time it is watched.

    What a method raises ends the sink's part in this run and becomes a warning; the run goes on.
    """

    def begin(self, run: Run) -> None:
        """Be told that a run is being watched."""
        ...

    def event(self, run: Run, event: Event) -> None:
        """Be told of one event."""
        ...

    def end(self, run: Run, result: Result) -> None:
        """Be told that a run has ended or paused, with its result."""
        ...


class Sinks:
    """The sinks of one run's handle, each until it fails."""

    def __init__(self) -> None:
        self._sinks: list[EventSink] = []
        self.notices: list[Notice] = []

    def add(self, sinks: Iterable[EventSink]) -> None:
        """Add sinks; one that is there already is told once."""
        self._sinks += [sink for sink in sinks if sink not in self._sinks]

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def told(self, run: Run, events: Iterator[Event]) -> Iterator[Event]:
        """Yield the events, telling each sink of them; a sink that fails is an event of its own."""
        yield from self.begin(run)
        for event in events:
            yield from self.event(run, event)
            yield event
        yield from self.end(run)

    def begin(self, run: Run) -> Iterator[Event]:
        """Tell each sink that the run is watched, and yield an event for each that fails."""
        return self._each("begin", run)

    def event(self, run: Run, event: Event) -> Iterator[Event]:
        """Tell each sink of an event, and yield one for each that fails."""
        return self._each("event", run, event)

    def end(self, run: Run) -> Iterator[Event]:
        """Tell each sink that the run has ended or paused, and yield an event for each that fails."""
        if not self._sinks:
            return
        try:
            result = run.result()
        except AnyDPOError:  # the place cannot be asked now
            result = run.known()
        yield from self._each("end", run, result)

    def _each(self, method: str, run: Run, *more: Event | Result) -> Iterator[Event]:
        for sink in list(self._sinks):
            try:
                getattr(sink, method)(run, *more)
            except Exception as exc:
                self._sinks.remove(sink)
                name = type(sink).__name__
                said = f"{name} failed and is told no more of this run: {type(exc).__name__}: {exc}"
                self.notices.append(Notice(code="tracker", message=said))
                yield Event(kind="log", text=said)


def sinks_named(names: Sequence[str]) -> list[EventSink]:
    """Return the sinks of these names, one each for all runs.

    Raises `ProviderMissing` for one that is not installed, `Invalid` for one that cannot begin.
    """
    known = {point.name: point for point in entry_points(group=GROUP)}
    made: list[EventSink] = []
    for name in names:
        if name not in known:
            raise ProviderMissing(f"no tracker {name!r}", hint=f"installed: {', '.join(sorted(known)) or 'none'}")
        try:
            sink: object = known[name].load()()
        except ImportError as exc:
            raise ProviderMissing(f"{name}: {exc}", hint=f"pip install 'anydpo[{name}]'") from exc
        except Exception as exc:
            first = str(exc).strip().partition("\n")[0]
            raise Invalid(f"{name} cannot be used as it is set up: {first}", hint=f"see {name}'s own settings") from exc
        if not isinstance(sink, EventSink):
            raise ProviderMissing(f"{name} lacks part of the EventSink protocol")
        made.append(sink)
    return made
