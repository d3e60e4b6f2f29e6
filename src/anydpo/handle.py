"""`Run`, a handle on one request, and the verbs that make and find runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from anydpo.dispatch import Dispatch
from anydpo.errors import ProviderMissing
from anydpo.home import home
from anydpo.job import PreferenceJob
from anydpo.journal import Journal
from anydpo.plan import prepare
from anydpo.provider import CanSample, Event
from anydpo.result import Artifact, Result, Sample, State


class Run:
    """One user request: it can be watched, awaited, stopped and fetched from any process, at any time."""

    def __init__(self, id: str, *, created: bool = False) -> None:  # noqa: A002
        """Find the run of this id, of the beginning of one, or of this name."""
        self._dispatch = Dispatch(Journal(home()))
        self.id, self.created = self._dispatch.journal.run(id).id, created

    def __repr__(self) -> str:
        row = self._dispatch.journal.run(self.id)
        return f"Run({self.id!r}, {row.place}, {row.state})"

    @property
    def state(self) -> State:
        """Where the run stood when it was last looked at."""
        return self._dispatch.journal.run(self.id).state

    @property
    def place(self) -> str:
        """Where it runs, as `provider[/route]`."""
        return self._dispatch.journal.run(self.id).place

    def refresh(self) -> State:
        """Ask the provider once and return where the run stands."""
        return self._dispatch.refresh(self.id)

    def watch(self) -> Iterator[Event]:
        """Yield every event from the beginning until the run ends or pauses."""
        return self._dispatch.watch(self.id)

    def events(self) -> Iterator[Event]:
        """Yield what has happened so far, without waiting for more."""
        return self._dispatch.events(self.id)

    def wait(self, timeout: float | None = None) -> Result:
        """Return the result when the run has ended or paused; raises `TimeoutError` after `timeout` seconds."""
        clock = self._dispatch.clock
        deadline = None if timeout is None else clock.now() + timeout
        for _ in self.watch():
            if deadline is not None and clock.now() > deadline:
                raise TimeoutError(f"run {self.id} is still {self.state} after {timeout:g} s; it goes on")
        return self.result()

    def result(self) -> Result:
        """Return what is known now, in the one format."""
        return self._dispatch.result(self.id)

    def cancel(self) -> None:
        """Ask the run to stop."""
        self._dispatch.cancel(self.id)

    def resume(self) -> None:
        """Let an interrupted run go on from its last checkpoint."""
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

    def _repr_html_(self) -> str:
        return self.result()._repr_html_()


@overload
def submit(job: PreferenceJob, place: str, *, again: bool = False) -> Run: ...
@overload
def submit(job: PreferenceJob, place: list[str] | tuple[str, ...], *, again: bool = False) -> list[Run]: ...
def submit(job: PreferenceJob, place: str | list[str] | tuple[str, ...], *, again: bool = False) -> Run | list[Run]:
    """Send the job to a place, or to each of several, and return its run; the same job again is the same run."""
    if not isinstance(place, str):
        return [submit(job, one, again=again) for one in place]
    run, created = Dispatch(Journal(home())).submit(prepare(job, place), again=again)
    return Run(run, created=created)


def run(job: PreferenceJob, place: str = "local", *, again: bool = False) -> Result:
    """Send the job, wait until it has ended, and return its result; a failed run has a result too."""
    return submit(job, place, again=again).wait()


def runs() -> list[Run]:
    """Return every run of this home folder, the newest first."""
    return [Run(row.id) for row in Journal(home()).runs()]


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
