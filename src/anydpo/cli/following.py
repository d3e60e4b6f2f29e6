"""Following runs and showing what came of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from anydpo.cli import output

if TYPE_CHECKING:
    from anydpo.handle import Run
    from anydpo.result import Result
    from anydpo.tracking import EventSink


Track = Annotated[
    list[str] | None, typer.Option("--track", metavar="NAME", help="Also tell a tracker, such as mlflow.")
]


def sinks_of(names: Sequence[str] | None) -> list[EventSink]:
    """Return the trackers of these names; asked for before anything is sent, so that a wrong one stops nothing."""
    if not names:
        return []
    from anydpo.tracking import sinks_named

    return sinks_named(names)


def follow_all(runs: Sequence[Run]) -> list[Result]:
    """Show the progress of runs until all have ended or paused, and return their results.

    Ctrl-C leaves them running and says how to come back.
    """
    from anydpo.cli.progress import follow, follow_in_lines

    try:
        if len(runs) == 1:
            follow(runs[0])
        else:
            at_once([lambda one=one: follow_in_lines(one, name=f"{one.id} ") for one in runs])  # type: ignore[misc]
    except KeyboardInterrupt:
        names = " ".join(one.id for one in runs)
        output.say(f"\n{names}: goes on without this terminal." if len(runs) == 1 else f"\n{names}: go on.")
        output.say(f"  come back: anydpo watch {names}    stop: anydpo cancel {runs[0].id}")
        raise
    return [one.result() for one in runs]


def at_once(tasks: Sequence[Callable[[], None]]) -> None:
    """Run every task in a thread of its own; raise the first error when all have ended."""
    failed: list[Exception] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=guarded, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(timeout=0.2)  # so that Ctrl-C is noticed
    if failed:
        raise failed[0]


def leave(results: Sequence[Result]) -> None:
    """Leave with exit code 1 unless every run succeeded, 5 where an outcome is unknown."""
    from anydpo.result import State

    states = {result.state for result in results}
    if State.UNKNOWN in states:
        raise typer.Exit(5)
    if states - {State.SUCCEEDED}:
        raise typer.Exit(1)


def show_result(result: Result) -> None:
    """Print a result for people."""
    name = f" {result.name}" if result.name else ""
    output.out(f"run {result.run}{name} on {result.place}: {result.state}")
    if result.error is not None:
        output.out(f"  error: {result.error.message}")
        if result.error.hint:
            output.out(f"  hint:  {result.error.hint.replace('RUN', result.run)}")
    data, usage = result.data, result.usage
    skipped = f", {sum(data.skipped.values())} rows skipped" if data.skipped else ""
    if data.train_pairs is not None:  # an imported run's provider may not tell
        output.out(f"  data:  {data.train_pairs} pairs, {data.validation_pairs or 0} held out{skipped}")
    if usage.steps is not None:
        took = f" in {result.timing.train_seconds:.0f} s" if result.timing.train_seconds else ""
        output.out(f"  steps: {usage.steps}{took}")
    for prefix, what in (("eval", "held out"), ("train", "last step")):
        final = result.metrics.final
        shown = [
            f"{label} {output.number(value)}"
            for label, key in (("loss", "loss"), ("accuracy", "rewards/accuracies"), ("margin", "rewards/margins"))
            if (value := final.get(f"{prefix}/{key}")) is not None
        ]
        if shown:
            output.out(f"  {what}: {', '.join(shown)}")
    if result.cost is not None:
        output.out(f"  cost:  {result.cost.amount:.2f} {result.cost.currency} ({result.cost.basis})")
    if result.model.tuned:
        output.out(f"  model: {result.model.tuned}")
    for warning in result.warnings:
        output.out(f"  note ({warning.code}): {warning.message}")
