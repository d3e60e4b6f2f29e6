"""What is wrong with a delivery of judgements: scales that look reversed, annotators apart, habits, speed."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from anydpo.data.annotators import Annotator, Habits
from anydpo.data.coefficients import tail, two_sided
from anydpo.data.finding import SHOWN, Check
from anydpo.data.judgment import Judgment
from anydpo.data.votes import Item, better_by_score

if TYPE_CHECKING:
    from anydpo.data.agreement import Figures

LOW_ALPHA = 0.667  # Krippendorff: below this no conclusion, below 0.8 tentative ones
DECIDED = ("first", "second")
ENOUGH = 10  # common items from which an annotator is compared with another
SEVERAL = 0.01  # chance of a false alarm where many annotators or dimensions are looked at

REVERSED_WHY = "a reversed scale turns every chosen answer into a rejected one: training would learn the opposite"
REVERSED_ADVICE = (
    "ask what the numbers mean, set the direction in the mapping ([likert] low = ..., or [labels]), "
    "or return the delivery; do not train on it"
)


def checks_of(
    items: Sequence[Item], overall: Figures, people: Sequence[Annotator], everybody: Habits, replaced: int
) -> Iterator[Check]:
    """Yield the findings, errors first."""
    yield from _labels_against_scores(items, people, everybody)
    yield from _labels_against_gold(people, everybody)
    yield from _against_the_others(people)
    yield from _strength(items)
    yield from _apart(people)
    yield from _low_agreement(overall)
    yield from _gold_failed(people)
    yield from _sides(people, everybody)
    yield from _lengths(everybody)
    yield from _time(people)
    yield from _coverage(items, overall, replaced)


def opposite(against: int, compared: int, chance: float = 0.05) -> bool:
    """Whether so many contradictions are more than a coin would give, and more than seven in ten."""
    return compared > 0 and against / compared >= 0.7 and tail(against, compared) <= chance


def _labels_against_scores(items: Sequence[Item], people: Sequence[Annotator], everybody: Habits) -> Iterator[Check]:
    against = everybody.scored - everybody.with_scores
    if opposite(against, everybody.scored):
        yield _reversed(
            against,
            f"the label contradicts the annotator's own scores in {against:,} of {everybody.scored:,} judgements",
            _examples(items, lambda j: j.choice in DECIDED and better_by_score(j) not in (None, j.choice)),
        )
        return
    for one in people:
        against = one.habits.scored - one.habits.with_scores
        if opposite(against, one.habits.scored, SEVERAL):
            yield _reversed(
                against,
                f"{one.name}: the label contradicts the same person's scores in {against:,} of "
                f"{one.habits.scored:,} judgements; everybody else's fit",
                (one.name,),
            )
    for dimension in dict.fromkeys(name for item in items for j in item.judgments for name in j.scores):
        found = [
            (better, j.choice)
            for item in items
            for j in item.judgments
            if j.choice not in (None, "tie") and (better := better_by_score(j, dimension)) is not None
        ]
        against = sum(better != choice for better, choice in found)
        if opposite(against, len(found), SEVERAL):
            yield _reversed(
                against,
                f"the scores of {dimension!r} are higher for the answer that lost in {against:,} of {len(found):,} "
                "judgements; the other dimensions fit the label",
                (dimension,),
            )


def _labels_against_gold(people: Sequence[Annotator], everybody: Habits) -> Iterator[Check]:
    wrong, decided = everybody.gold_opposite, everybody.gold_right + everybody.gold_opposite
    if opposite(wrong, decided):
        yield _reversed(wrong, f"{wrong:,} of {decided:,} decided gold answers are exactly the opposite of the truth")
        return
    for one in people:
        wrong, decided = one.habits.gold_opposite, one.habits.gold_right + one.habits.gold_opposite
        if opposite(wrong, decided, SEVERAL):
            yield _reversed(
                wrong, f"{one.name}: {wrong:,} of {decided:,} decided gold answers are the opposite", (one.name,)
            )


def _against_the_others(people: Sequence[Annotator]) -> Iterator[Check]:
    for one in people:
        known = [(k, one.common[other]) for other, k in one.kappas.items() if one.common[other] >= ENOUGH]
        if known and all(k is not None and k <= -0.4 for k, _ in known):
            count = sum(n for _, n in known)
            two = " (one of two annotators: the data cannot say which)" if len(people) == 2 else ""
            yield _reversed(
                count,
                f"{one.name} says the opposite of every other annotator: Cohen's kappa {one.kappa:.2f}{two}",
                (one.name,),
            )


def _strength(items: Sequence[Item]) -> Iterator[Check]:
    """Strong verdicts are those that others share, and those with far apart scores; the other way round is a sign."""
    strong, gaps, shared = [], [], [list[bool](), list[bool]()]
    judged = [(j, item) for item in items for j in item.judgments if j.strength and j.choice in ("first", "second")]
    if len({j.strength for j, _ in judged}) < 2:
        return
    middle = statistics.median(j.strength or 0 for j, _ in judged)
    for judgment, item in judged:
        both = [(a, b) for a, b in judgment.scores.values() if a is not None and b is not None]
        if both:
            strong.append(judgment.strength or 0.0)
            gaps.append(abs(sum(a - b for a, b in both)))
        others = [j.choice for j in item.judgments if j is not judgment and j.choice in ("first", "second")]
        if others and judgment.strength != middle:
            shared[(judgment.strength or 0) > middle].extend(choice == judgment.choice for choice in others)
    message = ""
    if len(gaps) >= 2 * ENOUGH and min(len(set(strong)), len(set(gaps))) > 1:
        related = statistics.correlation(_ranks(strong), _ranks(gaps))
        if related <= -0.3:
            message = f"the stronger a verdict, the closer are the two answers' scores (rank correlation {related:.2f})"
    weak_half, strong_half = shared
    if not message and min(len(weak_half), len(strong_half)) >= 2 * ENOUGH:
        weak_share, strong_share = (sum(half) / len(half) for half in (weak_half, strong_half))
        if strong_share < weak_share - 0.15 and tail_below(sum(strong_half), len(strong_half), weak_share) <= SEVERAL:
            message = (
                f"strong verdicts are shared by other annotators in {strong_share:.0%}, weak ones in {weak_share:.0%}"
            )
    if message:
        yield Check(
            "reversed_scale",
            "error",
            len(judged),
            f"the scale of strength looks reversed: {message}",
            (),
            "a margin or weight made from a reversed strength trusts the least certain labels most",
            "ask whether a high number means much better or only just better, and turn it in the mapping",
        )


def _ranks(values: Sequence[float]) -> list[float]:
    """Return each value's rank, equal ones sharing the mean of theirs."""
    counts, below, rank = Counter(values), 0, dict[float, float]()
    for value in sorted(counts):
        rank[value] = below + (counts[value] + 1) / 2
        below += counts[value]
    return [rank[value] for value in values]


