"""Reading another tool's settings so that none is passed over: each is taken, or told of at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias

# changed: it means something else here. lost: there is no equivalent. elsewhere: it is about their machine, logs or
# files, and no part of what is trained. yours: the user has to say it.
Kind: TypeAlias = Literal["changed", "lost", "elsewhere", "yours"]


class Remark(NamedTuple):
    """What became of one setting that is not simply a field of ours now."""

    kind: Kind
    field: str
    value: Any
    message: str
    ours: str | None = None


@dataclass(frozen=True)
class Translated:
    """A job in our words, and every setting that is not simply a field of it; `remarks_beside` is by our fields."""

    tool: str
    job: dict[str, Any]
    remarks: tuple[Remark, ...] = ()
    remarks_beside: dict[str, str] = field(default_factory=dict)

    def of(self, kind: Kind) -> tuple[Remark, ...]:
        """Return the remarks of one kind."""
        return tuple(remark for remark in self.remarks if remark.kind == kind)

    def with_remark(self, remark: Remark) -> Translated:
        """Return the same with one remark more."""
        return replace(self, remarks=(*self.remarks, remark))


class Theirs:
    """The settings of one configuration, and the job that is made of them."""

    def __init__(self, tool: str, config: Mapping[str, Any]) -> None:
        self.tool, self._left = tool, dict(config)
        self.job: dict[str, Any] = {}
        self._remarks: list[Remark] = []
        self._beside: dict[str, str] = {}

    def take(self, *names: str) -> Any:
        """Return the first of these settings that says something; all of them are dealt with then."""
        values = [self._left.pop(name) for name in names if name in self._left]
        return next((value for value in values if value is not None), None)

    def has(self, name: str) -> bool:
        """Whether a setting says something and was not taken yet."""
        return self._left.get(name) is not None

    def put(self, path: str, value: Any, beside: str | None = None) -> None:
        """Set a field of ours."""
        *tables, last = path.split(".")
        inner = self.job
        for table in tables:
            inner = inner.setdefault(table, {})
        inner[last] = value
        if beside is not None:
            self._beside[path] = beside

    def pass_on(self, name: str, path: str, default: Any = None) -> None:
        """Set a field of ours to a setting, or to what the tool takes where it says nothing."""
        value = self.take(name)
        if value is not None:
            self.put(path, value)
        elif default is not None:
            self.put(path, default, f"{self.tool}'s default")

    def changed(self, name: str, value: Any, message: str) -> None:
        """Tell of a setting that means something else here."""
        self._remarks.append(Remark("changed", name, value, message))

    def lost(self, name: str, value: Any, message: str) -> None:
        """Tell of a setting without an equivalent."""
        self._remarks.append(Remark("lost", name, value, message))

    def yours(self, ours: str, name: str, value: Any, message: str) -> None:
        """Tell what the user has to say."""
        self._remarks.append(Remark("yours", name, value, message, ours))

    def done(self, elsewhere: re.Pattern[str], usual: Mapping[str, Any]) -> Translated:
        """Return the translation; what is left is told of, unless it is `usual` or asks for nothing."""
        for name, value in self._left.items():
            if value in (None, False, 0, "", [], {}, "no") or (name in usual and usual[name] == value):
                continue
            if elsewhere.fullmatch(name):
                self._remarks.append(Remark("elsewhere", name, value, "no part of what is trained"))
            else:
                self.lost(name, value, "no equivalent")
        return Translated(self.tool, self.job, tuple(self._remarks), self._beside)
