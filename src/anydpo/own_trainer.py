"""A run of our own trainer, wherever it runs: a job to its configuration, its files to events and an outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anydpo.adapter import Wishes
from anydpo.errors import JobInvalid, Problem
from anydpo.job import LoRA, PreferenceJob
from anydpo.provider import Event, Outcome
from anydpo.result import Artifact, Error, Metrics, Model, Stage, State, Usage
from anydpo_trainer import config as rules

# Trainer options without a job field of their own, set under [options.PROVIDER]
EXTRA = (
    *("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "shuffle", "truncation", "device", "save_total_limit"),
    *("prefix_sharing", "processes", "sharding"),
)
PLACEHOLDERS = {"train": "${train_file}", "validation": "${validation_file}", "sft": "${sft_file}"}
METHOD_FIELDS = tuple(f"method.{name}" for name in rules.Method.__dataclass_fields__)
FIELDS = (
    *("ref_model", "epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay"),
    *("max_grad_norm", "batch_size", "micro_batch_size", "max_length", "chat_template", "dtype", "load_in_4bit"),
    *("gradient_checkpointing", "eval_steps", "save_steps", "early_stopping_patience", "sft", "start_from", "seed"),
    *METHOD_FIELDS,
)


def trainer_config(
    job: PreferenceJob,
    model: str,
    *,
    place: str,
    has_validation: bool,
    start_from: str | None,
    chat_template: str,
    in_4bit: bool,
    ours: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the trainer's configuration with placeholders where files will stand; `JobInvalid` if it is refused.

    `ours` are the options of this provider that are not the trainer's.
    """
    provider = place.partition("/")[0]
    made = job.training(place).to_dict()
    made.update(
        model=model,
        train_data=PLACEHOLDERS["train"],
        validation_data=PLACEHOLDERS["validation"] if has_validation else None,
        start_from=start_from,
        chat_template=chat_template,
        adapter=_adapter(job, model),
        load_in_4bit=in_4bit,
    )
    if job.sft is not None and job.sft.data != "chosen":
        made["sft"]["data"] = PLACEHOLDERS["sft"]
    options = job.options.get(provider, {})
    made.update({name: value for name, value in options.items() if name in EXTRA})
    known = (*EXTRA, *ours)
    problems = [
        Problem(f"options.{provider}.{name}", "unknown_field", "no such option", f"known: {', '.join(known)}")
        for name in options
        if name not in known
    ]
    try:
        config = rules.Config.parse(made)
    except rules.ConfigError as exc:
        raise JobInvalid.of([*problems, *(Problem(*p) for p in exc.problems)], provider=provider) from None
    if problems:
        raise JobInvalid.of(problems, provider=provider)
    return {key: value for key, value in config.to_dict().items() if key != "cache_dir"}


def in_4bit(job: PreferenceJob, wishes: Wishes, without_gpu: str | None) -> bool:
    """Say whether the base is to be held in 4 bits; `without_gpu` names a machine that cannot do it."""
    if not job.load_in_4bit or without_gpu is None:
        return job.load_in_4bit
    return not wishes.unmet("load_in_4bit", f"4-bit weights need an NVIDIA GPU, and {without_gpu} has none")


def batch_notes(job: PreferenceJob, train_pairs: int) -> list[str]:
    """Say where a job's steps see less than its data."""
    seen = job.batch_size * (job.max_steps or 0)
    return (
        [f"max_steps x batch_size = {seen:,} pairs, of {train_pairs:,} in the data"] if 0 < seen < train_pairs else []
    )


def events(records: list[dict[str, Any]], lines: list[str]) -> list[Event]:
    """Return metrics records and log lines as events."""
    made = [
        Event(
            kind="metrics",
            time=record.get("time"),
            step=record.get("step"),
            total_steps=record.get("total_steps"),
            metrics={key: value for key, value in record.items() if "/" in key},
        )
        for record in records
    ]
    return [Event(kind="log", text=line) for line in lines] + made


def outcome(
    result: Mapping[str, Any],
    state: State,
    records: list[dict[str, Any]],
    *,
    model: Model,
    artifacts: Iterable[Artifact] = (),
) -> Outcome:
    """Return what a run's `result.json` and metrics say of it; an unfinished run says less."""
    effective = result.get("effective") or {}
    data, error = result.get("data") or {}, result.get("error")
    history = [_history(record) for record in records]
    final = {key: value for record in history for key, value in record.items() if "/" in key}
    steps = [record for record in records if record["stage"] == "dpo"]
    stages = [Stage(stage=name, state=state) for name in dict.fromkeys(record["stage"] for record in records)]
    times = [record.get("time") for record in records]  # another trainer's log has none but the last
    versions = result.get("versions") or {}
    return Outcome(
        state=state,
        model=model,
        effective=effective,
        stages=tuple(stages),
        metrics=Metrics(final=result.get("metrics") or final, history=tuple(history)),
        skipped=data.get("skipped") or {},
        train_pairs=data.get("train_pairs"),
        validation_pairs=data.get("validation_pairs"),
        artifacts=tuple(artifacts),
        usage=Usage(
            train_tokens=sum(int(s.get("tokens") or 0) for s in result.get("stages") or ()) or None,
            epochs=steps[-1]["epoch"] if steps else None,
            steps=steps[-1]["step"] if steps else None,
        ),
        started=times[0] if times else None,
        finished=times[-1] if times and state.done else None,
        train_seconds=result.get("seconds"),
        error=Error(code=error["code"], message=error["message"], hint=error.get("hint")) if error else None,
        warnings=tuple(_left_out(data)),
        sdk=f"torch {versions['torch']}, transformers {versions['transformers']}" if "torch" in versions else None,
    )


def _history(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("final", "total_steps")}


def model_of(result: Mapping[str, Any], tuned: str, weights: str, folder: str) -> Model:
    """Return the trained model and the lines that load it from `folder`."""
    about = result.get("model") or {}
    adapted = bool(about.get("adapter"))
    kind = "AutoPeftModelForCausalLM" if adapted else "AutoModelForCausalLM"
    use = f"from {'peft' if adapted else 'transformers'} import {kind}\nmodel = {kind}.from_pretrained({folder!r})"
    return Model(provider_model=about.get("start"), tuned=tuned, weights=weights, how_to_use=use)


def _left_out(data: Mapping[str, Any]) -> list[str]:
    rows = data.get("skipped_rows") or []
    if not rows:
        return []
    first = "; ".join(f"{row['source']}: {row['reason']}: {row['detail']}" for row in rows[:3])
    return [f"{sum(data['skipped'].values())} pairs were left out by the trainer, the first: {first}"]


def _adapter(job: PreferenceJob, model: str) -> dict[str, Any] | None:
    if isinstance(job.adapter, LoRA):
        made: dict[str, Any] = job.adapter.model_dump(mode="json")
        return made
    # A million weights train faster whole than through an adapter; real models do not fit most machines whole
    best_whole = (model == rules.TINY and not job.load_in_4bit) or job.method.sync_ref_model
    whole = job.adapter == "full" or (job.adapter == "auto" and best_whole)
    return None if whole else LoRA().model_dump(mode="json")
