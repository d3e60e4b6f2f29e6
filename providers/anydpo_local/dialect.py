"""From our words to the trainer's and back: a job to its configuration, its files to an outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydpo.errors import JobInvalid, Problem
from anydpo.job import LoRA, PreferenceJob
from anydpo.provider import Event, Outcome
from anydpo.result import Artifact, Error, Metrics, Model, Stage, State, Usage
from anydpo_trainer import config as rules
from anydpo_trainer.folder import METRICS, PAIRS, RESULT

# Trainer options without a job field of their own, set under [options.local]
EXTRA = (
    *("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "shuffle", "truncation", "device", "save_total_limit"),
    *("prefix_sharing", "processes", "sharding"),
)
OURS = ("python",)
PLACEHOLDERS = {"train": "${train_file}", "validation": "${validation_file}", "sft": "${sft_file}"}


def trainer_config(
    job: PreferenceJob, model: str, *, has_validation: bool, start_from: str | None, in_4bit: bool
) -> dict[str, Any]:
    """Return the trainer's configuration with placeholders where files will stand; `JobInvalid` if it is refused."""
    made = job.training("local").to_dict()
    made.update(
        model=model,
        train_data=PLACEHOLDERS["train"],
        validation_data=PLACEHOLDERS["validation"] if has_validation else None,
        start_from=start_from,
        chat_template=_template(job.chat_template),
        adapter=_adapter(job, model),
        load_in_4bit=in_4bit,
    )
    if job.sft is not None and job.sft.data != "chosen":
        made["sft"]["data"] = PLACEHOLDERS["sft"]
    options = job.options.get("local", {})
    made.update({name: value for name, value in options.items() if name in EXTRA})
    problems = [
        Problem(f"options.local.{name}", "unknown_field", "no such option", f"known: {', '.join((*EXTRA, *OURS))}")
        for name in options
        if name not in EXTRA + OURS
    ]
    try:
        config = rules.Config.parse(made)
    except rules.ConfigError as exc:
        raise JobInvalid.of([*problems, *(_told(p) for p in exc.problems)], provider="local") from None
    if problems:
        raise JobInvalid.of(problems, provider="local")
    return {key: value for key, value in config.to_dict().items() if key != "cache_dir"}


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


def outcome(folder: Path, state: State, records: list[dict[str, Any]]) -> Outcome:
    """Return what a run's folder says of it; the folder of an unfinished run says less."""
    result = _read(folder / RESULT)
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
        model=_model(folder, result) if state is State.SUCCEEDED else Model(provider_model=_start(result)),
        effective=effective,
        stages=tuple(stages),
        metrics=Metrics(final=result.get("metrics") or final, history=tuple(history)),
        skipped=data.get("skipped") or {},
        train_pairs=data.get("train_pairs"),
        validation_pairs=data.get("validation_pairs"),
        artifacts=tuple(_artifacts(folder)),
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


def _model(folder: Path, result: Mapping[str, Any]) -> Model:
    about, weights = result.get("model") or {}, str(folder / "model")
    if about.get("adapter"):
        use = (
            f"from peft import AutoPeftModelForCausalLM\nmodel = AutoPeftModelForCausalLM.from_pretrained({weights!r})"
        )
    else:
        use = (
            f"from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained({weights!r})"
        )
    return Model(provider_model=about.get("start"), tuned=weights, weights=weights, how_to_use=use)


def _start(result: Mapping[str, Any]) -> str | None:
    return (result.get("model") or {}).get("start")


def _artifacts(folder: Path) -> list[Artifact]:
    kinds = {"model": "model", "sft": "sft_model", METRICS: "metrics", PAIRS: "pairs", "trainer.log": "log"}
    return [Artifact(kind=kind, path=str(folder / name)) for name, kind in kinds.items() if (folder / name).exists()]


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


def _template(given: str) -> str:
    return given if given in ("auto", "none") else str(Path(given).absolute())


def _told(problem: rules.Problem) -> Problem:
    return Problem(*problem)


def _read(path: Path) -> dict[str, Any]:
    try:
        made: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return made
