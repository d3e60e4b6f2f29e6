"""How judgements become pairs: majority of the votes, best against worst, or as the user asked."""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from anydpo.data.dialect import BadRow
from anydpo.data.item import Answer, Item, Place, Verdict
from anydpo.data.judgment import Choice
from anydpo.data.pair import PreferencePair
from anydpo.data.shape import build
from anydpo.errors import DataInvalid

if TYPE_CHECKING:
    from anydpo.data.mapping import ColumnMapping

Pairs = Literal["best_worst", "all"]
Ties = Literal["skip", "ignore"]
Votes = Literal["majority", "unanimous"]
CHOICES: dict[str, tuple[str, ...]] = {"pairs": get_args(Pairs), "ties": get_args(Ties), "votes": get_args(Votes)}


@dataclass(frozen=True)
class Policy:
    """Which pairs are made of rankings, ratings and votes; the defaults are what the data's authors do.

    `pairs`: of a ranking, the best against the worst answer (the first of equals), or all strictly ordered pairs.
    `ties`: a vote for "tie" counts like any other, and an item whose verdict is a tie is skipped; or such votes are
    ignored. `votes`: the choice with most votes, or only unanimous items. `min_margin`: skip, as ties, pairs whose
    margin is smaller (difference of scores; strength; SHP's score ratio; for plain votes the lead in votes).
    `dimension`: which of several questions decides, by the dialect's name for it; default: its overall one.
    """

    pairs: Pairs = "best_worst"
    ties: Ties = "skip"
    votes: Votes = "majority"
    min_margin: float = 0.0
    dimension: str | None = None

    @classmethod
    def of(cls, given: Policy | Mapping[str, Any] | None) -> Policy:
        """Return the policy that a table says; raises `DataInvalid` with the nearest right name."""
        if given is None or isinstance(given, Policy):
            return given or cls()
        names = [f.name for f in dataclasses.fields(cls)]
        for name, value in given.items():
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(names)}"
                raise DataInvalid(f"policy: no option {name!r}", hint=hint)
            if name in CHOICES and value not in CHOICES[name]:
                raise DataInvalid(f"policy: {name} is {value!r}", hint=f"one of {', '.join(CHOICES[name])}")
        margin, dimension = given.get("min_margin", 0.0), given.get("dimension")
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < float("inf"):
            raise DataInvalid(f"policy: min_margin is {margin!r}, expected a number of 0 or more")
        if dimension is not None and not isinstance(dimension, str):
            raise DataInvalid(f"policy: dimension is {dimension!r}, expected a name")
        return cls(**{**given, "min_margin": float(margin)})


@dataclass(frozen=True)
class Options:
    """What a reader of judgements is told beside the row."""

    policy: Policy = field(default_factory=Policy)
    mapping: ColumnMapping | None = None

    def dimension(self, known: Mapping[str, str], default: str) -> str:
        """Return the field that decides: `known` maps the names a user may say to the dialect's fields."""
        if (asked := self.policy.dimension) is None:
            return default
        if asked not in known:
            raise DataInvalid(f"policy: no dimension {asked!r} in this data", hint=f"one of {', '.join(known)}")
        return known[asked]


@dataclass
class Decision:
    """What became of an item: its pairs, and those of its rows that stand in none, with the reason."""

    pairs: list[PreferencePair]
    left_out: list[tuple[Place, BadRow]] = field(default_factory=list[tuple[Place, BadRow]])


def decide(item: Item, policy: Policy) -> Decision:
    """Return the pairs of an item; raises `BadRow` where there is none."""
    if item.verdicts is not None:
        return Decision([_by_votes(item, item.verdicts, policy)])
    return Decision(list(_by_scores(item, policy)))


def pair_of(item: Item, chosen: Answer, rejected: Answer, meta: dict[str, Any], margin: float | None) -> PreferencePair:
    """Return the pair with what is known of it beside the text."""
    found = {"source": str(item.places[0]) if item.places else "", **item.meta, **meta}
    if chosen.model is not None:
        found["chosen_model"] = chosen.model
    if rejected.model is not None:
        found["rejected_model"] = rejected.model
    if len(item.places) > 1 and "rows" not in found:
        found["rows"] = [str(place) for place in item.places]
    return build(item.prompt, chosen.messages, rejected.messages, found, tools=item.tools, margin=margin)