def tail_below(successes: int, trials: int, chance: float) -> float:
    """Return the chance of at most so many successes."""
    return tail(trials - successes, trials, 1 - chance) if 0 < chance < 1 else float(chance == 0)


def annotators_apart(people: Sequence[Annotator]) -> list[Annotator]:
    """Return the annotators whose every kappa is low although the others agree with each other."""
    apart: list[Annotator] = []
    for one in people if len(people) > 2 else ():
        own = [k for other, k in one.kappas.items() if one.common[other] >= ENOUGH]
        rest = [
            k
            for other in people
            if other is not one
            for name, k in other.kappas.items()
            if name != one.name and other.common[name] >= ENOUGH and k is not None
        ]
        if own and rest and all(k is not None and -0.4 < k <= 0.2 for k in own) and statistics.fmean(rest) >= 0.4:
            apart.append(one)
    return apart


def _apart(people: Sequence[Annotator]) -> Iterator[Check]:
    if apart := annotators_apart(people):
        listed = ", ".join(f"{one.name} (kappa {one.kappa:.2f})" for one in apart[:SHOWN])
        yield Check(
            "annotator_apart",
            "warning",
            len(apart),
            f"{_people(len(apart))} with nobody: {listed}; the others agree with each other",
            tuple(one.name for one in apart[:SHOWN]),
            "somebody who answers at random, or by another guideline, adds noise that looks like preference",
            "look at a few of these judgements by hand; ask for them again (--rework lists them), or drop them",
        )


def _people(count: int) -> str:
    return "1 annotator agrees" if count == 1 else f"{count:,} annotators agree"


def _low_agreement(overall: Figures) -> Iterator[Check]:
    alpha = overall.krippendorff["nominal"]
    if alpha is not None and alpha < LOW_ALPHA:
        yield Check(
            "low_agreement",
            "warning",
            overall.items,
            f"Krippendorff's alpha is {alpha:.3f}, below {LOW_ALPHA}",
            (),
            "so many labels rest on chance that a model cannot learn more than the annotators share; published human "
            "agreement on open chat is 63 to 77 % raw",
            "sharpen the guideline where people part, collect a third vote for divided items, keep clear majorities "
            "only, or train with label_smoothing as advised below",
        )


def _gold_failed(people: Sequence[Annotator]) -> Iterator[Check]:
    failed = [p for p in people if unreliable_on_gold(p)]
    if failed:
        listed = ", ".join(f"{p.name} ({p.habits.gold_right} of {p.habits.gold_seen})" for p in failed[:SHOWN])
        yield Check(
            "gold_failed",
            "warning",
            len(failed),
            f"test questions answered wrongly: {listed}",
            tuple(p.name for p in failed[:SHOWN]),
            "test questions have a known answer; who misses them misses others too",
            "ask for the work of these annotators again (--rework lists it)",
        )


