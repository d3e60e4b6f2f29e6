"""`submit` and `run`: the commands that may spend, and the question they ask before they do."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydpo.cli import output
from anydpo.cli.following import Track, follow_all, leave, show_results, sinks_of
from anydpo.cli.options import JSON, Places, takes_job

if TYPE_CHECKING:
    from anydpo.chain import Chain
    from anydpo.handle import Run
    from anydpo.plan import Prepared

SLOW_SECONDS = 600  # a fallback that keeps this CPU longer than that is asked for first

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
Fallback = Annotated[
    str | None,
    typer.Option("--fallback", metavar="PLACE,…", help="Where to go on, in order, if a place says no for its reasons."),
]
MaxWait = Annotated[
    float | None,
    typer.Option(
        "--max-wait", metavar="S", help="Seconds that a place may keep a job waiting before the next is tried."
    ),
]
OnSafety = Annotated[
    bool, typer.Option("--fallback-on-safety", help="Go on also where a safety screening has refused.")
]
Eula = Annotated[bool, typer.Option("--accept-eula", help="Accept the licence of a model, where a place asks for it.")]
Detach = Annotated[bool, typer.Option("--detach", help="Watch in the background, taking the steps that are due.")]


@dataclass(frozen=True)
class Sending:
    """What `submit` and `run` are told beside the job: one flag a field, in the order of `--help`."""

    places: Places = None
    fallback: Fallback = None
    max_wait: MaxWait = None
    on_safety: OnSafety = False
    again: Again = False
    resubmit: Resubmit = False
    adopt: Adopt = None
    allow_ignored: AllowIgnored = None
    yes: Yes = False
    max_cost_usd: Cap = None
    allow_unknown_price: AnyPrice = False
    accept_eula: Eula = False
    detach: Detach = False


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(takes_job(submit))
    app.command()(takes_job(run))


def submit(job: Any, how: Sending, plan: Any = None, as_json: JSON = False) -> None:
    """Send the job and return when it is answered; the same job again is the same run."""
    made = _send(job, plan, how)
    if how.detach:
        _detach([one for one in made if one.error is None])
    if as_json:
        from anydpo.cli.documents import SubmittedRun, SubmittedRuns

        output.emit(SubmittedRuns(runs=tuple(SubmittedRun.of(one) for one in made)))
    else:
        for one in made:
            _say_sent(one, detached=how.detach)
    leave((), made)


def _say_sent(one: Run, *, detached: bool) -> None:
    if one.error is not None:
        output.out(f"{one.id} on {one.place}: not sent: {one.error.message}")
        return
    for gone in one.attempts[:-1]:
        if gone.error is not None:
            output.say(f"{gone.place}: {gone.error.message} ({gone.error.code})")
    was = "sent" if one.created else "there already"
    output.out(f"{one.id} on {one.place}: {was}, {one.state} ({one.provider_job_id})")
    if one.remaining and not detached:
        output.say(f"still to come: {', '.join(one.remaining)}; `anydpo watch {one.id}` takes care of it")


def run(job: Any, how: Sending, plan: Any = None, track: Track = None, as_json: JSON = False) -> None:
    """Send the job, follow it to its end, and print the result; the same job again is the same run."""
    if how.detach:
        raise _usage("run follows the run, and --detach does not", "anydpo submit JOB --detach")
    sinks = sinks_of(track)
    made = [one.track(*sinks) for one in _send(job, plan, how)]
    results = follow_all(made)
    show_results(results, as_json=as_json)
    leave(results, made)


def _send(job: Any, plan: dict[str, Any] | None, how: Sending) -> list[Run]:
    from anydpo.chain import Chain
    from anydpo.handle import requests, send

    if how.allow_ignored:
        job = job.replace(allow_ignored=(*job.allow_ignored, *how.allow_ignored.split(",")))
    fallback = how.fallback.split(",") if how.fallback else []
    places = how.places.split(",") if how.places else [plan["place"]] if plan else [] if fallback else ["local"]
    if how.adopt is not None and len(places) > 1:
        raise _usage("--adopt takes one job, and there are several places", "-p PLACE")
    if not fallback and (how.max_wait is not None or how.on_safety):
        raise _usage("there is no place to go on with", "--fallback PLACE,…")
    if how.accept_eula:
        job = _accepted(job, [*places, *fallback])
    ready = requests(job, places, fallback, max_wait=how.max_wait, on_safety=how.on_safety)
    if plan is not None:
        _hold_to_plan([one.usable[0] if isinstance(one, Chain) else one for one in ready], plan)
    _consent(ready, how)
    try:
        return send(
            ready,
            again=how.again,
            resubmit=how.resubmit,
            adopt=how.adopt,
            max_cost_usd=how.max_cost_usd,
            allow_unknown_price=how.allow_unknown_price,
        )
    except KeyboardInterrupt:
        names = " ".join(one.run_id for one in ready)
        output.say(f"\ninterrupted; what was sent is known here: anydpo watch {names}    stop: anydpo cancel RUN")
        raise


def _accepted(job: Any, places: list[str]) -> Any:
    """Return the job with every licence that these places ask about accepted, as the user said on this call."""
    from anydpo.plan import prepare_all

    for made in prepare_all(job, places):
        for problem in made.plan.problems:
            if problem.code == "eula_not_accepted":
                _, provider, name = problem.field.split(".")  # options.PROVIDER.NAME
                options = {**job.options, provider: {**made.job.options.get(provider, {}), name: True}}
                job = job.replace(options=options)
    return job


def _consent(requests: list[Prepared | Chain], how: Sending) -> None:
    """Ask on a terminal before anything is paid, or hours of this CPU are spent in the place of a cloud.

    Elsewhere `--yes` must have said so, or a cap where it is money alone.
    """
    from anydpo.chain import Chain
    from anydpo.dispatch import Dispatch
    from anydpo.home import home
    from anydpo.journal import journal_of

    if how.yes or how.adopt is not None:
        return
    dispatch = Dispatch(journal_of(home()))
    new = [one for one in requests if dispatch.would_send(one, again=how.again, resubmit=how.resubmit)]
    paid = [] if how.max_cost_usd is not None else _paid(new)
    slow = [said for one in new if isinstance(one, Chain) for said in _slow(one)]
    if not paid and not slow:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        what = [f"{', '.join(one.plan.place for one in paid)} is paid for"] if paid else []
        hint = "--yes" if slow else "--yes, or --max-cost-usd X"
        raise _usage(f"{'; '.join([*what, *slow])}, and there is no terminal to ask on", hint)
    for one in paid:
        output.say(f"{one.plan.place}: {one.plan.model}, {len(one.train):,} pairs, price: {_about(one)}")
    for said in slow:
        output.say(said)
    typer.confirm("send it?", abort=True, err=True)


def _paid(requests: list[Prepared | Chain]) -> list[Prepared]:
    from anydpo.chain import Chain
    from anydpo.spend import is_free

    each = [one for request in requests for one in (request.usable if isinstance(request, Chain) else (request,))]
    return [one for one in each if not is_free(one)]


def _about(prepared: Prepared) -> str:
    from anydpo.spend import price_of

    price = price_of(prepared)
    return f"about {price.cost.amount:.2f} {price.cost.currency} ({price.cost.basis})" if price else "unknown"


def _slow(chain: Chain) -> list[str]:
    """Say for each place of a fallback that trains on this CPU how long that would take, where it is long."""
    from anydpo.spend import estimate_of

    said = []
    for one in chain.usable[1:]:
        if one.plan.device != "cpu":
            continue
        seconds = getattr(estimate_of(one), "seconds", None)
        if seconds is None or seconds > SLOW_SECONDS:
            how_long = f"about {output.duration(seconds)}" if seconds is not None else "for a time that is not known"
            said.append(f"{one.plan.place} would train on the CPU, {how_long}")
    return said


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
