"""`submit` and `run`: the commands that may spend, and the question they ask before they do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydpo.cli import output
from anydpo.cli.following import Track, follow_all, leave, show_result, sinks_of
from anydpo.cli.options import JSON, Places, takes_job

if TYPE_CHECKING:
    from anydpo.handle import Run
    from anydpo.plan import Prepared

Again = Annotated[bool, typer.Option("--again", help="A new attempt of a run that has ended.")]
Resubmit = Annotated[bool, typer.Option("--resubmit", help="A new attempt of a run whose outcome is unknown.")]
Adopt = Annotated[
    str | None, typer.Option("--adopt", metavar="ID", help="Take the provider's job of this id for a lost one.")
]
AllowIgnored = Annotated[str | None, typer.Option(metavar="F,…", help="Fields that a place may ignore.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before paying.")]
Cap = Annotated[float | None, typer.Option("--max-cost-usd", metavar="X", help="Send nothing that may cost more.")]
AnyPrice = Annotated[
    bool, typer.Option("--allow-unknown-price", help="Under a cap, also send what has no price before it runs.")
]
Eula = Annotated[bool, typer.Option("--accept-eula", help="Accept the licence of a model, where a place asks for it.")]
Detach = Annotated[bool, typer.Option("--detach", help="Watch in the background, taking the steps that are due.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(takes_job(submit))
    app.command()(takes_job(run))


def submit(
    job: Any,
    plan: Any = None,
    places: Places = None,
    again: Again = False,
    resubmit: Resubmit = False,
    adopt: Adopt = None,
    allow_ignored: AllowIgnored = None,
    yes: Yes = False,
    max_cost_usd: Cap = None,
    allow_unknown_price: AnyPrice = False,
    accept_eula: Eula = False,
    detach: Detach = False,
    as_json: JSON = False,
) -> None:
    """Send the job and return when it is answered; the same job again is the same run."""
    given = {"again": again, "resubmit": resubmit, "adopt": adopt}
    cap = {"max_cost_usd": max_cost_usd, "allow_unknown_price": allow_unknown_price}
    made = _send(job, plan, places, allow_ignored, accept_eula=accept_eula, yes=yes, cap=cap, given=given)
    if detach:
        _detach(made)
    if as_json:
        from anydpo.cli.documents import SubmittedRun, SubmittedRuns

        output.emit(
            SubmittedRuns(
                runs=tuple(
                    SubmittedRun(
                        run=one.id,
                        place=one.place,
                        provider_job_id=one.provider_job_id,
                        state=one.state,
                        created=one.created,
                        remaining=one.remaining,
                    )
                    for one in made
                )
            )
        )
        return
    for one in made:
        was = "sent" if one.created else "there already"
        output.out(f"{one.id} on {one.place}: {was}, {one.state} ({one.provider_job_id})")
        if one.remaining and not detach:
            output.say(f"still to come: {', '.join(one.remaining)}; `anydpo watch {one.id}` takes care of it")


def run(
    job: Any,
    plan: Any = None,
    places: Places = None,
    again: Again = False,
    resubmit: Resubmit = False,
    adopt: Adopt = None,
    allow_ignored: AllowIgnored = None,
    yes: Yes = False,
    max_cost_usd: Cap = None,
    allow_unknown_price: AnyPrice = False,
    accept_eula: Eula = False,
    detach: Detach = False,
    track: Track = None,
    as_json: JSON = False,
) -> None:
    """Send the job, follow it to its end, and print the result; the same job again is the same run."""
    if detach:
        raise _usage("run follows the run, and --detach does not", "anydpo submit JOB --detach")
    sinks = sinks_of(track)
    given = {"again": again, "resubmit": resubmit, "adopt": adopt}
    cap = {"max_cost_usd": max_cost_usd, "allow_unknown_price": allow_unknown_price}
    made = _send(job, plan, places, allow_ignored, accept_eula=accept_eula, yes=yes, cap=cap, given=given)
    results = follow_all([one.track(*sinks) for one in made])
    if as_json:
        from anydpo.cli.documents import Results

        output.emit(results[0] if len(results) == 1 else Results(runs=tuple(results)))
    else:
        for result in results:
            show_result(result)
    leave(results)


def _send(
    job: Any,
    plan: dict[str, Any] | None,
    places: str | None,
    allow_ignored: str | None,
    *,
    accept_eula: bool,
    yes: bool,
    cap: dict[str, Any],
    given: dict[str, Any],
) -> list[Run]:
    from anydpo.handle import send

    if allow_ignored:
        job = job.replace(allow_ignored=(*job.allow_ignored, *allow_ignored.split(",")))
    wanted = (places or (plan["place"] if plan else "local")).split(",")
    if given["adopt"] is not None and len(wanted) > 1:
        raise _usage("--adopt takes one job, and there are several places", "-p PLACE")
    prepared = [_prepared(job, place, accept_eula=accept_eula).or_raise() for place in wanted]
    if plan is not None:
        _hold_to_plan(prepared, plan)
    _consent(prepared, yes=yes, cap=cap["max_cost_usd"], given=given)
    return send(prepared, **given, **cap)


def _prepared(job: Any, place: str, *, accept_eula: bool) -> Prepared:
    """Return the plan of a job, a licence that the place asks about accepted where the user said so on this call."""
    from anydpo.plan import prepare

    made = prepare(job, place)
    asked = [problem.field for problem in made.plan.problems if problem.code == "eula_not_accepted"]
    if not asked or not accept_eula:
        return made
    _, provider, name = asked[0].split(".")  # options.PROVIDER.NAME
    options = {**job.options, provider: {**made.job.options.get(provider, {}), name: True}}
    return prepare(job.replace(options=options), place)


def _consent(prepared: list[Prepared], *, yes: bool, cap: float | None, given: dict[str, Any]) -> None:
    """Ask on a terminal before anything is paid; elsewhere `--yes` or a cap must have said so."""
    from anydpo.dispatch import Dispatch
    from anydpo.home import home
    from anydpo.journal import journal_of
    from anydpo.spend import is_free, price_of

    if yes or cap is not None or given["adopt"] is not None:
        return
    dispatch = Dispatch(journal_of(home()))
    again = {"again": given["again"], "resubmit": given["resubmit"]}
    paid = [one for one in prepared if not is_free(one) and dispatch.would_send(one, **again)]
    if not paid:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise _usage(
            f"{', '.join(one.plan.place for one in paid)} is paid for, and there is no terminal to ask on",
            "--yes, or --max-cost-usd X",
        )
    for one in paid:
        price = price_of(one)
        about = f"about {price.cost.amount:.2f} {price.cost.currency} ({price.cost.basis})" if price else "unknown"
        output.say(f"{one.plan.place}: {one.plan.model}, {len(one.train):,} pairs, price: {about}")
    typer.confirm("send it?", abort=True, err=True)


def _hold_to_plan(prepared: list[Prepared], plan: dict[str, Any]) -> None:
    """Raise if what would be sent is not what the plan shows."""
    from anydpo.errors import JobInvalid

    changed = []
    for one in prepared:
        now = one.plan.model_dump(mode="json")
        changed += [name for name in ("place", "target", "requests", "ignored") if now[name] != plan[name]]
        if one.fingerprint != plan["job_fingerprint"]:
            changed.append("the data or a field of the job")
    if changed:
        raise JobInvalid(
            f"not what the plan shows: {', '.join(dict.fromkeys(changed))} changed; nothing was sent",
            hint="`anydpo check JOB -p PLACE -o plan.json` makes a new plan",
        )


def _detach(runs: list[Run]) -> None:
    from anydpo.background import watch_in_background
    from anydpo.home import home

    for one in runs:
        log = watch_in_background(one.id, home())
        output.say(f"{one.id} is watched in the background, its log is {log}")


def _usage(message: str, hint: str) -> Exception:
    from anydpo.errors import Invalid

    return Invalid(message, hint=hint)
