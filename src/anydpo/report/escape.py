"""Text that is text, whatever stands in it."""

from __future__ import annotations

import html
import re

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff￾￿]")


def esc(text: object) -> str:
    """Return text as HTML shows it: no mark-up, no control character."""
    return html.escape(CONTROL.sub("�", str(text)))
