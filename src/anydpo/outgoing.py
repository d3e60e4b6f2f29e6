"""The files of a run, written once under the hash of their content, before anything of it is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import orjson

from anydpo.data.openai import openai_row
from anydpo.data.write import json_line, whole_file, writer_of
from anydpo.errors import DataInvalid
from anydpo.provider import DataFile, Examined

if TYPE_CHECKING:
    from anydpo.plan import Prepared

Name: TypeAlias = Literal["train", "validation", "sft"]
SOURCES = ".sources"


def write_files(prepared: Prepared, home: Path, run: str | None = None) -> list[DataFile]:
    """Write what the plan sends and return each file; beside it stands, line by line, where its rows came from.

    `run` is the run that they are written for, where it is not the plan's own.
    """
    folder = home / "staged"
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[tuple[Name, Iterable[tuple[bytes, str]]]] = [
        ("train", _pair_lines(prepared.train, prepared.plan.format))
    ]
    if prepared.validation is not None:
        parts.append(("validation", _pair_lines(prepared.validation, prepared.plan.format)))
    if prepared.job.sft is not None and prepared.job.sft.data != "chosen":
        own = prepared.plan.format == "canonical"
        parts.append(("sft", _chat_lines(Path(prepared.job.sft.data), meta=own)))
    elif "sft" in prepared.plan.stages:  # a job of its own there, which cannot read the file of pairs
        parts.append(("sft", _chosen_lines(prepared.train)))
    return [_write(folder, f"{run or prepared.run_id}.{name}", name, lines) for name, lines in parts]


def explain(found: Examined, file: DataFile) -> DataInvalid:
    """Return the error about a file that a provider has refused, with the rows as the user knows them."""
    wanted = {finding.line for finding in found.findings if finding.line is not None}
    known = _sources_of(Path(file.path), wanted)
    said = [
        f"{known.get(finding.line or 0, f'line {finding.line} of {file.path}')}: {finding.message}"
        if finding.line is not None
        else finding.message
        for finding in found.findings
    ]
    more = f" (and {len(said) - 5} more)" if len(said) > 5 else ""
    return DataInvalid(
        f"the provider refused the {file.name} file: {'; '.join(said[:5]) or 'no reason was given'}{more}",
        hint="mend these rows and submit again; `anydpo lint -p PLACE` finds most of this before",
    )


def _write(folder: Path, unfinished: str, name: Name, lines: Iterable[tuple[bytes, str]]) -> DataFile:
    digest, size, count = hashlib.sha256(), 0, 0
    written, beside = folder / unfinished, folder / f"{unfinished}{SOURCES}"
    with whole_file(written) as file, whole_file(beside) as sources:
        for line, source in lines:
            file.write(line)
            digest.update(line)
            sources.write(f"{source}\n".encode())
            size += len(line)
            count += 1
    path = folder / f"{digest.hexdigest()[:24]}.{name}.jsonl"
    beside.replace(path.with_name(path.name + SOURCES))
    written.replace(path)
    return DataFile(name=name, path=str(path), sha256=digest.hexdigest(), bytes=size, pairs=count)


def _pair_lines(pairs: Any, format: str) -> Iterator[tuple[bytes, str]]:  # noqa: A002
    if format != "canonical":
        to = writer_of(format)
        yield from ((json_line(to.row(pair)), pair.source) for pair in pairs)
        return
    for pair in pairs:  # our own trainer names the source line of a pair that it has to leave out
        row = {**pair.to_dict(meta=False), "meta": {"source": pair.source}}
        yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE), pair.source


def _chat_lines(path: Path, *, meta: bool) -> Iterator[tuple[bytes, str]]:
    from anydpo.data.chat import read_chats

    for chat in read_chats(path):
        yield json_line(chat if meta else {name: chat[name] for name in chat if name != "meta"}), chat["meta"]["source"]


def _chosen_lines(pairs: Any) -> Iterator[tuple[bytes, str]]:
    """Yield the chosen answer of each pair as a chat, as the providers want it."""
    for pair in pairs:
        row = openai_row(pair)
        chat = {**row["input"], "messages": [*row["input"]["messages"], *row["preferred_output"]]}
        yield json_line(chat), pair.source


def _sources_of(path: Path, lines: set[int]) -> dict[int, str]:
    try:
        with path.with_name(path.name + SOURCES).open(encoding="utf-8") as file:
            return {number: text.rstrip("\n") for number, text in enumerate(file, 1) if number in lines}
    except OSError:
        return {}
