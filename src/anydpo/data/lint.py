"""What is wrong with a data set or worth knowing of it: one scan, and one further pass for every other check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from anydpo.data.bias import Lengths, agreement_checks, few_pairs
from anydpo.data.copies import INSTALL, Copies, Leaks, Mark, NearCopies, Seen
from anydpo.data.dataset import PreferenceDataset
from anydpo.data.finding import SHOWN, Check, Severity, counted
from anydpo.data.tokens import PLACES, NoTokenizer, Tokens

if TYPE_CHECKING:
    from anydpo.provider import Capabilities

__all__ = ["Check", "LintReport", "Severity", "lint"]

WHY = {
    "parse_error": "the line is not JSON in UTF-8",
    "unknown_format": "the row is of another dialect, or of another type",
    "missing_field": "a field of the dialect is not there",
    "null_field": "a field of the dialect is null",
    "no_shared_prompt": "the two answers do not follow the same prompt",
    "empty_completion": "an answer without text teaches nothing but length",
    "identical": "two equal answers have no preference between them",
    "empty_prompt": "there is nothing to answer",
    "role_order": "a role that cannot stand there",
    "invalid_label": "the label is none that the dialect knows",
    "no_label": "nobody said which answer is better",
    "annotator_skipped": "the annotator skipped, discarded or cancelled it",
    "test_question": "a test question has a known answer and is no preference",
    "score_contradicts_label": "the scores prefer the answer that the label rejects",
    "tie": "the answers were judged equally good",
    "no_majority": "the votes are even",
    "too_few_candidates": "there are fewer than two answers to compare",
    "image_count_mismatch": "there are more or fewer images than places for them",
    "unpaired": "a rated answer without one of the other rating to the same prompt",
}
MOST = {  # what to do where most rows are skipped for a reason that is no fault
    "unpaired": "most of this is thumbs on single answers: collect both kinds for a prompt, or use KTO elsewhere",
}
EXPECTED = frozenset({"tie", "no_majority", "test_question", "annotator_skipped", "unpaired", "too_few_candidates"})


class Inspector(Protocol):
    """A check that looks at every pair once."""

    marks: dict[int, Mark]

    def see(self, seen: Seen, /) -> None:
        """Look at one pair."""

    def checks(self) -> Iterator[Check]:
        """Yield what was found."""
        ...


@dataclass(frozen=True)
class LintReport:
    """What lint found. `errors` and `warnings` count checks, not rows; `marks` says which pairs `fix` leaves out."""

    dataset: PreferenceDataset
    checks: tuple[Check, ...]
    stats: dict[str, float | int]
    providers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    marks: dict[int, Mark] = field(default_factory=dict[int, Mark])
    histogram: tuple[int, ...] = ()

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
        from anydpo.report.lint import document
        from anydpo.report.terminal import show

        show(document(self))

    def lines(self) -> Iterator[str]:
        """Yield the report's lines, not wrapped."""
        from anydpo.report.lint import document
        from anydpo.report.terminal import lines

        return lines(document(self))

    def save(self, path: str | Path) -> None:
        """Write the report as one self-contained HTML page."""
        from anydpo.report.lint import document
        from anydpo.report.page import save

        save(document(self), path)


def lint(
    dataset: PreferenceDataset,
    places: Sequence[str] = (),
    *,
    model: str | None = None,
    max_length: int | None = None,
    against: PreferenceDataset | None = None,
    basic: bool = False,
) -> LintReport:
    """Return what the data hold, and what each place would say to them.

    `model` names the tokenizer for token budgets, `against` other data whose prompts must not stand here. `basic`
    leaves out what looks into the texts (near copies, personal data, languages, tokens), for speed.
    """
    copies, lengths = Copies(), Lengths()
    inspectors, notes = ([], []) if basic else _inspectors(places, model, max_length, against)
    for at, pair in enumerate(dataset):
        copy = copies.see(at, pair)
        if basic:
            continue
        seen = Seen.of(at, pair)
        lengths.see(seen)
        for inspector in inspectors:
            if not (copy and isinstance(inspector, NearCopies)):  # said already
                inspector.see(seen)
    tokens = next((one for one in inspectors if isinstance(one, Tokens)), None)
    checks = [
        *_rows(dataset),
        *copies.checks(),
        *(check for inspector in inspectors for check in inspector.checks()),
        *lengths.checks(),
        *([] if basic else agreement_checks(dataset.judgments)),
        *few_pairs(dataset.scan.pairs),
        *notes,
    ]
    order: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
    marks = dict[int, Mark]()
    for inspector in reversed(inspectors):
        marks.update(inspector.marks)
    marks.update(copies.marks)
    return LintReport(
        dataset,
        tuple(sorted(checks, key=lambda check: order[check.severity])),
        {**_stats(dataset), **({} if basic else lengths.stats()), **(tokens.stats() if tokens else {})},
        {place: _asked(dataset, place) for place in places},
        marks,
        lengths.histogram(),
    )


