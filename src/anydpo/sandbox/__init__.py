"""The clouds' wire protocols on loopback, for rehearsals and for CI: `with anydpo.sandbox.serve() as box: box.env`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anydpo.sandbox.server import Sandbox, serve

__all__ = ["Sandbox", "serve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'anydpo.sandbox' has no attribute {name!r}")
    try:
        from anydpo.sandbox import server
    except ImportError as exc:
        from anydpo.errors import ProviderMissing

        raise ProviderMissing(f"the sandbox needs {exc.name}", hint="pip install 'anydpo[sandbox]'") from exc
    return getattr(server, name)
