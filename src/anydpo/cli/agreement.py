"""`agreement`: whether a delivery of judgements is accepted or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anydpo.cli import output
from anydpo.cli.data import Files, Format, Map, MappingFile, mapped
from anydpo.cli.options import JSON


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(agreement)


def agreement(
    files: Files,
    format: Format = None,  # noqa: A002
    mapping: MappingFile = None,
    columns: Map = None,
    by: Annotated[
        str | None, typer.Option(metavar="annotator,…", help="Also within each: annotator, batch, model.")
    ] = None,
    gold: Annotated[Path | None, typer.Option(metavar="FILE", help="Items with a known right answer.")] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar='"NAME>=N"', help="A condition such as krippendorff>=0.6; a failed one exits 2."),
    ] = None,
    rework: Annotated[
        Path | None, typer.Option(metavar="OUT.csv", help="Write the tasks to redo, by whom and why.")
    ] = None,
    page: Annotated[Path | None, typer.Option("-o", "--output", metavar="PAGE.html", help="Write a page.")] = None,
    as_json: JSON = False,
) -> None:
    """Accept or refuse a delivery: how far annotators agree, with each other, with gold, with themselves."""
    from anydpo.data.accept import requirements, write_rework
    from anydpo.data.agreement import agreement as judged_by
    from anydpo.data.agreement import groups_named
    from anydpo.data.gold import read_gold
    from anydpo.data.read import read
    from anydpo.report.agreement import document
    from anydpo.report.page import save
    from anydpo.report.terminal import show

    groups = groups_named(by)
    found = read(files, format, mapped(columns, mapping))
    report = judged_by(found.judgments, files=found.files, by=groups, gold=read_gold(gold) if gold else None)
    judged = requirements(report, require or [])
    shown = document(report, judged)
    redo = write_rework(report, rework) if rework is not None else None
    if page is not None:
        save(shown, page)
    if as_json:
        from anydpo.cli.documents import Agreed

        said: dict[str, Any] = {
            **report.to_dict(),
            "format": found.format,
            "skipped": found.skipped,
            "requirements": [{"require": r.text, "value": r.value, "ok": r.ok} for r in judged],
        }
        if redo is not None:
            said["rework"] = redo
        output.emit(Agreed(**said))
    else:
        show(shown)
    if redo is not None:
        tasks = ", ".join(f"{count:,} {reason}" for reason, count in redo.items()) or "nothing to redo"
        output.say(f"{rework}: {tasks}")
    if page is not None:
        output.say(f"{page}: written")
    if report.errors or not all(r.ok for r in judged):
        raise typer.Exit(2)
