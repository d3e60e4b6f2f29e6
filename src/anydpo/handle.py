"""`Run`, a handle on one request, and the verbs that make and find runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from anydpo.chain import Chain, Terms, chain_of
from anydpo.dispatch import Dispatch
from anydpo.errors import AnyDPOError, Invalid, JournalError, ProviderMissing
from anydpo.fanout import at_once
from anydpo.home import home
from anydpo.job import PreferenceJob
from anydpo.journal import journal_of
from anydpo.measured import keep_samples
from anydpo.plan import Prepared, prepare_all
from anydpo.provider import CanSample, Event
from anydpo.result import Artifact, Attempt, Result, Sample, State
from anydpo.spend import hold_to
from anydpo.tracking import EventSink, Sinks

if TYPE_CHECKING:
    from anydpo.weights import Form


class How(TypedDict, total=False):
    """How a job is sent; see `submit`."""

    again: bool
    resubmit: bool
    adopt: str | None
    max_cost_usd: float | None
    allow_unknown_price: bool
    max_wait: float | None
    on_safety: bool


class Run:
    """One user request: it can be watched, awaited, stopped and fetched from any process, at any time."""

    def __init__(
        self,
        id: str,  # noqa: A002
        *,
        created: bool = False,
        remaining: tuple[str, ...] = (),
        error: AnyDPOError | None = None,
    ) -> None:
        """Find the run of this id, of the beginning of one, or of this name.

        `error` is what its submission met, where it was one of several.
        """
        self._dispatch = Dispatch(journal_of(home()))
        self.id, self.created, self.remaining = self._dispatch.journal.run(id).id, created, remaining
        self._sinks = Sinks()
        self.error = error

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

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every place that was tried so far, with what went wrong there."""
        return self._dispatch.attempts(self.id)

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

    def known(self) -> Result:
        """Return what the journal alone knows now, for when the provider cannot be asked."""
        return self._dispatch.known(self.id)

    def cancel(self) -> None:
        """Ask the run to stop."""
        self._dispatch.cancel(self.id)

    def resume(self) -> None:
        """Let an interrupted run go on from its last checkpoint, or from the step that nobody has taken."""
        self._dispatch.resume(self.id)

    def fetch(
        self, folder: str | Path, checkpoint: int | None = None, form: Form | None = None
    ) -> tuple[Artifact, ...]:
        """Bring the trained weights, or those of a checkpoint's step, into a new folder.

        `form` is adapter or merged: the adapter alone, or a whole model; without it they come as the place gives them.
        Raises `JobInvalid` where there is no adapter.
        """
        provider, ref = self._dispatch.live_ref(self.id)
        if form is None:
            return provider.fetch(ref, Path(folder), checkpoint)
        from anydpo.weights import bring

        return bring(provider, ref, Path(folder), checkpoint, form, self.result())

    def sample(
        self, prompts: Sequence[str], *, max_tokens: int = 256, temperature: float = 1.0, seed: int = 0
    ) -> tuple[Sample, ...]:
        """Return what the models before and after training write for these prompts; it is kept with the run."""
        provider, ref = self._dispatch.live_ref(self.id)
        if not isinstance(provider, CanSample):
            raise ProviderMissing("cannot write samples", provider=provider.name)
        messages = tuple(({"role": "user", "content": prompt},) for prompt in prompts)
        made = provider.sample(ref, messages, max_tokens=max_tokens, temperature=temperature, seed=seed)
        keep_samples(self._dispatch.journal.home, self.id, ref.id, made)
        return made

    def _told(self, events: Iterator[Event]) -> Iterator[Event]:
        return self._sinks.told(self, events) if self._sinks else events

    def _repr_html_(self) -> str:
        return self.result()._repr_html_()


@overload
def submit(job: PreferenceJob, place: str, **how: Unpack[How]) -> Run: ...
@overload
def submit(job: PreferenceJob, place: list[str] | tuple[str, ...], **how: Unpack[How]) -> list[Run]: ...
@overload
def submit(job: PreferenceJob, place: str | None = ..., *, fallback: Sequence[str], **how: Unpack[How]) -> Run: ...
def submit(
    job: PreferenceJob,
    place: str | list[str] | tuple[str, ...] | None = None,
    *,
    fallback: Sequence[str] = (),
    **how: Unpack[How],
) -> Run | list[Run]:
    """Send the job to a place, or to each of several at once, and return its run; the same job again is the same run.

    `fallback` names places to go on with, in order, where one says no for its own reasons: `max_wait` is how many
    seconds one may keep the run waiting, `on_safety` lets a safety screening count. `again` makes a new attempt of a
    run that has ended; of one whose outcome is unknown, `resubmit` makes a new attempt and `adopt` takes the
    provider's job of that id. Nothing is sent where all of it together may cost more than `max_cost_usd`, or where a
    price is not known, unless that is allowed. Of several places, what goes wrong at one is its run's `error`.
    """
    sending: dict[str, Any] = dict(how)
    going = {name: sending.pop(name) for name in ("max_wait", "on_safety") if name in sending}
    made = send(requests(job, place, fallback, **going), **sending)
    return made if isinstance(place, (list, tuple)) else made[0]


