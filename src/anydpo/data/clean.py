"""A cleaned copy of a data set, and a list of what was left out or changed, and why."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anydpo.data.dataset import PreferenceDataset
from anydpo.data.finding import counted
from anydpo.data.lint import LintReport
from anydpo.data.pair import Messages, PreferencePair
from anydpo.data.scan import Outcome, Skipped
from anydpo.data.sheet import write_sheet
from anydpo.data.text_checks import damage, repaired
from anydpo.data.write import FieldsLost, Written, check_fits, write, writer_of
from anydpo.errors import DataInvalid

COLUMNS = ("file", "line", "what", "reason", "detail")
WRITES = {  # a dialect that was read → the writer that writes it
    "openai_preference": "openai",
    "together_preference": "together",
    "amazon_nova": "nova",
    "trl_standard_explicit": "trl",
    "trl_conversational_explicit": "trl_chat",
    "trl_tools": "trl_chat",
    "trl_images": "trl_chat",
}


@dataclass(frozen=True)
class Cleaned:
    """The cleaned copy, the list beside it, and how many rows were left out or repaired, by reason."""

    written: Written
    list_path: Path
    left_out: dict[str, int]
    repaired: int

    def to_dict(self) -> dict[str, Any]:
        """Return what `lint --fix --json` says."""
        return {
            "path": str(self.written.path),
            "format": self.written.format,
            "pairs": self.written.pairs,
            "list": str(self.list_path),
            "left_out": self.left_out,
            "repaired": self.repaired,
        }

    def sentences(self) -> Iterator[str]:
        """Say it for people."""
        listed = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items()) or "nothing"
        yield f"{self.written.path}: {self.written.pairs:,} pairs as {self.written.format}; left out: {listed}"
        if self.repaired:
            yield f"{counted(self.repaired, 'pair')} with damaged text put right"
        yield f"{self.list_path}: every row left out or changed, and why"


def fix(report: LintReport, path: Path) -> Cleaned:
    """Write the pairs that no check marked to `path`, and beside it a CSV of every row left out or repaired.

    Copies keep the first; contradictions lose both sides. The dialect is the one that was read where it can be written
    and holds everything, else canonical. Text damaged by a wrong encoding is put right. Personal data, bias and
    languages are left as they are.
    """
    dataset = report.dataset
    if path.resolve() in {Path(name).resolve() for name in dataset.files}:
        raise DataInvalid(f"--fix {path}: that is one of the files read", hint="name another file; the source is kept")
    kept = _kept(report)
    if not kept:
        raise DataInvalid(f"--fix {path}: no pair is left", hint="look at the findings first")
    changes = list(_changes(report))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FieldsLost)
        written = write(kept, path, _format(dataset.format, kept))
    listed = path.with_name(f"{path.name.split('.')[0]}.removed.csv")
    write_sheet(listed, COLUMNS, changes)
    counts = Counter(reason for _, _, what, reason, _ in changes if what == "removed")
    return Cleaned(written, listed, dict(counts), sum(what == "repaired" for _, _, what, _, _ in changes))


def _kept(report: LintReport) -> PreferenceDataset:
    def outcomes() -> Iterator[Outcome]:
        for at, pair in enumerate(report.dataset):
            if at not in report.marks:
                yield _repaired(pair)

    return PreferenceDataset(outcomes, format=report.dataset.format, files=report.dataset.files)


def _changes(report: LintReport) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield what happened to each row that is not in the copy as it was, in the order of the source."""
    at = -1
    for item in report.dataset.outcomes():
        if isinstance(item, Skipped):
            yield item.file, str(item.line), "removed", item.reason, item.detail
            continue
        for pair in (item,) if isinstance(item, PreferencePair) else item.pairs:
            at += 1
            file, _, line = pair.source.rpartition(":")
            if (mark := report.marks.get(at)) is not None:
                yield file, line, "removed", mark.reason, mark.detail
            elif _repaired(pair) != pair:
                yield file, line, "repaired", "encoding_damage", "UTF-8 that was read as Latin-1"


def _repaired(pair: PreferencePair) -> PreferencePair:
    prompt, chosen, rejected = _messages(pair.prompt), _messages(pair.chosen), _messages(pair.rejected)
    same = prompt == pair.prompt and chosen == pair.chosen and rejected == pair.rejected
    return pair if same else replace(pair, prompt=prompt, chosen=chosen, rejected=rejected)


def _messages(messages: Messages) -> Messages:
    return tuple(
        {**m, "content": repaired(m["content"])} if isinstance(m["content"], str) and damage(m["content"]) else m
        for m in messages
    )


def _format(read: str, kept: PreferenceDataset) -> str:
    name = WRITES.get(read, "canonical")
    try:
        lost = check_fits(kept, writer_of(name))
    except DataInvalid:
        return "canonical"
    return "canonical" if lost.keys() - {"meta"} else name
