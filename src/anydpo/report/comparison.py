"""What a comparison of runs says to people: briefly on a terminal, in full on a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from anydpo.comparison import LOWER_IS_BETTER, Comparison, Group, better_of
from anydpo.data.finding import Check, counted
from anydpo.report import curves, differing
from anydpo.report.beside import WIDE, beside, figure_text, marks_of, seconds, when
from anydpo.report.document import Block, Document, Findings, Ranges, Section, Sides, Strong, Table
from anydpo.result import Cost, Estimate, Result, State
from anydpo.significance import LEVEL

SHOWN, LONGEST, LONG_NAME = 6, 1200, 36  # examples on a page, characters of an answer, of a model's name
READ_MEASURED = (
    "The same pairs for every run, from its weights. accuracies: how often the chosen answer has the higher implicit "
    "reward. margins: by how much, in units of its own beta. shift: how far training moved the log-probability of an "
    "answer, in nats. kl: divergence from the reference over answers that the model itself writes to these prompts, in "
    "nats. ece, brier: how far the implied Bradley-Terry probabilities are from how often they are right. In brackets: "
    "95 % intervals, of accuracies by Wilson's score, of all else by a bootstrap over the pairs."
)
READ_OWN = "As each provider reports them of its own held-out pairs; what is not given is a dash, never a zero."


def document(comparison: Comparison) -> Document:
    """Return all that there is to say, the answer first."""
    return _document(comparison, tuple(_sections(comparison)))


def summary(comparison: Comparison) -> Document:
    """Return the tables alone."""
    made = [
        _groups(comparison),
        _runs(comparison),
        *_figures(comparison, charts=False),
        *differing.sections(comparison),
    ]
    return _document(comparison, tuple(one for one in [*made, _notes(comparison)] if one is not None))


def _document(comparison: Comparison, sections: tuple[Section, ...]) -> Document:
    names = list(dict.fromkeys(one.name for one in comparison.results if one.name))
    title = f"{names[0]}: " if len(names) == 1 else ""
    verdict, tone = _verdict(comparison)
    models = list(dict.fromkeys(group.base or "unknown" for group in comparison.groups))
    return Document(
        f"{title}{counted(len(comparison), 'run')} compared" if len(comparison) > 1 else f"{title}one run",
        (f"base: {', '.join(models)}", *_states(comparison)),
        verdict,
        tone,
        sections,
        wide=True,
    )


def _states(comparison: Comparison) -> Iterator[str]:
    others = [one for one in comparison.results if one.state is not State.SUCCEEDED]
    marks = marks_of(comparison)
    if others:
        yield ", ".join(f"{marks[one.run]} is {one.state}" for one in others)
    rehearsals = [str(marks[one.run]) for one in comparison.results if one.sandbox]
    if rehearsals:
        yield f"rehearsed in the sandbox, with a stand-in model: {', '.join(rehearsals)}"


def _verdict(comparison: Comparison) -> tuple[str, str]:
    """Return (sentence, tone): what is best, how sure that is, and whether it may be said at all."""
    marks, name = marks_of(comparison), comparison.quality
    if not comparison.comparable:
        parts = [" ".join(marks[run].letter for run in group.runs) for group in comparison.groups]
        return (
            f"NOT COMPARABLE with one another: {' | '.join(parts)}. They differ in base model or held-out pairs",
            "look",
        )
    found = {run: value for run, value in comparison.metric(name).items() if value is not None} if name else {}
    if not name or not found:
        return "No run has a figure of quality yet", "look"
    best = comparison.best(name)
    said = f"{name.removeprefix('measured/')} {found[best.run]:.4g}"
    whose = "measured here" if name.startswith(("measured", "judge")) else "as the provider reports it"
    if len(found) == 1:
        return f"{marks[best.run]}: {said}, {whose}", "ok"
    even = [run for run, value in found.items() if value == found[best.run]]
    if len(even) == len(found):
        return f"All equal in {said}, {whose}", "ok"
    first = f"Best: {' and '.join(str(marks[run]) for run in even)} with {said}, {whose}"
    tests = [one for one in comparison.differences if one.metric == name and one.other not in even]
    unsure = [one for one in tests if not one.significant]
    if tests and unsure:
        letters = ", ".join(marks[one.other].letter for one in unsure)
        return f"{first}; from {letters} it may differ by chance alone (p above {LEVEL:g})", "look"
    sure = f"; from every other one it differs by more than chance (p at most {LEVEL:g})" if tests else ""
    return first + sure, "ok"


def _sections(comparison: Comparison) -> Iterator[Section]:
    made: list[Section | None] = [_groups(comparison), _runs(comparison), *_figures(comparison, charts=True)]
    made += [*curves.sections(comparison), *differing.sections(comparison), _slices(comparison), _examples(comparison)]
    made += [_data(comparison), _attempts(comparison), _notes(comparison)]
    yield from (one for one in made if one is not None)


def _groups(comparison: Comparison) -> Section | None:
    if comparison.comparable:
        return None
    marks = marks_of(comparison)
    rows = [
        (
            group.number,
            ", ".join(str(marks[run]) for run in group.runs),
            group.base or "unknown",
            group.evaluated_on.rpartition(":")[2][:12] if group.evaluated_on else "none known",
            _best_of(comparison, group),
        )
        for group in comparison.groups
    ]
    note = "Accuracies, margins and losses mean something only beside others of the same base on the same pairs."
    return Section("Not comparable", (Table(("group", "runs", "base", "held-out pairs", "best of these"), rows),), note)


def _best_of(comparison: Comparison, group: Group) -> str:
    alone = Comparison([one for one in comparison.results if one.run in group.runs])
    if len(alone) < 2 or alone.quality is None:
        return ""
    found, best = alone.metric(alone.quality), alone.best()
    marks = marks_of(comparison)
    letters = [marks[run].letter for run, value in found.items() if value == found[best.run]]
    return f"{' '.join(letters)} by {alone.quality}"


def _runs(comparison: Comparison) -> Section:
    rows = [
        ("run", [one.run for one in comparison.results]),
        ("state", [one.state.value for one in comparison.results]),
        ("model", [_name(one.model.tuned) for one in comparison.results]),
        ("pairs", [_count(one.data.train_pairs) for one in comparison.results]),
        ("steps", [_count(one.usage.steps) for one in comparison.results]),
        ("tokens", [_count(one.usage.train_tokens) for one in comparison.results]),
        ("cost", [_money(one.cost) for one in comparison.results]),
        ("trained", [seconds(one.timing.train_seconds) for one in comparison.results]),
    ]
    return Section("Runs", (beside(comparison, [(name, cells) for name, cells in rows if _tells(cells)]),))


def _figures(comparison: Comparison, *, charts: bool) -> Iterator[Section]:
    """Yield what we measured, what a judge says, and what the providers say, each apart."""
    columns = comparison.columns
    measured = [name for name in columns if name.startswith("measured/")]
    judged = [name for name in columns if name.startswith("judge/")]
    own = [name for name in columns if not name.startswith(("measured/", "judge/"))]
    if measured:
        blocks: list[Block] = [_ranges(comparison, "measured/rewards/accuracies", 0.5)] if charts else []
        blocks += [_figure_table(comparison, measured), *_tests(comparison)]
        yield Section("Measured here", blocks, READ_MEASURED)
    if judged:
        blocks = [_ranges(comparison, "judge/win_rate", 0.5)] if charts else []
        yield Section("Judged", [*blocks, _judged(comparison)], _judge_note(comparison))
    if own:
        yield Section("The providers' own figures", (_figure_table(comparison, own),), READ_OWN)


def _figure_table(comparison: Comparison, names: Sequence[str]) -> Table:
    rows: list[tuple[str, Sequence[object]]] = []
    for name in names:
        found = [comparison.figures(one).get(name) for one in comparison.results]
        best = _best_value(comparison, name, found)
        label = name.removeprefix("measured/")
        cells = [Strong(figure_text(f)) if f is not None and f.value == best else figure_text(f) for f in found]
        rows.append((f"{label} ↓" if name.rpartition("/")[2] in LOWER_IS_BETTER else label, cells))
    return beside(comparison, rows)


def _best_value(comparison: Comparison, name: str, found: Sequence[Estimate | None]) -> float | None:
    """Return the value to be shown as the best one; none where the runs cannot be compared, or are all alike."""
    values = {one.value for one in found if one is not None}
    neutral = name.endswith(("_shift", "kl"))  # neither high nor low is good in itself
    if len(values) < 2 or not comparison.comparable or neutral:
        return None
    value: float = better_of(name)(values)
    return value


def _ranges(comparison: Comparison, name: str, middle: float) -> Ranges:
    marks = marks_of(comparison)
    rows = [
        (marks[one.run], figure.value, figure.low, figure.high, figure_text(figure))
        for one in comparison.results
        if (figure := comparison.figures(one).get(name)) is not None
    ]
    return Ranges(name.partition("/")[2], rows, middle)


def _tests(comparison: Comparison) -> Iterator[Block]:
    marks = marks_of(comparison)
    rows = [
        (
            one.metric.removeprefix("measured/"),
            f"{marks[one.run].letter} − {marks[one.other].letter}",  # noqa: RUF001
            figure_text(one.difference),
            f"{one.pairs:,}",
            f"{one.p_adjusted:.2g}",
            "differs" if one.significant else "may be chance",
            one.test,
        )
        for one in comparison.differences
        if len(comparison) <= WIDE or one.metric == comparison.quality  # --json has all
    ]
    if rows:
        yield Table(("metric", "runs", "difference", "pairs", "p (Holm)", "", "test"), rows, pinned=True)


def _judged(comparison: Comparison) -> Table:
    names = ("judge/win_rate", "judge/wins", "judge/ties", "judge/losses")
    cells = {one.run: comparison.figures(one) for one in comparison.results}
    return beside(
        comparison,
        [
            (name.removeprefix("judge/"), [figure_text(cells[one.run].get(name)) for one in comparison.results])
            for name in names
        ],
    )


def _judge_note(comparison: Comparison) -> str:
    found = [made for one in comparison.results if (made := comparison.evaluation(one, "judge")) is not None]
    judges = ", ".join(dict.fromkeys(one.by for one in found))
    against = ", ".join(dict.fromkeys(str(one.reference) for one in found))
    return (
        f"By {judges}, which saw each completion beside {against} twice, in both orders; only a verdict that holds in "
        "both counts, else it is a tie. win_rate: wins and half the ties. A judge is a model too: it likes length and "
        "its own kind."
    )


def _slices(comparison: Comparison) -> Section | None:
    found = {one.run: made.slices for one in comparison.results if (made := comparison.evaluation(one)) is not None}
    keys = list(dict.fromkeys((part.by, part.name) for parts in found.values() for part in parts))
    rows: list[tuple[str, Sequence[object]]] = []
    for by, name in islice(keys, 24):
        cells = []
        for one in comparison.results:
            part = next((p for p in found.get(one.run, ()) if (p.by, p.name) == (by, name)), None)
            cells.append("–" if part is None else f"{part.metrics['measured/rewards/accuracies'].value:.3f}")  # noqa: RUF001
        pairs = max(p.pairs for parts in found.values() for p in parts if (p.by, p.name) == (by, name))
        rows.append((f"{by}: {name} ({pairs:,})", cells))
    note = "How often the chosen answer has the higher reward, in parts of the pairs; in brackets how many pairs."
    return Section("Accuracy by slice", (beside(comparison, rows),), note) if rows else None


def _examples(comparison: Comparison) -> Section | None:
    marks = marks_of(comparison)
    prompts = list(dict.fromkeys(sample.prompt for one in comparison.results for sample in one.samples))
    if not prompts:
        return None
    shared = sorted(prompts, key=lambda p: -sum(any(s.prompt == p for s in one.samples) for one in comparison.results))
    blocks = []
    for prompt in shared[:SHOWN]:
        answers: list[tuple[object, str]] = []
        found = [(one, s) for one in comparison.results for s in one.samples if s.prompt == prompt]
        for base in dict.fromkeys(sample.base for _, sample in found if sample.base is not None):
            letters = " ".join(marks[one.run].letter for one, sample in found if sample.base == base)
            answers.append((f"before training ({letters})", _cut(base)))
        answers += [(marks[one.run], _cut(sample.tuned)) for one, sample in found if sample.tuned is not None]
        blocks.append(Sides(_cut(prompt), answers))
    return Section("Example completions", blocks, "`anydpo sample RUN… --prompt TEXT` adds others.")


def _data(comparison: Comparison) -> Section:
    results = comparison.results
    skipped = [", ".join(f"{n:,} {reason}" for reason, n in one.data.skipped.items()) or "none" for one in results]
    rows = [
        ("fingerprint", [_short_print(one.data.fingerprint) for one in results]),
        ("trained pairs", [_count(one.data.train_pairs) for one in results]),
        ("held-out pairs", [_count(one.data.validation_pairs) for one in results]),
        ("held-out fingerprint", [_short_print(one.data.validation_fingerprint) for one in results]),
        ("skipped", skipped),
        ("sent as", [one.data.format_sent or "–" for one in results]),  # noqa: RUF001
        ("bytes sent", [_count(one.data.bytes_sent) for one in results]),
    ]
    known = {one.data.fingerprint for one in results}
    note = "" if len(known) == 1 else "The runs were trained on different pairs."
    return Section("Data", (beside(comparison, [(name, cells) for name, cells in rows if _tells(cells)]),), note)


def _attempts(comparison: Comparison) -> Section | None:
    marks = marks_of(comparison)
    rows = [
        (marks[one.run], tried.place, tried.error.message if tried.error else "went on", when(tried.when))
        for one in comparison.results
        for tried in one.attempts
        if len(one.attempts) > 1 or tried.error is not None
    ]
    return Section("Attempts", (Table(("run", "place", "what came of it", "when (UTC)"), rows),)) if rows else None


def _notes(comparison: Comparison) -> Section | None:
    """Return errors and warnings, each once with the runs that it is about."""
    marks = marks_of(comparison)
    found: dict[tuple[str, str, str], list[str]] = {}
    for one in comparison.results:
        for code, severity, message in _told(one):
            found.setdefault((code, severity, message), []).append(str(marks[one.run]))
    checks = [
        Check(code, "error" if severity == "error" else "warning", len(runs), f"{', '.join(runs)}: {message}")
        for (code, severity, message), runs in sorted(found.items(), key=lambda item: item[0][1] != "error")
    ]
    return Section("Warnings", (Findings(checks),)) if checks else None


def _told(result: Result) -> Iterator[tuple[str, str, str]]:
    if result.error is not None:
        hint = f" ({result.error.hint})" if result.error.hint else ""
        yield result.error.code, "error", f"{result.error.message}{hint}"
    yield from ((one.code, "warning", one.message) for one in result.warnings)
    for evaluation in result.evaluations:
        yield from (("evaluation", "warning", note) for note in evaluation.notes)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


def _name(model: str | None) -> str:
    """Return a model's name, of a folder only its end."""
    if model is None:
        return "–"  # noqa: RUF001
    return model if len(model) <= LONG_NAME else f"…{model[-LONG_NAME:]}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"  # noqa: RUF001


def _short_print(fingerprint: str | None) -> str:
    return fingerprint.rpartition(":")[2][:12] if fingerprint else "–"  # noqa: RUF001


def _money(cost: Cost | None) -> str:
    return "–" if cost is None else f"{cost.amount:,.2f} {cost.currency} ({cost.basis})"  # noqa: RUF001


def _tells(cells: Sequence[object]) -> bool:
    return any(str(cell) != "–" for cell in cells)  # noqa: RUF001