def unreliable_on_gold(one: Annotator) -> bool:
    """Whether an annotator answers fewer than seven in ten of at least three test questions rightly."""
    accuracy = one.habits.gold_accuracy
    return accuracy is not None and one.habits.gold_seen >= 3 and accuracy < 0.7


def _sides(people: Sequence[Annotator], everybody: Habits) -> Iterator[Check]:
    if _biased(everybody.first, everybody.decided):
        yield Check(
            "position_bias",
            "warning",
            everybody.decided,
            f"the answer shown first is preferred in {everybody.first / everybody.decided:.1%} of "
            f"{everybody.decided:,} decided judgements",
            (),
            "which side an answer stands on should not matter; if the better ones always stood left, this is no fault",
            "have the two answers shown in random order",
        )
    leaning = [p for p in people if _biased(p.habits.first, p.habits.decided)]
    if leaning and len(leaning) < len(people):
        listed = ", ".join(f"{p.name} ({p.habits.first / p.habits.decided:.0%} first)" for p in leaning[:SHOWN])
        yield Check(
            "annotator_side",
            "warning",
            len(leaning),
            f"annotators who lean to one side: {listed}",
            tuple(p.name for p in leaning[:SHOWN]),
            "somebody who mostly presses the same button may not have read the answers",
            "compare with the gold accuracy and the time taken of the same person",
        )


def _biased(part: int, whole: int) -> bool:
    return whole >= ENOUGH and abs(part / whole - 0.5) > 0.1 and two_sided(part, whole) <= SEVERAL


def _lengths(everybody: Habits) -> Iterator[Check]:
    if _biased(everybody.longer, everybody.unequal):
        side = "longer" if everybody.longer * 2 > everybody.unequal else "shorter"
        share = everybody.longer / everybody.unequal
        yield Check(
            "length_bias",
            "warning",
            everybody.unequal,
            f"the {side} answer is preferred in {max(share, 1 - share):.1%} of {everybody.unequal:,} judgements",
            (),
            "DPO learns length where length decides: answers grow and reward accuracy looks better than it is",
            'balance the pairs by length, or train with loss_type = "simpo" or ld_alpha below 1',
        )


def _time(people: Sequence[Annotator]) -> Iterator[Check]:
    medians = {p.name: p.habits.median_seconds for p in people if p.habits.median_seconds is not None}
    if len(medians) < 2:
        return
    usual = statistics.median(value for value in medians.values() if value is not None)
    quick = [name for name, value in medians.items() if value is not None and value < usual / 3]
    if quick:
        listed = ", ".join(f"{name} ({medians[name]:.0f} s)" for name in quick[:SHOWN])
        yield Check(
            "too_fast",
            "warning",
            len(quick),
            f"three times as fast as usual ({usual:.0f} s an item): {listed}",
            tuple(quick[:SHOWN]),
            "two answers cannot be read and compared in that time",
            "look at their agreement and gold accuracy before paying",
        )


def _coverage(items: Sequence[Item], overall: Figures, replaced: int) -> Iterator[Check]:
    single = [item.name for item in items if len(item.choices) == 1]
    if single and overall.items:
        yield Check(
            "single_vote",
            "info",
            len(single),
            f"{len(single):,} of {overall.items:,} items were judged by one annotator only",
            tuple(single[:SHOWN]),
            "nothing can be said of the agreement on these",
            "have a part of each delivery judged twice or more",
        )
    divided = [item.name for item in items if item.choices and item.majority is None]
    if divided:
        yield Check(
            "no_majority",
            "info",
            len(divided),
            f"{len(divided):,} items have no majority and become no pair",
            tuple(divided[:SHOWN]),
            "an item on which votes are even has no preference to learn",
            "collect one more vote (--rework lists them), or leave them out",
        )
    if replaced:
        yield Check(
            "judged_again",
            "info",
            replaced,
            f"{replaced:,} judgements were given again by the same annotator; the last one counts",
        )


def _reversed(count: int, seen: str, examples: tuple[str, ...] = ()) -> Check:
    return Check(
        "reversed_scale", "error", count, f"a scale looks reversed: {seen}", examples, REVERSED_WHY, REVERSED_ADVICE
    )


def _examples(items: Sequence[Item], contradicts: Callable[[Judgment], bool]) -> tuple[str, ...]:
    found = (j for item in items for j in item.judgments if contradicts(j))
    return tuple(dict.fromkeys(_place(j) for j, _ in zip(found, range(SHOWN), strict=False)))


def _place(judgment: Judgment) -> str:
    return judgment.source or judgment.item
