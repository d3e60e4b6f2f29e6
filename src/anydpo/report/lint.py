"""What a lint report says to people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from anydpo.data.bias import EDGES
from anydpo.data.finding import Check
from anydpo.data.lint import LintReport
from anydpo.data.scan import Skipped
from anydpo.report.document import Bars, Document, Findings, Section, Table, verdict_of

ROWS = 4  # skipped rows of each reason shown one by one
ENOUGH = 20  # pairs from which a distribution of lengths says something


def document(report: LintReport) -> Document:
    """Return the report as sections, the findings first."""
    found = report.dataset
    sentence, tone = verdict_of(report.errors, report.warnings)
    files = list(found.files)
    named = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    return Document(
        f"{named}: {found.format}",
        (found.account(), f"fingerprint: {found.fingerprint}"),
        "no finding" if not report.checks and tone == "ok" else sentence[0].upper() + sentence[1:],
        tone,
        tuple(_sections(report)),
    )


def _sections(report: LintReport) -> Iterator[Section]:
    if report.checks:
        yield Section("Findings", (Findings([_short(check, report) for check in report.checks]),))
    if report.providers:
        yield _places(report)
    rows, files = _some_of_each(report.dataset.skipped_rows), report.dataset.files
    if rows:
        more = sum(report.dataset.skipped.values()) - len(rows)
        yield Section(
            "Skipped rows",
            (
                Table(
                    ("where", "reason", "what stands there"),
                    [(f"{r.file}:{r.line}" if len(files) > 1 else f"line {r.line}", r.reason, r.detail) for r in rows],
                ),
            ),
            f"… and {more:,} more; --json lists up to 1,000" if more > 0 else "",
        )
    if report.dataset.scan.pairs:
        yield _numbers(report)
        if sum(report.histogram) >= ENOUGH:
            yield _lengths(report)


def _some_of_each(rows: Sequence[Skipped]) -> list[Skipped]:
    """Return the first rows of every reason, the reasons in order of appearance."""
    found: dict[str, list[Skipped]] = {}
    for row in rows:
        if len(kept := found.setdefault(row.reason, [])) < ROWS:
            kept.append(row)
    return [row for kept in found.values() for row in kept]


def _short(check: Check, report: LintReport) -> Check:
    """Name rows of the only file by their line."""
    files = report.dataset.files
    if len(files) != 1:
        return check
    return replace(check, examples=tuple(example.replace(f"{files[0]}:", "line ") for example in check.examples))


def _places(report: LintReport) -> Section:
    rows = []
    for place, answer in report.providers.items():
        if answer["ok"]:
            rows.append((place, "accepts these pairs", ""))
        rows += [(place, "refuses", problem) for problem in answer["problems"]]
        rows += [(place, "note", note) for note in answer["notes"]]
    return Section("Places", (Table(("place", "answer", "what"), rows),))


def _numbers(report: LintReport) -> Section:
    s = report.stats
    rows: list[tuple[str, str, str]] = [
        ("pairs", f"{report.dataset.scan.pairs:,}", ""),
        ("characters of a prompt", f"{s['prompt_characters']:,.0f}", "on average"),
        ("characters of a chosen answer", f"{s['chosen_characters']:,.0f}", "on average"),
        ("characters of a rejected answer", f"{s['rejected_characters']:,.0f}", "on average"),
        ("chosen is longer", f"{s['chosen_longer']:.1%}", "of all pairs; near half where length does not matter"),
    ]
    if "length_correlation" in s and report.dataset.scan.pairs >= ENOUGH:
        rows.append(
            (
                "length and being chosen",
                f"{s['length_correlation']:+.3f}",
                "correlation; 0 where length does not matter",
            )
        )
    if "tokens" in s:
        rows += [
            (
                "tokens of a pair",
                f"{s['tokens_median']:,}",
                f"median; 95 % have at most {s['tokens_p95']:,}, longest {s['tokens_max']:,}",
            ),
            ("tokens an epoch", f"{s['tokens']:,}", "prompt with each of the two answers, about what is billed"),
        ]
    words = {"system": "system message", "multi_turn": "several turns", "many_messages": "answers of several messages"}
    rows += [
        (f"with {words.get(name, name)}", f"{s[name]:,}", "pairs")
        for name in ("system", "multi_turn", "many_messages", "tools", "images", "weight", "margin", "meta")
        if s.get(name)
    ]
    return Section("Numbers", (Table(("", "", ""), rows),))


def _lengths(report: LintReport) -> Section:
    total = sum(report.histogram)
    edges = [f"{edge:g}" for edge in EDGES]
    labels = [f"under {edges[0]}", *(f"{a} to {b}" for a, b in pairwise(edges)), f"{edges[-1]} and more"]
    rows = [
        (f"{label} times", count / total, f"{count:,} ({count / total:.1%})")
        for label, count in zip(labels, report.histogram, strict=True)
    ]
    return Section("Length of the chosen answer, in lengths of the rejected one", (Bars(rows),))
