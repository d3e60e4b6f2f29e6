"""How many tokens a data set costs: every pair counted with the model's own tokenizer, where one is here."""

from __future__ import annotations

import math
from typing import NamedTuple

from anydpo.data.copies import Seen
from anydpo.data.dataset import PreferenceDataset
from anydpo.data.tokens import PER_MESSAGE, TURN_MARKS, NoTokenizer, counter_for, encoding_of

MOST_CHARACTERS = 8_000_000  # counted one by one, in about a second; of more, every k-th pair


class Counted(NamedTuple):
    """Tokens of all prompts, chosen and rejected answers with the marks of their turns, and how they were counted."""

    prompt: int
    chosen: int
    rejected: int
    how: str


def count(pairs: PreferenceDataset, model: str | None) -> Counted | None:
    """Return the tokens of a data set for a model, None where no tokenizer of it is here."""
    try:
        counter, tokenizer = counter_for(model or "")
    except NoTokenizer:
        return None
    marks = TURN_MARKS.get(encoding_of(model or "") or "", PER_MESSAGE)
    characters = sum(pairs.scan.characters[part] for part in ("prompt", "chosen", "rejected"))
    every = max(1, math.ceil(characters / MOST_CHARACTERS))
    prompt = chosen = rejected = seen_characters = 0
    for at, pair in enumerate(pairs):
        if at % every:
            continue
        seen = Seen.of(at, pair)
        seen_characters += len(seen.prompt) + len(seen.chosen) + len(seen.rejected)
        prompt += counter(seen.prompt) + marks * len(pair.prompt)
        chosen += counter(seen.chosen) + marks * len(pair.chosen)
        rejected += counter(seen.rejected) + marks * len(pair.rejected)
    times = characters / seen_characters if every > 1 and seen_characters else 1.0
    how = f"counted with {tokenizer}" + (f" in every {every}. pair" if every > 1 else "")
    return Counted(round(prompt * times), round(chosen * times), round(rejected * times), how)
