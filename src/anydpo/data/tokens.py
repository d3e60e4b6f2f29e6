"""How many tokens a pair costs, counted offline with the tokenizer of the model that will be trained."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from anydpo.data.copies import INSTALL, Mark, Seen
from anydpo.data.finding import SHOWN, Check, counted

Counter: TypeAlias = "Callable[[str], int]"

PER_MESSAGE = 4  # role and turn marks of the usual chat templates
TURN_MARKS = {"qwen3": 5, "llama3": 5}  # as the templates of these families write a turn
ENCODINGS = (  # the beginning of a model's name, most specific first; gpt-4.1 does not use gpt-4's
    *((name, "o200k_harmony") for name in ("gpt-oss",)),
    *((name, "o200k_base") for name in ("gpt-4.1", "gpt-4o", "gpt-4.5", "gpt-5", "o1", "o3", "o4", "chatgpt-4o")),
    *((name, "cl100k_base") for name in ("gpt-4", "gpt-3.5")),
    *((name, "qwen3") for name in ("qwen3", "qwen2")),
    *((name, "llama3") for name in ("llama-3", "llama3", "meta-llama-3")),
)
PLACES = {  # tokens a pair may have at most, by format written, and who says so
    "openai": (65_536, "the training context reported for the GPT-4.1 family, not confirmed by OpenAI's pages"),
    "azure": (65_536, "the training context reported for the GPT-4.1 family, not confirmed by Azure's pages"),
    "sagemaker": (131_072, "dataset_max_len; the recipes' default is 4,096"),
    "sagemaker_chat": (131_072, "dataset_max_len; the recipes' default is 4,096"),
    "nova": (131_072, "max_context_length; the recipes' default is 8,192"),
}


class NoTokenizer(Exception):
    """No tokenizer of that model is here; says what to do."""


def counter_for(model: str) -> tuple[Counter, str]:
    """Return (count, name) of the tokenizer of a model: its own folder's, or one of those that ship in quicktok."""
    folder = Path(model)
    if (folder / "tokenizer.json").is_file():
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise NoTokenizer('the package tokenizers is not installed: pip install "anydpo[local]"') from None
        own: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda text: len(own.encode(text, add_special_tokens=False).ids), f"the tokenizer of {model}"
    encoding = encoding_of(model)
    if encoding is None:
        listed = ", ".join(dict.fromkeys(start for start, _ in ENCODINGS))
        raise NoTokenizer(f"no tokenizer of {model!r} is here; known are {listed} and folders with tokenizer.json")
    try:
        import quicktok
    except ImportError:
        raise NoTokenizer(f"the package quicktok-v1 is not installed: {INSTALL}") from None
    shipped: Any = quicktok.get_encoding(encoding)
    return lambda text: int(shipped.count(text)), f"{encoding} (quicktok)"


def encoding_of(model: str) -> str | None:
    """Return the encoding of a model as quicktok names it, None where its name does not tell."""
    name = model.lower().rsplit("/", 1)[-1].removeprefix("ft:").removeprefix("meta-")
    return next((known for start, known in ENCODINGS if name.startswith(start)), None)


class Tokens:
    """The tokens of each pair: prompt and longer answer, which is what has to fit; `total` counts both answers."""

    def __init__(self, model: str, limit: int | None, whose: str) -> None:
        self._count, self.tokenizer = counter_for(model)
        self.limit, self._whose = limit, whose
        self._lengths = array("l")
        self._over: list[str] = []
        self._no_room = 0
        self.total = 0
        self.marks: dict[int, Mark] = {}

    def see(self, seen: Seen) -> None:
        """Count one pair."""
        count = self._count
        prompt = count(seen.prompt) + PER_MESSAGE * len(seen.pair.prompt)
        chosen, rejected = count(seen.chosen) + PER_MESSAGE, count(seen.rejected) + PER_MESSAGE
        longest = prompt + max(chosen, rejected)
        self._lengths.append(longest)
        self.total += 2 * prompt + chosen + rejected
        if self.limit is not None and longest > self.limit:
            self._over.append(f"{seen.pair.source} {longest:,}")
            self._no_room += prompt >= self.limit
            self.marks[seen.at] = Mark("too_long", f"{longest:,} tokens, limit {self.limit:,}")

    def stats(self) -> dict[str, float | int]:
        """Return what the numbers say."""
        ordered = sorted(self._lengths)
        if not ordered:
            return {}
        return {
            "tokens": self.total,
            "tokens_median": ordered[len(ordered) // 2],
            "tokens_p95": ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)],
            "tokens_max": ordered[-1],
        }

    def checks(self) -> Iterator[Check]:
        """Yield what was found."""
        if self._over:
            no_room = f"; in {self._no_room:,} the prompt alone fills it" if self._no_room else ""
            yield Check(
                "too_many_tokens",
                "warning",
                len(self._over),
                f"{counted(len(self._over), 'pair')} with more than {self.limit:,} tokens ({self._whose}){no_room}",
                tuple(self._over[:SHOWN]),
                "they are cut, left out or refused, and where a cut takes the end of both answers nothing is learned",
                "raise max_length if memory allows, or leave them out (--fix does)",
            )
