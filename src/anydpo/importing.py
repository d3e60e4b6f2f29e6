"""`import_run`: a job that another tool made, as a run of ours that can be watched, compared and migrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anydpo.clock import Reads, SystemClock
from anydpo.errors import Invalid, ProviderMissing
from anydpo.handle import Run
from anydpo.home import home
from anydpo.identity import imported_id
from anydpo.journal import Journal, journal_of
from anydpo.provider import CanImport, CanTake, Described, JobRef, Plan, Provider
from anydpo.records import AttemptRow, RunRow
from anydpo.registry import installed, provider, split_place
from anydpo.result import State
from anydpo.secrets import masked


def import_run(source: str | Path) -> Run:
    """Return the run of a provider's job, `PLACE:JOB_ID`, or of a folder that another trainer has left.

    A job that the journal knows already is the run that it is. Nothing is changed at the provider. Raises what the
    provider says if it has no such job, and `DataInvalid` for a folder in which no trainer has worked.
    """
    place, ref = _job_of(source)
    journal, reads = journal_of(home()), Reads(SystemClock())
    if (known := _known(journal, place, ref)) is not None:
        return known
    if not isinstance(place, CanImport):
        raise ProviderMissing("cannot tell of jobs that others made", provider=place.name)
    found = reads(lambda: place.describe(ref))
    ref = JobRef(id=found.id or ref.id, place=found.place or ref.place)
    if (known := _known(journal, place, ref)) is not None:
        return known
    made = Run(_record(journal, place, ref, found), created=True)
    made.refresh()
    return made


def _known(journal: Journal, place: Provider, ref: JobRef) -> Run | None:
    known = [one.run for one in journal.of_job(ref.id) if split_place(one.place)[0] == place.name]
    return Run(known[0]) if known else None


def _job_of(source: str | Path) -> tuple[Provider, JobRef]:
    if Path(source).is_dir():
        place = provider("local")
        assert isinstance(place, CanTake)
        return place, place.take(Path(source))
    name, colon, job = str(source).partition(":")
    if not colon or not job:
        known = ", ".join(installed())
        raise Invalid(
            f"{source}: is neither a folder nor PLACE:JOB_ID",
            hint=f"such as openai:ftjob-abc, or a folder that TRL left; places: {known}",
        )
    return provider(split_place(name)[0]), JobRef(id=job, place=name)


def _record(journal: Journal, place: Provider, ref: JobRef, found: Described) -> str:
    """Write down a run whose job was made elsewhere; its key is none that we would give to a job."""
    run = imported_id(place.name, found.target, ref.id)
    now = SystemClock().now()
    job: dict[str, Any] = masked(dict(found.job))
    warnings = tuple(f"{name}: {why}" for name, why in found.lost.items())
    plan = Plan(
        place=ref.place,
        route_reason="imported: another tool made this job",
        target=found.target,
        model=job.get("model"),
        format="",
        warnings=warnings,
        sandbox=found.sandbox,
    )
    with journal.acting(run):
        if journal.known(run) is None:
            row = RunRow(
                id=run,
                created=found.created or now,
                name=found.name,
                place=ref.place,
                target=found.target,
                job=job,
                fingerprint="",
                data={},
                state=State.QUEUED,
            )
            journal.add_run(row)
            journal.add_attempt(
                AttemptRow(
                    id=f"{run}.1.dpo",
                    key=f"imported-{run}",
                    run=run,
                    number=1,
                    stage="dpo",
                    place=ref.place,
                    plan=plan.model_dump(mode="json"),
                    created=now,
                    phase="submitted",
                    provider_job_id=ref.id,
                    state=State.QUEUED,
                    submitted=found.created,
                )
            )
    return run
