"""A sandbox that does not train, data to send it, and clients of the official SDKs that remember what they exchange."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import together

from anydpo.sandbox.server import Sandbox, serve
from tests.sandbox.recorded import Recorder, openai_client, together_client

Rows = list[dict[str, Any]]


def preferences(count: int) -> Rows:
    return [
        {
            "input": {"messages": [{"role": "user", "content": f"How do I return order {i}?"}]},
            "preferred_output": [{"role": "assistant", "content": f"Happy to help: open order {i}, press Return."}],
            "non_preferred_output": [{"role": "assistant", "content": f"Read the policy, order {i}."}],
        }
        for i in range(count)
    ]


def chats(count: int) -> Rows:
    return [
        {"messages": [*row["input"]["messages"], *row["preferred_output"]]}  # the same shop, as conversations
        for row in preferences(count)
    ]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: Rows, name: str = "prefs.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def prefs(written: Callable[..., Path]) -> Path:
    return written(preferences(24))


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with serve(trainer="instant", steps=6, providers=["azure", "openai", "together"]) as made:
        yield made


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


@pytest.fixture
def oai(box: Sandbox, seen: Recorder) -> Iterator[openai.OpenAI]:
    with openai_client(box, seen) as made:
        yield made


@pytest.fixture
def tg(box: Sandbox, seen: Recorder) -> Iterator[together.Together]:
    with together_client(box, seen) as made:
        yield made
