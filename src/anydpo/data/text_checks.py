"""What single texts give away: personal data, secrets, encoding damage, script and language. Standard library only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

# Each pattern is cheap to rule out: it begins with, or is guarded by, a mark that most texts do not hold.
EMAIL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}\b")
PHONE = re.compile(
    r"(?<![\w.,/-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?(?:\d[ .-]?){7,11}\d"
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4})(?![\w-])"
)
SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
CARD = re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d.-])")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")
SECRETS = (
    ("private key", "-----BEGIN", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    ("AWS key", "AKIA", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
    ("AWS key", "ASIA", re.compile(r"\bASIA[0-9A-Z]{16}\b")),
    ("GitHub token", "gh", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}\b")),
    ("GitHub token", "github_pat_", re.compile(r"\bgithub_pat_[A-Za-z0-9_]{50,}\b")),
    ("Slack token", "xox", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}\b")),
    ("API key", "sk-", re.compile(r"\bsk-(?:proj-|ant-|live-)?[A-Za-z0-9_-]{20,}\b")),
    ("Stripe key", "k_live_", re.compile(r"\b[rs]k_live_[A-Za-z0-9]{16,}\b")),
    ("Google key", "AIza", re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("Hugging Face token", "hf_", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    ("JSON web token", "eyJ", re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")),
    (
        "password",
        "assw",
        re.compile(r"(?i)\bpass(?:word|wd)[\"']?\s*[:=]\s*[\"'][^\s\"']{6,}[\"']"),
    ),
)
THREE_DIGITS = re.compile(r"\d{3}")
UTF8_AS_LATIN = re.compile(
    r"(?:[\u00c2-\u00df][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    r"\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
    r"|[\u00e0-\u00ef][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    r"\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]{2}"
    r"|\u00f0[\u0080-\u00bf\u0178\u02dc\u2018-\u201d\u2020-\u2026\u2013\u2014\u2122\u20ac\u0152-\u017e]{3})"
)
BROKEN = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def personal_data(text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, what was found) for e-mail, phone, US social security, card and account numbers."""
    if "@" in text and (found := EMAIL.search(text)):
        yield "e-mail address", found.group()
    if not THREE_DIGITS.search(text):
        return
    if found := PHONE.search(text):
        yield "phone number", found.group()
    if found := SSN.search(text):
        yield "social security number", found.group()
    if found := next((m for m in CARD.finditer(text) if _luhn(m.group())), None):
        yield "card number", found.group()
    if found := next((m for m in IBAN.finditer(text) if _iban(m.group())), None):
        yield "account number (IBAN)", found.group()


def secrets(text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, what was found) for keys, tokens and written-out passwords."""
    for kind, mark, pattern in SECRETS:
        if mark in text and (found := pattern.search(text)):
            yield kind, found.group()


def masked(text: str) -> str:
    """Return a found value so that it can be recognised and not used."""
    return text[:4] + "…" + text[-2:] if len(text) > 8 else text[:2] + "…"


def damage(text: str) -> str | None:
    """Return the first sign of a wrong encoding: UTF-8 read as Latin-1, a replacement or control character."""
    if text.isascii():
        return f"control character U+{ord(found.group()):04X}" if (found := BROKEN.search(text)) else None
    if found := BROKEN.search(text):
        return f"U+{ord(found.group()):04X}"
    if (found := UTF8_AS_LATIN.search(text)) and repaired(found.group()) != found.group():
        return f"{found.group()} for {repaired(found.group())}"
    return None


def repaired(text: str) -> str:
    """Return text with UTF-8 that was read as Latin-1 or Windows-1252 put right; anything else stays."""
    return UTF8_AS_LATIN.sub(lambda found: _decoded(found.group()), text)


def _decoded(text: str) -> str:
    try:
        raw = b"".join(c.encode("latin-1") if ord(c) < 256 else c.encode("cp1252") for c in text)
        return raw.decode("utf-8")
    except UnicodeError:
        return text


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()][::-1]
    if len(digits) < 13 or len(set(digits)) < 2:
        return False
    return sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits)) % 10 == 0


def _iban(text: str) -> bool:
    compact = text.replace(" ", "")
    turned = compact[4:] + compact[:4]
    return len(compact) >= 15 and int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


SCRIPTS = (
    ("Cyrillic", re.compile("[\u0400-\u04ff]")),
    ("Greek", re.compile("[\u0370-\u03ff]")),
    ("Arabic", re.compile("[\u0600-\u06ff]")),
    ("Hebrew", re.compile("[\u0590-\u05ff]")),
    ("Devanagari", re.compile("[\u0900-\u097f]")),
    ("Thai", re.compile("[\u0e00-\u0e7f]")),
    ("Japanese", re.compile("[\u3040-\u30ff]")),
    ("Korean", re.compile("[\uac00-\ud7af]")),
    ("Chinese", re.compile("[\u4e00-\u9fff]")),
)
OTHER_SCRIPT = re.compile("[\u0370-\u1fff\u3040-\ud7af]")
COMMON = {
    "English": "the and of to is in that you it for are with this not have be what your can was",
    "German": "der die das und ist nicht ich ein eine zu den mit sie auf für von auch",  # codespell:ignore ist,sie
    "French": "le la les des est une vous pas que dans pour et je un du sur avec qui il plus",
    "Spanish": "el los las que una por con para está es del como pero más muy su al hay cómo y",
    "Portuguese": "não uma com para você os mais como mas ele das dos são está seu também é em um muito",
    "Italian": "il che non una per sono di con del della gli anche più come questo è ho nel alla perché",
    "Dutch": "het een van niet dat ik je voor met zijn ook maar wat aan er naar kan worden deze heeft",
    "Polish": "nie się jest na że do to jak co czy ale dla przez może tak tylko już być są oraz",
    "Turkish": "bir ve bu için ile çok ne da de var daha olarak gibi değil sonra kadar ama ben evet tamam",
}
WORDS_OF = {
    word: [name for name, listed in COMMON.items() if word in listed.split()]
    for listed in COMMON.values()
    for word in listed.split()
}
LETTERS = re.compile(r"[^\W\d_]+")
LOOKED_AT = 400  # characters of a text that decide on its language


def language(text: str) -> str | None:
    """Return the language by script and most common words, None where too few of them stand there."""
    head = text[:LOOKED_AT]
    if not head.isascii() and OTHER_SCRIPT.search(head):
        for name, letters in SCRIPTS:
            if len(letters.findall(head)) * 4 >= sum(map(len, LETTERS.findall(head))) > 0:
                return name
    counts: Counter[str] = Counter()
    for word in head.lower().split():
        for name in WORDS_OF.get(word, ()):
            counts[name] += 1
    ranked = counts.most_common(2)
    if not ranked or ranked[0][1] < 4 or (len(ranked) > 1 and ranked[0][1] < 1.5 * ranked[1][1]):
        return None
    return ranked[0][0]
