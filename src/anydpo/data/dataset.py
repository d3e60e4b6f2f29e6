"""A preference data set: pairs that are read again each time, and what one pass over them found."""

from __future__ import annotations

import hashlib
import html
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from anydpo.data.pair import PreferencePair, images_in, in_validation, text_of

if TYPE_CHECKING:
    from anydpo.data.lint import LintReport
    from anydpo.data.write import Written

KEPT = 1000  # skipped rows remembered one by one; all are counted


class Skipped(NamedTuple):
    """A row that is not a pair, and why: `reason` is a fixed word, `detail` is for people."""

    file: str
    line: int
    reason: str
    detail: str


Outcome: TypeAlias = "PreferencePair | Skipped"


@dataclass
class Scan:
    """What one pass over the rows found."""

    pairs: int = 0
    skipped: Counter[str] = field(default_factory=Counter[str])
    skipped_rows: list[Skipped] = field(default_factory=list[Skipped])
    features: Counter[str] = field(default_factory=Counter[str])
    characters: Counter[str] = field(default_factory=Counter[str])
    chosen_longer: int = 0
    fingerprint: str = ""


class PreferenceDataset:
    """Preference pairs from any source; iterating reads the source again, so memory stays constant."""

    def __init__(
        self,
        outcomes: Callable[[], Iterator[Outcome]],
        *,
        format: str,  # noqa: A002
        files: tuple[str, ...] = (),
    ) -> None:
        self._outcomes = outcomes
        self.format = format
        self.files = files

    def outcomes(self) -> Iterator[Outcome]:
        """Yield every pair and every skipped row, in the order of the source."""
        return self._outcomes()

    def __iter__(self) -> Iterator[PreferencePair]:
        return (item for item in self._outcomes() if isinstance(item, PreferencePair))

    def __len__(self) -> int:
        return self.scan.pairs

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def __repr__(self) -> str:
        return f"PreferenceDataset({len(self)} pairs, {self.format}, {sum(self.skipped.values())} skipped)"

    @property
    def rows(self) -> int:
        """Rows read: the pairs and the skipped ones."""
        return self.scan.pairs + sum(self.scan.skipped.values())

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
        for item in self._outcomes():
            if isinstance(item, Skipped):
                scan.skipped[item.reason] += 1
                if len(scan.skipped_rows) < KEPT:
                    scan.skipped_rows.append(item)
                continue
            scan.pairs += 1
            digest.update(item.canonical())
            digest.update(b"\n")
            _measure(item, scan)
        scan.fingerprint = f"sha256:{digest.hexdigest()}"
        return scan

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

    def split(self, validation: float, seed: int = 0) -> tuple[PreferenceDataset, PreferenceDataset]:
        """Return (train, validation); all pairs of one prompt fall on the same side, whatever their order."""
        if not 0 < validation < 1:
            raise ValueError(f"validation is {validation}, expected a share between 0 and 1")

        def side(held_out: bool) -> PreferenceDataset:
            return self._map(
                lambda pair: pair if in_validation(pair.prompt, validation, seed) is held_out else None,
                keep_skipped=not held_out,
            )

        return side(False), side(True)

    def take(self, count: int) -> PreferenceDataset:
        """Return the first `count` pairs."""

        def first() -> Iterator[Outcome]:
            return islice((item for item in self._outcomes() if isinstance(item, PreferencePair)), count)

        return PreferenceDataset(first, format=self.format, files=self.files)

    def weighted(self, weight: float) -> PreferenceDataset:
        """Return the pairs with their weights multiplied."""
        return self._map(lambda pair: replace(pair, weight=pair.weight * weight))

    @classmethod
    def chain(cls, parts: Iterable[PreferenceDataset]) -> PreferenceDataset:
        """Return several data sets, one after the other."""
        parts = list(parts)
        names = list(dict.fromkeys(part.format for part in parts))

        def outcomes() -> Iterator[Outcome]:
            for part in parts:
                yield from part._outcomes()

        return cls(
            outcomes,
            format=names[0] if len(names) == 1 else "+".join(names),
            files=tuple(name for part in parts for name in part.files),
        )

    def write(self, path: str | Path, format: str) -> Written:  # noqa: A002
        """Write the pairs in a dialect, whole or not at all; what it cannot hold is named before."""
        from anydpo.data.write import write

        return write(self, Path(path), format)

    def _map(
        self, change: Callable[[PreferencePair], PreferencePair | None], *, keep_skipped: bool = True
    ) -> PreferenceDataset:
        def outcomes() -> Iterator[Outcome]:
            for item in self._outcomes():
                if isinstance(item, Skipped):
                    if keep_skipped:
                        yield item
                elif (changed := change(item)) is not None:
                    yield changed

        return PreferenceDataset(outcomes, format=self.format, files=self.files)

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


def _measure(pair: PreferencePair, scan: Scan) -> None:
    features, prompt = scan.features, pair.prompt
    if len(prompt) != 1 or prompt[0]["role"] != "user":
        turns = [message["role"] for message in prompt if message["role"] not in ("system", "developer")]
        features["system"] += len(turns) < len(prompt)
        features["multi_turn"] += turns != ["user"]
    if len(pair.chosen) > 1 or len(pair.rejected) > 1:
        features["many_messages"] += 1
    if pair.tools or any("tool_calls" in m for m in (*prompt, *pair.chosen, *pair.rejected)):
        features["tools"] += 1
    if any(isinstance(m["content"], list) for m in prompt) and any(images_in(prompt)):
        features["images"] += 1
    if pair.weight != 1.0:
        features["weight"] += 1
    if pair.margin is not None:
        features["margin"] += 1
    if len(pair.meta) > 1:
        features["meta"] += 1
    chosen, rejected = _length(pair.chosen), _length(pair.rejected)
    scan.characters["prompt"] += _length(prompt)
    scan.characters["chosen"] += chosen
    scan.characters["rejected"] += rejected
    scan.chosen_longer += chosen > rejected


def _length(messages: tuple[dict[str, object], ...]) -> int:
    if len(messages) == 1 and isinstance(content := messages[0]["content"], str):
        return len(content)
    return sum(len(text_of(message)) for message in messages)
