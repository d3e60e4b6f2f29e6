"""What one pass over rows finds, in pieces that can be made anywhere and added up in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeAlias

from anydpo.data.finding import SHOWN
from anydpo.data.pair import PreferencePair, images_in, in_validation, text_of

KEPT = 1000  # skipped rows remembered one by one; all are counted
PIECE = 1 << 20  # bytes after which a block is handed on
INSTRUCTIONS = frozenset({"system", "developer"})


class Skipped(NamedTuple):
    """A row that is not a pair, and why: `reason` is a fixed word, `detail` is for people."""

    file: str
    line: int
    reason: str
    detail: str


class Decided(NamedTuple):
    """The pairs made of one item that stands in `rows` rows, or of which one row makes several."""

    pairs: tuple[PreferencePair, ...]
    rows: int


class Form(NamedTuple):
    """One way in which pairs are asked for as bytes; `rule` yields why the provider who reads it refuses a pair."""

    name: str | None
    encode: Callable[[PreferencePair], bytes]
    rule: Callable[[PreferencePair], Iterable[str]] | None = None


@dataclass
class Refusal:
    """How many pairs break one rule of a provider, and where the first ones are."""

    count: int = 0
    sources: list[str] = field(default_factory=list[str])

    def add(self, count: int, sources: Iterable[str]) -> None:
        """Count more pairs, of which some stand here."""
        self.count += count
        self.sources += [source for source in sources if source][: SHOWN - len(self.sources)]


Refusals: TypeAlias = "dict[str, Refusal]"  # why → how many
Outcome: TypeAlias = "PreferencePair | Skipped | Decided"


@dataclass
class Scan:
    """What one pass over the rows found; `used` rows stand in pairs, the others are skipped.

    `refused` has, for each dialect that the pairs were written in, what its provider does not accept.
    """

    pairs: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter[str])
    skipped_rows: list[Skipped] = field(default_factory=list[Skipped])
    features: Counter[str] = field(default_factory=Counter[str])
    characters: Counter[str] = field(default_factory=Counter[str])
    chosen_longer: int = 0
    refused: dict[str, Refusals] = field(default_factory=dict[str, "Refusals"])
    fingerprint: str = ""

    def add(self, other: Scan) -> None:
        """Take in what the following rows showed; the fingerprint is not a sum and stays."""
        self.pairs += other.pairs
        self.used += other.used
        self.skipped += other.skipped
        self.skipped_rows += other.skipped_rows[: KEPT - len(self.skipped_rows)]
        self.features += other.features
        self.characters += other.characters
        self.chosen_longer += other.chosen_longer
        for name, refusals in other.refused.items():
            self.refused.setdefault(name, {})
            for reason, found in refusals.items():
                self.refuse(name, reason, found.count, found.sources)

    def refuse(self, name: str, reason: str, count: int, sources: Iterable[str]) -> None:
        """Count pairs that the provider of a dialect refuses."""
        self.refused.setdefault(name, {}).setdefault(reason, Refusal()).add(count, sources)

    def skip(self, row: Skipped) -> None:
        """Count a skipped row."""
        self.skipped[row.reason] += 1
        if len(self.skipped_rows) < KEPT:
            self.skipped_rows.append(row)


class Block(NamedTuple):
    """Consecutive rows: what they showed, and their pairs as bytes, once for each way they were asked for."""

    scan: Scan
    forms: tuple[bytes, ...]

    @property
    def data(self) -> bytes:
        """The pairs in the first way."""
        return self.forms[0]


class Step(Protocol):
    """A change to every pair that can be sent to another process; None leaves the pair out."""

    @property
    def keep_skipped(self) -> bool:
        """Whether the skipped rows are told with what is left."""
        ...

    def __call__(self, pair: PreferencePair, /) -> PreferencePair | None: ...


@dataclass(frozen=True)
class Side:
    """Keep the pairs of one side of a split."""

    share: float
    seed: int
    held_out: bool

    @property
    def keep_skipped(self) -> bool:
        """Skipped rows are told with the training side."""
        return not self.held_out

    def __call__(self, pair: PreferencePair) -> PreferencePair | None:
        return pair if in_validation(pair.prompt, self.share, self.seed) is self.held_out else None


@dataclass(frozen=True)
class Weighted:
    """Multiply the weight of each pair."""

    weight: float
    keep_skipped: bool = True

    def __call__(self, pair: PreferencePair) -> PreferencePair | None:
        return replace(pair, weight=pair.weight * self.weight)


def changed(outcomes: Iterable[Outcome], steps: tuple[Step, ...]) -> Iterator[Outcome]:
    """Yield the outcomes after the steps."""
    for step in steps:
        outcomes = _changed(outcomes, step)
    return iter(outcomes)


def _changed(outcomes: Iterable[Outcome], step: Step) -> Iterator[Outcome]:
    for item in outcomes:
        if isinstance(item, PreferencePair):
            if (made := step(item)) is not None:
                yield made
        elif isinstance(item, Decided):
            if pairs := [made for made in map(step, item.pairs) if made is not None]:
                yield Decided(tuple(pairs), item.rows)
        elif step.keep_skipped:
            yield item


def pairs_in(outcomes: Iterable[Outcome]) -> Iterator[PreferencePair]:
    """Yield the pairs alone."""
    for item in outcomes:
        if isinstance(item, PreferencePair):
            yield item
        elif isinstance(item, Decided):
            yield from item.pairs


def canonical_line(pair: PreferencePair) -> bytes:
    """Return the line that counts for the fingerprint."""
    return pair.canonical() + b"\n"


def blocks(outcomes: Iterable[Outcome], asked: Sequence[Form]) -> Iterator[Block]:
    """Yield what the rows show and hold, a piece at a time."""
    rules = [(form.name, form.rule) for form in asked if form.name is not None and form.rule is not None]
    scan, forms, size = _begun(rules), [list[bytes]() for _ in asked], 0
    ways = [(form.encode, lines.append) for form, lines in zip(asked, forms, strict=True)]
    for item in outcomes:
        if isinstance(item, PreferencePair):
            scan.used += 1
            pairs: tuple[PreferencePair, ...] = (item,)
        elif isinstance(item, Skipped):
            scan.skip(item)
            continue
        else:
            scan.used += item.rows
            pairs = item.pairs
        for pair in pairs:
            measure(pair, scan)
            for encode, keep in ways:
                keep(line := encode(pair))
                size += len(line)
            for name, rule in rules:
                for reason in rule(pair):
                    scan.refuse(name, reason, 1, (pair.source,))
        if size > PIECE * len(forms):
            yield Block(scan, tuple(map(b"".join, forms)))
            scan, size = _begun(rules), 0
            for form in forms:
                form.clear()
    yield Block(scan, tuple(map(b"".join, forms)))


def _begun(rules: Iterable[tuple[str, object]]) -> Scan:
    """Return a scan that says also of a provider who refuses nothing that it was asked."""
    return Scan(refused={name: {} for name, _ in rules})


def measure(pair: PreferencePair, scan: Scan) -> None:
    """Count what a pair has that not every dialect or place can hold, and how long its parts are."""
    features, characters, prompt = scan.features, scan.characters, pair.prompt
    scan.pairs += 1
    asked, calls, pictures, more = 0, pair.tools is not None, False, False
    for message in prompt:
        more = more or len(message) > 2
        content = message["content"]
        if content.__class__ is str:
            asked += len(content)
        else:
            asked += len(text_of(message))
            pictures = pictures or any(images_in((message,)))
        calls = calls or "tool_calls" in message
    if len(prompt) != 1 or prompt[0]["role"] != "user":
        turns = [message["role"] for message in prompt if message["role"] not in INSTRUCTIONS]
        features["system"] += len(turns) < len(prompt)
        features["multi_turn"] += turns != ["user"]
    chosen, rejected = _length(pair.chosen), _length(pair.rejected)
    if len(pair.chosen) > 1 or len(pair.rejected) > 1:
        features["many_messages"] += 1
    for message in pair.chosen + pair.rejected:
        more = more or len(message) > 2
        calls = calls or "tool_calls" in message
    if calls:
        features["tools"] += 1
    if pictures:
        features["images"] += 1
    if more:
        features["message_fields"] += 1
    if pair.weight != 1.0:
        features["weight"] += 1
    if pair.margin is not None:
        features["margin"] += 1
    if len(pair.meta) > 1:
        features["meta"] += 1
    characters["prompt"] += asked
    characters["chosen"] += chosen
    characters["rejected"] += rejected
    scan.chosen_longer += chosen > rejected


def _length(messages: tuple[dict[str, object], ...]) -> int:
    if len(messages) == 1 and isinstance(content := messages[0]["content"], str):
        return len(content)
    return sum(len(text_of(message)) for message in messages)
