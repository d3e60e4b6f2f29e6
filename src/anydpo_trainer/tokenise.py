"""From canonical pairs to token ids: one BOS, one EOS, and the template's own boundary.

Prompt and completion are tokenised as one text, as the model will read them, and the boundary is the longest
beginning they share with the prompt alone. Nothing is inserted that the tokenizer or its chat template does not
put there itself, except an end token where the template gives the answer none.
"""

from __future__ import annotations

import contextlib
import json
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anydpo_trainer.batch import Encoded
from anydpo_trainer.errors import TrainerError

log = logging.getLogger("anydpo_trainer")

KEPT = 1000  # refused pairs remembered one by one; all are counted


@dataclass
class Refused:
    """Pairs that are not trained, counted by reason, and the first of them with their source."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, reason: str, source: str, detail: str) -> None:
        """Count one pair."""
        self.counts[reason] += 1
        if len(self.rows) < KEPT:
            self.rows.append({"source": source, "reason": reason, "detail": detail})


class Encoder:
    """Turns rows into ids with one tokenizer, one template and one length limit."""

    def __init__(self, tokenizer: Any, chat_template: str, max_length: int, truncation: str = "skip") -> None:
        self.tokenizer, self.max_length, self.truncation = tokenizer, max_length, truncation
        self.template, self.template_name = _template(tokenizer, chat_template)
        self.refused = Refused()
        self._boundary_warned = False

    def pairs(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Encoded]:
        """Yield every pair that fits; the others are in `refused`, each with its source."""
        for number, row in enumerate(rows, 1):
            source = row.get("meta", {}).get("source") or f"pair {number}"
            if "prompt_ids" in row:
                ids = [list(row[key]) for key in ("prompt_ids", "chosen_ids", "rejected_ids")]
            else:
                tools = row.get("tools")
                ids = self._aligned(row["prompt"], [row["chosen"], row["rejected"]], tools, source)
            prompt, chosen, rejected = ids
            made = self._fitted(prompt, [chosen, rejected], source)
            if made is not None:
                better, worse = made
                yield Encoded(
                    array("i", prompt), array("i", better), array("i", worse), float(row.get("weight", 1.0)), source
                )

    def answers(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[array[int], array[int]]]:
        """Yield (prompt, completion) ids of `{"prompt", "completion"}` rows for supervised training."""
        for number, row in enumerate(rows, 1):
            source = row.get("meta", {}).get("source") or f"row {number}"
            prompt, completion = self._aligned(row["prompt"], [row["completion"]], row.get("tools"), source)
            if (made := self._fitted(prompt, [completion], source)) is not None:
                yield array("i", prompt), array("i", made[0])

    def prompt(self, messages: list[dict[str, Any]], tools: Any = None) -> list[int]:
        """Return the ids that generation starts from."""
        return self._ids(self._render(messages, tools, prompt_only=True))

    def _aligned(
        self, prompt: list[dict[str, Any]], completions: list[list[dict[str, Any]]], tools: Any, source: str
    ) -> list[list[int]]:
        alone = self.prompt(prompt, tools)
        whole = [self._whole(prompt, completion, tools) for completion in completions]
        at = min(_shared(alone, ids) for ids in whole)
        if at < len(alone) and self.template:
            if not self._boundary_warned:
                self._boundary_warned = True
                log.warning(
                    "%s: the chat template writes the prompt otherwise once an answer follows; what differs counts "
                    "as part of the answer (said once)",
                    source,
                )
            # Beyond what any answer shares with the prompt, a likeness of the two is an accident
            certain = self._ids(self._before_any_answer(prompt, tools))
            at = min(at, *(_shared(certain, ids) for ids in whole))
        return [alone[:at], *(ids[at:] for ids in whole)]

    def _before_any_answer(self, prompt: list[dict[str, Any]], tools: Any) -> str:
        """Return the text that stands before an answer whatever it says, as far as the prompt alone has it too."""
        alone = self._render(prompt, tools, prompt_only=True)
        answered = self._render([*prompt, {"role": "assistant", "content": "\ue000"}], tools)
        return alone[: _shared(alone, answered)]

    def _whole(self, prompt: list[dict[str, Any]], completion: list[dict[str, Any]], tools: Any) -> list[int]:
        text = self._render([*prompt, *completion], tools)
        ids = self._ids(text)
        last = completion[-1].get("content")
        said = last.strip() if isinstance(last, str) else ""
        ends_bare = not self.template or (said and text.rstrip().endswith(said))
        eos = self.tokenizer.eos_token_id
        return [*ids, eos] if ends_bare and eos is not None and ids[-1:] != [eos] else ids

    def _fitted(self, prompt: list[int], completions: list[list[int]], source: str) -> list[list[int]] | None:
        room = self.max_length - len(prompt)
        longest = max(map(len, completions))
        if not prompt:
            self.refused.add("empty_prompt", source, "the prompt has no token")
        elif not all(completions):
            self.refused.add("empty_completion", source, "an answer has no token")
        elif longest > room and (self.truncation == "skip" or room < 1):
            self.refused.add("too_long", source, f"{len(prompt) + longest} tokens, max_length is {self.max_length}")
        else:
            return [completion[:room] for completion in completions]
        return None

    def _render(self, messages: list[dict[str, Any]], tools: Any, *, prompt_only: bool = False) -> str:
        if not self.template:
            return _plain(messages)
        return str(
            self.tokenizer.apply_chat_template(
                [_with_object_arguments(message) for message in messages],
                tools=tools,
                chat_template=self.template,
                add_generation_prompt=prompt_only,
                tokenize=False,
            )
        )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=not self.template)["input_ids"]
        if (
            not self.template
            and ids
            and ids[-1] == self.tokenizer.eos_token_id
            and not _ends_in_eos(text, self.tokenizer)
        ):
            return ids[:-1]  # some tokenizers end every text; the answer's end is put where it belongs
        return ids


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file."""
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except ValueError as exc:
                        raise TrainerError("bad_data", f"{path}:{number}: {exc}") from exc
    except OSError as exc:
        raise TrainerError("no_data", f"{path}: {exc.strerror}") from exc


