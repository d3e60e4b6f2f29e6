"""What each provider accepts in a preference file, beyond which fields it has a place for.

Roles, turns, outputs, images, number of pairs, bytes. Figures are those of the providers' pages and SDKs as read in
November 2026; where a page and an SDK differ, the smaller one stands. What is known by hearsay only is a note and
refuses nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from anydpo.data.finding import counted
from anydpo.data.pair import PreferencePair, images_in
from anydpo.data.scan import Refusal, Refusals

MB, GB = 1 << 20, 1 << 30
DATA_URL = re.compile(r"data:image/(png|jpeg|webp);base64,", re.IGNORECASE)
OPENAI_ROLES = frozenset({"system", "user", "assistant", "tool", "function"})

Rule = Callable[[PreferencePair], Iterator[str]]


@dataclass(frozen=True)
class Limits:
    """What one provider accepts: `rule` yields why a pair is refused, `note` what may be refused."""

    provider: str
    rule: Rule
    min_pairs: int = 1
    max_bytes: int | None = None
    bytes_are: str = ""
    note: Rule | None = None


@dataclass(frozen=True)
class Refused:
    """One reason for which a provider refuses pairs, how many, and where the first ones are."""

    reason: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        where = f" ({', '.join(self.examples)})" if self.examples else ""
        return f"{counted(self.count, 'pair')}: {self.reason}{where}"


def _openai(pair: PreferencePair) -> Iterator[str]:
    yield from _roles(pair, OPENAI_ROLES, "OpenAI's fine-tuning schema")
    for side in (pair.chosen, pair.rejected):
        if [m["role"] for m in side] != ["assistant"]:
            yield "each output has to be exactly one assistant message"
            return


def _azure(pair: PreferencePair) -> Iterator[str]:
    yield from _roles(pair, OPENAI_ROLES, "Azure's fine-tuning schema")
    for side in (pair.chosen, pair.rejected):
        roles = {m["role"] for m in side}
        if "assistant" not in roles or roles - {"assistant", "tool"}:
            yield "each output has to hold an assistant message, and only assistant and tool messages"
            return


def _together(pair: PreferencePair) -> Iterator[str]:
    yield from _roles(pair, OPENAI_ROLES - {"function"}, "Together's conversational format")
    for side in (pair.chosen, pair.rejected):
        if [m["role"] for m in side] != ["assistant"]:
            yield "each output has to be exactly one assistant message"
            break
    if any(images_in(pair.chosen + pair.rejected)) or any(
        m["role"] != "user" and any(images_in((m,))) for m in pair.prompt
    ):
        yield "images may stand in user messages only"
    pictures = [part["image"] for part in images_in(pair.prompt)]
    if len(pictures) > 10:
        yield "at most 10 images an example"
    for picture in pictures:
        if problem := _data_url(picture):
            yield problem
            break


def _together_note(pair: PreferencePair) -> Iterator[str]:
    roles = [m["role"] for m in (*pair.prompt, *pair.chosen[:1])]
    if any(a == b for a, b in pairwise(roles)):
        yield "two messages of one role in a row; Together's older check refused that"
    if any(images_in(pair.prompt)):
        yield "images: Together documents them for supervised tuning, not for preference tuning"


def _sagemaker(pair: PreferencePair) -> Iterator[str]:
    roles = [m["role"] for m in pair.prompt]
    if roles not in (["user"], ["system", "user"]):
        yield "the simple form holds one user message, after at most one system message"


def _sagemaker_chat(pair: PreferencePair) -> Iterator[str]:
    yield from _roles(pair, frozenset({"system", "user", "assistant"}), "SageMaker's chat form")
    if any(m["role"] == "system" for m in pair.prompt[1:]):
        yield "a system message has to be the first one"
    if any("reasoning_content" in m or "name" in m for m in (*pair.prompt, *pair.chosen, *pair.rejected)):
        yield "messages hold role and content only, not name or reasoning_content"


def _nova(pair: PreferencePair) -> Iterator[str]:
    yield from _roles(pair, frozenset({"system", "user", "assistant"}), "Nova's Converse format")
    if any(m["role"] == "system" for m in pair.prompt[1:]):
        yield "a system message has to be the first one"
    pictures = [part["image"] for part in images_in((*pair.prompt, *pair.chosen, *pair.rejected))]
    if len(pictures) > 10:
        yield "at most 10 images an example"
    if any(not isinstance(picture, str) or not picture.startswith("s3://") for picture in pictures):
        yield "images have to lie on S3 (s3://bucket/key)"
    if any("reasoning_content" in m or "name" in m for m in (*pair.prompt, *pair.chosen, *pair.rejected)):
        yield "messages hold role and content only, not name or reasoning_content"


def _nova_note(pair: PreferencePair) -> Iterator[str]:
    roles = [m["role"] for m in pair.prompt if m["role"] != "system"]
    if roles[:1] != ["user"] or any(a == b for a, b in pairwise((*roles, "assistant"))):
        yield "turns do not go user, assistant, user …; Converse expects that"


def _plain_text(pair: PreferencePair) -> Iterator[str]:
    if pair.prompt[0]["role"] != "user":
        yield "the text form holds one user message"


def _roles(pair: PreferencePair, known: frozenset[str], where: str) -> Iterator[str]:
    for role in sorted({m["role"] for m in pair.prompt} - known):
        yield f"the role {role!r} is not in {where}"


def _data_url(picture: Any) -> str | None:
    if not isinstance(picture, str) or not (head := DATA_URL.match(picture)):
        return "images have to be base64 data URLs of PNG, JPEG or WEBP"
    if len(picture) * 3 // 4 > 10 * MB:
        return "an image may have 10 MB"
    try:
        base64.b64decode(picture[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        return "an image is not valid base64"
    return None


LIMITS: dict[str, Limits] = {
    "openai": Limits("OpenAI", _openai, 10, 8 * GB, "8 GB in parts, 512 MB in one request"),
    "azure": Limits("Azure", _azure, 10, 1 * GB, "1 GB over all files of a resource, 512 MB in one request"),
    "together": Limits("Together", _together, 1, 50 * GB, "50 GB", _together_note),
    "sagemaker": Limits("SageMaker", _sagemaker, 1, 1 * GB, "1 GiB where it is registered as a data set"),
    "sagemaker_chat": Limits("SageMaker", _sagemaker_chat, 1, 1 * GB, "1 GiB where it is registered as a data set"),
    "nova": Limits("Amazon Nova", _nova, 1, 1 * GB, "1 GiB where it is registered as a data set", _nova_note),
    "trl": Limits("TRL", _plain_text),
}
# Pairs with none of these break no rule
LOOKED_AT = ("system", "multi_turn", "many_messages", "tools", "images", "message_fields")


def refused_pairs(pairs: Iterable[PreferencePair], rule: Rule) -> list[Refused]:
    """Return why pairs break a rule, the most frequent reason first."""
    found: Refusals = {}
    for pair in pairs:
        for reason in rule(pair):
            found.setdefault(reason, Refusal()).add(1, (pair.source,))
    return in_words(found)


def in_words(refusals: Refusals) -> list[Refused]:
    """Return what was counted, the most frequent reason first."""
    ordered = sorted(refusals.items(), key=lambda item: -item[1].count)
    return [Refused(reason, found.count, tuple(found.sources)) for reason, found in ordered]
