"""Files of annotation vendors, read by the user's column mapping: one row a vote, a task, or a rating."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anydpo.data.dialect import BadRow, Fields, judged
from anydpo.data.item import Answer, Item, Verdict
from anydpo.data.judgment import Choice
from anydpo.data.mapping import ColumnMapping, Likert
from anydpo.data.pairwise import key_of
from anydpo.data.policy import Decision, Options, Policy, decide
from anydpo.data.shape import answer, need, question
from anydpo.errors import DataInvalid

LEFT_OUT = frozenset(
    "rejected reject skipped skip cancelled canceled expired returned invalid discarded draft tainted abandoned".split()
)
TEXTS = ("prompt", "response_a", "response_b", "chosen", "rejected")
YES, NO = frozenset({"true", "1", "yes", "y", "t", "gold", "golden", "test"}), frozenset({"false", "0", "no", "n", "f"})
WORDS: dict[str, Choice] = {
    **dict.fromkeys(("a", "response_a", "response a", "left", "first", "a is better"), "first"),
    **dict.fromkeys(("b", "response_b", "response b", "right", "second", "b is better"), "second"),
    **dict.fromkeys(("tie", "equal", "same", "both", "neither", "about the same", "no preference"), "tie"),
}


def average(item: Item, policy: Policy) -> Decision:
    """Decide by votes; where answers were rated one a row, by the mean of each answer's ratings."""
    if item.verdicts is None:
        ratings: dict[str, list[Answer]] = {}
        for one in item.answers:
            ratings.setdefault(json.dumps(one.messages), []).append(one)
        item = replace(item, answers=[_mean(several) for several in ratings.values()])
    return decide(item, policy)


def _mean(several: list[Answer]) -> Answer:
    known = [one.score for one in several if one.score is not None]
    names = dict.fromkeys(name for one in several for name in one.scores)
    scores = {name: [one.scores[name] for one in several if name in one.scores] for name in names}
    return replace(
        several[0],
        score=sum(known) / len(known) if known else None,
        scores={name: round(sum(values) / len(values), 6) for name, values in scores.items()},
    )


@judged(
    "vendor_csv",
    "annotation vendors' tables, by a column mapping",
    keys="task annotator prompt response_a response_b label",
    rank=99,
    fits=lambda _: False,  # what a column means cannot be told from a table; the user says it
    grouped=True,
    decide=average,
)
def read_vendor(row: Fields, options: Options) -> Item:
    """Rows about the same task, prompt and answers are one item, in whichever order the answers were shown."""
    mapping = options.mapping
    if mapping is None:
        raise DataInvalid("vendor_csv needs a mapping", hint="--mapping FILE, or --map KEY=COLUMN for each column")
    texts: dict[str, str] = {key: _needed(row, mapping.columns[key]) for key in TEXTS if key in mapping.columns}
    prompt = question(_chat(texts["prompt"]), mapping.columns["prompt"], system=_cell(row, mapping, "system"))
    task = _cell(row, mapping, "task")
    if "chosen" in texts and "rejected" in texts:
        answers = [_answer(texts, name, mapping) for name in ("chosen", "rejected")]
        said = [Verdict("first")]
    elif "response_b" in texts:
        answers = [_answer(texts, name, mapping) for name in ("response_a", "response_b")]
        for one, key in zip(answers, ("model_a", "model_b"), strict=True):
            one.model = _cell(row, mapping, key)
        said = None
    else:
        return _rated(row, mapping, options, prompt, _answer(texts, "response_a", mapping), task)
    left_out = _left_out(row, mapping)
    verdicts = said or _verdicts(row, mapping, answers, options)
    for verdict in verdicts:
        _beside(row, mapping, verdict, answers)
    shown = sorted(json.dumps(one.messages) for one in answers)
    return Item(key_of(task, prompt, shown), prompt, answers, verdicts, left_out=left_out, name=task)


def _rated(row: Fields, mapping: ColumnMapping, options: Options, prompt: Any, said: Answer, task: str | None) -> Item:
    scores = {name: value for name, column in mapping.scores.items() if (value := _number(row, column)) is not None}
    if not scores:
        raise BadRow("no_label", "the row has no rating")
    wanted = options.policy.dimension
    score = scores.get(wanted) if wanted else sum(scores.values()) / len(scores)
    said = Answer(said.messages, score, _cell(row, mapping, "model_a"), scores)
    return Item(key_of(task, prompt), prompt, [said], left_out=_left_out(row, mapping), name=task)


