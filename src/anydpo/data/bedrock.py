"""Amazon Nova's preference rows, schema `bedrock-conversation-2024`: the last turn holds two labelled candidates.
Source: Amazon Nova user guide, "Direct preference optimization" (read November 2026)."""

from __future__ import annotations

from typing import Any

from anydpo.data.dialect import BadRow, Fields, reader
from anydpo.data.pair import Message, Messages, PreferencePair
from anydpo.data.pictures import picture_uri
from anydpo.data.ratings import objects
from anydpo.data.shape import build, kind, messages, need, question

LABELS = ("preferred", "non-preferred")


def _has_candidates(row: Fields) -> bool:
    turns = row.get("messages")
    last = turns[-1] if isinstance(turns, list) and turns else None
    return isinstance(last, dict) and isinstance(last.get("candidates"), list)


@reader(
    "amazon_nova",
    "Amazon Nova DPO: `messages` whose last turn has `candidates` with a `preferenceLabel`",
    keys="schemaVersion system messages candidates preferenceLabel",
    rank=5,
    fits=_has_candidates,
)
def read_nova(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """Candidates may stand in either order; text parts are joined, pictures keep their place."""
    turns = objects(row, "messages")
    if not turns:
        raise BadRow("empty_prompt", "'messages' is empty")
    candidates = objects(turns[-1], "candidates")
    labels = [need(one, "preferenceLabel") for one in candidates]
    said = [_content(need(one, "content"), "candidates") for one in candidates]
    prompt = _system(row) + tuple([_message(turn, f"messages[{i}]") for i, turn in enumerate(turns[:-1])])
    question(list(prompt[-1:]), "messages")
    if any(label not in LABELS for label in labels) or (len(labels) > 1 and sorted(labels) != sorted(LABELS)):
        raise BadRow("invalid_label", f"the candidates are {', '.join(map(str, labels))}, expected one of each")
    if len(labels) < 2:
        raise BadRow("too_few_candidates", f"{len(labels)} candidates, expected 2")
    if turns[-1].get("role") != "assistant":
        raise BadRow("role_order", f"the candidates are the {turns[-1].get('role')}'s")
    at = labels.index("preferred")
    chosen, rejected = ({"role": "assistant", "content": said[at]},), ({"role": "assistant", "content": said[1 - at]},)
    return build(prompt, messages(list(chosen), "chosen"), messages(list(rejected), "rejected"), meta)


def _system(row: Fields) -> Messages:
    if not row.get("system"):
        return ()
    return messages([{"role": "system", "content": _content(row["system"], "system")}], "system")


def _message(turn: Fields, field: str) -> Message:
    need(turn, "role")
    (message,) = messages([{"role": turn["role"], "content": _content(need(turn, "content"), field)}], field)
    return message


def _content(content: object, field: str) -> list[dict[str, Any]] | str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise BadRow("unknown_format", f"{field}.content is {kind(content)}, expected parts")
    return [_part(part, field) for part in content]


def _part(part: Fields, field: str) -> dict[str, Any]:
    if isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    image = part.get("image")
    if isinstance(image, dict) and isinstance(source := image.get("source"), dict):
        place = source.get("s3Location")
        if isinstance(place, dict) and isinstance(place.get("uri"), str):
            return {"type": "image", "image": place["uri"]}
        if isinstance(inline := source.get("bytes"), str) and inline:
            return {"type": "image", "image": f"data:image/{image.get('format', 'png')};base64,{inline}"}
        return {"type": "image", "image": picture_uri(source)}
    raise BadRow("unknown_format", f"{field} holds a part with {', '.join(map(repr, part))}; known are text and image")
