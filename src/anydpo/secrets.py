"""Values that must not be written down: masked wherever something of ours reaches a disk, a page or a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NAMES = re.compile(r"(api_?key|secret|token|password|credential|authorization)$", re.IGNORECASE)
MASK = "***"


def masked(value: Any, name: str = "") -> Any:
    """Return the value with everything masked that stands under the name of a secret."""
    if isinstance(value, Mapping):
        return {key: masked(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(item, name) for item in value]
    return MASK if NAMES.search(name) and isinstance(value, str) and value and not value.startswith("${") else value


class Secret(str):
    """A credential that is sent as it is and looks like `***` wherever a log shows what was sent."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"
