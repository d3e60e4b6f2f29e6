"""Exports of annotation tools: Argilla 2 records and Label Studio tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anydpo.data.dialect import BadRow, Fields, judged
from anydpo.data.item import Answer, Item, Verdict
from anydpo.data.judgment import Choice
from anydpo.data.pairwise import key_of
from anydpo.data.policy import Options
from anydpo.data.shape import answer, kind, need, question
from anydpo.errors import DataInvalid

ASKED = ("prompt", "instruction", "question", "input", "context", "query", "conversation", "messages")
FIRST = frozenset({"left", "a", "1", "first", "response_a", "response_1", "answer_1", "model_a"})
SECOND = frozenset({"right", "b", "2", "second", "response_b", "response_2", "answer_2", "model_b"})
EQUAL = frozenset({"tie", "equal", "same", "both", "neither", "none"})
UNUSED = frozenset({"draft", "discarded", "pending"})


def sides(fields: Mapping[str, Any], options: Options, where: str) -> tuple[str, str, str]:
    """Return (prompt, first, second) field: as the mapping says, else the prompt by name and the first two others."""
    columns = options.mapping.columns if options.mapping else {}
    named = columns.get("prompt"), columns.get("response_a"), columns.get("response_b")
    for name in filter(None, named):
        if name not in fields:
            raise DataInvalid(f"the mapping names {name!r}, but {where} has {', '.join(map(repr, fields))}")
    prompt = named[0] or next((name for name in ASKED if name in fields), None)
    if prompt is None:
        raise BadRow("missing_field", f"{where} has no {', '.join(ASKED[:3])}; it has {', '.join(map(repr, fields))}")
    others = [name for name in fields if name != prompt and isinstance(fields[name], (str, list))]
    first, second = named[1] or (others[0] if others else None), named[2] or (others[1] if others[1:] else None)
    if first is None or second is None:
        raise BadRow("missing_field", f"{where} holds {len(others)} answers, expected 2")
    return prompt, first, second


def _side(value: object, first: str, second: str) -> Choice | None:
    """Return which answer a label means: a field's name, left or right, A or B, a tie; else None."""
    if value in (first, second):
        return "first" if value == first else "second"
    word = str(value).strip().lower().replace("-", "_").replace(" ", "_")
    if word in FIRST or word in SECOND:
        return "first" if word in FIRST else "second"
    return "tie" if word in EQUAL else None


@judged(
    "argilla_records",
    "Argilla 2 records: `fields` with `responses` of annotators",
    keys="fields responses suggestions metadata vectors",
    rank=19,
    fits=lambda row: isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict),
)
def read_argilla(row: Fields, options: Options) -> Item:
    """One vote an annotator on the first question about the answers (or the one asked for); suggestions do not count.

    A ranking is a list of field names, best first, or of `{value, rank}`; a label is a field's name, or A, B, tie.
    """
    fields, responses = need(row, "fields"), need(row, "responses")
    if not isinstance(fields, dict) or not isinstance(responses, dict):
        raise BadRow("unknown_format", "'fields' or 'responses' is not an object")
    asked, first, second = sides(fields, options, "'fields'")
    given, answers = need(fields, asked), [Answer(answer(need(fields, name), name)) for name in (first, second)]
    prompt = question(given, asked)
    verdicts, unread = _responses(responses, first, second, options)
    if not verdicts:
        if unread:
            raise BadRow("invalid_label", unread)
        raise BadRow("no_label", "no annotator answered")
    key = str(row.get("id") or row.get("_server_id") or key_of(prompt))
    ties = any(verdict.choice == "tie" for verdict in verdicts)
    return Item(key, prompt, answers, verdicts, offers_tie=ties)


