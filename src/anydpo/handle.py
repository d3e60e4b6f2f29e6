"""`Run`, a handle on one request, and the verbs that make and find runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from anydpo.dispatch import Dispatch
from anydpo.errors import ProviderMissing
from anydpo.home import home
from anydpo.job import PreferenceJob
from anydpo.journal import journal_of
from anydpo.plan import Prepared, prepare
from anydpo.provider import CanSample, Event
from anydpo.result import Artifact, Result, Sample, State
from anydpo.spend import hold_to
from anydpo.tracking import EventSink, Sinks


class Run:
    """One user request: it can be watched, awaited, stopped and fetched from any process, at any time."""

    def __init__(self, id: str, *, created: bool = False, remaining: tuple[str, ...] = ()) -> None:  # noqa: A002
        """Find the run of this id, of the beginning of one, or of this name."""
        self._dispatch = Dispatch(journal_of(home()))
        self.id, self.created, self.remaining = self._dispatch.journal.run(id).id, created, remaining
        self._sinks = Sinks()

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {self.place}, {self.state})"

    @property
    def state(self) -> State:
        """Where the run stood when it was last looked at."""
        return self._dispatch.journal.run(self.id).state

    @property
    def place(self) -> str:
        """Where it runs, as `provider[/route]`."""
        attempts = self._dispatch.journal.attempts(self.id)
        return attempts[-1].place if attempts else self._dispatch.journal.run(self.id).place

    @property
    def provider_job_id(self) -> str | None:
        """What the provider calls the run's latest job, None where none is known."""
        attempts = self._dispatch.journal.attempts(self.id)
        return attempts[-1].provider_job_id if attempts else None

    def refresh(self) -> State:
        """Ask the provider once and return where the run stands."""
        return self._dispatch.refresh(self.id)

    def watch(self) -> Iterator[Event]:
        """Yield every event from the beginning until the run ends or pauses, taking the steps that are due."""
        return self._told(self._dispatch.watch(self.id))

    def track(self, *sinks: EventSink) -> Run:
        """Tell these sinks of what `watch` and `wait` see of this run, and return it; a failing one is a warning."""
        self._sinks.add(sinks)
        return self

    def events(self) -> Iterator[Event]:
        """Yield what has happened so far, without waiting for more."""
        return self._dispatch.events(self.id)

    def wait(self, timeout: float | None = None) -> Result:
        """Return the result when the run has ended or paused; raises `TimeoutError` after `timeout` seconds."""
        for _ in self._told(self._dispatch.watch(self.id, timeout=timeout)):
            pass
        return self.result()

    def result(self) -> Result:
        """Return what is known now, in the one format."""
        found = self._dispatch.result(self.id)
        notices = self._sinks.notices
        return found.model_copy(update={"warnings": (*found.warnings, *notices)}) if notices else found

    def cancel(self) -> None:
        """Ask the run to stop."""
        self._dispatch.cancel(self.id)

    def resume(self) -> None:
        """Let an interrupted run go on from its last checkpoint, or from the step that nobody has taken."""
        self._dispatch.resume(self.id)

    def fetch(self, folder: str | Path, checkpoint: int | None = None) -> tuple[Artifact, ...]:
        """Bring the trained weights, or those of a checkpoint's step, into a folder."""
        provider, ref = self._dispatch.live_ref(self.id)
        return provider.fetch(ref, Path(folder), checkpoint)

    def sample(
        self, prompts: Sequence[str], *, max_tokens: int = 256, temperature: float = 1.0, seed: int = 0
    ) -> tuple[Sample, ...]:
        """Return what the models before and after training write for these prompts."""
        provider, ref = self._dispatch.live_ref(self.id)
        if not isinstance(provider, CanSample):
            raise ProviderMissing("cannot write samples", provider=provider.name)
        messages = tuple(({"role": "user", "content": prompt},) for prompt in prompts)
        return provider.sample(ref, messages, max_tokens=max_tokens, temperature=temperature, seed=seed)

    def _told(self, events: Iterator[Event]) -> Iterator[Event]:
        return self._sinks.told(self, events) if self._sinks else events

    def _repr_html_(self) -> str:
        return self.result()._repr_html_()


@overload
def submit(
    job: PreferenceJob,
    place: str,
    *,
    again: bool = ...,
    resubmit: bool = ...,
    adopt: str | None = ...,
    max_cost_usd: float | None = ...,
    allow_unknown_price: bool = ...,
) -> Run: ...
@overload
def submit(
    job: PreferenceJob,
    place: list[str] | tuple[str, ...],
    *,
    again: bool = ...,
    resubmit: bool = ...,
    adopt: str | None = ...,
    max_cost_usd: float | None = ...,
    allow_unknown_price: bool = ...,
) -> list[Run]: ...
def submit(
    job: PreferenceJob,
    place: str | list[str] | tuple[str, ...],
    *,
    again: bool = False,
    resubmit: bool = False,
    adopt: str | None = None,
    max_cost_usd: float | None = None,
    allow_unknown_price: bool = False,
) -> Run | list[Run]:
    """Send the job to a place, or to each of several, and return its run; the same job again is the same run.

    `again` makes a new attempt of a run that has ended; of one whose outcome is unknown, `resubmit` makes a new
    attempt and `adopt` takes the provider's job of that id. Nothing is sent where all of it together may cost more
    than `max_cost_usd`, or where a price is not known, unless that is allowed.
    """
    places = [place] if isinstance(place, str) else list(place)
    prepared = [prepare(job, one).or_raise() for one in places]
    made = send(
        prepared,
        again=again,
        resubmit=resubmit,
        adopt=adopt,
        max_cost_usd=max_cost_usd,
        allow_unknown_price=allow_unknown_price,
    )
    return made[0] if isinstance(place, str) else made


def send(
    prepared: Sequence[Prepared],
    *,
    again: bool = False,
    resubmit: bool = False,
    adopt: str | None = None,
    max_cost_usd: float | None = None,
    allow_unknown_price: bool = False,
) -> list[Run]:
    """Send jobs that are planned already; all of them, or none where the cap forbids."""
    dispatch = Dispatch(journal_of(home()))
    new = [one for one in prepared if adopt is None and dispatch.would_send(one, again=again, resubmit=resubmit)]
    hold_to(max_cost_usd, new, allow_unknown_price=allow_unknown_price)
    made = []
    for one in prepared:
        done = dispatch.submit(one, again=again, resubmit=resubmit, adopt=adopt)
        made.append(Run(done.run, created=done.created, remaining=done.remaining))
    return made


def run(job: PreferenceJob, place: str = "local", *, again: bool = False, track: Sequence[EventSink] = ()) -> Result:
    """Send the job, wait until it has ended, and return its result; a failed run has a result too."""
    return submit(job, place, again=again).track(*track).wait()


def runs() -> list[Run]:
    """Return every run of this home folder, the newest first."""
    return [Run(row.id) for row in journal_of(home()).runs()]


def sample(
    runs: Run | Sequence[Run],
    prompts: Sequence[str],
    *,
    max_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[tuple[Sample, ...]]:
    """Return the samples of each run for the same prompts."""
    each = [runs] if isinstance(runs, Run) else runs
    return [one.sample(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed) for one in each]
