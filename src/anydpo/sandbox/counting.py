"""How many tokens a service reads in a file: each turn written out as the model's own template writes it.

Written from the templates that the models' makers publish, and sharing nothing with this package's own counting.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

# beginning of a model's name → (encoding, single tokens of a turn, text between its role and its content, and after it)
TEMPLATES: dict[str, tuple[str, int, str, str]] = {
    "qwen": ("qwen3", 2, "\n", "\n"),  # <|im_start|>ROLE\nTEXT<|im_end|>\n
    "llama": ("llama3", 3, "\n\n", ""),  # <|start_header_id|>ROLE<|end_header_id|>\n\nTEXT<|eot_id|>
    "gpt-oss": ("o200k_harmony", 3, "", ""),  # <|start|>ROLE<|message|>TEXT<|end|>
}


def tokens_in(path: Path, model: str) -> int | None:
    """Return the tokens of one pass over a file of pairs or conversations, None where there is no tokenizer here.

    A pair is two sequences: the prompt is read once with either answer.
    """
    name = model.lower().rsplit("/", 1)[-1].removeprefix("meta-")
    template = next((known for start, known in TEMPLATES.items() if name.startswith(start)), None)
    if template is None or (count := _counter(template[0])) is None:
        return None
    _, marks, between, after = template

    def turn(message: Mapping[str, Any]) -> int:
        content = message.get("content")
        text = content if isinstance(content, str) else json.dumps(content) if content else ""
        calls = json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""
        return marks + count(message["role"] + between) + count(text + calls) + (count(after) if after else 0)

    total = 0
    with path.open(encoding="utf-8-sig") as file:
        for line in filter(str.strip, file):
            row = json.loads(line)
            if "messages" in row:
                total += sum(turn(message) for message in row["messages"])
                continue
            prompt = sum(turn(message) for message in row["input"]["messages"])
            answers = (row["preferred_output"], row["non_preferred_output"])
            total += 2 * prompt + sum(turn(message) for answer in answers for message in answer)
    return total


@cache
def _counter(encoding: str) -> Callable[[str], int] | None:
    try:
        import quicktok
    except ImportError:
        return None
    known: Any = quicktok.get_encoding(encoding)
    return lambda text: int(known.count(text))
