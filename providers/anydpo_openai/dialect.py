"""From our words to the protocol's and back: a job to its create requests, their objects to events and an outcome."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Literal

from anydpo.adapter import SAFETY, Wishes, canonical_metrics, sizes
from anydpo.errors import Problem, ProviderFault
from anydpo.job import PreferenceJob
from anydpo.provider import DataSummary, Event, Examined, Outcome, Plan, Quote, Request
from anydpo.result import Artifact, Cost, Error, Metrics, Model, Stage, State, Usage
from anydpo_openai.service import Service

KEY = "anydpo"  # our entry in a job's metadata
JOBS = "/fine_tuning/jobs"
SOON = 60  # days before an end at which a plan warns of it
NOT_METRICS = ("step", "total_steps", "epoch")
LINE = re.compile(r"\bline (\d+)", re.IGNORECASE)
STEP_IN_WORDS = re.compile(r"^Step (\d+)(?:/(\d+))?:\s*(.+)$")
VALUE_IN_WORDS = re.compile(r"(training|validation|full validation) loss=([-+\d.eE]+|nan)")
WORDS = {"training": "train_loss", "validation": "valid_loss", "full validation": "full_valid_loss"}
THEIR_FAULT = ("server_error", "internal_error", "internal_server_error")
OWN_RATE = (
    "learning rate, schedule, warm-up, weight decay and clipping are the provider's own; only a multiplier can be set"
)


def plan(
    job: PreferenceJob, data: DataSummary, service: Service, *, url: str, target: str, sandbox: bool, today: date
) -> Plan:
    """Return the create requests of a job, one a stage, and what stands against it."""
    wishes = Wishes(job)
    options = job.options.get(service.provider, {})
    wishes.options(service.provider, options, service.options)
    model = _model(job, service, wishes)
    warnings = [*job.method.method.advice(), *_dates(model, service, wishes, sandbox=sandbox, today=today)]
    _values(job, data, service, wishes)
    stages: tuple[Literal["sft", "dpo"], ...] = ("sft", "dpo") if job.sft is not None else ("dpo",)
    creates = [
        _create(job, data, service, stage, model if at == 0 else "${sft_model}", options)
        for at, stage in enumerate(stages)
    ]
    if "learning_rate_multiplier" not in options:
        warnings.append(f"{OWN_RATE}: options.{service.provider}.learning_rate_multiplier")
    tier = str(options.get("training_type", "")).lower()
    warnings += [said for word, said in service.facts.get("tiers", {}).items() if word in tier]
    if data.features.get("multi_turn"):
        warnings.append("only the last turn is trained; earlier turns of a conversation are context")
    return Plan(
        place=service.place,
        route_reason="the only route" if service.provider == service.place else "the managed route: OpenAI's models",
        target=target,
        model=model,
        format=service.format,
        problems=tuple(wishes.problems),
        warnings=tuple(warnings),
        ignored=tuple(wishes.ignored),
        effective=_asked(job, options),
        requests=(*_uploads(url, data, stages), *(Request(method="POST", url=f"{url}{JOBS}", body=b) for b in creates)),
        sandbox=sandbox,
        stages=stages,
        filled=_sizes(job, data),
    )


def _model(job: PreferenceJob, service: Service, wishes: Wishes) -> str | None:
    if job.start_from is not None:
        start, reason = start_model(job.start_from, service)
        if reason is not None:
            wishes.problems.append(reason)
        return start
    model = job.model_for(service.place)
    if model is None:
        hint = f'model = {{{service.provider} = "gpt-4.1-mini-2025-04-14", default = …}}'
        wishes.refuse("model", "no_model_here", f"the table names no model for {service.provider}", hint)
    elif "/" in model or model in ("tiny", "smollm2-135m") or not model.strip():
        hint = f'name it beside yours: model = {{{service.provider} = "gpt-4.1-mini-2025-04-14", default = {model!r}}}'
        wishes.refuse("model", "no_model_here", f"{model!r} is no model of {service.provider}", hint)
    return model


def start_model(start_from: str, service: Service) -> tuple[str | None, Problem | None]:
    """Return the tuned model or checkpoint that a job goes on from, or the problem; the place's own ids only."""
    if service.own_models in start_from:
        return start_from, None
    if start_from.startswith("ftjob-"):
        hint = f"its fine_tuned_model, which holds {service.own_models!r}"
        return None, Problem("start_from", "not_a_model", "is a job; training goes on from a model", hint)
    hint = (
        f"a run or a tuned model of {service.provider}; weights of other places: `anydpo fetch RUN -o DIR`, then local"
    )
    return None, Problem("start_from", "other_place", f"{start_from!r} is nothing that {service.provider} has", hint)


