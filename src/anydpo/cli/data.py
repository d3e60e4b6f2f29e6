"""`lint` and `convert`: preference files, before anybody is paid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydpo.cli import output
from anydpo.cli.options import JSON
from anydpo.errors import JobInvalid

if TYPE_CHECKING:
    from anydpo.data.dataset import PreferenceDataset
    from anydpo.data.mapping import ColumnMapping

Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Files, folders or globs; .gz and .zst too.")]
Format = Annotated[str | None, typer.Option("--format", metavar="F", help="The dialect; default: detected.")]
MANY = 20_000  # rows from which the first skipped one is shown before the checks begin
MappingFile = Annotated[
    Path | None, typer.Option("--mapping", metavar="FILE", help="TOML that says what columns and labels mean.")
]
Map = Annotated[
    list[str] | None, typer.Option("--map", metavar="K=COL", help="One column of the mapping; may be repeated.")
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(lint)
    app.command()(convert)


def lint(
    files: Files,
    format: Format = None,  # noqa: A002
    mapping: MappingFile = None,
    columns: Map = None,
    places: Annotated[
        str | None, typer.Option("--place", "-p", metavar="PLACE,…", help="Also what they accept; a format's name too.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="M", help="Count tokens as this model does.")] = None,
    max_length: Annotated[int | None, typer.Option(metavar="N", help="Tokens a pair may have.")] = None,
    against: Annotated[
        list[str] | None, typer.Option(metavar="FILE…", help="Data whose prompts must not stand here; may be repeated.")
    ] = None,
    fix_to: Annotated[
        Path | None, typer.Option("--fix", metavar="OUT", help="Write a cleaned copy, and a list of what was left out.")
    ] = None,
    page: Annotated[Path | None, typer.Option("-o", "--output", metavar="PAGE.html", help="Write a page.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings and skipped rows are errors too.")] = False,
    as_json: JSON = False,
) -> None:
    """Detect the dialect, read every row, and say what is wrong, row by row."""
    from anydpo.data.clean import fix
    from anydpo.data.read import read

    if max_length is not None and model is None:
        raise JobInvalid("--max-length counts tokens and needs --model", hint="--model gpt-4.1, qwen3-8b or a folder")
    found = read(files, format, mapped(columns, mapping))
    if found.skipped_rows and found.rows > MANY:  # the checks take their time; what is wrong is known already
        output.say("skipped {}:{}: {}: {}".format(*found.skipped_rows[0]))
    report = found.lint(
        tuple(filter(None, (places or "").split(","))),
        model=model,
        max_length=max_length,
        against=_other(against, mapped(columns, mapping)) if against else None,
    )
    cleaned = fix(report, fix_to) if fix_to is not None else None
    if page is not None:
        report.save(page)
    if as_json:
        from anydpo.cli.documents import Linted

        said: dict[str, Any] = {**report.to_dict(), **({"fix": cleaned.to_dict()} if cleaned else {})}
        output.emit(Linted(**said))
    else:
        report.print()
    if cleaned is not None:
        for sentence in cleaned.sentences():
            output.say(sentence)
    if page is not None:
        output.say(f"{page}: written")
    if report.errors or (strict and (report.warnings or report.skipped)):
        raise typer.Exit(2)


def convert(
    files: Files,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="The dialect to write.")],
    target: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Where; .gz and .zst compress.")],
    validation: Annotated[
        float | None, typer.Option(help="A share to hold out, split by prompt, in a second file.")
    ] = None,
    format: Format = None,  # noqa: A002
    mapping: MappingFile = None,
    columns: Map = None,
    seed: Annotated[int, typer.Option(help="Decides the split.")] = 0,
    as_json: JSON = False,
) -> None:
    """Write pairs from any dialect in any other; says what is lost before it is lost."""
    from collections import Counter

    from anydpo.data.read import read
    from anydpo.data.write import write, writer_of

    writer_of(to)  # an unknown name is told before anything is read
    pairs = read(files, format, mapped(columns, mapping))
    parts = [(pairs, target)]
    if validation is not None:
        if not 0 < validation < 1:
            raise JobInvalid(f"--validation is {validation}, expected a share between 0 and 1")
        train, held_out = pairs.split(validation, seed)
        parts = [(train, target), (held_out, _beside(target, "validation"))]
    with output.warnings_said():
        written = [write(part, path, to) for part, path in parts]
    for row in pairs.skipped_rows[:10]:
        output.say(f"skipped {row.file}:{row.line}: {row.reason}: {row.detail}")
    if as_json:
        from anydpo.cli.documents import Converted, WrittenFile

        files_made = tuple(
            WrittenFile(path=str(w.path), pairs=w.pairs, bytes=w.bytes, sha256=w.sha256, notes=w.notes) for w in written
        )
        lost = sum((Counter(w.lost) for w in written), Counter[str]())
        output.emit(
            Converted(format=to, files=files_made, skipped=pairs.skipped, lost=lost, fingerprint=pairs.fingerprint)
        )
        return
    for one in written:
        output.out(f"{one.path}: {one.pairs:,} pairs, {one.bytes:,} bytes")
        for note in one.notes:
            output.say(f"note: {note}")
    if skipped := sum(pairs.skipped.values()):
        output.say(f"{skipped:,} of {pairs.rows:,} rows were skipped; `anydpo lint` names each")


def _other(files: list[str], mapping: ColumnMapping | None) -> PreferenceDataset:
    """Read the data held against these; a mapping is for tables, and other files need none."""
    from anydpo.data.dataset import PreferenceDataset
    from anydpo.data.read import load

    tables = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
    return PreferenceDataset.chain(load(name, mapping=mapping if name.endswith(tables) else None) for name in files)


def mapped(columns: list[str] | None, mapping: Path | None) -> ColumnMapping | None:
    """Return what `--map` and `--mapping` say together, None where they say nothing."""
    from anydpo.data.mapping import ColumnMapping

    return ColumnMapping.from_words(columns or (), mapping)


def _beside(path: Path, word: str) -> Path:
    suffixes = "".join(path.suffixes[-2:]) if path.suffix in (".gz", ".zst") else path.suffix
    return path.with_name(f"{path.name.removesuffix(suffixes)}.{word}{suffixes}")
