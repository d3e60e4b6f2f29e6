"""axolotl's DPO rows: its default columns, and the chat template strategy.
Format: axolotl, `prompt_strategies/dpo`."""

from __future__ import annotations

from typing import Any

from anydpo.data.dialect import GENERIC, BadRow, Fields, reader
from anydpo.data.pair import Messages, PreferencePair
from anydpo.data.shape import answer, build, has, need, optional_text, question, tools

PROMPTS = ("prompt", "input", "question", "instruction")


def _first(row: Fields, names: tuple[str, ...]) -> str:
    return next((name for name in names if row.get(name) is not None), names[0])


@reader(
    "axolotl_default",
    "axolotl: `prompt`, `input`, `question` or `instruction`; `chosen` or `chosen_response`; `system`",
    keys="system input chosen rejected",
    rank=GENERIC,
    fits=lambda row: (
        any(isinstance(row.get(name), str) for name in PROMPTS)
        and any(
            has(row, chosen, rejected)
            for chosen, rejected in (("chosen", "rejected"), ("chosen_response", "rejected_response"))
        )
    ),
)
def read_default(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """The first prompt column that is there counts."""
    chosen = _first(row, ("chosen", "chosen_response"))
    rejected = _first(row, ("rejected", "rejected_response"))
    field = _first(row, PROMPTS)
    if field == "prompt" and not has(row, "prompt") and not any(name in row for name in PROMPTS):
        raise BadRow("missing_field", f"none of the fields {', '.join(map(repr, PROMPTS))}")
    field = field if field in row else next(name for name in PROMPTS if name in row)
    asked, better, worse = need(row, field), need(row, chosen), need(row, rejected)
    prompt = question(asked, field, system=optional_text(row, "system"))
    return build(prompt, answer(better, chosen), answer(worse, rejected), meta)


@reader(
    "axolotl_chat_template",
    "axolotl chat_template: `messages` holds the prompt, `chosen` and `rejected` an answer in any form",
    keys="messages chosen rejected",
    rank=52,
    fits=lambda row: isinstance(row.get("messages"), list) and has(row, "chosen", "rejected") and "prompt" not in row,
)
def read_chat_template(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """Of an answer that is a conversation, the last message counts."""
    asked, better, worse = (need(row, name) for name in ("messages", "chosen", "rejected"))
    prompt = question(asked, "messages")
    return build(
        prompt,
        _last(answer(better, "chosen")),
        _last(answer(worse, "rejected")),
        meta,
        tools=tools(row.get("tools")),
    )


def _last(conversation: Messages) -> Messages:
    return conversation[-1:]
