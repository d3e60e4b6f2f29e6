"""The commands, one module a kind; each imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from anydpo import __version__
from anydpo.cli import agreement, comparing, data, foreign, health, jobs, runs, sandbox, sending, sweeping

app = typer.Typer(
    name="anydpo",
    help="One preference dataset, one DPO job, every cloud that runs it and your own GPU, one result.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anydpo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


jobs.register(app)
data.register(app)
sending.register(app)
sweeping.register(app)
agreement.register(app)
runs.register(app)
foreign.register(app)
comparing.register(app)
health.register(app)
sandbox.register(app)
