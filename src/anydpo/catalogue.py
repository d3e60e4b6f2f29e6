"""What each installed place can do, as one table."""

from __future__ import annotations

from anydpo.errors import ProviderMissing
from anydpo.provider import Capabilities
from anydpo.registry import installed, provider


def providers() -> dict[str, Capabilities]:
    """Return place → capabilities of every provider that is installed; needs no key and no network."""
    found: dict[str, Capabilities] = {}
    for name in installed():
        try:
            routes = provider(name).capabilities
        except ProviderMissing:
            continue  # listed by `doctor`, with the reason; here only what works
        for route, can in routes.items():
            found[f"{name}/{route}" if route else name] = can
    return found