def requests(
    job: PreferenceJob,
    place: str | Sequence[str] | None,
    fallback: Sequence[str] = (),
    *,
    max_wait: float | None = None,
    on_safety: bool = False,
) -> list[Prepared | Chain]:
    """Return what there is to send: a request for each place, or one for all of them in order. Sends nothing."""
    places = [place] if isinstance(place, str) else list(place or ())
    if not fallback:
        if not places:
            raise Invalid("no place was named", hint="one of `anydpo providers`, such as local")
        return [one.or_raise() for one in prepare_all(job, places)]
    if isinstance(fallback, str) or len(places) > 1:
        raise Invalid("a fallback is a list of places, after at most one first place", hint='fallback=["a", "b"]')
    order = [*places, *fallback]
    if len(order) == 1:
        return requests(job, order)
    return [chain_of(job, order, Terms(max_wait=max_wait, on_safety=on_safety)).or_raise()]


def send(
    prepared: Sequence[Prepared | Chain],
    *,
    again: bool = False,
    resubmit: bool = False,
    adopt: str | None = None,
    max_cost_usd: float | None = None,
    allow_unknown_price: bool = False,
) -> list[Run]:
    """Send jobs that are planned already, several at once; all of them, or none where the cap forbids.

    Raises what goes wrong with a single one; of several, each run has its own `error`.
    """
    dispatch = Dispatch(journal_of(home()))
    new = [one for one in prepared if adopt is None and dispatch.would_send(one, again=again, resubmit=resubmit)]
    capped = dict(zip(map(id, new), hold_to(max_cost_usd, new, allow_unknown_price=allow_unknown_price), strict=True))
    ready = [capped.get(id(one), one) for one in prepared]

    def one_of(request: Prepared | Chain) -> Run:
        done = dispatch.submit(request, again=again, resubmit=resubmit, adopt=adopt)
        return Run(done.run, created=done.created, remaining=done.remaining)

    if len(ready) == 1:
        return [one_of(ready[0])]
    dispatch.announce(ready, "fan-out")
    made = at_once([partial(one_of, request) for request in ready])
    return [_or_error(request, found) for request, found in zip(ready, made, strict=True)]


def _or_error(request: Prepared | Chain, found: Run | Exception) -> Run:
    if isinstance(found, Run):
        return found
    if not isinstance(found, AnyDPOError) or isinstance(found, JournalError):
        raise found
    return Run(request.run_id, error=found)


def watch_all(runs: Sequence[Run]) -> Iterator[tuple[Run, Event | AnyDPOError]]:
    """Yield (run, event) of several runs as it happens, until all have ended or paused, each asked at its own pace.

    An error ends the watch of its run alone, and is yielded in an event's place.
    """
    by_id = {one.id: one for one in runs}
    for run in runs:
        yield from ((run, event) for event in run._sinks.begin(run))
    for name, event in Dispatch(journal_of(home())).watch_all(list(by_id)):
        run = by_id[name]
        if isinstance(event, Event):
            yield from ((run, said) for said in run._sinks.event(run, event))
        yield run, event
    for run in runs:
        if run.error is None:
            yield from ((run, event) for event in run._sinks.end(run))


def run(job: PreferenceJob, place: str = "local", *, again: bool = False, track: Sequence[EventSink] = ()) -> Result:
    """Send the job, wait until it has ended, and return its result; a failed run has a result too."""
    return submit(job, place, again=again).track(*track).wait()


def find(names: Sequence[str]) -> list[Run]:
    """Return the runs that these name: each an id, the beginning of one, a name, or what several runs have in common.

    Runs that were asked for together are found by their group's id, and by a name that only they have.
    """
    journal = journal_of(home())
    rows = journal.runs()
    found: dict[str, Run] = {}
    for name in names:
        grouped = [row for row in rows if row.group is not None and name in (row.group, row.name)]
        named = [row for row in rows if row.name == name]
        together = len({row.group for row in grouped}) == 1 and len(grouped) >= len(named)
        for one in [row.id for row in reversed(grouped)] if together else [journal.run(name).id]:
            found.setdefault(one, Run(one))
    return list(found.values())


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