def _dates(model: str | None, service: Service, wishes: Wishes, *, sandbox: bool, today: date) -> list[str]:
    """Return warnings of ends that are near; an end that has come is a problem, in a rehearsal a warning too."""
    notes = [service.facts["service"]["notice"]]
    ends = [("place", "closed", "new jobs", service.facts["service"].get("last_new_job"), 0)]
    if model is not None:
        if service.model(model) is None:
            notes.append(
                f"{model} is not in the list of DPO models of {service.facts['date']}; {service.provider} decides"
            )
        ends.append(("model", "retired", f"{model} and all that is tuned from it", service.shutdown(model), 1))
    for field, code, what, day, early in ends:
        if day is None:
            continue
        if (day - today).days < early and not sandbox:
            wishes.refuse(field, code, f"{what} ended on {day}", service.advice.retired)
        elif (day - today).days < SOON:
            notes.append(f"{what}: the last day is {day}")
    return notes


def _values(job: PreferenceJob, data: DataSummary, service: Service, wishes: Wishes) -> None:
    """Check the values that have bounds here."""
    limits = service.limits
    if not 0 < job.method.beta <= limits["beta"]:
        wishes.refuse(
            "method.beta", "out_of_range", f"is {job.method.beta:g}, above 0 and at most {limits['beta']:g} here"
        )
    for field, value in (("epochs", job.epochs), ("batch_size", job.batch_size)):
        if value > limits[field]:
            wishes.refuse(field, "out_of_range", f"is {value}, at most {limits[field]} here")
    if job.sft is not None:
        if job.sft.epochs > limits["epochs"]:
            wishes.refuse("sft.epochs", "out_of_range", f"is {job.sft.epochs}, at most {limits['epochs']} here")
        for name in ("learning_rate", "max_length"):
            if getattr(job.sft, name) is not None:
                wishes.unmet(f"sft.{name}", "has no effect here")
    if job.seed > limits["seed"]:
        wishes.refuse("seed", "out_of_range", f"is {job.seed}, at most {limits['seed']} here")
    if data.train_pairs < limits["examples"]:
        wishes.refuse("data", "too_few", f"{data.train_pairs} pairs, at least {limits['examples']} are needed here")
    if len(job.tags) + len(job.options.get(service.provider, {}).get("metadata", ())) >= limits["metadata"]:
        wishes.refuse("tags", "too_many", f"at most {limits['metadata'] - 1} tags and metadata here")


