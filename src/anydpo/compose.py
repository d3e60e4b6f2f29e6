"""The one `Result` of a run, put together from what the journal knows and what its provider says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anydpo.catalogue import other_base
from anydpo.fallback import history
from anydpo.health import diagnose
from anydpo.provider import Outcome, Plan
from anydpo.records import AttemptRow, ChoiceRow, RunRow
from anydpo.result import (
    Data,
    Error,
    Method,
    Notice,
    Result,
    Stage,
    State,
    Timing,
    missing_metrics,
)

COMPARED = frozenset(
    "epochs learning_rate lr_scheduler_type warmup_ratio weight_decay max_grad_norm batch_size max_length seed beta"
    " loss_type label_smoothing simpo_gamma".split()
)


def compose(row: RunRow, attempts: list[AttemptRow], outcome: Outcome, choices: Sequence[ChoiceRow] = ()) -> Result:
    """Return the result of a run whose latest attempt has this outcome."""
    from anydpo import __version__

    last = attempts[-1] if attempts else None
    plan = Plan(**last.plan) if last else None
    sent = last is not None and last.provider_job_id is not None
    return Result(
        run=row.id,
        name=row.name,
        place=last.place if last else row.place,
        provider_job_id=last.provider_job_id if last else None,
        route_reason=plan.route_reason if plan else None,
        sandbox=plan.sandbox if plan else False,
        target=(plan.target if plan else row.target) or None,
        state=outcome.state if sent else row.state,
        job=row.job,
        model=outcome.model.model_copy(update={"requested": outcome.model.requested or (plan.model if plan else None)}),
        data=_data(row, attempts, outcome, plan),
        method=_method(row, plan, outcome),
        stages=_stages(attempts, outcome),
        metrics=outcome.metrics.model_copy(
            update={"missing": missing_metrics(outcome.metrics.final, evaluated=bool(row.data.get("validation_pairs")))}
        ),
        artifacts=outcome.artifacts,
        usage=outcome.usage,
        cost=outcome.cost,
        timing=_timing(row, attempts, outcome),
        attempts=history(attempts, choices),
        error=outcome.error or (Error(**last.error) if last and last.error else None),
        warnings=_warnings(row, plan, outcome),
        versions={"anydpo": __version__, "sdk": outcome.sdk},
    )


def _data(row: RunRow, attempts: list[AttemptRow], outcome: Outcome, plan: Plan | None) -> Data:
    skipped = dict(row.data.get("skipped") or {})
    for reason, count in outcome.skipped.items():
        skipped[reason] = skipped.get(reason, 0) + count
    files = attempts[-1].files if attempts else []
    return Data(
        fingerprint=row.data.get("fingerprint"),
        validation_fingerprint=row.data.get("validation_fingerprint"),
        train_pairs=outcome.train_pairs or row.data.get("train_pairs"),
        validation_pairs=outcome.validation_pairs or row.data.get("validation_pairs"),
        skipped=skipped,
        format_sent=(plan.format if plan else None) or row.data.get("format_sent"),
        bytes_sent=sum(file["bytes"] for file in files) or None,
    )


def _method(row: RunRow, plan: Plan | None, outcome: Outcome) -> Method:
    requested = {**row.job.get("method", {}), **{k: v for k, v in row.job.items() if k in outcome.effective}}
    ignored = tuple(f"{name} was ignored" for name in (plan.ignored if plan else ()))
    found = (*_different(row.job, outcome.effective), *outcome.differences, *ignored)
    return Method(requested=requested, effective=outcome.effective, differences=found)


def _different(asked: Mapping[str, Any], ran: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Say of each value that was asked for whether another one was run; what is no number or word is left to others."""
    for name, wish in asked.items():
        done = ran.get(name)
        if isinstance(wish, Mapping) and isinstance(done, Mapping):
            yield from _different(wish, done, f"{name}.")
        elif (
            isinstance(wish, (int, float, str))
            and isinstance(done, (int, float, str))
            and wish not in ("auto", done)
            and name in COMPARED
        ):
            yield f"{prefix}{name}: {wish} was asked for, {done} was run"


def _stages(attempts: list[AttemptRow], outcome: Outcome) -> tuple[Stage, ...]:
    """Return the latest job of each stage, where the provider is given several."""
    if not attempts or len(Plan(**attempts[-1].plan).stages) == 1:
        return outcome.stages
    here = [each for each in attempts if each.place == attempts[-1].place]
    latest = {each.stage: each for each in here}  # a stage that was refused is tried again without those before it
    made = []
    for each in latest.values():
        own: dict[str, Any] = each.result or {}
        cost = outcome.cost if each is attempts[-1] else own.get("cost")
        made.append(Stage(stage=each.stage, provider_job_id=each.provider_job_id, state=each.state, cost=cost))
    return tuple(made)


def _timing(row: RunRow, attempts: list[AttemptRow], outcome: Outcome) -> Timing:
    last = attempts[-1] if attempts else None
    started, submitted = outcome.started, last.submitted if last else None
    return Timing(
        created=row.created,
        submitted=submitted,
        started=started,
        finished=outcome.finished or (last.finished if last else None),
        queue_seconds=max(0.0, started - submitted) if started and submitted else None,
        train_seconds=outcome.train_seconds,
    )


def _warnings(row: RunRow, plan: Plan | None, outcome: Outcome) -> tuple[Notice, ...]:
    told = [Notice(code="provider", message=text) for text in (*(plan.warnings if plan else ()), *outcome.warnings)]
    if plan and (said := other_base(row.job.get("model"), plan.place, plan.model)) is not None:
        told.append(Notice(code="other_base", message=said))
    return (*told, *diagnose(outcome.metrics.history, outcome.effective.get("method")))


def not_sent(row: RunRow) -> Outcome:
    """Return the outcome of a run of which no job is known."""
    return Outcome(state=row.state if row.state is not State.QUEUED else State.PENDING)
