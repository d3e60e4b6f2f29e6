"""What the columns of an unknown table may mean: a mapping to start from, never one to read by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from anydpo.errors import DataInvalid

ROWS, WIDTH = 3, 60

# Words by which people call each column, most telling first; matched against the name in lower case with `_` between.
NAMES: dict[str, str] = {
    "response_a": r"(response|answer|output|completion|reply)_?(a|1|left)|(model_)?(a|left)_(response|answer|output)",
    "response_b": r"(response|answer|output|completion|reply)_?(b|2|right)|(model_)?(b|right)_(response|answer|output)",
    "chosen": r"chosen(_response)?|preferred_output|winner_text",
    "rejected": r"rejected(_response)?|(non_preferred|dispreferred)(_response|_output)?|loser_text",
    "task": r"_unit_id|(task|item|unit|question|example|sample|row|hit|prompt)_?(id|uuid|key)",
    "annotator": r"_worker_id|(annotator|worker|rater|labell?er|contributor|user|expert|reviewer)(_?(id|email|name))?",
    "prompt": r"prompt(_text)?|instruction|question|query|conversation|context|user_(prompt|message)|input",
    "system": r"system(_prompt|_message)?",
    "strength": r"(preference_)?(strength|intensity|margin)|how_much_better",
    "label": r"preference|label|choice|winner|verdict|vote|better(_response)?|preferred_response|which_is_better|"
    r"overall(_preference|_rating)?|rating|likert|comparison",
    "justification": r"justification|rationale|reason(ing)?|explanation|comments?|feedback|why",
    "status": r"(review_|task_|qa_)?status|state|disposition",
    "gold": r"_golden|(is_)?(gold|golden|honeypot|test_question|gold_label)",
    "seconds": r"(duration|time|seconds|time_spent|elapsed|handling_time)(_(s|sec|secs|seconds))?|aht",
    "model_a": r"model_?(a|1|left)(_name)?",
    "model_b": r"model_?(b|2|right)(_name)?",
    "batch": r"batch(_id|_name)?|delivery|project",
}
SCORE = re.compile(r"(?P<dim>.+)_(?P<side>a|b|1|2)$")
LABEL = re.compile(r"(^|_)(preference|preferred|rating|likert|verdict|winner|better|choice|vote|label)(_|$)")
APPEN = ("_unit_id", "_golden", "_tainted", "_trusted_judgments", "_worker_id")


class UnknownColumns(DataInvalid):
    """A table whose columns nobody explained; `mapping` is TOML to start from, `rows` are the first three."""

    def __init__(self, message: str, *, hint: str, mapping: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(message, hint=hint)
        self.mapping, self.rows = mapping, rows


def unknown_columns(name: str, rows: Sequence[dict[str, Any]]) -> UnknownColumns:
    """Return the error about a table without a mapping: three rows, and a mapping with our guesses to paste."""
    columns = list(dict.fromkeys(str(key) for row in rows for key in row))
    proposed = propose(columns, rows)
    report = " (an Appen or Figure Eight report)" if sum(column in APPEN for column in columns) >= 2 else ""
    shown = "\n".join(
        f"  row {at}: " + " | ".join(f"{column}={_short(row.get(column))}" for column in columns)
        for at, row in enumerate(rows[:ROWS], 1)
    )
    return UnknownColumns(
        f"{name}: what its columns mean has to be said{report}; the first rows are\n{shown}",
        hint=f"save this as mapping.toml, correct it, and give --mapping mapping.toml\n\n{proposed}",
        mapping=proposed,
        rows=[dict(row) for row in rows[:ROWS]],
    )


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return repr(text if len(text) <= WIDTH else text[: WIDTH - 1] + "…")


def propose(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Return mapping TOML with a guess for every column whose name or values tell something."""
    found = _guessed(columns)
    lines = ["[columns]"]
    for key in ("task", "annotator", "prompt", "system", "response_a", "response_b", "chosen", "rejected", "label"):
        if key in found:
            lines.append(f"{key} = {_quoted(found[key])}")
        elif key in ("prompt", "response_a", "response_b", "label") and "chosen" not in found:
            lines.append(f'# {key} = ""            # which column?')
    lines += [f"{key} = {_quoted(found[key])}" for key in NAMES if key in found and f"{key} = " not in "\n".join(lines)]
    scores = _scores(columns, found)
    lines += [f"{key} = {_quoted(column)}" for key, column in scores]
    used = {*found.values(), *(column for _, column in scores)}
    if rest := [column for column in columns if column not in used]:
        lines.append(f"# not used: {', '.join(map(_quoted, rest))}")
    lines += _label_tables(found, rows)
    lines += _drop(columns, found, rows)
    lines += ["", "[policy]", '# votes = "majority"    # or "unanimous"', '# ties = "skip"         # or "ignore"']
    return "\n".join(lines) + "\n"


