"""Pairs that are there twice, nearly twice, the other way round, or in another file too."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from anydpo.data.finding import SHOWN, Check, counted
from anydpo.data.pair import Messages, PreferencePair, in_validation, prompt_key, text_of

NEAR = 0.85  # estimated share of common word trigrams from which two pairs are nearly the same
SHORT = 8  # words under which one changed word makes another prompt
PERMUTATIONS = 128  # the estimate's standard error is about 0.03 at NEAR
INSTALL = 'pip install "anydpo[quality]"'


class Seen(NamedTuple):
    """One pair under inspection: its number, itself, and its texts, put together once for all checks."""

    at: int
    pair: PreferencePair
    prompt: str
    chosen: str
    rejected: str

    @classmethod
    def of(cls, at: int, pair: PreferencePair) -> Seen:
        """Return the pair with its texts."""
        return cls(at, pair, _texts(pair.prompt), _texts(pair.chosen), _texts(pair.rejected))


class Mark(NamedTuple):
    """Why a pair is left out of a cleaned copy."""

    reason: str
    detail: str


class Copies:
    """Exact copies and contradictions, by 128-bit hashes of what both sides say."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[int, str]] = {}
        self._again: list[str] = []
        self._swapped: list[str] = []
        self.marks: dict[int, Mark] = {}

    def see(self, at: int, pair: PreferencePair) -> bool:
        """Look at one pair; say whether it is a copy, or the opposite, of an earlier one."""
        better, worse = (
            b"\0".join([text_of(m).strip().encode() for m in side]) for side in (pair.chosen, pair.rejected)
        )
        key = prompt_key(pair.prompt)
        forward = hashlib.blake2b(b"\1".join((key, better, worse)), digest_size=16).digest()
        if (known := self._first.get(forward)) is not None:
            self._again.append(f"{pair.source} = {known[1]}")
            self.marks[at] = Mark("duplicate", f"the same as {known[1]}")
            return True
        backward = hashlib.blake2b(b"\1".join((key, worse, better)), digest_size=16).digest()
        if (known := self._first.get(backward)) is not None:
            self._swapped.append(f"{pair.source} against {known[1]}")
            self.marks[at] = Mark("contradiction", f"the opposite of {known[1]}")
            self.marks[known[0]] = Mark("contradiction", f"the opposite of {pair.source}")
        self._first[forward] = at, pair.source
        return known is not None

    def checks(self) -> Iterator[Check]:
        """Yield what was found."""
        if self._again:
            yield Check(
                "duplicate",
                "warning",
                len(self._again),
                f"{counted(len(self._again), 'exact copy')} of an earlier pair",
                tuple(self._again[:SHOWN]),
                "they count double in training, and reward accuracy is too good where copies fall on both sides",
                "leave the copies out (--fix keeps the first)",
            )
        if self._swapped:
            yield Check(
                "contradiction",
                "warning",
                len(self._swapped),
                f"{counted(len(self._swapped), 'contradiction')}: same prompt and answers, opposite preference",
                tuple(self._swapped[:SHOWN]),
                "the two cancel out in training; often a label was turned",
                "ask which one holds, or leave both out (--fix does)",
            )


class NearCopies:
    """Pairs that share most word trigrams with an earlier one, by MinHash (needs rensa)."""

    def __init__(self) -> None:
        self._rensa: Any = import_module("rensa")
        self._known: Any = self._rensa.RMinHashDeduplicator(threshold=NEAR, num_perm=PERMUTATIONS, use_lsh=True)
        self._sources: dict[str, tuple[str, bool]] = {}
        self._found: list[str] = []
        self._across = 0
        self.marks: dict[int, Mark] = {}

    def see(self, seen: Seen) -> None:
        """Look at one pair that is neither copy nor opposite of another."""
        last = text_of(seen.pair.prompt[-1])
        sketch = sketched(self._rensa, f"{last}\n{seen.chosen}\n{seen.rejected}")
        held_out = in_validation(seen.pair.prompt, 0.1, 0)
        near = self._known.get_duplicates(sketch)
        if near:
            source, side = self._sources[near[0]]
            self._found.append(f"{seen.pair.source} ~ {source}")
            self._across += side is not held_out
            self.marks[seen.at] = Mark("near_duplicate", f"nearly the same as {source}")
            return  # the first of its kind stands for it: a text found a thousand times costs no more
        key = str(seen.at)
        self._known.add(key, sketch)
        self._sources[key] = seen.pair.source, held_out

    def checks(self) -> Iterator[Check]:
        """Yield what was found."""
        if self._found:
            across = (
                f"; {self._across:,} of them would stand on both sides of a split of 10 % (seed 0)"
                if self._across
                else ""
            )
            yield Check(
                "near_duplicate",
                "warning",
                len(self._found),
                f"{counted(len(self._found), 'near copy')} of an earlier pair: about {NEAR:.0%} or more of the word "
                f"trigrams are the same{across}",
                tuple(self._found[:SHOWN]),
                "the number of pairs says more than there is to learn, and held-out copies make accuracy look better",
                "look at some; leave them out if they are copies with small edits (--fix does)",
            )


