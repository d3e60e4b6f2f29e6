"""A run as it goes: a bar with loss, margin, accuracy and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from anydpo.cli import output

if TYPE_CHECKING:
    from anydpo.handle import Run
    from anydpo.provider import Event

QUIET_SECONDS = 5.0  # between two lines where nobody watches


def follow(run: Run) -> None:
    """Show a run's progress on stderr until it ends or pauses."""
    output.say(f"run {run.id} on {run.place}")
    if sys.stderr.isatty():
        _bar(run)
    else:
        follow_in_lines(run)


def follow_in_lines(run: Run) -> None:
    """Say a run's progress in lines on stderr until it ends or pauses."""
    lines = Lines()
    for event in run.watch():
        lines.say(event, "")


class Lines:
    """Says events in lines: every change of state, and of metrics one every few seconds."""

    def __init__(self) -> None:
        self._last = 0.0

    def say(self, event: Event, name: str) -> None:
        """Say one event, with a name before it."""
        now = time.monotonic()
        if event.kind == "state" and event.state is not None:
            output.say(f"{name}{event.state}{f': {event.text}' if event.text else ''}")
        elif event.kind == "metrics" and (now - self._last >= QUIET_SECONDS or event.step == event.total_steps):
            self._last = now
            if said := _sentence(event):
                output.say(f"{name}{said}")


def _bar(run: Run) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, numbers="")
        stage = ""
        for event in run.watch():
            if event.kind == "state" and event.state is not None:
                if event.text:
                    progress.console.print(output.clean(event.text), markup=False)
                progress.update(task, description=str(event.state))
            elif event.kind == "log" and not stage:
                progress.update(task, numbers=output.clean(event.text[9:80]))
            elif event.kind == "metrics" and event.total_steps is not None:
                if (now := stage_of(event)) != stage:
                    stage = now
                    progress.reset(task, description=stage, total=event.total_steps, numbers="")
                progress.update(task, completed=event.step or 0, numbers=numbers_of(event))


def stage_of(event: Event) -> str:
    """Return the stage that a step belongs to."""
    return "sft" if any(name.startswith("sft/") for name in event.metrics) else "dpo"


def numbers_of(event: Event) -> str:
    """Return loss, margin and accuracy of a step, as far as they are there."""
    names = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy"}
    found = (
        (label, event.metrics.get(f"{prefix}/{key}")) for key, label in names.items() for prefix in ("train", "sft")
    )
    return "  ".join(f"{label} {value:.3g}" for label, value in found if value is not None)


def _sentence(event: Event) -> str:
    if event.total_steps is None:
        names = ("eval/loss", "eval/rewards/accuracies", "eval/rewards/margins")
        shown = "  ".join(f"{n} {event.metrics[n]:.4g}" for n in names if event.metrics.get(n) is not None)
        return f"held out  {shown}" if shown else ""
    return f"{stage_of(event)} step {event.step}/{event.total_steps}  {numbers_of(event)}"
