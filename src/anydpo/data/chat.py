"""Chats for the supervised stage: `{"messages"}` or `{"prompt", "completion"}` rows, each checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from anydpo.data.dialect import BadRow
from anydpo.data.shape import messages, need, tools
from anydpo.data.source import expand, read_rows
from anydpo.errors import DataInvalid


def read_chats(source: Path) -> Iterator[dict[str, Any]]:
    """Yield `{"messages"[, "tools"]}` rows; raises `DataInvalid` with file and line at the first bad one."""
    for path in expand(source):
        for value, line, error in read_rows(path):
            try:
                if error is not None:
                    raise BadRow("parse_error", error)
                yield _chat(value, f"{path.name}:{line}")
            except BadRow as bad:
                raise DataInvalid(
                    f"{path}:{line}: {bad.reason}: {bad.detail}",
                    hint='a chat row is {"messages": [...]} or {"prompt": ..., "completion": ...}',
                ) from None


def fingerprint(source: Path) -> str:
    """Return `sha256:` of the chats, whatever their file is called."""
    digest = hashlib.sha256()
    for chat in read_chats(source):
        chat.pop("meta")
        digest.update(orjson.dumps(chat, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))
    return f"sha256:{digest.hexdigest()}"


def _chat(row: object, source: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise BadRow("unknown_format", "the row is not an object")
    if "completion" in row:
        turns = messages(need(row, "prompt"), "prompt")
        turns += messages(need(row, "completion"), "completion", role="assistant")
    else:
        turns = messages(need(row, "messages"), "messages")
    if not any(turn["role"] == "assistant" for turn in turns[1:]):
        raise BadRow("empty_completion", "no assistant message answers anything")
    chat: dict[str, Any] = {"messages": list(turns), "meta": {"source": source}}
    if (schemas := tools(row.get("tools"))) is not None:
        chat["tools"] = list(schemas)
    return chat