class Leaks:
    """Prompts, and near copies of prompts, that stand in other files: validation data, or what was bought before."""

    def __init__(self, against: Iterable[PreferencePair], names: str) -> None:
        self._names = names
        self._prompts: dict[bytes, str] = {}
        self._pairs: set[bytes] = set()
        self._same: list[str] = []
        self._near: list[str] = []
        self._whole = 0
        self.marks: dict[int, Mark] = {}
        self._rensa: Any = None
        with contextlib.suppress(ImportError):  # lint says so; whole prompts are compared without it
            self._rensa = import_module("rensa")
            self._index: Any = self._rensa.RMinHashDeduplicator(threshold=NEAR, num_perm=PERMUTATIONS, use_lsh=True)
        for pair in against:
            key = _hash(_stripped(pair.prompt))
            self._pairs.add(_hash(_stripped(pair.prompt), _stripped(pair.chosen), _stripped(pair.rejected)))
            if key in self._prompts:
                continue
            self._prompts[key] = pair.source
            if self._rensa is not None:
                self._index.add(pair.source, sketched(self._rensa, _texts(pair.prompt)))

    def see(self, seen: Seen) -> None:
        """Look at one pair."""
        pair = seen.pair
        if (source := self._prompts.get(_hash(_stripped(pair.prompt)))) is not None:
            whole = _hash(_stripped(pair.prompt), _stripped(pair.chosen), _stripped(pair.rejected)) in self._pairs
            self._whole += whole
            self._same.append(f"{pair.source} = {source}")
            self.marks[seen.at] = Mark("leakage", f"{'pair' if whole else 'prompt'} of {source}")
        elif (near := self._near_prompt(seen.prompt)) is not None:
            self._near.append(f"{pair.source} ~ {near}")
            self.marks[seen.at] = Mark("near_leakage", f"nearly the prompt of {near}")

    def _near_prompt(self, prompt: str) -> str | None:
        if self._rensa is None or len(prompt.split()) < SHORT:
            return None
        found: list[str] = self._index.get_duplicates(sketched(self._rensa, prompt))
        return found[0] if found else None

    def checks(self) -> Iterator[Check]:
        """Yield what was found."""
        why = "what was trained on cannot measure: reward accuracy on known prompts is too good"
        if self._same:
            yield Check(
                "leakage",
                "error",
                len(self._same),
                f"{counted(len(self._same), 'pair')} with a prompt that stands in {self._names} too; {self._whole:,} "
                "of them the very same pair",
                tuple(self._same[:SHOWN]),
                f"{why}; and a pair bought before is paid twice",
                "leave them out here (--fix does), or take them out there",
            )
        if self._near:
            yield Check(
                "near_leakage",
                "warning",
                len(self._near),
                f"{counted(len(self._near), 'prompt')} nearly the same as one of {self._names}",
                tuple(self._near[:SHOWN]),
                why,
                "look at some; leave them out if only words were changed (--fix does)",
            )


def sketched(rensa: Any, text: str) -> Any:
    """Return the MinHash of a text's word trigrams."""
    words = text.lower().split()
    sketch = rensa.RMinHash(num_perm=PERMUTATIONS, seed=42)
    sketch.update([" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))])
    return sketch


def _texts(messages: Messages) -> str:
    return text_of(messages[0]) if len(messages) == 1 else "\n".join([text_of(m) for m in messages])


def _stripped(messages: Messages) -> bytes:
    return b"\0".join([f"{m['role']}\2{text_of(m).strip()}".encode() for m in messages])


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"\1".join(parts), digest_size=16).digest()
