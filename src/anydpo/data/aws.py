"""What Amazon's services train on: SageMaker's two forms for open weights, and Nova's Converse lines.

Sources: SageMaker developer guide, customizing-models-dpo and nova-dpo; sagemaker-python-sdk 3.20,
ai_registry/schemas (both read November 2026).
"""

from __future__ import annotations

from typing import Any

from anydpo.data.dialect import writer
from anydpo.data.pair import Message, Messages, PreferencePair, text_of

SCHEMA = "bedrock-conversation-2024"


@writer(
    "sagemaker",
    "SageMaker serverless JSONL: `prompt`, `chosen`, `rejected` as strings, `system` beside them",
    loses="weight margin meta",
    refuses="multi_turn tools images many_messages",
)
def sagemaker_row(pair: PreferencePair) -> dict[str, Any]:
    """Return the pair as strings."""
    system, turns = _parted(pair.prompt)
    row = {"prompt": text_of(turns[-1]), "chosen": text_of(pair.chosen[0]), "rejected": text_of(pair.rejected[0])}
    return {**({"system": system} if system else {}), **row}


@writer(
    "sagemaker_chat",
    "SageMaker serverless JSONL: `chosen` and `rejected` as whole conversations",
    loses="weight margin meta",
    refuses="tools images many_messages",
)
def sagemaker_chat_row(pair: PreferencePair) -> dict[str, Any]:
    """Return the pair as two conversations that share their beginning; the system message stands first in both."""
    system, turns = _parted(pair.prompt)
    opening = [{"role": "system", "content": system}] if system else []
    opening += [{"role": turn["role"], "content": text_of(turn)} for turn in turns]
    return {
        name: [*opening, {"role": "assistant", "content": text_of(answer[0])}]
        for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected))
    }


@writer(
    "nova",
    "Amazon Nova JSONL: Converse messages whose last turn has two candidates",
    loses="weight margin meta",
    refuses="tools images many_messages",
)
def nova_row(pair: PreferencePair) -> dict[str, Any]:
    """Return the pair as Nova reads it."""
    system, turns = _parted(pair.prompt)
    row: dict[str, Any] = {"schemaVersion": SCHEMA}
    if system:
        row["system"] = [{"text": system}]
    candidates = [
        {"content": [{"text": text_of(answer[0])}], "preferenceLabel": label}
        for answer, label in ((pair.chosen, "preferred"), (pair.rejected, "non-preferred"))
    ]
    said = [{"role": turn["role"], "content": [{"text": text_of(turn)}]} for turn in turns]
    return {**row, "messages": [*said, {"role": "assistant", "candidates": candidates}]}


def _parted(prompt: Messages) -> tuple[str, list[Message]]:
    """Return (the system messages as one text, the turns)."""
    ours = [message for message in prompt if message["role"] in ("system", "developer")]
    return "\n\n".join(map(text_of, ours)), [message for message in prompt if message not in ours]