def _answer(texts: Mapping[str, str], key: str, mapping: ColumnMapping) -> Answer:
    return Answer(answer(_chat(texts[key]), mapping.columns[key]))


def _needed(row: Fields, column: str) -> str:
    value = need(row, column)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _chat(cell: str) -> object:
    """Return the messages that a cell holds as JSON, else its text."""
    if cell.lstrip().startswith("[{"):
        try:
            found = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        if all(isinstance(one, dict) and "role" in one for one in found):
            return found
    return cell


def _cell(row: Fields, mapping: ColumnMapping, key: str) -> str | None:
    value = row.get(mapping.columns[key]) if key in mapping.columns else None
    text = "" if value is None else str(value).strip()
    return text or None


def _number(row: Fields, column: str) -> float | None:
    value = row.get(column)
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        if abs(found := float(text)) < float("inf"):
            return found
    except ValueError:
        pass
    raise BadRow("invalid_label", f"{column!r} is {text[:60]!r}, expected a number")


def _left_out(row: Fields, mapping: ColumnMapping) -> tuple[str, str] | None:
    """Refuse a row whose status says that it does not count; return why a test question makes no pair."""
    drop = {"status": LEFT_OUT, **mapping.drop} if "status" in mapping.columns else mapping.drop
    for key, values in drop.items():
        column = mapping.columns.get(key, key)
        word = str(row.get(column) if row.get(column) is not None else "").strip()
        if word.casefold() in values:
            if key == "gold":
                return "test_question", f"{column!r} is {word!r}"
            raise BadRow("annotator_skipped", f"{column!r} is {word!r}")
    gold = _cell(row, mapping, "gold")
    if gold is None or gold.casefold() in NO:
        return None
    return "test_question", f"{mapping.columns['gold']!r} is {gold[:60]!r}"


def _verdicts(row: Fields, mapping: ColumnMapping, answers: list[Answer], options: Options) -> list[Verdict]:
    wanted = options.policy.dimension
    if wanted is not None:
        return [_by_dimension(row, mapping, answers, wanted)]
    made: list[Verdict] = []
    for column in mapping.label_columns:
        cell = row.get(column)
        word = "" if cell is None else str(cell).strip()
        if not word:
            continue
        choice, strength = _meaning(word, mapping, answers, column)
        if choice is not None:
            wide = column if len(mapping.label_columns) > 1 else None
            made.append(Verdict(choice, annotator=wide, strength=strength))
    if not made and not mapping.label_columns and mapping.scores:
        raise DataInvalid(
            "the mapping names no label",
            hint=f"label = its column; or [policy] dimension = one of {', '.join(_dimensions(mapping))}",
        )
    if not made:
        raise BadRow("no_label", f"{' and '.join(map(repr, mapping.label_columns))} say nothing")
    return made


def _meaning(
    word: str, mapping: ColumnMapping, answers: list[Answer], column: str
) -> tuple[Choice | None, float | None]:
    """Return (choice, strength) of a label: by the mapping's words, its scale, the models' names, or A, B and tie."""
    key = word.casefold()
    if key in mapping.labels:
        return mapping.labels[key]
    if mapping.likert is not None and (point := _point(word)) is not None:
        return _on_scale(point, mapping.likert, column)
    names: dict[str, Choice] = {}
    sides: tuple[tuple[str, Choice], ...] = (("response_a", "first"), ("response_b", "second"))
    for one, (name, side) in zip(answers, sides, strict=True):
        names |= {known.casefold(): side for known in (one.model, mapping.columns.get(name)) if known}
    if key in names:
        return names[key], None
    if not mapping.labels and key in WORDS:
        return WORDS[key], None
    if mapping.likert is None and _point(word) is not None:
        raise DataInvalid(
            f"{column!r} holds numbers, such as {word}, and the mapping does not say what they mean",
            hint='a scale needs [likert] min, max and low = "A" or "B" (there is no default); codes need [labels]',
        )
    raise BadRow("invalid_label", f"{column!r} is {word[:60]!r}, which [labels] of the mapping does not name")