def _responses(responses: Fields, first: str, second: str, options: Options) -> tuple[list[Verdict], str]:
    """Return the votes of the question that decides, and what could not be read of any."""
    wanted = options.policy.dimension
    if wanted is not None and responses and wanted not in responses:
        return [], ""
    unread = ""
    for name in [wanted] if wanted is not None else list(responses):
        given = responses.get(name) or []
        verdicts: list[Verdict] = []
        for one in given if isinstance(given, list) else []:
            if not isinstance(one, dict) or one.get("value") is None or str(one.get("status")) in UNUSED:
                continue
            choice = _ranked(one["value"], first, second)
            if choice is None:
                unread = f"{name!r} is {str(one['value'])[:60]!r}, expected {first!r}, {second!r} or a ranking of them"
                continue
            user = one.get("user_id") or one.get("user_name")
            verdicts.append(Verdict(choice, annotator=str(user) if user is not None else None))
        if verdicts:
            return verdicts, ""
    return [], unread


def _ranked(value: object, first: str, second: str) -> Choice | None:
    if not isinstance(value, list):
        return _side(value, first, second)
    ranks: dict[Any, Any] = {}
    for place, one in enumerate(value):
        name, rank = (one.get("value"), one.get("rank", place)) if isinstance(one, dict) else (one, place)
        if isinstance(name, str) and isinstance(rank, (int, float)):
            ranks.setdefault(_side(name, first, second), rank)
    if ranks.get("first") is None or ranks.get("second") is None:
        return None
    return "tie" if ranks["first"] == ranks["second"] else "first" if ranks["first"] < ranks["second"] else "second"


@judged(
    "label_studio_pairwise",
    "Label Studio tasks with pairwise or choice annotations",
    keys="data annotations predictions",
    rank=18,
    fits=lambda row: isinstance(row.get("annotations"), list) and isinstance(row.get("data"), dict),
)
def read_label_studio(row: Fields, options: Options) -> Item:
    """Left is the first answer of `data` (or the mapping's `response_a`); cancelled annotations do not count."""
    data, annotations = need(row, "data"), need(row, "annotations")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise BadRow("unknown_format", f"'data' is {kind(data)}, 'annotations' is {kind(annotations)}")
    asked, first, second = sides(data, options, "'data'")
    given, answers = need(data, asked), [Answer(answer(need(data, name), name)) for name in (first, second)]
    prompt = question(given, asked)
    verdicts: list[Verdict] = []
    unread = ""
    for one in annotations:
        if not isinstance(one, dict) or one.get("was_cancelled"):
            continue
        verdict, why = _annotated(one, first, second)
        unread = unread or why
        if verdict is not None:
            verdicts.append(verdict)
    if not verdicts:
        if unread:
            raise BadRow("invalid_label", unread)
        raise BadRow("no_label", "no annotation that counts")
    truth: Choice | None = next((verdict.gold for verdict in verdicts if verdict.gold is not None), None)
    for verdict in verdicts:  # an annotation marked as ground truth is what the others are measured against
        verdict.gold = truth
    key = str(row["id"]) if row.get("id") is not None else key_of(prompt)
    return Item(key, prompt, answers, verdicts)


def _annotated(annotation: Fields, first: str, second: str) -> tuple[Verdict | None, str]:
    """Return the verdict of one annotation, or what stands where it should be."""
    choice: Choice | None = None
    unread, why = "", ""
    results = annotation.get("result")
    for result in results if isinstance(results, list) else []:
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            continue
        labels = [value["selected"]] if "selected" in value else value.get("choices") or []
        for label in labels if isinstance(labels, list) else [labels]:
            choice = choice or _side(label, first, second)
            if choice is None:
                unread = f"an annotation says {str(label)[:60]!r}, expected left or right"
        if value.get("text"):
            why = why or " ".join(map(str, value["text"])) if isinstance(value["text"], list) else str(value["text"])
    if choice is None:
        return None, unread
    who = annotation.get("completed_by")
    who = who.get("id") or who.get("email") if isinstance(who, dict) else who
    seconds = annotation.get("lead_time")
    return Verdict(
        choice,
        annotator=str(who) if who is not None else None,
        justification=why or None,
        seconds=float(seconds) if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) else None,
        gold=choice if annotation.get("ground_truth") is True else None,
    ), ""
