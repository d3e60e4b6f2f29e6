"""LLaMA-Factory's ranking files: ShareGPT, alpaca, and the message lists of its version 1.
Format: LLaMA-Factory, `data/README.md` and its converters."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from anydpo.data.dialect import BadRow, Fields, reader
from anydpo.data.pair import Message, Messages, PreferencePair
from anydpo.data.shape import (
    answer,
    build,
    has,
    kind,
    messages,
    need,
    optional_text,
    question,
    shared_prompt,
    tools,
    with_input,
)

TURNS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("observation", "tool"), "tool"),
    "function_call": "function_call",
    "system": "system",
}
IMAGE = re.compile(r"<image>")


@reader(
    "llamafactory_sharegpt_ranking",
    "LLaMA-Factory ShareGPT ranking: `conversations`, one `chosen` and one `rejected` turn",
    keys="conversations chosen rejected system tools images",
    rank=23,
    fits=lambda row: isinstance(row.get("conversations"), list) and has(row, "chosen", "rejected"),
)
def read_sharegpt(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """Turns alternate and end with one to answer; `<image>` marks take the images in order."""
    turns, better, worse = (need(row, name) for name in ("conversations", "chosen", "rejected"))
    _no_other_media(row)
    before = _turns(turns, "conversations")
    if not before:
        raise BadRow("empty_prompt", "'conversations' is empty")
    system = optional_text(row, "system")
    if before[0]["role"] == "system":
        system, before = before[0]["content"] or system, before[1:]
    prompt = question(list(before), "conversations", system=system)
    prompt = _with_pictures(prompt, row.get("images"))
    _alternating(before)
    return build(
        prompt, _turns(better, "chosen"), _turns(worse, "rejected"), meta, tools=_wrapped(tools(row.get("tools")))
    )


def _turns(value: object, field: str) -> Messages:
    if isinstance(value, str):
        return answer(value, field)
    given = [value] if isinstance(value, dict) else value
    if not isinstance(given, list):
        raise BadRow("unknown_format", f"{field!r} is {kind(value)}, expected turns of `from` and `value`")
    return messages([_turn(turn, f"{field}[{i}]") for i, turn in enumerate(given)], field)


def _turn(turn: object, field: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRow("unknown_format", f"{field} is {kind(turn)}, expected a turn of `from` and `value`")
    if "from" not in turn and "role" in turn:
        return turn
    tag, said = need(turn, "from"), need(turn, "value")
    if not isinstance(tag, str) or tag not in TURNS:
        raise BadRow("role_order", f"{field} is from {tag!r}; known are {', '.join(TURNS)}")
    if not isinstance(said, str):
        raise BadRow("unknown_format", f"{field}.value is {kind(said)}, expected text")
    if TURNS[tag] != "function_call":
        return {"role": TURNS[tag], "content": said}
    try:
        calls = json.loads(said)
    except (ValueError, RecursionError) as exc:
        raise BadRow("parse_error", f"{field} is a function call that is not JSON: {exc}") from None
    return {"role": "assistant", "content": None, "tool_calls": calls if isinstance(calls, list) else [calls]}


def _alternating(turns: Messages) -> None:
    for at, turn in enumerate(turns):
        if turn["role"] not in (("user", "tool"), ("assistant",))[at % 2]:
            raise BadRow("role_order", f"turn {at + 1} is from {turn['role']}, which cannot stand there")
    if len(turns) % 2 == 0:
        raise BadRow("role_order", "the conversation does not end with a turn to answer")


def _no_other_media(row: Fields) -> None:
    for name in ("videos", "audios"):
        if row.get(name):
            raise BadRow("unknown_format", f"the row has {name}, which a pair has no place for")


def _with_pictures(prompt: Messages, pictures: object) -> Messages:
    """Put pictures where `<image>` stands; without pictures the mark is text."""
    if not pictures:
        return prompt
    if not isinstance(pictures, list):
        raise BadRow("unknown_format", f"'images' is {kind(pictures)}, expected a list")
    marks = sum(len(IMAGE.findall(m["content"])) for m in prompt if isinstance(m["content"], str))
    if marks != len(pictures):
        raise BadRow("image_count_mismatch", f"{len(pictures)} images for {marks} `<image>` marks")
    waiting = list(pictures)
    return tuple([_pictured(message, waiting) for message in prompt])


def _pictured(message: Message, waiting: list[object]) -> Message:
    if not isinstance(message["content"], str) or "<image>" not in message["content"]:
        return message
    parts: list[dict[str, Any]] = []
    for at, said in enumerate(IMAGE.split(message["content"])):
        if at:
            parts.append({"type": "image", "image": waiting.pop(0)})
        if said:
            parts.append({"type": "text", "text": said})
    return {**message, "content": parts}


def _wrapped(schemas: Sequence[dict[str, Any]] | None) -> tuple[dict[str, Any], ...] | None:
    # Its files name functions bare, the rest of the field wraps them.
    if schemas is None:
        return None
    return tuple([s if "function" in s else {"type": "function", "function": s} for s in schemas])


@reader(
    "llamafactory_alpaca_ranking",
    "LLaMA-Factory alpaca ranking: `instruction`, `input`, `chosen`, `rejected`, `history`",
    keys="instruction input chosen rejected system history",
    rank=51,
    fits=lambda row: has(row, "instruction", "chosen", "rejected"),
)
def read_alpaca(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """`instruction` and `input` are joined by one newline; `history` holds earlier [user, assistant] turns."""
    need(row, "instruction")
    better, worse = need(row, "chosen"), need(row, "rejected")
    asked = with_input(row)
    before: list[Message] = []
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise BadRow("unknown_format", "'history' is not a list of [user, assistant]")
    for user, assistant in history:
        before += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    if not asked.strip():
        raise BadRow("empty_prompt", "'instruction' has no text")
    earlier = messages(before, "history")
    prompt = _with_pictures(
        question(asked, "instruction", system=optional_text(row, "system"), before=earlier), row.get("images")
    )
    return build(prompt, answer(better, "chosen"), answer(worse, "rejected"), meta)


@reader(
    "llamafactory_v1",
    "LLaMA-Factory version 1: `chosen_messages`, `rejected_messages` of parts with `value`",
    keys="chosen_messages rejected_messages",
    rank=22,
    fits=lambda row: has(row, "chosen_messages", "rejected_messages"),
)
def read_v1(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """Two whole conversations; the prompt is what they share."""
    better, worse = need(row, "chosen_messages"), need(row, "rejected_messages")
    chosen, chosen_tools = _v1_messages(better, "chosen_messages")
    rejected, rejected_tools = _v1_messages(worse, "rejected_messages")
    prompt, chosen, rejected = shared_prompt(chosen, rejected)
    return build(prompt, chosen, rejected, meta, tools=_wrapped(chosen_tools or rejected_tools))


def _v1_messages(value: object, field: str) -> tuple[Messages, tuple[dict[str, Any], ...] | None]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise BadRow("unknown_format", f"{field!r} is {kind(value)}, expected messages")
    made: list[Message] = []
    offered: tuple[dict[str, Any], ...] | None = None
    for i, message in enumerate(value):
        need(message, "role")
        content = need(message, "content")
        if isinstance(content, str):
            made.append({"role": message["role"], "content": content})
            continue
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise BadRow("unknown_format", f"{field}[{i}].content is {kind(content)}, expected parts")
        parts: list[dict[str, Any]] = []
        calls: list[Any] = []
        for part in content:
            kind_, said = need(part, "type"), need(part, "value")
            if kind_ == "tools":
                offered = tools(said)
            elif kind_ == "tool_call":
                calls.append(_parsed(said, f"{field}[{i}]"))
            elif kind_ == "image_url":
                parts.append({"type": "image", "image": said})
            else:
                parts.append({"type": kind_, "text": said})
        row: Message = {"role": message["role"], "content": parts}
        if calls:
            row |= {"tool_calls": calls, "content": parts or None}
        if parts or calls:
            made.append(row)
    return messages(made, field), offered


def _parsed(call: object, field: str) -> object:
    if not isinstance(call, str):
        return call
    try:
        return json.loads(call)
    except (ValueError, RecursionError) as exc:
        raise BadRow("parse_error", f"{field} holds a tool call that is not JSON: {exc}") from None