def _point(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _on_scale(point: float, likert: Likert, column: str) -> tuple[Choice, float]:
    if not likert.min <= point <= likert.max:
        raise BadRow("invalid_label", f"{column!r} is {point:g}, expected {likert.min:g} to {likert.max:g}")
    return likert.read(point)


def _dimensions(mapping: ColumnMapping) -> list[str]:
    return list(dict.fromkeys(name.removesuffix(".a").removesuffix(".b") for name in mapping.scores))


def _by_dimension(row: Fields, mapping: ColumnMapping, answers: list[Answer], wanted: str) -> Verdict:
    if wanted not in _dimensions(mapping):
        listed = ", ".join(_dimensions(mapping)) or "none"
        raise DataInvalid(f"policy: no dimension {wanted!r} in the mapping", hint=f"its score columns: {listed}")
    first, second = _scores(row, mapping, answers).get(wanted, (None, None))
    if first is None or second is None:
        raise BadRow("no_label", f"the row has no score of {wanted!r} for both answers")
    choice: Choice = "tie" if first == second else "first" if first > second else "second"
    return Verdict(choice, strength=round(abs(first - second), 6))


def _scores(row: Fields, mapping: ColumnMapping, answers: list[Answer]) -> dict[str, tuple[float | None, float | None]]:
    """Return dimension → (first, second); a column for both is a preference on the label's own scale."""
    made: dict[str, tuple[float | None, float | None]] = {}
    for name in _dimensions(mapping):
        if name in mapping.scores:
            cell = row.get(mapping.scores[name])
            if cell is None or not str(cell).strip():
                continue
            choice, strength = _meaning(str(cell).strip(), mapping, answers, mapping.scores[name])
            size = 1.0 if strength is None else strength
            made[name] = (size if choice == "first" else 0.0, size if choice == "second" else 0.0)
            continue
        sides = [
            _number(row, mapping.scores[key]) if (key := f"{name}.{side}") in mapping.scores else None for side in "ab"
        ]
        if any(value is not None for value in sides):
            made[name] = (sides[0], sides[1])
    return made


def _beside(row: Fields, mapping: ColumnMapping, verdict: Verdict, answers: list[Answer]) -> None:
    """Add what the row says about the vote beside the vote."""
    verdict.annotator = verdict.annotator or _cell(row, mapping, "annotator")
    if "strength" in mapping.columns and (size := _number(row, mapping.columns["strength"])) is not None:
        verdict.strength = abs(size)
    verdict.justification = _cell(row, mapping, "justification")
    if "seconds" in mapping.columns:
        verdict.seconds = _number(row, mapping.columns["seconds"])
    verdict.batch = _cell(row, mapping, "batch")
    verdict.scores = _scores(row, mapping, answers)
    gold = _cell(row, mapping, "gold")
    if gold is not None and gold.casefold() not in YES | NO:
        verdict.gold = _meaning(gold, mapping, answers, mapping.columns["gold"])[0]


def check_complete(mapping: ColumnMapping, columns: list[str], name: str) -> None:
    """Raise `DataInvalid` where the mapping cannot make a pair, or names a column the file does not have."""
    import difflib

    named = {**mapping.columns, **{f"label ({i})": c for i, c in enumerate(mapping.label_columns, 1)}}
    for key, column in named.items():
        if column not in columns:
            near = difflib.get_close_matches(column, columns, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, columns[:30]))}"
            raise DataInvalid(
                f"{name}: the mapping's {key.partition(' ')[0]} is {column!r}, which is no column", hint=hint
            )
    have = mapping.columns.keys()
    two = {"response_a", "response_b"} <= have and (mapping.label_columns or mapping.scores)
    rated = "response_a" in have and "response_b" not in have and mapping.scores
    if "prompt" in have and (two or rated or {"chosen", "rejected"} <= have):
        return
    raise DataInvalid(
        f"{name}: the mapping names {', '.join(have) or 'nothing'}, which makes no pair",
        hint="prompt, response_a, response_b and label; or prompt, chosen and rejected; "
        "or, with one answer a row, prompt, response_a and score.DIM",
    )
