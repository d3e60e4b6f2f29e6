"""One preference pair, its canonical bytes, and the identity that follows from them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

Message: TypeAlias = dict[str, Any]  # OpenAI chat shape: role, content, tool_calls, tool_call_id, name
Messages: TypeAlias = tuple[Message, ...]

SORTED = orjson.OPT_SORT_KEYS


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt with a better and a worse continuation.

    `prompt`, `chosen` and `rejected` are messages in OpenAI chat shape; tool arguments are JSON text.
    `weight` multiplies the pair's loss before the mean. `margin` is kept and enters no loss unless asked.
    `meta` (annotators, votes, scores, `source`) never counts for equality or identity.
    """

    prompt: Messages
    chosen: Messages
    rejected: Messages
    tools: tuple[dict[str, Any], ...] | None = None
    weight: float = 1.0
    margin: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)

    @property
    def source(self) -> str:
        """Where the pair was read, as `file:line`."""
        return str(self.meta.get("source", ""))

    def canonical(self) -> bytes:
        """Return the pair's canonical line: compact JSON, sorted keys, UTF-8, absent keys omitted."""
        return self._bytes({"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected})

    def to_dict(self, *, meta: bool = True) -> dict[str, Any]:
        """Return the pair as one row of the `canonical` dialect."""
        row: dict[str, Any] = {
            "prompt": list(self.prompt),
            "chosen": list(self.chosen),
            "rejected": list(self.rejected),
        }
        if self.tools:
            row["tools"] = list(self.tools)
        if self.weight != 1.0:
            row["weight"] = self.weight
        if self.margin is not None:
            row["margin"] = self.margin
        if meta and self.meta:
            row["meta"] = dict(self.meta)
        return row

    def _bytes(self, row: dict[str, Any]) -> bytes:
        plain = not self.tools and self.weight == 1.0 and self.margin is None
        if plain and not (_calls_tools(self.prompt) or _calls_tools(self.chosen) or _calls_tools(self.rejected)):
            return orjson.dumps(row, option=SORTED)
        # Numbers occur only on this path, and the standard library's spelling of them is the pinned one.
        row = {key: _with_parsed_arguments(messages) for key, messages in row.items()}
        return _stable({**self.to_dict(meta=False), **row})


def prompt_key(prompt: Messages) -> bytes:
    """Return the canonical bytes of a prompt alone, on which its side of a split depends."""
    if not _calls_tools(prompt):
        return orjson.dumps(prompt, option=SORTED)
    return _stable(_with_parsed_arguments(prompt))


def fingerprint(pairs: Iterable[PreferencePair]) -> str:
    """Return `sha256:` of the canonical lines in order, each ended by a newline."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(pair.canonical())
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()}"


def in_validation(prompt: Messages, share: float, seed: int) -> bool:
    """Say on which side of a split a prompt falls; only its canonical bytes and the seed decide."""
    digest = hashlib.sha256(b"%d\n%b" % (seed, prompt_key(prompt))).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message, the parts of a multi-part content joined."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if part.get("type") == "text")
    return ""


def images_in(messages: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every image part."""
    for message in messages:
        if isinstance(content := message.get("content"), list):
            yield from (part for part in content if part.get("type") == "image")


def _calls_tools(messages: Messages) -> bool:
    for message in messages:  # noqa: SIM110 - a generator costs a tenth of the whole pass
        if "tool_calls" in message:
            return True
    return False


def _with_parsed_arguments(messages: Messages) -> list[Message]:
    return [_parsed(message) if "tool_calls" in message else message for message in messages]


def _parsed(message: Message) -> Message:
    calls: list[Any] = []
    for call in message["tool_calls"]:
        function = dict(call.get("function", {}))
        if isinstance(text := function.get("arguments"), str):
            with contextlib.suppress(ValueError):  # not JSON: the text itself is what the model wrote
                function["arguments"] = json.loads(text)
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}


def _stable(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
