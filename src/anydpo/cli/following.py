"""Following runs and showing what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from anydpo.cli import output

if TYPE_CHECKING:
    from anydpo.handle import Run
    from anydpo.result import Evaluation, Result
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


WORST = (5, 6, 3, 4, 1)  # of several runs, the first of these exit codes that any has
MEASURED = (
    ("accuracy", "measured/rewards/accuracies"),
    ("margin", "measured/rewards/margins"),
    ("KL", "measured/kl"),
    ("win rate", "judge/win_rate"),
)


def follow_all(runs: Sequence[Run], *, as_lines: bool = False) -> list[Result]:
    """Show the progress of runs until all have ended or paused, and return their results.

    Ctrl-C leaves them running and says how to come back. `as_lines` prints every event as a line of JSON instead.
    """
    try:
        if len(runs) == 1 and not as_lines:
            from anydpo.cli.progress import follow

            follow(runs[0])
            return [runs[0].result()]
        from anydpo.cli import together

        (together.print_events if as_lines else together.follow_together)(runs)
    except KeyboardInterrupt:
        come_back(runs)
        raise
    if len(runs) == 1 and runs[0].error is not None:
        raise runs[0].error
    return [_result_of(one) for one in runs]


def come_back(runs: Sequence[Run]) -> None:
    """Say how to come back to runs that go on without this terminal."""
    names = " ".join(one.id for one in runs)
    output.say(f"\n{names}: goes on without this terminal." if len(runs) == 1 else f"\n{names}: go on.")
    output.say(f"  come back: anydpo watch {names}    stop: anydpo cancel {runs[0].id}")


def _result_of(run: Run) -> Result:
    """Return the result of one of several runs: where its place cannot be asked, what is known here."""
    from anydpo.errors import AnyDPOError

    try:
        return run.result() if run.error is None else run.known()
    except AnyDPOError as exc:
        run.error = exc
        return run.known()


def leave(results: Sequence[Result], runs: Sequence[Run] = ()) -> None:
    """Leave with the exit code of what came of the runs: 0 where every one succeeded."""
    if code := exit_code(results, runs):
        raise typer.Exit(code)


def exit_code(results: Sequence[Result], runs: Sequence[Run] = ()) -> int:
    """Return 0 where every run succeeded; of one, or of several the worst: unknown, credentials, refused, failed."""
    from anydpo.errors import kinds
    from anydpo.result import State

    codes = {one.error.exit_code for one in runs if one.error is not None}
    for result in results:
        if result.state is State.UNKNOWN:
            codes.add(5)
        elif result.state is not State.SUCCEEDED:
            kind = kinds().get(result.error.code) if result.error and result.provider_job_id is None else None
            codes.add(kind.exit_code if kind is not None else 1)
    return next((code for code in WORST if code in codes), max(codes, default=0))


def show_results(results: Sequence[Result], *, as_json: bool) -> None:
    """Print results for people, or as one document: a `Result`, or several of them under `runs`."""
    if not as_json:
        for result in results:
            show_result(result)
        return
    from anydpo.cli.documents import Results

    output.emit(results[0] if len(results) == 1 else Results(runs=tuple(results)))


def show_result(result: Result) -> None:
    """Print a result for people."""
    name = f" {result.name}" if result.name else ""
    rehearsed = ", a rehearsal: nothing was paid" if result.sandbox else ""
    output.out(f"run {result.run}{name} on {result.place}: {result.state}{rehearsed}")
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
    for each in result.evaluations:
        output.out(f"  {'measured' if each.kind == 'pairs' else 'judged'}: {_measured(each)}")
    if len(result.attempts) > 1:
        went = (f"{each.place} ({each.error.code})" if each.error else each.place for each in result.attempts)
        output.out(f"  went:  {', then '.join(went)}")
    if result.cost is not None:
        output.out(f"  cost:  {result.cost.amount:.2f} {result.cost.currency} ({result.cost.basis})")
    if result.model.tuned:
        output.out(f"  model: {result.model.tuned}")
    for warning in result.warnings:
        output.out(f"  note ({warning.code}): {warning.message}")


def _measured(evaluation: Evaluation) -> str:
    """Return what was measured here in a line: figures with their intervals, on how many pairs, and by what."""
    shown = []
    for label, name in MEASURED:
        if (figure := evaluation.metrics.get(name)) is None:
            continue
        low, high = figure.low, figure.high
        interval = f" [{output.number(low)}, {output.number(high)}]" if low is not None and high is not None else ""
        shown.append(f"{label} {output.number(figure.value)}{interval}")
    return f"{evaluation.pairs} pairs, by {evaluation.by}: {', '.join(shown)}"