def _by_votes(item: Item, verdicts: list[Verdict], policy: Policy) -> PreferencePair:
    said = [verdict for verdict in verdicts if verdict.choice is not None]
    if not said:
        raise BadRow("no_label", "nobody chose an answer")
    votes = Counter(verdict.choice for verdict in said)
    counted = Counter({choice: n for choice, n in votes.items() if choice != "tie" or policy.ties == "skip"})
    winner = _winner(counted, policy)
    first, second = item.answers
    chosen, rejected = (first, second) if winner == "first" else (second, first)
    margin = item.margin if item.margin is not None else _mean_strength(said, winner)
    loser: Choice = "second" if winner == "first" else "first"
    lead = item.lead if item.lead is not None else margin if margin is not None else votes[winner] - votes[loser]
    _check_margin(lead, policy)
    return pair_of(item, chosen, rejected, _votes_meta(item, said, votes), margin)


def _winner(counted: Mapping[Any, int], policy: Policy) -> Choice:
    listed = ", ".join(f"{counted[choice]} {choice}" for choice in ("first", "second", "tie") if counted[choice])
    if not listed:
        raise BadRow("tie", "every vote is a tie")
    most = max(counted.values())
    leading = [choice for choice, count in counted.items() if count == most and count]
    if len(leading) > 1 or (policy.votes == "unanimous" and most < sum(counted.values())):
        raise BadRow("no_majority", f"the votes are {listed}")
    if leading == ["tie"]:
        raise BadRow("tie", f"the votes are {listed}" if sum(counted.values()) > 1 else "the vote is a tie")
    return "first" if leading == ["first"] else "second"


def _mean_strength(said: list[Verdict], winner: Choice) -> float | None:
    """Return how strongly the winner is preferred on average, votes against it counting below zero."""
    if any(verdict.strength is None for verdict in said):
        return None
    signs: dict[Choice | None, float] = {winner: 1.0, "tie": 0.0}
    total = sum((v.strength or 0.0) * signs.get(v.choice, -1.0) for v in said)
    return round(total / len(said), 6)


def _votes_meta(item: Item, said: list[Verdict], votes: Mapping[Any, int]) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    if len(said) > 1 or said[0].annotator is not None:
        meta["annotators"] = len(said)
        meta["votes"] = {choice: votes[choice] for choice in ("first", "second")}
        if votes["tie"] or item.offers_tie:
            meta["votes"]["tie"] = votes["tie"]
    if names := [verdict.annotator for verdict in said if verdict.annotator is not None]:
        meta["annotator_ids"] = names
    if why := [verdict.justification for verdict in said if verdict.justification]:
        meta["justifications"] = why
    if scores := {name: values for verdict in said[:1] for name, values in verdict.scores.items()}:
        meta["scores"] = {name: list(values) for name, values in scores.items()} if len(said) == 1 else _means(said)
    return meta


def _means(said: list[Verdict]) -> dict[str, list[float | None]]:
    names = dict.fromkeys(name for verdict in said for name in verdict.scores)
    made: dict[str, list[float | None]] = {}
    for name in names:
        sides = zip(*(verdict.scores[name] for verdict in said if name in verdict.scores), strict=True)
        known = [[value for value in side if value is not None] for side in sides]
        made[name] = [round(sum(side) / len(side), 6) if side else None for side in known]
    return made


def _by_scores(item: Item, policy: Policy) -> Iterator[PreferencePair]:
    scored = [(answer.score, answer) for answer in item.answers if answer.score is not None]
    if len(scored) < 2:
        raise BadRow("too_few_candidates", f"{len(scored)} of {len(item.answers)} answers can be ranked, expected 2")
    if policy.pairs == "all":
        ordered = sorted(scored, key=lambda pair: -pair[0])  # stable: equals keep their order
        tried = [(best, worst) for i, best in enumerate(ordered) for worst in ordered[i + 1 :] if best[0] > worst[0]]
    else:
        best, worst = max(scored, key=lambda pair: pair[0]), min(scored, key=lambda pair: pair[0])
        tried = [(best, worst)] if best[0] > worst[0] else []
    refused = BadRow("tie", f"all {len(scored)} answers have the same score")
    made = 0
    for (high, chosen), (low, rejected) in tried:
        try:
            margin = round(high - low, 6)
            _check_margin(margin, policy)
            meta = {"chosen_scores": dict(chosen.scores), "rejected_scores": dict(rejected.scores)}
            yield pair_of(item, chosen, rejected, meta if chosen.scores else {}, margin)
            made += 1
        except BadRow as bad:
            refused = bad
    if not made:
        raise refused


def _check_margin(lead: float, policy: Policy) -> None:
    if lead < policy.min_margin:
        raise BadRow("tie", f"the margin {lead:g} is below the policy's {policy.min_margin:g}")