def _create(
    job: PreferenceJob, data: DataSummary, service: Service, stage: str, model: str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the create body of a stage in the order in which the SDK sends it."""
    tuned: dict[str, Any] = {"batch_size": job.batch_size}
    rate = options.get("learning_rate_multiplier" if stage == "dpo" else "sft_learning_rate_multiplier")
    if rate is not None:
        tuned["learning_rate_multiplier"] = rate
    if stage == "dpo":
        tuned |= {"n_epochs": job.epochs, "beta": job.method.beta}
        kind, file = "dpo", "${training_file}"
    else:
        tuned["n_epochs"] = job.sft.epochs if job.sft is not None else 1
        kind, file = "supervised", "${sft_file}"
    body: dict[str, Any] = {"model": model, "training_file": file}
    if "wandb" in options:
        body["integrations"] = [{"type": "wandb", "wandb": dict(options["wandb"])}]
    body["metadata"] = {**job.tags, **options.get("metadata", {}), KEY: "${key}"}
    body["method"] = {"type": kind, kind: {"hyperparameters": tuned}}
    body["seed"] = job.seed
    if suffix := "${key}" if service.key_in_suffix else options.get("suffix") or _suffix(job.name, service):
        body["suffix"] = suffix
    if stage == "dpo" and data.validation_pairs is not None:
        body["validation_file"] = "${validation_file}"
    if service.key_in_suffix:
        body["trainingType"] = options.get("training_type", "GlobalStandard")
    return body


def _suffix(name: str | None, service: Service) -> str | None:
    """Return a job's name as part of a model's name: lower case, digits and dashes."""
    made = re.sub(r"[^a-z0-9-]+", "-", (name or "").lower()).strip("-")
    return made[: service.limits["suffix"]] or None


def _asked(job: PreferenceJob, options: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"epochs": job.epochs, "batch_size": job.batch_size, "seed": job.seed}
    made["learning_rate_multiplier"] = options.get("learning_rate_multiplier", "auto")
    made["method"] = {"loss_type": "sigmoid", "beta": job.method.beta}
    if job.sft is not None:
        made["sft"] = {"epochs": job.sft.epochs}
    return made


def _uploads(url: str, data: DataSummary, stages: Sequence[str]) -> list[Request]:
    names = ["training_file", *(["validation_file"] if data.validation_pairs is not None else [])]
    names += ["sft_file"] if "sft" in stages else []
    return [
        Request(method="POST", url=f"{url}/files", body={"purpose": "fine-tune", "file": f"${{{name}_name}}"})
        for name in names
    ]


def _sizes(job: PreferenceJob, data: DataSummary) -> dict[str, str]:
    """Return the billed tokens of all stages, and how they were counted."""
    once = sizes(data)
    sft = once.chats * job.sft.epochs if job.sft else 0
    return {"tokens": str(once.pairs * job.epochs + sft), "counted": once.how}


def quote(plan: Plan, service: Service) -> Quote | None:
    """Return what the dated price table makes of a plan, None for a model without a price."""
    price = (service.model(plan.model or "") or {}).get("usd_per_million_tokens")
    if price is None:
        return None
    tokens = int(plan.filled["tokens"])
    prices = service.facts["prices"]
    return Quote(
        cost=Cost(amount=round(tokens * price / 1e6, 4), basis=f"price list {prices['date']}"),
        tokens=tokens,
        assumptions=(
            f"{price:g} USD per million training tokens ({prices['source']})",
            plan.filled["counted"],
        ),
    )


def events(items: Iterable[Mapping[str, Any]], service: Service) -> list[Event]:
    """Return the service's events as ours, in the order given."""
    return [_event(item, service) for item in items]


def _event(item: Mapping[str, Any], service: Service) -> Event:
    given, words = dict(item.get("data") or {}), str(item.get("message") or "")
    told = STEP_IN_WORDS.match(words)
    if told and not any(isinstance(value, (int, float)) for value in given.values()):  # Azure says it in words
        given = {WORDS[kind]: value for kind, value in VALUE_IN_WORDS.findall(told[3])}
        given |= {"step": told[1], "total_steps": told[2]}
    metrics = canonical_metrics(given, service.facts["metrics"], skip=NOT_METRICS)
    level = "" if item.get("level") in (None, "info") else f"{item['level']}: "
    kind: Literal["metrics", "log"] = "metrics" if metrics and given.get("step") is not None else "log"
    return Event(
        kind=kind,
        time=item.get("created_at"),
        step=_whole(given.get("step")),
        total_steps=_whole(given.get("total_steps")),
        metrics=metrics if kind == "metrics" else {},
        text="" if kind == "metrics" else level + words,
    )


def _whole(value: Any) -> int | None:
    try:
        return int(float(value))
    except (TypeError, ValueError):
        return None


def rows_of(content: bytes, service: Service) -> list[dict[str, Any]]:
    """Return a results file as history; it is CSV, which the service may hand out in base64."""
    text = content.decode("utf-8-sig", "replace").strip()
    if text and "," not in text.splitlines()[0]:
        try:
            text = base64.b64decode(text, validate=True).decode("utf-8-sig", "replace")
        except (binascii.Error, ValueError):
            return []
    made = []
    for row in csv.DictReader(io.StringIO(text)):
        filled = {name.strip(): value for name, value in row.items() if name and value}
        metrics = canonical_metrics(filled, service.facts["metrics"], skip=NOT_METRICS)
        if metrics:
            made.append({"step": _whole(filled.get("step")), **metrics})
    return made


def outcome(
    job: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    checkpoints: Iterable[Mapping[str, Any]],
    service: Service,
    sdk: str,
) -> Outcome:
    """Return what the service says of a job, with the history that was read beside it."""
    state = service.state(job.get("status")) or State.RUNNING
    stage: Literal["sft", "dpo"] = "sft" if (job.get("method") or {}).get("type") == "supervised" else "dpo"
    final = {name: value for record in history for name, value in record.items() if "/" in name and value is not None}
    if "eval/loss" not in final and final.get("provider/valid_loss") is not None:
        final["eval/loss"] = final["provider/valid_loss"]
    told = _tuned(job)
    tokens, steps = job.get("trained_tokens"), [record["step"] for record in history if record.get("step")]
    cost = _billed(job, tokens, service)
    return Outcome(
        state=state,
        model=_trained(job, service),
        effective=_effective(job, told, stage),
        differences=(OWN_RATE,),
        stages=(Stage(stage=stage, provider_job_id=job["id"], state=state, cost=cost),),
        metrics=Metrics(final=final, history=tuple(dict(record) for record in history)),
        artifacts=tuple(
            Artifact(kind="checkpoint", path=str(item.get("fine_tuned_model_checkpoint")), step=item.get("step_number"))
            for item in checkpoints
        ),
        usage=Usage(train_tokens=tokens, epochs=_whole(told.get("n_epochs")), steps=max(steps, default=None)),
        cost=cost,
        finished=job.get("finished_at"),
        error=_error(job, state, service),
        warnings=_notes(job, service),
        sdk=sdk,
    )


def findings(words: str) -> tuple[Examined.Finding, ...]:
    """Return what a service says of a file, one finding a line that it names."""
    lines = list(dict.fromkeys(int(number) for number in LINE.findall(words)))
    return tuple(Examined.Finding(line=line, message=words) for line in lines) or (Examined.Finding(message=words),)


def _tuned(job: Mapping[str, Any]) -> Mapping[str, Any]:
    method = job.get("method") or {}
    found = (method.get(method.get("type") or "") or {}).get("hyperparameters") or job.get("hyperparameters") or {}
    return found if isinstance(found, Mapping) else {}


def _effective(job: Mapping[str, Any], told: Mapping[str, Any], stage: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "epochs": told.get("n_epochs"),
        "batch_size": told.get("batch_size"),
        "seed": job.get("seed"),
    }
    made["learning_rate_multiplier"] = told.get("learning_rate_multiplier")
    made = {name: value for name, value in made.items() if value is not None}
    if stage == "dpo":
        made["method"] = {"loss_type": "sigmoid", "beta": told.get("beta", "auto")}
    return made


def _trained(job: Mapping[str, Any], service: Service) -> Model:
    tuned = job.get("fine_tuned_model")
    if not tuned:
        return Model(provider_model=job.get("model"))
    if service.key_in_suffix:
        use = f"deploy {tuned} in the Foundry portal first; then use the name of the deployment as `model`"
    else:
        use = (
            "from openai import OpenAI\n"
            f'OpenAI().chat.completions.create(model={tuned!r}, messages=[{{"role": "user", "content": "…"}}])'
        )
    return Model(provider_model=job.get("model"), tuned=tuned, how_to_use=use)


def _billed(job: Mapping[str, Any], tokens: int | None, service: Service) -> Cost | None:
    price = (service.model(str(job.get("model"))) or {}).get("usd_per_million_tokens")
    if price is None or not tokens:
        return None
    return Cost(amount=round(tokens * price / 1e6, 4), basis=f"price list {service.facts['prices']['date']}")


def _error(job: Mapping[str, Any], state: State, service: Service) -> Error | None:
    said = job.get("error") or {}
    if state is not State.FAILED and not said.get("message"):
        return None
    message = str(said.get("message") or "the service names no reason")
    code = str(said.get("code") or "job_failed")
    if SAFETY.search(f"{code} {message}"):
        return Error(code="safety_refused", message=message, hint=service.advice.safety)
    if code in THEIR_FAULT:
        return Error(
            code=ProviderFault.code, message=message, hint="a fault of the service; --again sends it once more"
        )
    file = said.get("param")
    hint = f"look at {file}: `anydpo lint FILE -p {service.provider}`" if file else None
    return Error(code=code, message=message, hint=hint)


def _notes(job: Mapping[str, Any], service: Service) -> tuple[str, ...]:
    made = []
    if service.state(job.get("status")) is None:
        made.append(f"the status {job.get('status')!r} is not known; it is taken for running")
    if (day := service.shutdown(str(job.get("model")))) is not None:
        made.append(f"{job.get('fine_tuned_model') or job.get('model')} stops answering on {day}")
    return tuple(made)
