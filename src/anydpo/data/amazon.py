"""Preference lines of Amazon: SageMaker's two for open weights, and Nova's. Sources: SageMaker developer guide
customizing-models-dpo and nova-dpo, schemas dpo.json and hf_preference.json of sagemaker-python-sdk."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from anydpo.data.dialect import writer
from anydpo.data.pair import Message, PreferencePair, text_of

SCHEMA = "bedrock-conversation-2024"


@writer(
    "sagemaker",
    "SageMaker open-weight JSONL, simple: `system`, `prompt`, `chosen`, `rejected` as text",
    loses="weight margin meta",
    refuses="multi_turn tools images many_messages",
)
def sagemaker_row(pair: PreferencePair) -> dict[str, Any]:
    """Return the pair as three strings, and a fourth where the prompt opens with a system message."""
    *opening, question = pair.prompt
    row = {
        "prompt": text_of(question),
        "chosen": text_of(pair.chosen[0]),
        "rejected": text_of(pair.rejected[0]),
    }
    return {"system": text_of(opening[0]), **row} if opening else row


@writer(
    "sagemaker_chat",
    "SageMaker open-weight JSONL, chat: two whole conversations",
    loses="weight margin meta",
    refuses="tools images many_messages",
)
def sagemaker_chat_row(pair: PreferencePair) -> dict[str, Any]:
    """Return both conversations, each beginning with the prompt."""
    return {"chosen": _whole(pair, pair.chosen), "rejected": _whole(pair, pair.rejected)}


@writer(
    "nova",
    "Amazon Nova JSONL: Converse messages, the last with two candidates",
    loses="weight margin meta",
    refuses="tools many_messages",
)
def nova_row(pair: PreferencePair) -> dict[str, Any]:
    """Return one Converse conversation whose last turn has both answers."""
    system = [{"text": text_of(m)} for m in pair.prompt if m["role"] == "system"]
    answers = [
        {"content": _content(completion[0]), "preferenceLabel": label}
        for completion, label in ((pair.chosen, "preferred"), (pair.rejected, "non-preferred"))
    ]
    turns = [{"role": m["role"], "content": _content(m)} for m in pair.prompt if m["role"] != "system"]
    return {
        "schemaVersion": SCHEMA,
        **({"system": system} if system else {}),
        "messages": [*turns, {"role": "assistant", "candidates": answers}],
    }


def _whole(pair: PreferencePair, completion: tuple[Message, ...]) -> list[dict[str, Any]]:
    return [{"role": m["role"], "content": text_of(m)} for m in (*pair.prompt, *completion)]


def _content(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    if not isinstance(content, list):
        return [{"text": text_of(message)}]
    return [
        {"text": part["text"]}
        if part["type"] == "text"
        else {"image": {"format": _kind(part["image"]), "source": {"s3Location": {"uri": part["image"]}}}}
        for part in content
    ]


def _kind(uri: str) -> str:
    suffix = PurePosixPath(uri).suffix.lower().removeprefix(".")
    return "jpeg" if suffix in ("jpg", "") else suffix
