"""The same verbs, awaitable: each runs in a thread, so that there is one implementation and one behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import anydpo
from anydpo import handle, spend
from anydpo.comparison import Comparison
from anydpo.data.dataset import PreferenceDataset
from anydpo.evaluation import Evaluated
from anydpo.job import PreferenceJob
from anydpo.migration import Migration
from anydpo.provider import Event, Plan, Quote
from anydpo.result import Artifact, Result, Sample, State
from anydpo.trials import Sweep
from anydpo.weights import Form

T = TypeVar("T")
_END = object()


class Run:
    """`anydpo.Run`, awaitable."""

    def __init__(self, run: handle.Run) -> None:
        self.sync = run

    @property
    def id(self) -> str:
        """The run's short id."""
        return self.sync.id

    @property
    def state(self) -> State:
        """Where the run stood when it was last looked at."""
        return self.sync.state

    async def watch(self) -> AsyncIterator[Event]:
        """Yield every event from the beginning until the run ends or pauses."""
        events = self.sync.watch()
        while (event := await _in_thread(next, events, _END)) is not _END:
            assert isinstance(event, Event)
            yield event

    async def refresh(self) -> State:
        """Ask the provider once and return where the run stands."""
        return await _in_thread(self.sync.refresh)

    async def wait(self, timeout: float | None = None) -> Result:
        """Return the result when the run has ended or paused; raises `TimeoutError` after `timeout` seconds."""
        return await _in_thread(self.sync.wait, timeout)

    async def result(self) -> Result:
        """Return what is known now."""
        return await _in_thread(self.sync.result)

    async def cancel(self) -> None:
        """Ask the run to stop."""
        await _in_thread(self.sync.cancel)

    async def fetch(
        self, folder: str | Path, checkpoint: int | None = None, form: Form | None = None
    ) -> tuple[Artifact, ...]:
        """Bring the trained weights into a folder; see `anydpo.Run.fetch`."""
        return await _in_thread(self.sync.fetch, folder, checkpoint, form)


async def load(source: Any, format: str | None = None, **options: Any) -> PreferenceDataset:  # noqa: A002
    """Read preference data; see `anydpo.load`."""
    return await _in_thread(anydpo.load, source, format, **options)


async def check(job: PreferenceJob, place: str) -> Plan:
    """Return the plan of a job at a place; see `anydpo.check`."""
    return await _in_thread(anydpo.check, job, place)


async def quote(job: PreferenceJob, places: str | Sequence[str]) -> dict[str, Quote | None]:
    """Return place → price; see `anydpo.quote`."""
    return await _in_thread(spend.quote, job, places)


@overload
async def submit(job: PreferenceJob, place: str | None = ..., **options: Any) -> Run: ...
@overload
async def submit(job: PreferenceJob, place: list[str] | tuple[str, ...], **options: Any) -> list[Run]: ...
async def submit(
    job: PreferenceJob, place: str | list[str] | tuple[str, ...] | None = None, **options: Any
) -> Run | list[Run]:
    """Send the job and return its run, or one for each of several places; see `anydpo.submit`."""
    send: Callable[..., handle.Run | list[handle.Run]] = handle.submit
    made = await _in_thread(send, job, place, **options)
    return [Run(one) for one in made] if isinstance(made, list) else Run(made)


async def run(job: PreferenceJob, place: str = "local", *, again: bool = False) -> Result:
    """Send the job, wait, and return its result; see `anydpo.run`."""
    return await _in_thread(handle.run, job, place, again=again)


async def sweep(job: PreferenceJob, place: str = "local", **options: Any) -> Sweep:
    """Run a job with some of its fields varied; see `anydpo.sweep`."""
    return await _in_thread(anydpo.sweep, job, place, **options)


async def import_run(source: str | Path) -> Run:
    """Take a job that another tool made as a run; see `anydpo.import_run`."""
    return Run(await _in_thread(anydpo.import_run, source))


async def migrate(run: Run | str, place: str, **options: Any) -> Migration:
    """Return a run's job for another place; see `anydpo.migrate`."""
    return await _in_thread(anydpo.migrate, run.sync if isinstance(run, Run) else run, place, **options)


async def runs() -> list[Run]:
    """Return every run of this home folder, the newest first."""
    return [Run(one) for one in await _in_thread(handle.runs)]


async def sample(run: Run, prompts: Sequence[str], **options: Any) -> tuple[Sample, ...]:
    """Return what the models before and after training write; see `anydpo.Run.sample`."""
    return await _in_thread(run.sync.sample, prompts, **options)


async def evaluate(runs: Sequence[Run], data: Any, **options: Any) -> Evaluated:
    """Measure runs on the same pairs; see `anydpo.evaluate`."""
    return await _in_thread(anydpo.evaluate, [one.sync for one in runs], data, **options)


async def compare(runs: Sequence[Run | Result]) -> Comparison:
    """Return runs side by side; see `anydpo.compare`."""
    return await _in_thread(anydpo.compare, [one if isinstance(one, Result) else one.sync for one in runs])


async def _in_thread(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    return await asyncio.to_thread(call, *arguments, **options)
