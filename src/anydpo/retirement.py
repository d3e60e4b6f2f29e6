"""Which of the user's own runs end soon: their model, or the service that made it, retires."""

from __future__ import annotations

from datetime import UTC, date, datetime

from anydpo.clock import Clock, SystemClock
from anydpo.errors import AnyDPOError
from anydpo.journal import Journal
from anydpo.provider import Ending, KnowsEnds
from anydpo.records import AttemptRow
from anydpo.registry import provider, split_place
from anydpo.result import Part, State

WITHIN = 90  # days
LEFT_NOTHING = (State.FAILED, State.CANCELLED)


class Retirement(Part):
    """One end that comes near for one run; `days_left` is negative where it has come."""

    run: str
    name: str | None
    place: str
    model: str | None
    what: str
    date: date
    days_left: int
    advice: str


def retiring(journal: Journal, clock: Clock | None = None, within: int = WITHIN) -> tuple[Retirement, ...]:
    """Return what ends within so many days for runs that have left a model or still may, the next end first.

    Asks nobody: providers know their dates as data. Rehearsals and runs that left nothing are passed over.
    """
    today = datetime.fromtimestamp((clock or SystemClock()).now(), UTC).date()
    found = []
    for run in journal.runs():
        last = next(reversed(journal.attempts(run.id)), None)
        if last is None or last.plan["sandbox"] or run.state in LEFT_NOTHING:
            continue
        for end in _ends(last):
            if (left := (end.day - today).days) <= within:
                about = {"run": run.id, "name": run.name, "place": last.place, "model": last.plan["model"]}
                found.append(
                    Retirement(**about, what=end.what, date=end.day, days_left=left, advice=_advice(run.id, last))
                )
    return tuple(sorted(found, key=lambda one: one.date))


def _ends(attempt: AttemptRow) -> tuple[Ending, ...]:
    try:
        place = provider(split_place(attempt.place)[0])
    except AnyDPOError:  # a provider that is not installed any more
        return ()
    return place.ends(attempt.plan["model"]) if isinstance(place, KnowsEnds) else ()


def _advice(run: str, attempt: AttemptRow) -> str:
    _, route = split_place(attempt.place)
    can = provider(split_place(attempt.place)[0]).capabilities.get(route or "")
    elsewhere = f"`anydpo migrate {run} -p PLACE` writes the same job for another place"
    return f"`anydpo fetch {run} -o DIR` keeps its weights; {elsewhere}" if can and can.weights else elsewhere
