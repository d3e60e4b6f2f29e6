"""Which providers there are: entry points, found by name, imported when used."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from anydpo.errors import ProviderMissing

if TYPE_CHECKING:
    from anydpo.provider import Provider

GROUP = "anydpo.providers"
ALLOWED = "ANYDPO_PROVIDERS"

_instead: dict[str, Provider] = {}


def installed() -> dict[str, EntryPoint]:
    """Return every provider's entry point by name, importing none; `ANYDPO_PROVIDERS` is an allow-list."""
    found = _found()
    if (allowed := os.environ.get(ALLOWED)) is None:
        return found
    names = {name.strip() for name in allowed.split(",")}
    return {name: point for name, point in found.items() if name in names}


@contextmanager
def using(*providers: Provider) -> Iterator[None]:
    """Let these stand for the installed providers of their names, for tests."""
    before = dict(_instead)
    _instead.update({one.name: one for one in providers})
    try:
        yield
    finally:
        _instead.clear()
        _instead.update(before)


def provider(name: str) -> Provider:
    """Return the provider of that name; raises `ProviderMissing`, saying how to install it."""
    from anydpo.provider import Provider

    if name in _instead:
        return _instead[name]
    points = installed()
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"installed: {', '.join(points) or 'none'}"
        raise ProviderMissing(f"no provider {name!r}", hint=hint)
    try:
        made: object = points[name].load()()
    except ImportError as exc:
        raise ProviderMissing(str(exc), provider=name, hint=f"pip install 'anydpo[{name}]'") from exc
    if not isinstance(made, Provider):
        raise ProviderMissing("lacks part of the Provider protocol", provider=name)
    return made


def split_place(place: str) -> tuple[str, str | None]:
    """Return (provider, route) of a place such as `local` or `azure/command`."""
    name, _, route = place.partition("/")
    return name, route or None


@cache
def _found() -> dict[str, EntryPoint]:
    made: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP)):
        if made.setdefault(point.name, point).value != point.value:
            raise ProviderMissing(f"two packages offer a provider named {point.name!r}")
    return made
