"""The command line: it parses, calls the SDK and prints. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anydpo.errors import Invalid


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    gc.set_threshold(100_000, 50, 50)  # else a third of importing a cloud's SDK goes into looking for garbage
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; every error becomes a sentence and a code, never a traceback."""
    from typer import Abort, Exit
    from typer.main import get_command

    from anydpo.cli.app import app
    from anydpo.cli.output import fail
    from anydpo.errors import AnyDPOError, Invalid

    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in own
    try:
        code = get_command(app).main(arguments, prog_name="anydpo", standalone_mode=False)
    except AnyDPOError as exc:
        return fail(exc, as_json=as_json)
    except Exit as exc:
        return exc.exit_code
    except (KeyboardInterrupt, Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: nothing more to say
        return 0
    except OSError as exc:
        name = f"{exc.filename}: " if exc.filename else ""
        return fail(Invalid(f"{name}{exc.strerror or exc}", hint=_space_hint(exc)), as_json=as_json)
    except Exception as exc:
        if (wrong := _usage_error(exc)) is None:
            raise
        return fail(wrong, as_json=as_json)
    return code if isinstance(code, int) else 0


def _usage_error(exc: Exception) -> Invalid | None:
    """Return our form of what click says, or of the copy of it that newer typers carry; None for any other error."""
    said = getattr(exc, "format_message", None)
    if said is None:
        return None
    from anydpo.errors import Invalid

    context = getattr(exc, "ctx", None)
    return Invalid(said(), hint=f"{context.command_path} --help" if context is not None else None)


def _space_hint(exc: OSError) -> str | None:
    import errno

    return "make room on that disk; nothing half-written was left" if exc.errno == errno.ENOSPC else None
