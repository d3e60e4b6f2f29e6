"""What decides a preference besides quality: length, side, a divided vote; and whether there is enough of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from anydpo.data.annotators import habits_of
from anydpo.data.coefficients import raw_agreement, two_sided
from anydpo.data.copies import Seen
from anydpo.data.finding import SHOWN, Check, counted
from anydpo.data.judgment import Judgment
from anydpo.data.votes import by_item

FEW = 1000  # below this many pairs Amazon's guide for DPO on SageMaker advises against training
BIASED = 0.15  # distance from one half from which a share is called a bias
EDGES = (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)  # of length chosen / length rejected


class Lengths:
    """Lengths of the two answers in characters: how often the chosen one is longer, by how much, how related."""

    def __init__(self) -> None:
        self._pairs = self._longer = self._unequal = 0
        self._chosen = self._rejected = self._squares = 0.0
        self._bins = [0] * (len(EDGES) + 1)

    def see(self, seen: Seen) -> None:
        """Measure one pair."""
        chosen, rejected = len(seen.chosen), len(seen.rejected)
        self._pairs += 1
        self._unequal += chosen != rejected
        self._longer += chosen > rejected
        self._chosen += chosen
        self._rejected += rejected
        self._squares += chosen * chosen + rejected * rejected
        ratio = chosen / max(1, rejected)
        self._bins[sum(ratio >= edge for edge in EDGES)] += 1

    def histogram(self) -> tuple[int, ...]:
        """Return how many pairs have a ratio of lengths between the edges."""
        return tuple(self._bins)

    def stats(self) -> dict[str, float | int]:
        """Return ratio of the mean lengths, and the correlation of being chosen with length (point-biserial)."""
        if not self._pairs or not self._rejected:
            return {}
        n = 2 * self._pairs
        spread = math.sqrt(max(0.0, self._squares / n - ((self._chosen + self._rejected) / n) ** 2))
        difference = (self._chosen - self._rejected) / self._pairs
        return {
            "length_ratio": self._chosen / self._rejected,
            "length_correlation": difference / (2 * spread) if spread else 0.0,
        }

    def checks(self) -> Iterator[Check]:
        """Yield the bias, where it is large and no accident."""
        if self._unequal < 20 or two_sided(self._longer, self._unequal) > 0.01:
            return
        share = self._longer / self._unequal
        if abs(share - 0.5) < BIASED:
            return
        side = "longer" if share > 0.5 else "shorter"
        ratio = self.stats()["length_ratio"]
        yield Check(
            "length_bias",
            "warning",
            self._unequal,
            f"the chosen answer is the {side} one in {max(share, 1 - share):.1%} of {self._unequal:,} pairs of unequal "
            f"length: {self._chosen / self._pairs:,.0f} against {self._rejected / self._pairs:,.0f} characters "
            f"on average ({ratio:.2f} times)",
            (),
            f"length alone tells the answers apart, so the model learns to write {side} ones, better or not",
            'fine if that is wanted; else balance the pairs, or train with loss_type = "simpo" or ld_alpha below 1',
        )


def agreement_checks(judgments: Iterable[Judgment]) -> Iterator[Check]:
    """Yield side bias and divided votes, where the source carries judgements."""
    given = list(judgments)
    if not given:
        return
    everybody, _ = habits_of(given, {})
    if everybody.decided >= 20 and two_sided(everybody.first, everybody.decided) <= 0.01:
        share = everybody.first / everybody.decided
        if abs(share - 0.5) >= 0.1:
            yield Check(
                "position_bias",
                "warning",
                everybody.decided,
                f"the answer shown first is preferred in {share:.1%} of {everybody.decided:,} judgements",
                (),
                "which side an answer stands on should not matter, unless the better ones always stood left",
                "have the two answers shown in random order",
            )
    items, _ = by_item(given)
    several = [item for item in items if len(item.choices) > 1]
    divided = [item for item in several if len(set(item.choices)) > 1]
    if divided:
        raw = raw_agreement([item.choices for item in several])
        many = len(divided) > 0.4 * len(several)
        yield Check(
            "divided_votes",
            "warning" if many else "info",
            len(divided),
            f"annotators differ on {len(divided):,} of {len(several):,} items judged more than once (raw agreement "
            f"{raw:.1%})",
            tuple(j.source or item.name for item in divided[:SHOWN] for j in item.judgments[:1]),
            "labels that other people would give otherwise are noise to the model",
            "`anydpo agreement` says who and where, and what label_smoothing to start from",
        )


def few_pairs(pairs: int) -> Iterator[Check]:
    """Yield a warning about a small data set."""
    if 0 < pairs < FEW:
        yield Check(
            "few_pairs",
            "warning",
            pairs,
            f"only {counted(pairs, 'pair')}",
            (),
            f"Amazon's guide for DPO on SageMaker asks for {FEW:,} or more; with fewer, little is learned",
            "collect more, or train gently and watch held-out accuracy",
        )
