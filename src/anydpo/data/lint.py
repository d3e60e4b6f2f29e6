"""What is wrong with a data set or worth knowing of it, from one pass over its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from anydpo.data.dataset import PreferenceDataset
from anydpo.data.pair import prompt_key, text_of

Severity: TypeAlias = Literal["error", "warning", "info"]

FEW = 1000  # below this many pairs Amazon's guide for DPO on SageMaker advises against training
SHOWN = 5
WHY = {
    "parse_error": "the line is not JSON in UTF-8",
    "no_shared_prompt": "the two answers do not follow the same prompt",
    "empty_completion": "an answer without text teaches nothing but length",
    "identical": "two equal answers have no preference between them",
    "empty_prompt": "there is nothing to answer",
}


@dataclass(frozen=True)
class Check:
    """One finding: a fixed word, how bad it is, how many rows, what it means, and where the first ones are."""

    code: str
    severity: Severity
    count: int
    message: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class LintReport:
    """What lint found. `errors` and `warnings` count checks, not rows."""

    dataset: PreferenceDataset
    checks: tuple[Check, ...]
    stats: dict[str, float | int]
    providers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @property
    def errors(self) -> int:
        """Checks that make the data unusable."""
        places = sum(not found["ok"] for found in self.providers.values())
        return sum(check.severity == "error" for check in self.checks) + places

    @property
    def warnings(self) -> int:
        """Checks that a person should look at."""
        return sum(check.severity == "warning" for check in self.checks)

    @property
    def skipped(self) -> dict[str, int]:
        """Reason → how many rows were skipped for it."""
        return self.dataset.skipped

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `lint --json` prints it."""
        found = self.dataset
        return {
            "format": found.format,
            "files": list(found.files),
            "rows": found.rows,
            "pairs": len(found),
            "skipped": found.skipped,
            "skipped_rows": [row._asdict() for row in found.skipped_rows],
            "fingerprint": found.fingerprint,
            "stats": self.stats,
            "checks": [asdict(check) for check in self.checks],
            "providers": self.providers,
        }

    def print(self) -> None:
        """Print the report for people."""
        for line in self.lines():
            print(line)  # noqa: T201 - this is what it is for

    def lines(self) -> Iterator[str]:
        """Yield the report's lines."""
        found = self.dataset
        yield f"{', '.join(found.files)}: {found.format}"
        yield found.account()
        if found.scan.pairs:
            yield (
                f"answers: chosen {self.stats['chosen_characters']:.0f} characters on average, rejected "
                f"{self.stats['rejected_characters']:.0f}; chosen is longer in {self.stats['chosen_longer']:.1%}"
            )
        yield f"fingerprint: {found.fingerprint}"
        for row in found.skipped_rows[:SHOWN]:
            yield f"  skipped {row.file}:{row.line}: {row.reason}: {row.detail}"
        if (more := sum(found.skipped.values()) - SHOWN) > 0:
            yield f"  … and {more:,} more; --json lists up to 1,000"
        for check in self.checks:
            where = f" ({', '.join(check.examples)})" if check.examples else ""
            yield f"{check.severity}: {check.message}{where}"
        for place, answer in self.providers.items():
            for problem in answer["problems"]:
                yield f"{place}: {problem}"
            if answer["ok"]:
                yield f"{place}: accepts these pairs"
        if not self.checks:
            yield "no finding"


def lint(dataset: PreferenceDataset, places: tuple[str, ...] = ()) -> LintReport:
    """Return what one pass over the data finds, and what each place would say to it."""
    duplicates = _Duplicates()
    for pair in dataset:
        duplicates.see(pair.source, pair.prompt, pair.chosen, pair.rejected)
    scan, checks = dataset.scan, []
    if not scan.pairs:
        checks.append(Check("no_pairs", "error", dataset.rows, "no row is a pair"))
    for reason, count in scan.skipped.items():
        examples = tuple(f"{r.file}:{r.line}" for r in scan.skipped_rows if r.reason == reason)[:SHOWN]
        why = f": {WHY[reason]}" if reason in WHY else ""
        checks.append(Check(reason, "warning", count, f"{count:,} rows skipped as {reason}{why}", examples))
    checks += duplicates.checks()
    if 0 < scan.pairs < FEW:
        text = f"{scan.pairs:,} pairs are few; about {FEW:,} are advised for a lasting effect"
        checks.append(Check("few_pairs", "info", scan.pairs, text))
    return LintReport(dataset, tuple(checks), _stats(dataset), {place: _asked(dataset, place) for place in places})


class _Duplicates:
    """Finds pairs that are there twice, or with the answers swapped, by 128-bit hashes."""

    def __init__(self) -> None:
        self._first: dict[bytes, str] = {}
        self._again: list[str] = []
        self._swapped: list[str] = []

    def see(self, source: str, prompt: Any, chosen: Any, rejected: Any) -> None:
        better, worse = (b"\0".join(text_of(m).strip().encode() for m in side) for side in (chosen, rejected))
        key = prompt_key(prompt)
        forward = hashlib.blake2b(b"\1".join((key, better, worse)), digest_size=16).digest()
        if forward in self._first:
            self._again.append(f"{source} = {self._first[forward]}")
        elif (swapped := hashlib.blake2b(b"\1".join((key, worse, better)), digest_size=16).digest()) in self._first:
            self._swapped.append(f"{source} against {self._first[swapped]}")
        self._first.setdefault(forward, source)

    def checks(self) -> Iterator[Check]:
        if self._again:
            text = f"{len(self._again):,} pairs are there twice and count double in training"
            yield Check("duplicate", "warning", len(self._again), text, tuple(self._again[:SHOWN]))
        if self._swapped:
            text = f"{len(self._swapped):,} pairs contradict another: same prompt and answers, opposite preference"
            yield Check("contradiction", "warning", len(self._swapped), text, tuple(self._swapped[:SHOWN]))


def _stats(dataset: PreferenceDataset) -> dict[str, float | int]:
    scan = dataset.scan
    count = max(1, scan.pairs)
    return {
        **{f"{part}_characters": scan.characters[part] / count for part in ("prompt", "chosen", "rejected")},
        "chosen_longer": scan.chosen_longer / count,
        **{name: scan.features[name] for name in sorted(scan.features)},
    }


def _asked(dataset: PreferenceDataset, place: str) -> dict[str, Any]:
    from anydpo.data.write import WORDS
    from anydpo.errors import ProviderMissing
    from anydpo.registry import provider, split_place

    name, route = split_place(place)
    routes = provider(name).capabilities
    if (route or "") not in routes and route is not None:
        raise ProviderMissing(f"{name} has no route {route!r}")
    can = routes[route or next(iter(routes))]
    problems = [
        f"{dataset.scan.features[feature]:,} pairs with {WORDS[feature]} cannot be trained there"
        for feature in ("tools", "images", "weight", "many_messages")
        if dataset.scan.features[feature] and feature not in can.holds
    ]
    return {"ok": not problems, "problems": problems}
