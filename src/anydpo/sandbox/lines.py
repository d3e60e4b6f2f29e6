"""Reading of an uploaded training file as the services do it: line by line, with each finding's line number.

Written from the providers' documents alone and sharing nothing with this package's readers and writers, so that an
adapter that writes a wrong file is found out.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydpo.sandbox.wire import digest

MOST_FINDINGS = 20
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


@dataclass(frozen=True)
class Rules:
    """Where the services' validators differ."""

    least: int = 1  # examples
    roles: frozenset[str] = ROLES
    output_roles: frozenset[str] = frozenset({"assistant"})
    one_output: bool = False  # exactly one message in each output
    alternate: bool = False  # no two messages of one role in a row
    weight: bool = False  # a sample may carry a weight


@dataclass
class Findings:
    """What is in a file: rows for the trainer, and what is wrong, each with its line."""

    kind: str | None = None  # preference or conversation
    rows: list[dict[str, Any]] = field(default_factory=list)
    lines: int = 0
    wrong: list[tuple[int, str]] = field(default_factory=list)
    characters: int = 0
    tools: bool = False
    weights: bool = False

    @property
    def tokens(self) -> int:
        """Return the token count of one epoch by the usual rule of thumb: 4 characters a token, at least one a row."""
        return max(self.characters // 4, len(self.rows))


class LineError(ValueError):
    """One line is not what the service takes."""


def examine(path: Path, rules: Rules, most_rows: int) -> Findings:
    """Read a file; at most `most_rows` rows are kept for the trainer, every line is looked at."""
    found = Findings()
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        found.lines += 1
        try:
            kind, row = _row(line, rules)
            if found.kind is None:
                found.kind = kind
            elif kind != found.kind:
                raise LineError(f"is a {kind} example, the lines before are {found.kind} examples")
        except LineError as exc:
            if len(found.wrong) < MOST_FINDINGS:
                found.wrong.append((number, str(exc)))
            continue
        found.characters += len(line)
        found.tools |= bool(row.get("tools"))
        found.weights |= "weight" in row
        if len(found.rows) < most_rows:
            found.rows.append(row)
    if not found.wrong and found.lines < rules.least:
        found.wrong.append((0, f"has {found.lines} example(s), at least {rules.least} are needed"))
    return found


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line


def _row(line: bytes, rules: Rules) -> tuple[str, dict[str, Any]]:
    try:
        given = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise LineError("is not UTF-8") from None
    except ValueError:
        raise LineError("is not valid JSON") from None
    if not isinstance(given, dict):
        raise LineError("is not a JSON object")
    preference = "input" in given or "preferred_output" in given or "non_preferred_output" in given
    if preference and "messages" in given:
        raise LineError("matches two formats at once: preference and conversation")
    return ("preference", _preference(given, rules)) if preference else ("conversation", _conversation(given, rules))


def _preference(given: dict[str, Any], rules: Rules) -> dict[str, Any]:
    for key in ("input", "preferred_output", "non_preferred_output"):
        if key not in given:
            raise LineError(f"has no '{key}'")
    allowed = {"input", "preferred_output", "non_preferred_output"} | ({"weight"} if rules.weight else set())
    if more := sorted(set(given) - allowed):
        raise LineError(f"has an unexpected key '{more[0]}'")
    asked = given["input"]
    if not isinstance(asked, dict):
        raise LineError("'input' is not an object")
    prompt = _messages(asked.get("messages"), "input.messages", rules.roles)
    if rules.alternate:
        _alternating(prompt)
    row: dict[str, Any] = {"prompt": prompt}
    for name, key in (("chosen", "preferred_output"), ("rejected", "non_preferred_output")):
        output = _messages(given[key], key, rules.output_roles)
        if rules.one_output and len(output) != 1:
            raise LineError(f"'{key}' has {len(output)} messages, expected exactly one")
        if not any(message["role"] == "assistant" for message in output):
            raise LineError(f"'{key}' has no assistant message")
        row[name] = output
    if tools := asked.get("tools"):
        row["tools"] = tools
    if "weight" in given:
        row["weight"] = _weight(given["weight"])
    return row


def _conversation(given: dict[str, Any], rules: Rules) -> dict[str, Any]:
    if "messages" not in given:
        raise LineError("has neither 'messages' nor 'input'")
    messages = _messages(given["messages"], "messages", rules.roles)
    if not any(message["role"] == "assistant" for message in messages):
        raise LineError("'messages' has no assistant message")
    return {"messages": messages, **({"tools": given["tools"]} if given.get("tools") else {})}


def _messages(given: Any, where: str, roles: frozenset[str]) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise LineError(f"'{where}' is not a list of messages")
    made = []
    for message in given:
        if not isinstance(message, dict) or "role" not in message:
            raise LineError(f"'{where}' holds something that is no message with a 'role'")
        if message["role"] not in roles:
            raise LineError(f"'{where}' has a message of role {message['role']!r}, which is not allowed here")
        content = message.get("content")
        if content is None and not message.get("tool_calls"):
            raise LineError(f"'{where}' has a message without 'content'")
        if (
            message["role"] == "assistant"
            and isinstance(content, str)
            and not content
            and not message.get("tool_calls")
        ):
            raise LineError(f"'{where}' has an empty assistant message")
        if content is not None and not isinstance(content, (str, list)):
            raise LineError(f"'{where}' has a message whose 'content' is not text")
        made.append({key: value for key, value in message.items() if key not in {"weight", "refusal"}})
    return made


def _alternating(messages: list[dict[str, Any]]) -> None:
    for before, after in itertools.pairwise(messages):
        if before["role"] == after["role"] and before["role"] != "tool":
            raise LineError(f"'input.messages' has two messages of role {after['role']!r} in a row")


def _weight(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise LineError("'weight' is not a number of 0 or more")
    return float(value)


def content_key(rows: list[dict[str, Any]]) -> str:
    """Return a digest of rows, the same for the same rows."""
    return digest(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode())
