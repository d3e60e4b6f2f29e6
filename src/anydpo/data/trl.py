"""TRL's dialects: text and chat, explicit and implicit prompt, tools, images; and `canonical`, which is TRL
chat with the optional `weight`, `margin` and `meta`. Formats: TRL 1.16, "Dataset formats and types"."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from anydpo.data.dialect import BadRow, Fields, reader, writer
from anydpo.data.pair import Message, Messages, PreferencePair, images_in, text_of
from anydpo.data.pictures import picture_uri
from anydpo.data.shape import build, common_prefix, messages, need, number, plain, shared_prompt, tools

PAIR = "prompt chosen rejected"


def _texts(row: Fields, *keys: str) -> bool:
    return all(isinstance(row.get(key), str) for key in keys)


def _chats(row: Fields, *keys: str) -> bool:
    return all(isinstance(row.get(key), (list, dict)) for key in keys)


def _has_pair(row: Fields) -> bool:
    return "chosen" in row and "rejected" in row


def _variant(rows: Sequence[Fields]) -> str | None:
    if any(key in row for row in rows for key in ("weight", "margin", "meta")):
        return "canonical"
    return "trl_tools" if any(row.get("tools") for row in rows) else None


@reader(
    "trl_images",
    "TRL pairs with an `images` or `image` column",
    keys=f"images image {PAIR}",
    rank=20,
    fits=lambda row: _has_pair(row) and "prompt" in row and ("images" in row or "image" in row),
)
def read_images(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """Fill the unfilled image parts in order; with text content, pictures go before the first user text."""
    pictures = row.get("images") if row.get("images") is not None else [need(row, "image")]
    if not isinstance(pictures, list):
        raise BadRow("unknown_format", "'images' is not a list")
    pictures = [picture_uri(picture) for picture in pictures]
    prompt, chosen, rejected = _explicit(row)
    prompt = _with_images(prompt, pictures)
    return build(prompt, chosen, rejected, meta, tools=tools(row.get("tools")))


@reader(
    "trl_tools",
    "TRL chat pairs with a `tools` column",
    keys=f"tools {PAIR}",
    rank=40,
    fits=lambda row: _chats(row, "chosen", "rejected") and bool(row.get("tools")),
)
@reader(
    "canonical",
    "anydpo's own: TRL chat with optional `tools`, `weight`, `margin` and `meta`",
    keys=f"{PAIR} tools weight margin meta",
    rank=41,
    fits=lambda row: (
        _chats(row, "prompt", "chosen", "rejected")
        and ("weight" in row or "margin" in row or isinstance(row.get("meta"), dict))
    ),
)
@reader(
    "trl_conversational_explicit",
    "TRL chat: `prompt`, `chosen`, `rejected` as messages",
    keys=PAIR,
    rank=90,
    fits=lambda row: "prompt" in row and _has_pair(row) and not _texts(row, PAIR),
    variant=_variant,
)
@reader(
    "trl_standard_explicit",
    "TRL text: `prompt`, `chosen`, `rejected` as strings",
    keys=PAIR,
    rank=80,
    fits=lambda row: _texts(row, "prompt", "chosen", "rejected") and not row.get("system"),
)
def read_explicit(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """Text is passed through unchanged; a prompt repeated inside the answers is removed from them.

    Pictures and a system text that only some rows of a file have, too late to be seen in its sample, are read as well.
    """
    if row.get("images") or row.get("image"):
        return read_images(row, meta)
    prompt, chosen, rejected = _explicit(row)
    if isinstance(system := row.get("system"), str) and system and isinstance(row["prompt"], str):
        prompt = ({"role": "system", "content": system}, *prompt)
    given = row.get("meta")
    if isinstance(given, dict):
        meta = {**plain(given, "meta"), **meta}
    return build(
        prompt,
        chosen,
        rejected,
        meta,
        tools=tools(row.get("tools")),
        weight=number(row, "weight"),
        margin=number(row, "margin"),
    )


@reader(
    "trl_conversational_implicit",
    "TRL chat without `prompt`: two whole conversations",
    keys="chosen rejected",
    rank=91,
    fits=lambda row: "prompt" not in row and _chats(row, "chosen", "rejected"),
)
def read_implicit_chat(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """The prompt is what both conversations share, compared by role and content."""
    chosen = messages(need(row, "chosen"), "chosen", role="assistant")
    rejected = messages(need(row, "rejected"), "rejected", role="assistant")
    prompt, better, worse = shared_prompt(chosen, rejected)
    return build(prompt, better, worse, meta, tools=tools(row.get("tools")))


@reader(
    "trl_standard_implicit",
    "TRL text without `prompt`: two texts with a common beginning",
    keys="chosen rejected",
    rank=95,
    fits=lambda row: "prompt" not in row and _texts(row, "chosen", "rejected"),
)
def read_implicit_text(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """The prompt is the common beginning, moved back to white space; both sides are stripped at the cut."""
    chosen, rejected = need(row, "chosen"), need(row, "rejected")
    if not _texts(row, "chosen", "rejected"):
        raise BadRow("unknown_format", "'chosen' and 'rejected' are not both text")
    if chosen.strip() == rejected.strip():
        raise BadRow("identical", "both texts are the same")
    at = common_prefix(chosen, rejected)
    while at and not chosen[at - 1].isspace():
        at -= 1
    prompt = chosen[:at].strip()
    if not prompt:
        raise BadRow("no_shared_prompt", "the two texts have no common beginning")
    return build(
        ({"role": "user", "content": prompt},),
        ({"role": "assistant", "content": chosen[at:].strip()},),
        ({"role": "assistant", "content": rejected[at:].strip()},),
        meta,
    )


def _explicit(row: Fields) -> tuple[Messages, Messages, Messages]:
    prompt = messages(need(row, "prompt"), "prompt")
    chosen = messages(need(row, "chosen"), "chosen", role="assistant")
    rejected = messages(need(row, "rejected"), "rejected", role="assistant")
    if len(chosen) > 1 or len(rejected) > 1:
        return _without_repeated_prompt(prompt, chosen, rejected, text=isinstance(row["prompt"], str))
    return prompt, chosen, rejected


def _without_repeated_prompt(
    prompt: Messages, chosen: Messages, rejected: Messages, *, text: bool
) -> tuple[Messages, Messages, Messages]:
    size = len(prompt)
    if chosen[:size] == prompt == rejected[:size]:
        return prompt, chosen[size:], rejected[size:]
    if text and chosen and chosen[:1] == rejected[:1] and chosen[0]["role"] in ("system", "user"):
        # The transcripts are whole conversations; a prompt column of text repeats one of their turns.
        shared, better, worse = shared_prompt(chosen, rejected)
        if any(text_of(message).strip() == text_of(prompt[0]).strip() for message in shared):
            return shared, better, worse
    return prompt, chosen, rejected


def _with_images(prompt: Messages, pictures: Sequence[object]) -> Messages:
    waiting = list(pictures)
    holes = sum(1 for part in images_in(prompt) if part["image"] is None)
    if holes == 0 and not any(images_in(prompt)):
        return _before_first_user(prompt, waiting)
    if holes != len(waiting):
        raise BadRow("image_count_mismatch", f"{len(waiting)} images for {holes} places")
    return tuple([_filled(message, waiting) for message in prompt])


def _filled(message: Message, waiting: list[object]) -> Message:
    if not isinstance(message["content"], list):
        return message
    parts = [
        {"type": "image", "image": waiting.pop(0)} if part["type"] == "image" and part["image"] is None else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _before_first_user(prompt: Messages, pictures: Sequence[object]) -> Messages:
    made = list(prompt)
    for i, message in enumerate(made):
        if message["role"] == "user":
            parts = [{"type": "image", "image": picture} for picture in pictures]
            made[i] = {**message, "content": [*parts, {"type": "text", "text": text_of(message)}]}
            return tuple(made)
    raise BadRow("image_count_mismatch", f"{len(pictures)} images and no user message")


@writer("canonical", "anydpo's own JSONL: holds everything")
def canonical_row(pair: PreferencePair) -> dict[str, Any]:
    """Return the pair with every field it has."""
    row = pair.to_dict()
    if "source" in pair.meta:
        meta = {key: value for key, value in pair.meta.items() if key != "source"}
        row = {**pair.to_dict(meta=False), **({"meta": meta} if meta else {})}
    return row


@writer("trl_chat", "TRL conversational JSONL, explicit prompt", loses="weight margin meta")
def trl_chat_row(pair: PreferencePair) -> dict[str, Any]:
    """Return the pair as TRL reads it: tool arguments as an object, pictures in their own column."""
    row: dict[str, Any] = {
        "prompt": [_trl_message(m) for m in pair.prompt],
        "chosen": [_trl_message(m) for m in pair.chosen],
        "rejected": [_trl_message(m) for m in pair.rejected],
    }
    if pair.tools:
        row["tools"] = list(pair.tools)
    if pictures := [part["image"] for part in images_in(pair.prompt)]:
        row["images"] = pictures
    return row


@writer(
    "trl",
    "TRL text JSONL: `prompt`, `chosen`, `rejected` as strings",
    loses="weight margin meta",
    refuses="system multi_turn tools images many_messages",
)
def trl_row(pair: PreferencePair) -> dict[str, Any]:
    """Return the pair as three strings."""
    return {
        "prompt": text_of(pair.prompt[0]),
        "chosen": text_of(pair.chosen[0]),
        "rejected": text_of(pair.rejected[0]),
    }


def _trl_message(message: Message) -> Mapping[str, Any]:
    made = dict(message)
    if isinstance(content := message["content"], list):
        made["content"] = [{"type": "image"} if part["type"] == "image" else part for part in content]
    if "tool_calls" in message:
        made["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _object(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
    return made


def _object(arguments: str) -> object:
    try:
        found: object = json.loads(arguments)
        orjson.dumps(found)
    except (ValueError, TypeError, RecursionError):  # not JSON, or a number that JSON writers refuse: text holds it
        return arguments
    return found
