"""Fields, messages and tools in the one shape used here, and the checks that every reader shares."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import orjson

from anydpo.data.dialect import BadRow, Fields
from anydpo.data.pair import Message, Messages, PreferencePair, images_in, text_of

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "weight")
ANSWERING = frozenset({"assistant", "tool"})
PLAIN = frozenset({"role", "content"})
LARGEST = sys.float_info.max


def has(row: Fields, *keys: str) -> bool:
    """Say whether all of these keys are there and not null, as tables with one type for all rows fill them."""
    return all(row.get(key) is not None for key in keys)


def need(row: Fields, key: str) -> Any:
    """Return `row[key]`, or refuse the row because it is absent or null."""
    try:
        value = row[key]
    except KeyError:
        raise BadRow("missing_field", f"no field {key!r}; the row has {', '.join(map(repr, row))}") from None
    if value is None:
        raise BadRow("null_field", f"{key!r} is null")
    return value


def number(row: Fields, key: str) -> float | None:
    """Return an optional number of the row; like JSON's readers of files, takes NaN and infinity as null."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRow("unknown_format", f"{key!r} is {kind(value)}, expected a number")
    return float(value) if -LARGEST <= value <= LARGEST else None


def needed_number(row: Fields, key: str) -> float:
    """Return a required number of the row."""
    need(row, key)
    if (value := number(row, key)) is None:
        raise BadRow("null_field", f"{key!r} is not a finite number")
    return value


def text(row: Fields, key: str) -> str:
    """Return a required text of the row."""
    value = need(row, key)
    if not isinstance(value, str):
        raise BadRow("unknown_format", f"{key!r} is {kind(value)}, expected text")
    return value


def optional_text(row: Fields, key: str) -> str | None:
    """Return a text of the row; empty, null and absent are none."""
    value = row.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRow("unknown_format", f"{key!r} is {kind(value)}, expected text")
    return value


def question(asked: object, field: str, *, system: str | None = None, before: Messages = ()) -> Messages:
    """Return the prompt of which `asked` (text or messages) is the end; refuses one that says nothing."""
    prompt = before + messages(asked, field)
    if not any(map(_says_something, prompt)):
        raise BadRow("empty_prompt", "the prompt has no text")
    return ({"role": "system", "content": system}, *prompt) if system else prompt


def with_input(row: Fields) -> str:
    """Return `instruction` and `input` joined by one newline where both say something."""
    instruction, more = text(row, "instruction"), optional_text(row, "input")
    return f"{instruction}\n{more}" if instruction and more else instruction or more or ""


def answer(value: object, field: str) -> Messages:
    """Return an answer given as text or messages."""
    return messages(value, field, role="assistant")


def messages(value: object, field: str, *, role: str = "user") -> Messages:
    """Return a text (as one message of `role`) or a list of messages in the one shape used here."""
    if isinstance(value, str):
        return ({"role": role, "content": value},)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise BadRow("unknown_format", f"{field!r} is {kind(value)}, expected text or messages")
    return tuple([_message(item, f"{field}[{i}]") for i, item in enumerate(value)])


def _message(item: object, field: str) -> Message:
    if not isinstance(item, dict):
        raise BadRow("unknown_format", f"{field} is {kind(item)}, expected a message")
    role, content = item.get("role"), item.get("content")
    if role.__class__ is not str or role not in ROLES:
        reason = "missing_field" if "role" not in item else "role_order"
        raise BadRow(reason, f"{field} has the role {role!r}; known are {', '.join(sorted(ROLES))}")
    if type(content) is str and item.keys() == PLAIN:
        return item
    message: Message = {"role": role, "content": _content(content, field)}
    for key in MESSAGE_KEYS[2:]:
        if item.get(key) not in (None, [], ""):
            if key == "tool_calls":
                message[key] = _tool_calls(item[key], field)
            elif isinstance(item[key], str) if key != "weight" else number(item, key) is not None:
                message[key] = item[key]
            elif key != "weight":
                raise BadRow("unknown_format", f"{field}.{key} is {kind(item[key])}, expected text")
    if message["content"] is None and "tool_calls" not in message:
        raise BadRow("null_field" if "content" in item else "missing_field", f"{field} has no content")
    return message


