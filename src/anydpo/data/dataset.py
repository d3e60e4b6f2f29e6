"""A preference data set: pairs that are read again each time, and what one pass over them found."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from anydpo.data.pair import PreferencePair, text_of
from anydpo.data.scan import (
    KEPT,
    Block,
    Decided,
    Form,
    Outcome,
    Scan,
    Side,
    Skipped,
    Step,
    Weighted,
    blocks,
    canonical_line,
    changed,
    pairs_in,
)

if TYPE_CHECKING:
    from anydpo.data.agreement import AgreementReport, By
    from anydpo.data.judgment import Choice, Judgment
    from anydpo.data.lint import LintReport
    from anydpo.data.write import Written

__all__ = ["KEPT", "Decided", "Outcome", "PreferenceDataset", "Scan", "Skipped"]

Names: TypeAlias = "tuple[str | None, ...]"  # writers' names; None is the canonical line
Blocks: TypeAlias = "Callable[[Names, tuple[Step, ...]], Iterator[Block]]"
CANONICAL: Names = (None,)


class PreferenceDataset:
    """Preference pairs from any source; iterating reads the source again, so memory stays constant."""

    def __init__(
        self,
        outcomes: Callable[[], Iterator[Outcome]],
        *,
        format: str,  # noqa: A002
        files: tuple[str, ...] = (),
        judgments: Callable[[], Iterator[Judgment]] | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        self._outcomes = outcomes
        self._judgments = judgments
        self._blocks = blocks
        self.format = format
        self.files = files

    def outcomes(self) -> Iterator[Outcome]:
        """Yield every pair and every skipped row, in the order of the source."""
        return self._outcomes()

    def __iter__(self) -> Iterator[PreferencePair]:
        return pairs_in(self._outcomes())

    def __len__(self) -> int:
        return self.scan.pairs

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def __repr__(self) -> str:
        return f"PreferenceDataset({len(self)} pairs, {self.format}, {sum(self.skipped.values())} skipped)"

    @property
    def rows(self) -> int:
        """Rows read: those that stand in pairs, and the skipped ones.

        One row may make several pairs (a ranking) and several rows one pair (an item that many annotators judged, a
        prompt whose answers have rows of their own); a row whose vote or rating was counted stands in the pair.
        """
        return self.scan.used + sum(self.scan.skipped.values())

    def account(self) -> str:
        """Say what became of every row: `6 rows = 5 in 2 pairs, 1 tie`."""
        scan = self.scan
        paired = f"{scan.pairs:,} pairs" if scan.used == scan.pairs else f"{scan.used:,} in {scan.pairs:,} pairs"
        skipped = "".join(f", {count:,} {reason}" for reason, count in scan.skipped.items())
        return f"{self.rows:,} rows = {paired}{skipped}"

    @property
    def judgments(self) -> Iterator[Judgment]:
        """Every judgement read, ties, test questions and rows that made no pair included; read anew each time."""
        return self._judgments() if self._judgments is not None else iter(())

    @property
    def fingerprint(self) -> str:
        """`sha256:` of the canonical lines in order: the identity of the pairs, whatever dialect held them."""
        return self.scan.fingerprint

    @property
    def skipped(self) -> dict[str, int]:
        """Reason → how many rows were skipped for it."""
        return dict(self.scan.skipped)

    @property
    def skipped_rows(self) -> list[Skipped]:
        """The first 1,000 skipped rows, each with file, line, reason and detail."""
        return self.scan.skipped_rows

    @cached_property
    def scan(self) -> Scan:
        """What one pass found; made when first asked for."""
        scan, digest = Scan(), hashlib.sha256()
        for block in self.blocks():
            scan.add(block.scan)
            digest.update(block.data)
        scan.fingerprint = f"sha256:{digest.hexdigest()}"
        return scan

    @property
    def is_scanned(self) -> bool:
        """Whether the pass over the rows was made."""
        return "scan" in self.__dict__

    def blocks(self, *forms: str | None) -> Iterator[Block]:
        """Yield the pairs as bytes, in the dialects of these writers or as canonical lines, with what rows showed.

        A large file is read by several processes; what comes out is the same.
        """
        if self._blocks is not None:
            return self._blocks(forms or CANONICAL, ())
        return blocks(self._outcomes(), forms_of(forms or CANONICAL))

    def encoded(self, writer: str) -> Iterator[bytes]:
        """Yield the pairs in the dialect of a writer, and count what its provider refuses.

        Where no pass was made yet, this one is it.
        """
        if self.is_scanned:
            found = Scan()
            for block in self.blocks(writer):
                found.add(block.scan)
                yield block.data
            self.scan.refused |= found.refused
            return
        scan, digest = Scan(), hashlib.sha256()
        for block in self.blocks(writer, None):
            scan.add(block.scan)
            digest.update(block.forms[1])
            yield block.data
        scan.fingerprint = f"sha256:{digest.hexdigest()}"
        self.scan = scan

    def lint(
        self,
        providers: Iterable[str] = (),
        *,
        model: str | None = None,
        max_length: int | None = None,
        against: PreferenceDataset | None = None,
        basic: bool = False,
    ) -> LintReport:
        """Return what is wrong or worth knowing, row by row; `against` are data whose prompts must not stand here."""
        from anydpo.data.lint import lint

        return lint(self, tuple(providers), model=model, max_length=max_length, against=against, basic=basic)

    def agreement(self, by: Sequence[By] = (), gold: Mapping[str, Choice] | None = None) -> AgreementReport:
        """Return how far the annotators agree; `by` adds batch or model, `gold` maps items to their known answers."""
        from anydpo.data.agreement import agreement

        return agreement(self.judgments, files=self.files, by=by, gold=gold)

    def split(self, validation: float, seed: int = 0) -> tuple[PreferenceDataset, PreferenceDataset]:
        """Return (train, validation); all pairs of one prompt fall on the same side, whatever their order."""
        if not 0 < validation < 1:
            raise ValueError(f"validation is {validation}, expected a share between 0 and 1")

        return self._map(Side(validation, seed, held_out=False)), self._map(Side(validation, seed, held_out=True))

    def take(self, count: int) -> PreferenceDataset:
        """Return the first `count` pairs."""
        return PreferenceDataset(lambda: islice(iter(self), count), format=self.format, files=self.files)

    def weighted(self, weight: float) -> PreferenceDataset:
        """Return the pairs with their weights multiplied."""
        return self._map(Weighted(weight))

    @classmethod
    def chain(cls, parts: Iterable[PreferenceDataset]) -> PreferenceDataset:
        """Return several data sets, one after the other."""
        parts = list(parts)
        names = list(dict.fromkeys(part.format for part in parts))

        def outcomes() -> Iterator[Outcome]:
            for part in parts:
                yield from part._outcomes()

        def judgments() -> Iterator[Judgment]:
            for part in parts:
                yield from part.judgments

        def in_blocks(forms: Names, steps: tuple[Step, ...]) -> Iterator[Block]:
            for part in parts:
                if part._blocks is not None:
                    yield from part._blocks(forms, steps)
                else:
                    yield from blocks(changed(part._outcomes(), steps), forms_of(forms))

        return cls(
            outcomes,
            format=names[0] if len(names) == 1 else "+".join(names),
            files=tuple(name for part in parts for name in part.files),
            judgments=judgments,
            blocks=in_blocks,
        )

    def write(self, path: str | Path, format: str) -> Written:  # noqa: A002
        """Write the pairs in a dialect, whole or not at all; what it cannot hold is named before."""
        from anydpo.data.write import write

        return write(self, Path(path), format)

    def _map(self, step: Step) -> PreferenceDataset:
        before = self._blocks

        def in_blocks(forms: Names, steps: tuple[Step, ...]) -> Iterator[Block]:
            if before is not None:
                return before(forms, (step, *steps))
            return blocks(changed(self._outcomes(), (step, *steps)), forms_of(forms))

        return PreferenceDataset(
            lambda: changed(self._outcomes(), (step,)),
            format=self.format,
            files=self.files,
            judgments=self._judgments,
            blocks=in_blocks,
        )

    def _repr_html_(self) -> str:
        def cell(text: str, limit: int = 200) -> str:
            return html.escape(text if len(text) <= limit else text[: limit - 1] + "…")

        rows = "".join(
            f"<tr><td>{cell(text_of(p.prompt[-1]))}</td><td>{cell(text_of(p.chosen[-1]))}</td>"
            f"<td>{cell(text_of(p.rejected[-1]))}</td></tr>"
            for p in islice(self, 5)
        )
        skipped = "".join(f" · {count:,} {html.escape(reason)}" for reason, count in self.skipped.items())
        return (
            f"<p><b>{len(self):,} pairs</b> · {html.escape(self.format)}{skipped}<br>"
            f"<code>{self.fingerprint}</code></p><table><thead><tr><th>prompt</th><th>chosen</th>"
            f"<th>rejected</th></tr></thead><tbody>{rows}</tbody></table>"
        )


def forms_of(names: Names) -> list[Form]:
    """Return how a pair becomes a line in each of these dialects, and what their providers refuse."""
    return [Form(None, canonical_line) if name is None else _form(name) for name in names]


def _form(writer: str) -> Form:
    from anydpo.data.limits import LIMITS
    from anydpo.data.write import json_line, writer_of

    row, limits = writer_of(writer).row, LIMITS.get(writer)
    return Form(writer, lambda pair: json_line(row(pair)), limits.rule if limits is not None else None)