def _guessed(columns: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, pattern in NAMES.items():
        for column in columns:
            if column not in found.values() and re.fullmatch(pattern, _plain(column)):
                found[key] = column
                break
    if "label" not in found and "chosen" not in found:
        # Appen names the question itself, and puts `X:confidence` or `X_gold` beside it.
        for column in columns:
            if f"{column}:confidence" in columns or f"{column}_gold" in columns:
                found["label"] = column
                break
    if "label" not in found and "chosen" not in found:
        near = [
            c for c in columns if c not in found.values() and LABEL.search(_plain(c)) and not SCORE.match(_plain(c))
        ]
        found |= {"label": near[0]} if near else {}
    label = found.get("label")
    if label is not None and f"{label}_gold" in columns:
        found["gold"] = f"{label}_gold"
    return found


def _plain(column: str) -> str:
    start = "_" if column.startswith("_") else ""
    return start + re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()).strip("_")


def _scores(columns: Sequence[str], found: dict[str, str]) -> list[tuple[str, str]]:
    taken = set(found.values())
    sides: dict[str, dict[str, str]] = {}
    for column in columns:
        if column not in taken and (match := SCORE.match(_plain(column))):
            side = {"1": "a", "2": "b"}.get(match["side"], match["side"])
            sides.setdefault(match["dim"], {})[side] = column
    return [(f"score.{dim}.{side}", pair[side]) for dim, pair in sides.items() if len(pair) == 2 for side in "ab"]


def _label_tables(found: dict[str, str], rows: Sequence[dict[str, Any]]) -> list[str]:
    if "label" not in found:
        return []
    seen = Counter(str(row.get(found["label"])).strip() for row in rows if row.get(found["label"]) not in (None, ""))
    points = [word for word in seen if re.fullmatch(r"-?\d+(\.0)?", word)]
    if points and len(points) == len(seen):
        numbers = sorted(int(float(point)) for point in points)
        scale = "" if len(numbers) > 1 else "   # only one value was seen"
        return [
            "", f"[likert]              # {found['label']} was {numbers[0]} to {numbers[-1]} in the first rows{scale}",
            f"min = {numbers[0]}", f"max = {max(numbers[-1], numbers[0] + 1)}",
            '# low = "A"            # does the low end mean that A is better, or "B"? There is no default',
        ]  # fmt: skip
    made = ["", "[labels]              # what each label means: A, B, tie or skip, with a strength if you like (A:2)"]
    for word, _ in seen.most_common(12):
        side = _side(word)
        made.append(f"{_quoted(word)} = {_quoted(side)}" if side else f'# {_quoted(word)} = ""')
    return made


def _side(word: str) -> str | None:
    text = word.casefold()
    if re.search(r"\b(tie|same|equal|equally|neither|both|no preference)\b", text):
        return "tie"
    first = re.search(r"\b(a|left|first|response_a|1)\b", text)
    second = re.search(r"\b(b|right|second|response_b|2)\b", text)
    if bool(first) == bool(second):
        return None
    side = "A" if first else "B"
    for size, pattern in ((3, r"\bmuch\b|\bfar\b|strong"), (1, r"slight|\bsomewhat\b|marginal")):
        if re.search(pattern, text):
            return f"{side}:{size}"
    return f"{side}:2" if re.search(r"\bbetter\b", text) else side


def _drop(columns: Sequence[str], found: dict[str, str], rows: Sequence[dict[str, Any]]) -> list[str]:
    made: list[str] = []
    if "status" in found:
        seen = sorted({str(row.get(found["status"])).strip() for row in rows})
        made.append(f'status = ["rejected", "skipped"]   # seen: {", ".join(seen[:8])}')
    if "_tainted" in columns:
        made.append('_tainted = ["true"]')
    return ["", "[drop]                # rows that do not count", *made] if made else []


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)
