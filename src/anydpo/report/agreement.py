"""What an agreement report says to people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anydpo.data.accept import Requirement
from anydpo.data.agreement import AgreementReport, Figures
from anydpo.data.annotators import share
from anydpo.data.delivery import LOW_ALPHA
from anydpo.data.finding import counted
from anydpo.report.document import Bars, Block, Document, Findings, Section, Table, Text, figure, percent, verdict_of

MANY = 40  # annotators or pairs shown; --json has all
READ_ALPHA = (
    "1 is perfect, 0 what chance gives, below 0 systematic disagreement. Customary limits for Krippendorff's alpha: "
    "0.8 and more is reliable, 0.667 to 0.8 allows tentative conclusions, less none. Undefined: only one answer was "
    "ever given, so that nothing can be compared."
)


def document(report: AgreementReport, requirements: Sequence[Requirement] = ()) -> Document:
    """Return the report as sections, the decision first."""
    sentence, tone = verdict_of(report.errors, report.warnings)
    failed = [one for one in requirements if not one.ok]
    if requirements:
        met = f"{len(failed)} of {len(requirements)} requirements NOT met" if failed else "all requirements met"
        sentence, tone = f"{met}; {sentence}", "bad" if failed or report.errors else tone
    if failed or report.errors:
        sentence = f"refuse: {sentence}"
    elif requirements:
        sentence = f"accept: {sentence}"
    return Document(
        f"Agreement: {', '.join(report.files) or 'judgements'}",
        (
            f"{counted(report.overall.items, 'item')}, {counted(report.overall.raters, 'annotator')}, "
            f"{counted(report.judgments, 'judgement')}; {counted(report.unanimous, 'item')} unanimous",
            _alpha(report.overall.krippendorff["nominal"]),
        ),
        sentence[0].upper() + sentence[1:],
        tone,
        tuple(_sections(report, requirements)),
    )


def _alpha(alpha: float | None) -> str:
    if alpha is None:
        return "Krippendorff's alpha is undefined: too few items were judged twice, or only one answer was ever given"
    reading = "reliable" if alpha >= 0.8 else "good for tentative conclusions" if alpha >= LOW_ALPHA else "not reliable"
    return f"Krippendorff's alpha {alpha:.3f}: {reading}"


def _sections(report: AgreementReport, requirements: Sequence[Requirement]) -> Iterator[Section]:
    if requirements:
        rows = [(one.text, figure(one.value, 4), "met" if one.ok else "NOT met") for one in requirements]
        yield Section("Requirements", (Table(("required", "found", ""), rows),))
    if report.checks:
        yield Section("Findings", (Findings(report.checks),))
    yield Section("Agreement on the preference", (_overall(report.overall),), READ_ALPHA)
    if report.overall.cohen:
        yield Section("Cohen's kappa and raw agreement of each two annotators", (_pairs(report.overall),))
    yield _majorities(report)
    if report.dimensions:
        yield Section(
            "Agreement on each rubric dimension",
            (_table_of(report.dimensions, "dimension"),),
            "Ratings of one answer by several annotators; ordinal uses their order, interval their distance.",
        )
    for by, groups in report.groups.items():
        yield Section(f"By {by}", (_table_of(groups, by),))
    if report.annotators:
        yield _annotators(report)
    yield _habits(report)
    if report.overall.bradley_terry:
        yield _strengths(report)
    if report.smoothing:
        yield _smoothing(report)


def _overall(found: Figures) -> Table:
    k = found.krippendorff
    of_fleiss = f"over {counted(found.fleiss_items, 'item')} with the most common number of votes"
    rows = [
        ("raw agreement", figure(found.raw, 4), "share of equal votes among all pairs of votes on an item"),
        ("Fleiss' kappa", figure(found.fleiss, 4), of_fleiss if found.fleiss_items else "needs two votes an item"),
        ("Krippendorff's alpha, nominal", figure(k["nominal"], 4), "any two different answers differ equally"),
        ("… ordinal", figure(k["ordinal"], 4), "a tie stands between first and second"),
        ("… interval", figure(k["interval"], 4), "distance counts, times strength where every vote has one"),
    ]
    return Table(("", "", ""), rows)


def _pairs(found: Figures) -> Table:
    rows = [
        (pair, figure(kappa, 4), figure(found.raw_pairs[pair], 4))
        for pair, kappa in sorted(found.cohen.items(), key=lambda kv: (kv[1] is not None, kv[1] or 0.0))[:MANY]
    ]
    return Table(("annotators", "kappa", "raw"), rows)


def _majorities(report: AgreementReport) -> Section:
    total = max(1, sum(report.majority.values()))
    names = {"first": "first answer", "second": "second answer", "tie": "tie", "no_majority": "no majority"}
    rows = [(names[name], count / total, f"{count:,} ({count / total:.1%})") for name, count in report.majority.items()]
    return Section("What the items say by majority", (Bars(rows),))


def _table_of(groups: dict[str, Figures], word: str) -> Table:
    rows = [
        (
            name,
            f"{found.items:,}",
            f"{found.raters:,}",
            figure(found.raw),
            figure(found.fleiss),
            *(figure(found.krippendorff[level]) for level in ("nominal", "ordinal", "interval", "ratio")),
        )
        for name, found in list(groups.items())[:MANY]
    ]
    return Table((word, "items", "annotators", "raw", "Fleiss", "nominal", "ordinal", "interval", "ratio"), rows)


def _annotators(report: AgreementReport) -> Section:
    rows = [
        (
            one.name,
            f"{one.habits.judged:,}",
            figure(one.kappa) if one.kappa is not None else "–",  # noqa: RUF001
            percent(one.majority),
            figure(one.alpha_without) if one.alpha_without is not None else "–",  # noqa: RUF001
            f"{one.habits.gold_right}/{one.habits.gold_seen}" if one.habits.gold_seen else "–",  # noqa: RUF001
            percent(share(one.habits.first, one.habits.decided)),
            percent(share(one.habits.longer, one.habits.unequal)),
            f"{one.habits.median_seconds:.0f} s" if one.habits.median_seconds is not None else "–",  # noqa: RUF001
        )
        for one in report.annotators[:MANY]
    ]
    columns = ("annotator", "judged", "kappa", "majority", "alpha without", "gold", "first", "longer", "time")
    left_out = f" {len(report.annotators) - MANY} more are in --json." if len(report.annotators) > MANY else ""
    return Section(
        "Annotators",
        (Table(columns, rows),),
        "kappa: mean Cohen's kappa with everybody else. majority: same answer as most of the others. alpha without: "
        "Krippendorff's alpha of the delivery if this annotator were left out. gold: test questions answered rightly. "
        f"first, longer: how often the answer shown first, the longer answer, was preferred. time: median.{left_out}",
    )


def _habits(report: AgreementReport) -> Section:
    h = report.habits
    rows = [
        ("answer shown first preferred", h.first, h.decided),
        ("longer answer preferred", h.longer, h.unequal),
        ("label agrees with the annotator's own scores", h.with_scores, h.scored),
        ("gold answered rightly", h.gold_right, h.gold_seen),
    ]
    bars = [(label, part / whole, f"{part / whole:.1%} of {whole:,}") for label, part, whole in rows if whole]
    blocks: list[Block] = [Bars(bars, middle=0.5)] if bars else []
    if missing := [label for label, _, whole in rows if not whole]:
        blocks.append(Text(f"Not in this delivery: {', '.join(missing)}."))
    return Section("Habits", blocks, "The mark stands at one half, where side and length do not matter.")


def _strengths(report: AgreementReport) -> Section:
    found = report.overall.bradley_terry
    assert found is not None
    errors = found["standard_errors"] or {}
    rows = [
        (name, f"{value:+.4f}", f"±{1.96 * errors[name]:.2f}" if name in errors else "–")  # noqa: RUF001
        for name, value in found["strengths"].items()
    ]
    note = (
        f"From the majority of {found['decided']:,} decided items; {found['tied']:,} ties are dropped. Logarithms with "
        "mean 0: a difference of 1 means that the stronger one wins 73 %. ± is a 95 % interval."
    )
    if not found["connected"]:
        note += (
            " Some models never won, or never met, so that wins alone give no finite strengths: each was lent half a "
            "win and half a loss against an average model, and no interval is given."
        )
    return Section("Bradley-Terry strengths of the models", (Table(("model", "strength", "95 %"), rows),), note)


def _smoothing(report: AgreementReport) -> Section:
    s = report.smoothing
    assert s is not None
    if s.single >= 0.4:
        coin = f"Two annotators contradict each other in {s.disagreement:.1%}: hardly less often than two coins would."
        return Section("Label noise", (Text(f"{coin} No label_smoothing makes up for that; do not train on it."),))
    advice = (
        f"label_smoothing = {s.majority:.2f} for pairs made by majority"
        if s.majority >= 0.005
        else "label_smoothing = 0 for pairs made by majority: the votes leave hardly a wrong label"
    )
    return Section(
        "Label noise",
        (
            Text(
                f"Two annotators who both decide contradict each other in {s.disagreement:.1%}. If each errs alike and "
                f"independently, one is wrong in {s.single:.1%}, and the majority in {s.majority:.1%}. Start from "
                f"{advice}; {s.single:.2f} where one annotator's label stands alone."
            ),
        ),
        "The conservative DPO loss takes the share of wrong labels as label_smoothing. Errors that annotators share "
        "are not seen here.",
    )
