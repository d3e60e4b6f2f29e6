"""The preference line of OpenAI, Azure AI Foundry, Fireworks and Together: `input`, `preferred_output`,
`non_preferred_output`. Sources: OpenAI "Direct preference optimization" guide, Microsoft Foundry DPO how-to,
Together "Preference fine-tuning" (all read November 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anydpo.data.dialect import BadRow, Fields, reader, writer
from anydpo.data.pair import Message, Messages, PreferencePair
from anydpo.data.shape import build, messages, need, number, tools

KEYS = "input preferred_output non_preferred_output"


def _fits(row: Fields) -> bool:
    return "preferred_output" in row or "non_preferred_output" in row


def _together(rows: Sequence[Fields]) -> str | None:
    """Only Together lets a prompt open with an assistant turn, a row carry a weight, an output its reasoning."""
    return "together_preference" if any(map(_together_only, rows)) else None


def _together_only(row: Fields) -> bool:
    opening = row.get("input")
    turns = opening.get("messages") if isinstance(opening, dict) else None
    first = turns[0] if isinstance(turns, list) and turns else None
    return "weight" in row or (isinstance(first, dict) and first.get("role") == "assistant")


@reader(
    "together_preference",
    "Together AI preference lines",
    keys=KEYS,
    rank=11,
    fits=lambda row: _fits(row) and _together_only(row),
)
@reader(
    "openai_preference",
    "OpenAI, Azure AI Foundry and Fireworks preference lines",
    keys=KEYS,
    rank=10,
    fits=_fits,
    variant=_together,
)
def read_preference(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """Read the shape that four providers share; an empty tool list is no tools."""
    given = need(row, "input")
    if not isinstance(given, dict):
        raise BadRow("unknown_format", "'input' is not an object with `messages`")
    if "parallel_tool_calls" in given:
        meta["parallel_tool_calls"] = given["parallel_tool_calls"]
    return build(
        messages(need(given, "messages"), "input.messages"),
        messages(need(row, "preferred_output"), "preferred_output", role="assistant"),
        messages(need(row, "non_preferred_output"), "non_preferred_output", role="assistant"),
        meta,
        tools=tools(given.get("tools")),
        weight=number(row, "weight"),
    )


@writer("azure", "Azure AI Foundry fine-tuning JSONL", loses="weight margin meta", refuses="images")
@writer("openai", "OpenAI fine-tuning JSONL", loses="weight margin meta", refuses="images many_messages")
def openai_row(pair: PreferencePair) -> dict[str, Any]:
    """Return one preference line."""
    given: dict[str, Any] = {"messages": _answering(pair.prompt)}
    if pair.tools:
        given["tools"] = list(pair.tools)
    if "parallel_tool_calls" in pair.meta:
        given["parallel_tool_calls"] = pair.meta["parallel_tool_calls"]
    return {
        "input": given,
        "preferred_output": _answering(pair.chosen),
        "non_preferred_output": _answering(pair.rejected),
    }


@writer("together", "Together AI fine-tuning JSONL", loses="margin meta", refuses="many_messages")
def together_row(pair: PreferencePair) -> dict[str, Any]:
    """Return one preference line, with the pair's weight where it has one and pictures as `image_url` parts."""
    row = openai_row(pair)
    row["input"]["messages"] = [_with_image_urls(message) for message in row["input"]["messages"]]
    if pair.weight != 1.0:
        row["weight"] = pair.weight
    return row


def _with_image_urls(message: Message) -> Message:
    if not isinstance(content := message["content"], list):
        return message
    parts = [
        {"type": "image_url", "image_url": {"url": part["image"]}} if part["type"] == "image" else part
        for part in content
    ]
    return {**message, "content": parts}


def _answering(conversation: Messages) -> Sequence[Message]:
    """Give every tool message the call id that the OpenAI schema demands and TRL's leaves out."""
    for message in conversation:
        if message["role"] == "tool":
            break
    else:
        return conversation
    made: list[Message] = []
    waiting: list[dict[str, Any]] = []
    for message in conversation:
        waiting.extend(message.get("tool_calls", ()))
        if message["role"] == "tool" and "tool_call_id" not in message and waiting:
            named = [call for call in waiting if call["function"]["name"] == message.get("name")]
            call = (named or waiting)[0]
            waiting.remove(call)
            made.append({**message, "tool_call_id": call.get("id")})
        else:
            made.append(message)
    return made
