"""From any source to a `PreferenceDataset`: find the files, detect the dialect, read every row once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias

from anydpo.data import (  # noqa: F401 - each registers its dialects
    annotation,
    axolotl,
    bedrock,
    hh,
    llamafactory,
    openai,
    pairwise,
    ratings,
    scored,
    thumbs,
    trl,
    vendor,
)
from anydpo.data.dataset import Names, PreferenceDataset, forms_of
from anydpo.data.dialect import DIALECTS, Dialect, closest, detect
from anydpo.data.judgment import Judgment
from anydpo.data.mapping import ColumnMapping
from anydpo.data.policy import Options, Policy
from anydpo.data.reading import Group, OnBad, Reading, Rows, judgments
from anydpo.data.remote import hub_dataset, is_url, split_of
from anydpo.data.rows import Row
from anydpo.data.scan import Block, Outcome, Step, blocks, changed
from anydpo.data.source import CSV, expand, inner_suffix
from anydpo.data.tables import Table, is_table
from anydpo.errors import DataInvalid

Source: TypeAlias = "str | PathLike[str] | Sequence[str | PathLike[str]] | Iterable[Mapping[str, Any]] | Any"
MappingLike: TypeAlias = "ColumnMapping | Mapping[str, Any] | str | PathLike[str] | None"
PolicyLike: TypeAlias = "Policy | Mapping[str, Any] | None"

SAMPLE = 200  # rows looked at to tell the dialect


def load(
    source: Source,
    format: str | None = None,  # noqa: A002
    mapping: MappingLike = None,
    policy: PolicyLike = None,
    split: str | None = None,
    on_bad: OnBad = "skip",
    *,
    workers: int | None = None,
) -> PreferenceDataset:
    """Read preference data and return it as pairs, with every row that is not one named by file and line.

    `source` is a path, a list of paths, a folder, a glob, `hf://NAME`, an fsspec URL, an iterable of rows, a
    `datasets.Dataset`, a pandas frame or an Arrow table; the dialect is detected unless `format` names it.
    `mapping` (a TOML file or a table) says what the columns of an annotation file mean; `policy` (a table) how
    rankings and votes become pairs, see `Policy`; `split` which split of a hub data set. The source is read once
    here, so that what is wrong is known on return, and again each time the data set is iterated; memory does not
    grow with it, except where rows are grouped. JSON lines above 50 MB are read by `workers` processes (default:
    one a core; 1: this one alone), with the same result. Raises `DataInvalid` for a source that cannot be read, an
    unknown dialect, no pair at all, or, with `on_bad="raise"`, the first bad row.
    """
    dataset = read(source, format, mapping, policy, split, on_bad, workers=workers)
    if not len(dataset):
        raise no_pairs(dataset)
    return dataset


def read(
    source: Source,
    format: str | None = None,  # noqa: A002
    mapping: MappingLike = None,
    policy: PolicyLike = None,
    split: str | None = None,
    on_bad: OnBad = "skip",
    *,
    workers: int | None = None,
) -> PreferenceDataset:
    """Return a data set that may be empty; it is scanned when it is first asked for its length or the like."""
    if format is not None and format not in DIALECTS:
        raise DataInvalid(f"unknown format {format!r}", hint=f"one of {', '.join(sorted(DIALECTS))}")
    if on_bad not in ("skip", "raise"):
        raise DataInvalid(f"on_bad is {on_bad!r}", hint="skip or raise")
    columns = ColumnMapping.of(mapping)
    said = Policy.of(policy) if policy is None or isinstance(policy, Policy) else dict(policy)
    if columns is not None and columns.policy and not isinstance(said, Policy):
        said = {**columns.policy, **said}
    elif columns is not None and policy is None:
        said = columns.policy
    options = Options(Policy.of(said), columns)
    readings = [_reading(name, rows, format, options) for name, rows in _inputs(source, split, options)]
    names = list(dict.fromkeys(reading.format for reading in readings))
    parts = _parts(readings)
    return PreferenceDataset(
        lambda: itertools.chain.from_iterable(part.outcomes(on_bad) for part in parts),
        format=names[0] if len(names) == 1 else "+".join(names),
        files=tuple(reading.name for reading in readings),
        judgments=lambda: itertools.chain.from_iterable(map(_judgments, parts)),
        blocks=lambda forms, steps: _blocks(parts, on_bad, forms, steps, workers),
    )


def _parts(readings: list[Reading]) -> list[Reading | Group]:
    """Put together, where the first of them stands, the files of each dialect that groups rows."""
    parts: dict[str, Reading | Group] = {}
    for reading in readings:
        if reading.dialect.grouped:
            same = [other for other in readings if other.dialect is reading.dialect]
            parts.setdefault(f"grouped {reading.format}", Group(same))
        else:
            parts[f"{len(parts)} {reading.name}"] = reading
    return list(parts.values())


def _judgments(part: Reading | Group) -> Iterator[Judgment]:
    if isinstance(part, Group):
        return part.judgments()
    return judgments(part) if part.dialect.item is not None else iter(())


def _blocks(
    parts: list[Reading | Group], on_bad: OnBad, forms: Names, steps: tuple[Step, ...], workers: int | None
) -> Iterator[Block]:
    from anydpo.data.parallel import parallel_blocks, workers_for

    for part in parts:
        if isinstance(part, Reading) and workers != 1 and (count := workers_for(part, workers)) > 1:
            yield from parallel_blocks(part, on_bad, forms, steps, count)
        else:
            outcomes: Iterable[Outcome] = part.outcomes(on_bad)
            yield from blocks(changed(outcomes, steps), forms_of(forms))


def no_pairs(dataset: PreferenceDataset) -> DataInvalid:
    """Return the error about a source in which not one row is a pair."""
    first = dataset.skipped_rows[0] if dataset.skipped_rows else None
    reasons = ", ".join(f"{count} {reason}" for reason, count in dataset.skipped.items())
    return DataInvalid(
        f"{', '.join(dataset.files)}: no row of {dataset.rows} is a pair ({reasons})",
        hint=f"the first: {first.file}:{first.line}: {first.reason}: {first.detail}" if first else None,
    )


def _inputs(source: Source, split: str | None, options: Options) -> Iterator[tuple[str, Rows]]:
    if (
        isinstance(source, str)
        and source.startswith("hf://")
        and not source.startswith(("hf://datasets/", "hf://buckets/"))
    ):
        yield source, Rows(Table(hub_dataset(source, split)), options)
        return
    if type(source).__name__ in ("DatasetDict", "IterableDatasetDict"):
        source, split = split_of(source, split, "the data set"), None
    if split is not None:
        raise DataInvalid(f"split is {split!r}, but the source has no splits", hint="it is for hf:// and DatasetDict")
    if is_table(source):
        yield "rows", Rows(Table(source), options)
        return
    if isinstance(source, (str, PathLike)):
        path = source if isinstance(source, str) and is_url(source) else str(source)
        yield from ((str(file), Rows(file, options)) for file in expand(path))
        return
    rows: list[Any] = list(source)
    if rows and all(isinstance(item, (str, PathLike)) for item in rows):
        for item in rows:
            yield from _inputs(item, split, options)
        return
    if not rows:
        raise DataInvalid("no rows: the source is empty")
    yield "rows", Rows(rows, options)


def _reading(name: str, rows: Rows, format: str | None, options: Options) -> Reading:  # noqa: A002
    sample = list(itertools.islice(rows(), SAMPLE))
    if not sample:
        raise DataInvalid(f"{name}: the file is empty")
    dialect, said = (DIALECTS[format], format) if format else _dialect_of(name, rows, sample, options)
    if said == "vendor_csv":
        _check_mapping(name, sample, options)
    return Reading(name, rows, dialect, said, options)


def _check_mapping(name: str, sample: list[Row], options: Options) -> None:
    objects = [row.value for row in sample if isinstance(row.value, dict)]
    if options.mapping is None or not options.mapping.names_columns:
        from anydpo.data.guess import unknown_columns

        raise unknown_columns(name, objects)
    columns = list(dict.fromkeys(str(key) for row in objects for key in row))
    if columns:
        vendor.check_complete(options.mapping, columns, name)


def _dialect_of(name: str, rows: Rows, sample: list[Row], options: Options) -> tuple[Dialect, str]:
    values = [row.value for row in sample if row.error is None]
    if not values:
        raise DataInvalid(f"{name}:{sample[0].line}: parse_error: {sample[0].error}", hint="no row could be parsed")
    is_csv = not isinstance(rows.source, (list, Table)) and inner_suffix(rows.source) in CSV
    found = None if is_csv else detect(values)
    mapped = options.mapping is not None and options.mapping.names_columns
    if found is None and (is_csv or mapped):
        return DIALECTS["vendor_csv"], "vendor_csv"
    if found is None:
        raise _unknown_dialect(name, values)
    if mapped and found.name not in ("label_studio_pairwise", "argilla_records"):
        return DIALECTS["vendor_csv"], "vendor_csv"
    fitting = [row for row in values if isinstance(row, dict) and found.fits(row)]
    variant = found.variant(fitting) if found.variant else None
    return (DIALECTS[variant], variant) if variant else (found, found.name)


def _unknown_dialect(name: str, rows: Sequence[Any]) -> DataInvalid:
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects:
        return DataInvalid(
            f"{name}: the rows are not JSON objects", hint="preference data is one object per line, or an array of them"
        )
    keys = list(dict.fromkeys(str(key) for row in objects for key in row))
    near = closest(keys)
    return DataInvalid(
        f"{name}: unknown dialect; the rows have the keys {', '.join(keys[:20])}",
        hint="closest: " + "; ".join(f"{d.name} ({', '.join(d.keys)})" for d in near)
        if near
        else f"known dialects: {', '.join(sorted(DIALECTS))}",
    )
