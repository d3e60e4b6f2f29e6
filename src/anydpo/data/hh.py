"""Anthropic HH transcripts: two texts of `\\n\\nHuman:` and `\\n\\nAssistant:` turns that share a beginning."""

from __future__ import annotations

from typing import Any

from anydpo.data.dialect import BadRow, Fields, reader
from anydpo.data.pair import Message, PreferencePair
from anydpo.data.shape import build, common_prefix, need

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def _is_transcript(value: object) -> bool:
    return isinstance(value, str) and value.startswith(HUMAN)


@reader(
    "hh_transcript",
    "Anthropic HH-RLHF transcripts",
    keys="chosen rejected",
    rank=70,
    fits=lambda row: _is_transcript(row.get("chosen")) and _is_transcript(row.get("rejected")),
)
def read_transcript(row: Fields, meta: dict[str, Any]) -> PreferencePair:
    """The prompt is every turn before the last answer; a beginning that the answers share stays with them."""
    chosen, rejected = need(row, "chosen"), need(row, "rejected")
    if not (_is_transcript(chosen) and _is_transcript(rejected)):
        raise BadRow("unknown_format", "'chosen' and 'rejected' are not both Human/Assistant transcripts")
    cut, other = chosen.rfind(ASSISTANT), rejected.rfind(ASSISTANT)
    better, worse = chosen[cut + len(ASSISTANT) :], rejected[other + len(ASSISTANT) :]
    if min(cut, other) < 0 or HUMAN in better or HUMAN in worse:
        raise BadRow("role_order", "a transcript does not end with an Assistant turn")
    if cut != other or chosen[:cut] != rejected[:other]:
        shared = common_prefix(chosen, rejected)
        raise BadRow("no_shared_prompt", f"the transcripts part at character {shared + 1}, before the last answer")
    return build(
        _turns(chosen[:cut]),
        ({"role": "assistant", "content": better.strip()},),
        ({"role": "assistant", "content": worse.strip()},),
        meta,
    )


def turns(transcript: str) -> tuple[Message, ...]:
    """Return the turns of a prompt that ends where the assistant is to answer; plain text is one user turn."""
    prompt = transcript.rstrip().removesuffix(ASSISTANT.strip())
    if not prompt.lstrip().startswith(HUMAN.strip()):
        return ({"role": "user", "content": prompt.strip()},)
    return _turns("\n\n" + prompt.lstrip())


def _turns(transcript: str) -> tuple[Message, ...]:
    made: list[Message] = []
    for part in transcript.split(HUMAN)[1:]:
        human, mark, said = part.partition(ASSISTANT)
        made.append({"role": "user", "content": human.strip()})
        if mark:
            for answer in said.split(ASSISTANT):
                made.append({"role": "assistant", "content": answer.strip()})  # noqa: PERF401 - the faster way here
    return tuple(made)