def _inspectors(
    places: Sequence[str],
    model: str | None,
    max_length: int | None,
    against: PreferenceDataset | None,
) -> tuple[list[Inspector], list[Check]]:
    """Return the checks that can run here, and a line about each that cannot."""
    from anydpo.data.contents import Contents

    found: list[Inspector] = []
    notes: list[Check] = []
    if against is not None:
        found.append(Leaks(against, ", ".join(against.files)))
    try:
        found.append(NearCopies())
    except ImportError:
        what = "near copies of pairs" + (" and of prompts" if against is not None else "")
        notes.append(_not_looked(f"{what} were not looked for: the package rensa is not installed", INSTALL))
    found.append(Contents())
    if model is not None or max_length is not None:
        try:
            found.append(Tokens(model or "", *_limit(places, max_length)))
        except NoTokenizer as why:
            notes.append(_not_looked(f"tokens were not counted: {why}", "give --model a folder with tokenizer.json"))
    return found, notes


def _not_looked(message: str, advice: str) -> Check:
    return Check("not_checked", "info", 0, message, (), "", advice)


def _limit(places: Sequence[str], max_length: int | None) -> tuple[int | None, str]:
    if max_length is not None:
        return max_length, "max_length"
    known = [(PLACES[name], place) for place in places if (name := _format_of(place)) in PLACES]
    if not known:
        return None, ""
    (limit, why), place = min(known, key=lambda one: one[0][0])
    return limit, f"{place}: {why}"


def _rows(dataset: PreferenceDataset) -> Iterator[Check]:
    scan = dataset.scan
    if not scan.pairs:
        yield Check("no_pairs", "error", dataset.rows, "no row is a pair", (), "there is nothing to train on")
    for reason, count in scan.skipped.items():
        examples = tuple(f"{r.file}:{r.line}" for r in scan.skipped_rows if r.reason == reason)[:SHOWN]
        severity: Severity
        if reason not in EXPECTED:
            severity, advice = "warning", "mend these rows if they matter; they are not trained on"
        elif 2 * count > dataset.rows:
            severity, advice = "warning", MOST.get(reason, "see whether this is the right file: most of it is not used")
        else:
            severity, advice = "info", "nothing, if that is as it should be: such rows hold no preference"
        said = f"{counted(count, 'row')} skipped as {reason}"
        yield Check(reason, severity, count, said, examples, WHY.get(reason, ""), advice)


def _stats(dataset: PreferenceDataset) -> dict[str, float | int]:
    scan = dataset.scan
    count = max(1, scan.pairs)
    return {
        **{f"{part}_characters": scan.characters[part] / count for part in ("prompt", "chosen", "rejected")},
        "chosen_longer": scan.chosen_longer / count,
        **{name: scan.features[name] for name in sorted(scan.features)},
    }


def _format_of(place: str) -> str:
    """Return the dialect that a place is sent; a dialect's own name may stand for a place."""
    from anydpo.data.dialect import WRITERS
    from anydpo.errors import ProviderMissing

    try:
        return _capabilities(place).writes
    except ProviderMissing:
        if place in WRITERS:
            return place
        raise


def _capabilities(place: str) -> Capabilities:
    from anydpo.errors import ProviderMissing
    from anydpo.registry import provider, split_place

    name, route = split_place(place)
    routes = provider(name).capabilities
    if (route or "") not in routes and route is not None:
        raise ProviderMissing(f"{name} has no route {route!r}")
    return routes[route or next(iter(routes))]


def _asked(dataset: PreferenceDataset, place: str) -> dict[str, Any]:
    """Return what a place refuses (`problems`) and what it may say (`notes`)."""
    from anydpo.data.dialect import WRITERS
    from anydpo.data.limits import LIMITS, refused_pairs
    from anydpo.data.write import WORDS
    from anydpo.errors import ProviderMissing

    format_ = _format_of(place)
    to = WRITERS[format_]
    features = dataset.scan.features
    try:
        holds = frozenset(_capabilities(place).holds)
    except ProviderMissing:
        holds = frozenset(WORDS) - to.refuses
    refused = [
        feature
        for feature in WORDS
        if features[feature]
        and (
            feature in to.refuses
            or (feature in ("tools", "images", "weight", "many_messages") and feature not in holds)
        )
        and not (feature == "weight" and feature in to.loses)
    ]
    problems = [f"{counted(features[name], 'pair')} with {WORDS[name]} cannot be trained there" for name in refused]
    notes = [
        f"{WORDS[name]} ({features[name]:,} pairs) has no place there" for name in sorted(to.loses) if features[name]
    ]
    if (limits := LIMITS.get(format_)) is not None and not problems:
        problems += map(str, refused_pairs(dataset, limits.rule))
        if limits.note is not None:
            notes += map(str, refused_pairs(dataset, limits.note))
    if limits is not None and len(dataset) < limits.min_pairs:
        problems.append(f"{counted(len(dataset), 'pair')}; {limits.provider} asks for at least {limits.min_pairs}")
    return {"ok": not problems, "problems": problems, "notes": notes}