def sft_rows(rows: Iterable[Mapping[str, Any]], *, chosen: bool) -> Iterator[dict[str, Any]]:
    """Yield one `{"prompt", "completion"}` row an assistant turn, from pairs or from chats of `messages`."""
    for row in rows:
        kept = {key: row[key] for key in ("tools", "meta") if key in row}
        if chosen:
            yield {"prompt": row["prompt"], "completion": row["chosen"], **kept}
            continue
        turns = row["messages"]
        for at, turn in enumerate(turns):
            if turn["role"] == "assistant" and at:
                yield {"prompt": turns[:at], "completion": [turn], **kept}


def _template(tokenizer: Any, wanted: str) -> tuple[str | None, str]:
    if wanted == "none":
        return None, "none"
    if wanted == "auto":
        own = tokenizer.chat_template
        if isinstance(own, dict):
            own = own.get("default")
        return (own, "the tokenizer's own") if own else (None, "none (the tokenizer has none)")
    path = Path(wanted)
    if not path.is_file():
        raise TrainerError("no_template", f"chat_template: no file {wanted}", 'a Jinja file, "auto" or "none"')
    return path.read_text("utf-8"), str(path)


def _plain(messages: list[dict[str, Any]]) -> str:
    """Without a template a prompt is one text and an answer continues it; nothing else can be said."""
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["user", "assistant"]) or not all(isinstance(m["content"], str) for m in messages):
        raise TrainerError(
            "needs_template",
            f"a conversation of {', '.join(roles)} has no form in plain text, and this model has no chat template",
            "set chat_template to a Jinja file; docs/local.md has two to copy",
        )
    return "".join(message["content"] for message in messages)


def _with_object_arguments(message: Mapping[str, Any]) -> dict[str, Any]:
    """Templates print tool arguments with `tojson`, so text would be quoted twice."""
    if "tool_calls" not in message:
        return dict(message)
    calls = []
    for call in message["tool_calls"]:
        function = dict(call["function"])
        with contextlib.suppress(TypeError, ValueError):
            function["arguments"] = json.loads(function["arguments"])
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}


def _shared(left: Sequence[object], right: Sequence[object]) -> int:
    for at, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return at
    return min(len(left), len(right))


def _ends_in_eos(text: str, tokenizer: Any) -> bool:
    return bool(tokenizer.eos_token) and text.endswith(tokenizer.eos_token)