def _content(content: object, field: str) -> str | list[dict[str, Any]] | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow("unknown_format", f"{field}.content is {kind(content)}, expected text or parts")
    parts = [_part(part, f"{field}.content[{i}]") for i, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: object, field: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise BadRow("unknown_format", f"{field} is {kind(part)}, expected a content part")
    match part.get("type"):
        case "text":
            return {"type": "text", "text": str(part.get("text") or "")}
        case "image":
            return {"type": "image", "image": _picture(part.get("image"), field)}
        case "image_url":
            url = part.get("image_url")
            return {"type": "image", "image": _picture(url.get("url") if isinstance(url, dict) else url, field)}
        case other:
            raise BadRow("unknown_format", f"{field} has the type {other!r}; known are text and image")


def _picture(picture: object, field: str) -> str | None:
    if picture is None or isinstance(picture, str):
        return picture or None
    from anydpo.data.pictures import picture_uri

    return picture_uri(picture)


def plain(value: object, field: str) -> Any:
    """Return a value as JSON holds it (NaN is null); refuses endless nesting and text that is not UTF-8."""
    try:
        orjson.dumps([[[[[[[[value]]]]]]]])  # room for what is put around it later
        return orjson.loads(orjson.dumps(value))
    except (TypeError, ValueError) as exc:
        raise BadRow("parse_error", f"{field!r} cannot be JSON: {exc}") from None


def _tool_calls(calls: object, field: str) -> list[dict[str, Any]]:
    """Return tool calls with their arguments as compact JSON text, whichever form they came in."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRow("unknown_format", f"{field}.tool_calls is {kind(calls)}, expected a list of calls")
    made: list[dict[str, Any]] = []
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("missing_field", f"{field}.tool_calls names no function")
        arguments = function.get("arguments", {})
        text = arguments if isinstance(arguments, str) else ""
        try:
            if isinstance(arguments, str):
                with contextlib.suppress(ValueError):  # what the model wrote, valid or not, is the data
                    arguments = json.loads(arguments)
            if not isinstance(arguments, str):
                text = json.dumps(_no_nulls(arguments), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
                text.encode()
        except (RecursionError, ValueError):
            raise BadRow("parse_error", f"{field}.tool_calls has arguments that cannot be JSON") from None
        kept = {"id": str(call["id"])} if call.get("id") and isinstance(call["id"], (str, int)) else {}
        made.append({**kept, "type": "function", "function": {"name": function["name"], "arguments": text}})
    return made


def _no_nulls(arguments: object) -> object:
    # Tables with one struct type for all rows fill the arguments a call does not have with null.
    return {k: v for k, v in arguments.items() if v is not None} if isinstance(arguments, dict) else arguments


def tools(value: object) -> tuple[dict[str, Any], ...] | None:
    """Return a tool list given as a list or as JSON text; an empty one is none."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as exc:
            raise BadRow("parse_error", f"'tools' is text that is not JSON: {exc}") from None
    if not value:
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(tool, dict) for tool in value):
        raise BadRow("unknown_format", f"'tools' is {kind(value)}, expected a list of schemas")
    return tuple(plain(list(value), "tools"))


def build(
    prompt: Messages,
    chosen: Messages,
    rejected: Messages,
    meta: dict[str, Any],
    *,
    tools: tuple[dict[str, Any], ...] | None = None,
    weight: float | None = None,
    margin: float | None = None,
) -> PreferencePair:
    """Return the pair after the checks that every dialect shares, in the documented order."""
    for message in prompt:
        if _says_something(message):
            break
    else:
        raise BadRow("empty_prompt", "the prompt has no text")
    calls = False
    for message in prompt:  # one plain loop: this is where a row spends its time
        calls = calls or "tool_calls" in message
        if message["content"].__class__ is list and any(part["image"] is None for part in images_in((message,))):
            raise BadRow("image_count_mismatch", "a place for an image has none")
    for message in chosen + rejected:
        calls = calls or "tool_calls" in message
    _check_answers(chosen, rejected)
    if margin is not None and not abs(margin) <= LARGEST:
        raise BadRow("invalid_label", f"the margin is {margin}")
    if weight is not None and weight < 0:
        raise BadRow("invalid_label", f"'weight' is {weight}, expected 0 or more")
    if calls:
        prompt = _with_call_ids(prompt, 0)
        chosen, rejected = _with_call_ids(chosen, len(prompt)), _with_call_ids(rejected, len(prompt))
    return PreferencePair(prompt, chosen, rejected, tools, 1.0 if weight is None else weight, margin, meta)


def _check_answers(chosen: Messages, rejected: Messages) -> None:
    for field, completion in (("chosen", chosen), ("rejected", rejected)):
        for message in completion:
            if message["role"] not in ANSWERING:
                raise BadRow("role_order", f"{field!r} holds a {message['role']} message")
    for field, completion in (("chosen", chosen), ("rejected", rejected)):
        for message in completion:
            if message["role"] == "assistant" and _says_something(message):
                break
        else:
            raise BadRow("empty_completion", f"{field!r} is empty")
    if len(chosen) == len(rejected) == 1:
        better, worse = chosen[0], rejected[0]
        if better.keys() == PLAIN == worse.keys() and better["content"].__class__ is worse["content"].__class__ is str:
            if better["content"].strip() != worse["content"].strip():
                return
            raise BadRow("identical", "both answers are the same")
    if chosen == rejected or _stripped(chosen) == _stripped(rejected):
        raise BadRow("identical", "both answers are the same")


def _with_call_ids(conversation: Messages, start: int) -> Messages:
    """Name the calls whose source gave no id, by their place, so that every dialect has the same ones."""
    return tuple(
        {**m, "tool_calls": [{"id": f"call_{i}_{j}", **c} for j, c in enumerate(m["tool_calls"])]}
        if "tool_calls" in m
        else m
        for i, m in enumerate(conversation, start)
    )


def common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """Return how many items two sequences share at their beginning."""
    for at, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return at
    return min(len(left), len(right))


def shared_prompt(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Split two whole conversations into what they share and how each goes on."""
    at = common_prefix(chosen, rejected)
    if at == len(chosen) == len(rejected):
        raise BadRow("identical", "both conversations are the same")
    if at in (len(chosen), len(rejected)):
        at -= 1
    prompt, better, worse = chosen[:at], chosen[at:], rejected[at:]
    if not prompt:
        raise BadRow("no_shared_prompt", "the two conversations begin differently")
    if any(message["role"] == "user" for message in better + worse):
        raise BadRow("no_shared_prompt", f"the two conversations part at message {at + 1}, before the last answer")
    return prompt, better, worse


def _says_something(message: Message) -> bool:
    content = message["content"]
    if isinstance(content, str):
        return bool(content.strip()) or "tool_calls" in message
    return bool(content) or "tool_calls" in message


def _stripped(completion: Messages) -> list[Any]:
    return [
        (m["role"], text_of(m).strip(), m.get("tool_calls"), m["content"] if isinstance(m["content"], list) else 0)
        for m in completion
    ]


def kind(value: object) -> str:
    """Name the JSON type of a value."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
