"""`sandbox`: the clouds' wire protocols on loopback, for a command or until Ctrl-C."""

from __future__ import annotations

import logging
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from anydpo.cli import output
from anydpo.cli.options import JSON

NOT_FOUND, NOT_RUNNABLE = 127, 126  # as a shell answers


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sandbox)


def sandbox(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- CMD…]", help="Run this with the variables set, then end.")
    ] = None,
    port: Annotated[int, typer.Option(help="The first of some ports in a row; 0 picks free ones.")] = 0,
    faults: Annotated[Path | None, typer.Option(metavar="FILE", help="What is to go wrong, as JSON.")] = None,
    trainer: Annotated[str, typer.Option(help="local trains for real; instant shows a made curve.")] = "local",
    steps: Annotated[int, typer.Option(help="At most so many optimiser steps a job.")] = 20,
    providers: Annotated[str | None, typer.Option(metavar="NAME,…", help="Only these emulators.")] = None,
    as_json: JSON = False,
) -> None:
    """Serve the clouds' APIs on loopback: nothing is paid, nothing leaves this machine."""
    from anydpo.sandbox import serve

    names = providers.split(",") if providers else None
    with serve(faults=faults, trainer=trainer, steps=steps, port=port, providers=names) as box:
        if command:
            raise typer.Exit(run(command, box.env, box.clears))
        if as_json:
            from anydpo.cli.documents import Rehearsal

            output.emit(Rehearsal(env=box.env, origins=box.origins))
        else:
            for name, value in box.env.items():
                output.out(f"export {name}={shlex.quote(value)}")
        sys.stdout.flush()
        output.say("serving until Ctrl-C; requests so far: GET /_sandbox/requests on any of these ports")
        tell_of_jobs()
        wait()


def tell_of_jobs() -> None:
    """Let the sandbox say on stderr what becomes of its jobs, a line a moment."""
    log = logging.getLogger("anydpo.sandbox")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())


def wait() -> None:
    """Return on SIGINT or SIGTERM."""
    asked = threading.Event()

    def notice(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        asked.set()

    before = {number: signal.signal(number, notice) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not asked.wait(1.0):  # a wait without an end is not interrupted everywhere
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(command: Sequence[str], env: Mapping[str, str], clears: Sequence[str]) -> int:
    """Run a command that can reach the sandbox only, and return its exit code; a signal is passed on to it."""
    from anydpo.sandbox.environment import DeadProxy, command_environment

    proxy = DeadProxy()
    try:
        child = subprocess.Popen(list(command), env=command_environment(env, clears, proxy.url))
    except OSError as exc:
        proxy.close()
        output.say(f"error: {command[0]}: {exc.strerror}")
        return NOT_FOUND if isinstance(exc, FileNotFoundError) else NOT_RUNNABLE

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if number != signal.SIGINT:  # Ctrl-C has reached it already: it is of our process group
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        proxy.close()
    return status if status >= 0 else 128 - status
