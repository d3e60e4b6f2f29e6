"""`import` and `migrate`: jobs of other tools as runs, and runs as jobs for other places."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydpo.cli import output
from anydpo.cli.following import show_result
from anydpo.cli.options import JSON, number_or_text

if TYPE_CHECKING:
    from anydpo.migration import Migration


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(name="import")(import_)
    app.command()(migrate)


def import_(
    sources: Annotated[
        list[str], typer.Argument(metavar="PLACE:JOB_ID|DIR", help="A provider's job, or a folder that TRL left.")
    ],
    as_json: JSON = False,
) -> None:
    """Take jobs that other tools made as runs, so that they can be shown, compared and migrated."""
    from anydpo.importing import import_run

    made = [import_run(source) for source in sources]
    results = [one.result() for one in made]
    if as_json:
        from anydpo.cli.documents import Imported, ImportedRun

        runs = (
            ImportedRun(run=run.id, created=run.created, result=result)
            for run, result in zip(made, results, strict=True)
        )
        output.emit(Imported(runs=tuple(runs)))
        return
    for run, result in zip(made, results, strict=True):
        show_result(result)
        if not run.created:
            output.say(f"{run.id} was there already")
    names = " ".join(run.id for run in made)
    output.say(f"next: anydpo show {names.split()[0]}; anydpo compare {names}; anydpo migrate RUN -p PLACE")


def migrate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it, or its name.")],
    place: Annotated[str, typer.Option("--place", "-p", metavar="PLACE", help="Where it should go.")],
    data: Annotated[str | None, typer.Option(help="The pairs, where the run's own are not here.")] = None,
    validation: Annotated[str | None, typer.Option(help="A share or a file, with --data.")] = None,
    to: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="[RUN-PLACE.toml]")] = None,
    as_json: JSON = False,
) -> None:
    """Write a run's job for another place and say what changes; nothing is sent."""
    from anydpo.migration import migrate as made_ready

    held_out = number_or_text(validation) if validation is not None else None
    found = made_ready(run, place, data=data, validation=held_out)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{found.name or found.run}-{place}")
    found = found.save(to or Path(f"{name}.toml"))
    if as_json:
        output.emit(found)
    else:
        _show(found)
    if not found.ready:
        raise typer.Exit(2)


def _show(found: Migration) -> None:
    rows = [
        (change.kind, change.field, shown(change.before), shown(change.after), change.reason or "")
        for change in found.changes
    ]
    output.table(("", "field", found.before, found.place, "why"), rows)
    for warning in found.warnings:
        output.say(f"note: {warning}")
    for problem in found.problems:
        hint = f" ({problem['hint']})" if problem["hint"] else ""
        output.say(f"problem: {problem['field']}: {problem['message']}{hint}")
    output.say(f"wrote {found.path}; nothing was sent")
    output.say(f"next: anydpo check {found.path} -p {found.place}")


def shown(value: Any) -> str:
    """Return a value as a cell of a table."""
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
