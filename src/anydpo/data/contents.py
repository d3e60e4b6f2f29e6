"""What the texts of a data set hold that a provider, or a model, should not get."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from anydpo.data.copies import Mark, Seen
from anydpo.data.finding import SHOWN, Check, counted
from anydpo.data.text_checks import damage, language, masked, personal_data, secrets

RESIDUE = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
    "<start_of_turn>",
    "<<SYS>>",
)
SIDES = ("prompt", "chosen", "rejected")


class Contents:
    """Personal data, secrets, damaged text, chat-template marks, languages: one look at each text."""

    def __init__(self) -> None:
        self._found: defaultdict[str, list[str]] = defaultdict(list)
        self._kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.languages: Counter[str] = Counter()
        self.marks: dict[int, Mark] = {}

    def see(self, seen: Seen) -> None:
        """Look at one pair."""
        source = seen.pair.source
        whole = f"{seen.prompt}\n{seen.chosen}\n{seen.rejected}"
        for kind, value in personal_data(whole):
            self._note("personal_data", kind, f"{source} {masked(value)}")
        for kind, value in secrets(whole):
            self._note("secret", kind, f"{source} {masked(value)}")
            self.marks[seen.at] = Mark("secret", f"{kind} {masked(value)}")
        if (sign := damage(whole)) is not None:
            self._note("encoding_damage", "texts", f"{source} {sign}")
        if "<" in whole or "[" in whole:
            for word in RESIDUE:
                if word in whole:
                    self._note("template_mark", word, f"{source} {word}")
                    break
        self._languages(seen)

    def _note(self, code: str, kind: str, example: str) -> None:
        self._kinds[code][kind] += 1
        if len(self._found[code]) < SHOWN:
            self._found[code].append(example)

    def _languages(self, seen: Seen) -> None:
        better, worse = language(seen.chosen), language(seen.rejected)
        spoken = language(seen.prompt) or better
        self.languages[spoken or "not told"] += 1
        if better and worse and better != worse:
            self._note("language_differs", f"{better} against {worse}", f"{seen.pair.source} {better} / {worse}")

    def checks(self) -> Iterator[Check]:
        """Yield what was found."""
        if "secret" in self._found:
            yield self._check(
                "secret",
                "pair",
                "with what looks like a key, a token or a password",
                "training files are kept by the provider, and a model can be made to say what it was trained on",
                "revoke the keys and leave these pairs out (--fix does)",
            )
        if "personal_data" in self._found:
            yield self._check(
                "personal_data",
                "piece",
                "of personal data",
                "the file goes to a third party, and a model can repeat what it was trained on",
                "check that you may send them; replace them by made-up ones (--fix leaves them: they may be public)",
            )
        if "encoding_damage" in self._found:
            yield self._check(
                "encoding_damage",
                "pair",
                "with damaged text: UTF-8 read as Latin-1, replacement or control characters",
                "the model learns to write the damage",
                "read the source again as UTF-8; --fix puts right what can be put right",
            )
        if "template_mark" in self._found:
            yield self._check(
                "template_mark",
                "pair",
                "with marks of a chat template",
                "the template is applied in training: marks in the text end turns where none should end",
                "give the bare messages",
            )
        if "language_differs" in self._found:
            yield self._check(
                "language_differs",
                "pair",
                "with answers in two languages",
                "the model learns the language, not what makes an answer better",
                "fine where answering in the right language is the aim; else leave them out",
            )
        yield from self._mix()

    def _check(self, code: str, noun: str, what: str, why: str, advice: str) -> Check:
        kinds = self._kinds[code]
        listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(6))
        message = f"{counted(kinds.total(), noun)} {what}" + (f" ({listed})" if set(kinds) != {"texts"} else "")
        return Check(code, "warning", kinds.total(), message, tuple(self._found[code]), why, advice)

    def _mix(self) -> Iterator[Check]:
        known = {name: count for name, count in self.languages.most_common() if name != "not told"}
        total = sum(known.values())
        minor = {name: count for name, count in known.items() if 0.005 * total < count < 0.95 * total}
        if len(known) > 1 and minor:
            listed = ", ".join(f"{name} {count / total:.1%}" for name, count in list(known.items())[:6])
            yield Check(
                "languages",
                "info",
                total,
                f"prompts in {len(known)} languages: {listed}",
                (),
                "a small share of another language is easily noise, and is easily forgotten",
                "train languages apart, or in the shares in which the model will be used",
            )
