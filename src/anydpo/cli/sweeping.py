"""`sweep`: one job with some of its fields varied, and the best of its runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydpo.cli import output
from anydpo.cli.options import JSON, Place, takes_job
from anydpo.cli.sending import AnyPrice, Cap, Yes

if TYPE_CHECKING:
    from anydpo.sweeping import Sweeping
    from anydpo.trials import Sweep, Trial

Space = Annotated[
    list[str] | None,
    typer.Option("--space", metavar="K=V1,V2|LOW..HIGH[:log]", help="What a field may be; once for each field."),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(takes_job(sweep))


def sweep(
    job: Any,
    place: Place = None,
    space: Space = None,
    trials: Annotated[int, typer.Option(metavar="N", help="How many runs.")] = 10,
    metric: Annotated[str, typer.Option(help="What decides.")] = "eval/rewards/accuracies",
    goal: Annotated[str, typer.Option(help="max or min.")] = "max",
    parallel: Annotated[int | None, typer.Option(help="Runs at once. [1 here, 3 at paid places]")] = None,
    native: Annotated[bool, typer.Option("--native", help="Let the place's own tuner search.")] = False,
    yes: Yes = False,
    max_cost_usd: Cap = None,
    allow_unknown_price: AnyPrice = False,
    as_json: JSON = False,
) -> None:
    """Try values of some fields, one run a trial, and name the best; the same sweep again goes on."""
    from anydpo.sweeping import prepare_sweep

    made = prepare_sweep(
        job,
        place or "local",
        space=dict(_entry(text) for text in space or ()),
        trials=trials,
        metric=metric,
        goal=goal,
        parallel=parallel,
    )
    if not yes and max_cost_usd is None:
        _consent(made)
    say = _Telling(trials, metric, goal)
    try:
        found = made.run(
            max_cost_usd=max_cost_usd, allow_unknown_price=allow_unknown_price, native=native, on_trial=say
        )
    except KeyboardInterrupt:
        output.say("\nthe runs that were sent go on; the same command goes on with the sweep")
        raise
    if as_json:
        output.emit(found)
    else:
        _show(found)
    if found.best is None:
        raise typer.Exit(1)


def _entry(text: str) -> tuple[str, str]:
    from anydpo.errors import JobInvalid

    key, equals, value = text.partition("=")
    if not equals:
        raise JobInvalid(f"--space {text}: expected FIELD=VALUES", hint="--space learning_rate=1e-6..1e-4:log")
    return key.strip(), value.strip()


def _consent(made: Sweeping) -> None:
    """Ask on a terminal before anything is paid; elsewhere `--yes` or a cap must have said so."""
    from anydpo.errors import Invalid

    price, left = made.price()
    if price == 0 or not left:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Invalid(
            f"{made.base.plan.place} is paid for, and there is no terminal to ask on",
            hint="--yes, or --max-cost-usd X for all trials together",
        )
    about = "unknown" if price is None else f"at most about {price:.2f} USD"
    output.say(f"{made.base.plan.place}: {left} trials of {len(made.base.train):,} pairs, price: {about}")
    typer.confirm("send them?", abort=True, err=True)


class _Telling:
    """Says each trial in a line when it is sent and when it has ended."""

    def __init__(self, trials: int, metric: str, goal: str) -> None:
        self._trials, self._metric, self._sign = trials, metric, 1 if goal == "max" else -1
        self._best: float | None = None

    def __call__(self, trial: Trial) -> None:
        from anydpo.space import told

        name = f"trial {trial.number}/{self._trials}"
        if not trial.state.done and trial.error is None:
            output.say(f"{name}: {told(trial.values)}: run {trial.run}")
            return
        if trial.value is None:
            output.say(f"{name}: {trial.error.message if trial.error else trial.state}")
            return
        better = self._best is None or self._sign * trial.value > self._best
        self._best = self._sign * trial.value if better else self._best
        output.say(f"{name}: {self._metric} {trial.value:.4g}{', the best so far' if better else ''}")


def _show(found: Sweep) -> None:
    rows = [tuple(output.number(cell) if cell is not None else "" for cell in row) for row in found.rows()]
    output.table(found.columns, rows)
    for note in found.notes:
        output.say(f"note: {note}")
    if found.tied:
        output.say(f"note: as good as the best: trial {', '.join(map(str, found.tied))}")
    if found.cost is not None:
        output.say(f"cost of all trials: {found.cost.amount:.2f} {found.cost.currency} ({found.cost.basis})")
    if found.best is None:
        output.say(f"no trial gave {found.metric}")
    else:
        output.say(f"next: anydpo show {found.best.run}; anydpo fetch {found.best.run} -o DIR")
