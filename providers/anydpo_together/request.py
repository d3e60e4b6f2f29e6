"""From a job to Together's create requests: losses, adapters, schedules and options in its words."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from anydpo.adapter import Advice, Rule, Wishes, number, sizes, text, truth
from anydpo.errors import Problem
from anydpo.job import LoRA, PreferenceJob
from anydpo.provider import DataSummary, Plan, Quote, Request
from anydpo.result import Cost

FACTS: Mapping[str, Any] = tomllib.loads((files("anydpo_together") / "together.toml").read_text("utf-8"))
JOBS = "/v1/fine-tunes"
PAIRED = ("sigmoid", "sigmoid_norm")
OWN_ID = re.compile(r"ft-[0-9a-f][0-9a-f-]{5,}(:\d+)?")
SECRETS = {"wandb_key": "WANDB_API_KEY", "hf_api_token": "HF_TOKEN"}  # their places in a body → where they come from
BILLIONS = re.compile(r"(?<![\d.A-Za-z])(\d+(?:\.\d+)?)[bB](?![A-Za-z])")
OPTIONS: dict[str, Rule] = {
    "n_checkpoints": number(least=0, whole=True),
    "n_evals": number(least=0, whole=True),
    "packing": truth,
    "gradient_accumulation_steps": number(least=1, whole=True),
    "min_lr_ratio": number(least=0),
    "scheduler_num_cycles": number(0),
    "early_stopping_min_delta": number(least=0),
    "early_stopping_warmup_evals": number(least=0, whole=True),
    "wandb_project_name": text(),
    "wandb_name": text(),
    "wandb_entity": text(),
    "wandb_base_url": text(),
    "from_hf_model": text(),
    "hf_model_revision": text(),
    "hf_output_repo_name": text(),
}
PLAIN = ("gradient_accumulation_steps", "from_hf_model", "hf_model_revision", "hf_output_repo_name")
WANDB = ("wandb_base_url", "wandb_project_name", "wandb_name", "wandb_entity")
EARLY = ("early_stopping_min_delta", "early_stopping_warmup_evals")
ADVICE = Advice(
    provider="together",
    credentials="set TOGETHER_API_KEY to a valid key",
    not_eligible="the account needs access to fine-tuning and a balance of at least 5 USD",
    retired="choose another model, or another place: `anydpo migrate RUN -p PLACE`",
    safety="leave the named pairs out, or train them on a place that does not screen: local",
    invalid="`GET /v1/fine-tunes/models/limits` has this model's bounds; `anydpo check` shows what is sent",
)


def plan(job: PreferenceJob, data: DataSummary, *, url: str, target: str, sandbox: bool) -> Plan:
    """Return the create requests of a job, one a stage, and what stands against it."""
    wishes = Wishes(job)
    options = dict(job.options.get("together", {}))
    for name in ("wandb_api_key", "hf_api_token"):  # a job file is no place for them
        if options.pop(name, None) is not None:
            variable = SECRETS.get(name, "WANDB_API_KEY")
            wishes.refuse(f"options.together.{name}", "secret", "does not belong in a job", f"set {variable}")
    wishes.options("together", options, OPTIONS)
    start = _start(job, wishes)
    method = training_method(job, wishes)
    stages: tuple[Literal["sft", "dpo"], ...] = ("sft", "dpo") if job.sft is not None else ("dpo",)
    creates = []
    for at, stage in enumerate(stages):
        begins = start if at == 0 else {"from_checkpoint": "${sft_model}"}
        told = method if stage == "dpo" else {"method": "sft", "train_on_inputs": "auto"}
        creates.append(_create(job, data, stage, begins, told, options))
    _values(job, data, wishes, options)
    effective = {**effective_of(creates[-1]), **({"sft": {"epochs": job.sft.epochs}} if job.sft else {})}
    return Plan(
        place="together",
        route_reason="the only route",
        target=target,
        model=job.model_for("together") if job.start_from is None else job.start_from,
        format="together",
        problems=tuple(wishes.problems),
        warnings=(*job.method.method.advice(), *_warnings(job, options, creates[-1])),
        ignored=tuple(wishes.ignored),
        effective=effective,
        requests=(*_uploads(url, data, stages), *(Request(method="POST", url=f"{url}{JOBS}", body=b) for b in creates)),
        sandbox=sandbox,
        stages=stages,
        filled=_sizes(job, data, creates[-1]),
    )


def _start(job: PreferenceJob, wishes: Wishes) -> dict[str, Any]:
    """Return what a job starts from: a model, or what an earlier job left."""
    if job.start_from is not None:
        checkpoint, reason = checkpoint_of(job.start_from)
        if reason is not None:
            wishes.problems.append(reason)
        return {"from_checkpoint": checkpoint}
    model = job.model_for("together")
    if model is None:
        wishes.refuse("model", "no_model_here", "the table names no model for together", "add default = …")
    elif "/" not in model:
        hint = f'a name such as Qwen/Qwen3-8B: model = {{together = "Qwen/Qwen3-8B", default = "{model}"}}'
        wishes.refuse("model", "no_model_here", f"{model!r} is no model of together", hint)
    return {"model": model}


def checkpoint_of(start_from: str) -> tuple[str | None, Problem | None]:
    """Return the checkpoint in the service's words, or the problem: its job ids and tuned models, with `:STEP`."""
    name, at, step = start_from.partition("@")
    given = f"{name}:{step}" if at else start_from
    a_path = given.startswith((".", "/", "~")) or Path(given).exists()
    if OWN_ID.fullmatch(given) or ("/" in given and not a_path):
        return given, None
    hint = "a run, a job (ft-…) or a tuned model of together; `anydpo fetch RUN -o DIR` brings weights to other places"
    return None, Problem("start_from", "other_place", f"{start_from!r} is nothing that together has", hint)


def training_method(job: PreferenceJob, wishes: Wishes) -> dict[str, Any]:
    """Return the loss in the service's words; a sum that it has no words for is a problem."""
    method = job.method
    losses = (method.loss_type,) if isinstance(method.loss_type, str) else method.loss_type
    made: dict[str, Any] = {"method": "dpo", "dpo_beta": method.beta}
    weights = dict(zip(losses, method.loss_weights or (1.0,) * len(losses), strict=False))
    if losses == ("simpo",):
        return made | {
            "dpo_normalize_logratios_by_length": True,
            "dpo_reference_free": True,
            "simpo_gamma": method.simpo_gamma,
        }
    paired = [name for name in losses if name in PAIRED]
    if len(paired) != 1 or set(losses) - {*PAIRED, "sft"}:
        if set(losses) <= {*PAIRED, "sft", "simpo"}:  # else the core has named the loss that there is not
            hint = "sigmoid or sigmoid_norm, either with sft; or simpo alone"
            wishes.refuse("method.loss_type", "no_such_sum", f"no sum of {', '.join(losses)} here", hint)
        return made
    made["dpo_normalize_logratios_by_length"] = paired[0] == "sigmoid_norm"
    made["dpo_reference_free"] = method.reference_free
    if weights[paired[0]] != 1:
        wishes.refuse("method.loss_weights", "not_honoured", f"{paired[0]} has the weight 1 here; weigh sft against it")
    if "sft" in losses:
        made["rpo_alpha"] = weights["sft"]
    return made


def _create(
    job: PreferenceJob,
    data: DataSummary,
    stage: str,
    start: Mapping[str, Any],
    method: Mapping[str, Any],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the create body of a stage in the order in which the SDK sends it; what is not set is absent."""
    held_out = stage == "dpo" and data.validation_pairs is not None
    sft = job.sft if stage == "sft" else None
    rate = sft.learning_rate if sft else job.learning_rate
    evaluations = _evaluations(job, data, options) if held_out else 0
    body: dict[str, Any] = {
        "training_file": "${training_file}" if stage == "dpo" else "${sft_file}",
        "validation_file": "${validation_file}" if held_out else "",
        "packing": options.get("packing", True),
        "max_seq_length": sft.max_length or job.max_length if sft else job.max_length,
        **start,
        "n_epochs": sft.epochs if sft else job.epochs,
        "learning_rate": FACTS["limits"]["learning_rate"] if rate in ("auto", None) else rate,
        "lr_scheduler": _schedule(job, options),
        "warmup_ratio": job.warmup_ratio,
        "max_grad_norm": job.max_grad_norm,
        "weight_decay": job.weight_decay,
        "n_checkpoints": options.get("n_checkpoints", _times(job, data, job.save_steps) if stage == "dpo" else 1),
        "n_evals": evaluations,
        "batch_size": batch_size(job),
        "early_stopping_enabled": stage == "dpo" and job.early_stopping_patience is not None,
        "training_method": dict(method),
        "training_type": _training_type(job),
        "suffix": "${key}",
        "random_seed": job.seed,
    }
    if body["early_stopping_enabled"]:
        body |= {"early_stopping_patience": job.early_stopping_patience, **_given(options, EARLY)}
    body |= _given(options, PLAIN if stage == "dpo" else PLAIN[:3])
    if wandb := _given(options, WANDB):
        body |= {"wandb_key": "${wandb_key}", **wandb}
    if "hf_output_repo_name" in body or ("from_hf_model" in body and os.environ.get("HF_TOKEN")):
        body["hf_api_token"] = "${hf_api_token}"  # noqa: S105 - the name of its place
    return {name: value for name, value in body.items() if value is not None}


def _given(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


def _evaluations(job: PreferenceJob, data: DataSummary, options: Mapping[str, Any]) -> int:
    """Return how often the held-out pairs are measured: as asked, and as often as early stopping needs."""
    if "n_evals" in options:
        return int(options["n_evals"])
    asked = _times(job, data, job.eval_steps)
    if job.early_stopping_patience is None:
        return asked
    return max(asked, job.early_stopping_patience + int(options.get("early_stopping_warmup_evals", 1)) + 1)


def _times(job: PreferenceJob, data: DataSummary, every: int | None) -> int:
    """Return how often something happens in training that is wanted every so many steps; the service takes counts."""
    steps = math.ceil(data.train_pairs / batch_size(job)) * job.epochs
    return max(1, steps // every) if every else 1


def batch_size(job: PreferenceJob) -> int:
    """Return the batch that is sent: ours, or where nobody asked for it the most that the model takes."""
    most = _known(job).get("batch_size", job.batch_size)
    return job.batch_size if "batch_size" in job.model_fields_set else min(job.batch_size, most)


def _known(job: PreferenceJob) -> Mapping[str, Any]:
    known: Mapping[str, Any] = FACTS["models"].get(job.model_for("together") or "", {})
    return known


def _schedule(job: PreferenceJob, options: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {"min_lr_ratio": float(options.get("min_lr_ratio", 0.0))}
    kind = "cosine" if job.lr_scheduler_type == "cosine" else "linear"
    if kind == "cosine":
        arguments["num_cycles"] = float(options.get("scheduler_num_cycles", 0.5))
    return {"lr_scheduler_type": kind, "lr_scheduler_args": arguments}


def _training_type(job: PreferenceJob) -> dict[str, Any] | None:
    """Return the adapter; None leaves it to the service, which trains LoRA or goes on as the parent was trained."""
    if isinstance(job.adapter, LoRA):
        modules = job.adapter.target_modules
        return {
            "type": "Lora",
            "lora_r": job.adapter.r,
            "lora_alpha": int(job.adapter.lora_alpha),
            "lora_dropout": job.adapter.lora_dropout,
            "lora_trainable_modules": modules if isinstance(modules, str) else ",".join(modules),
        }
    return {"type": "Full"} if job.adapter == "full" else None


def _values(job: PreferenceJob, data: DataSummary, wishes: Wishes, options: Mapping[str, Any]) -> None:
    """Check the values that have bounds here."""
    if job.learning_rate == 0 or (job.sft is not None and job.sft.learning_rate == 0):
        wishes.refuse("learning_rate", "out_of_range", "is 0, which the service silently takes for 1e-05")
    if job.lr_scheduler_type not in ("linear", "cosine"):
        wishes.unmet("lr_scheduler_type", f"no {job.lr_scheduler_type} here; there is linear, cosine")
    if isinstance(job.adapter, LoRA) and job.adapter.lora_alpha != int(job.adapter.lora_alpha):
        wishes.refuse(
            "adapter.lora_alpha", "out_of_range", f"is {job.adapter.lora_alpha:g}, a whole number is needed here"
        )
    if job.early_stopping_patience is not None and data.validation_pairs is None:
        wishes.refuse(
            "early_stopping_patience", "no_validation", "early stopping needs held-out pairs", "set validation"
        )
    for field in ("batch_size", "max_length"):
        most, asked = _known(job).get(field), getattr(job, field)
        if most is not None and field in job.model_fields_set and asked is not None and asked > most:
            wishes.refuse(field, "out_of_range", f"is {asked}, at most {most} for this model ({FACTS['date']})")
    for name, variable in SECRETS.items():
        wanted = any(option in options for option in (WANDB if name == "wandb_key" else ("hf_output_repo_name",)))
        if wanted and not os.environ.get(variable):
            wishes.refuse(f"options.together.{name}", "no_credential", f"{variable} is not set", f"export {variable}=…")


def _warnings(job: PreferenceJob, options: Mapping[str, Any], create: Mapping[str, Any]) -> list[str]:
    made = []
    low, high = FACTS["limits"]["beta"]
    if job.method.loss_type == "sigmoid" and not low <= job.method.beta <= high:
        made.append(f"beta {job.method.beta:g} is outside of {low:g} to {high:g}, and the service does not check it")
    if job.learning_rate == "auto":
        made.append(f"the learning rate is the service's default, {FACTS['limits']['learning_rate']:g}")
    if create["batch_size"] != job.batch_size:
        made.append(f"the batch is {create['batch_size']}, the most that this model takes ({FACTS['date']})")
    made += [
        f"{field}: the service takes a count, {create[count]}, and spreads it over the training"
        for field, count in (("eval_steps", "n_evals"), ("save_steps", "n_checkpoints"))
        if getattr(job, field) is not None
    ]
    if options.get("packing", True):
        made.append("pairs may be packed into one sequence, so a batch can hold more of them than its size says")
    if "rpo_alpha" in create["training_method"]:
        made.append("how the service averages the sft term over tokens is not documented")
    return made


def effective_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a create body, or the job that was made of it, in our words."""
    method, schedule = body.get("training_method") or {}, body.get("lr_scheduler") or {}
    kind = body.get("training_type") or {}
    made: dict[str, Any] = {
        "epochs": body.get("n_epochs"),
        "learning_rate": body.get("learning_rate"),
        "lr_scheduler_type": schedule.get("lr_scheduler_type"),
        "warmup_ratio": body.get("warmup_ratio"),
        "weight_decay": body.get("weight_decay"),
        "max_grad_norm": body.get("max_grad_norm"),
        "batch_size": body.get("batch_size"),
        "max_length": body.get("max_seq_length"),
        "seed": body.get("random_seed"),
        "adapter": {"Lora": "lora", "Full": "full"}.get(str(kind.get("type"))),
    }
    made = {name: value for name, value in made.items() if value is not None}
    if kind.get("type") == "Lora":
        theirs = {
            "r": "lora_r",
            "lora_alpha": "lora_alpha",
            "lora_dropout": "lora_dropout",
            "target_modules": "lora_trainable_modules",
        }
        made["adapter"] = {ours: kind[name] for ours, name in theirs.items() if kind.get(name) is not None}
    if method.get("method") == "dpo":
        made["method"] = _loss(method)
    return made


def _loss(method: Mapping[str, Any]) -> dict[str, Any]:
    beta = method.get("dpo_beta")
    reference_free, normal = (
        bool(method.get("dpo_reference_free")),
        bool(method.get("dpo_normalize_logratios_by_length")),
    )
    if method.get("simpo_gamma") is not None and reference_free and normal:
        return {"loss_type": "simpo", "beta": beta, "simpo_gamma": method["simpo_gamma"]}
    name = "sigmoid_norm" if normal else "sigmoid"
    made: dict[str, Any] = {"loss_type": name, "beta": beta, "reference_free": reference_free}
    if method.get("rpo_alpha"):
        made |= {"loss_type": [name, "sft"], "loss_weights": [1.0, method["rpo_alpha"]]}
    return made


def _uploads(url: str, data: DataSummary, stages: Sequence[str]) -> list[Request]:
    names = ["training_file", *(["validation_file"] if data.validation_pairs is not None else [])]
    names += ["sft_file"] if "sft" in stages else []
    return [
        Request(
            method="POST",
            url=f"{url}/v1/files",
            body={
                "purpose": "fine-tune",
                "file_name": f"${{{name}_name}}",
                "file_type": "jsonl",
                "checksum": f"${{{name}_hash}}",
            },
        )
        for name in names
    ]


def _sizes(job: PreferenceJob, data: DataSummary, create: Mapping[str, Any]) -> dict[str, str]:
    """Return the billed tokens of each stage, and how they were counted: epochs over the one file, evaluations over the
    other; without packing every row costs as much as the longest may.
    """
    once = sizes(data)
    dpo, how = once.pairs * job.epochs + once.held_out * int(create["n_evals"]), once.how
    if not create["packing"] and job.max_length is not None:
        dpo, how = data.train_pairs * job.max_length * job.epochs, "every row is billed at max_length without packing"
    sft = once.chats * job.sft.epochs if job.sft else 0
    return {"tokens": str(dpo), "sft_tokens": str(sft), "counted": how}


def quote(plan: Plan, stages: Sequence[str] | None = None) -> Quote | None:
    """Return what the dated price table makes of a plan's stages, or of some of them.

    None for a model whose size or bracket is not known.
    """
    found = BILLIONS.findall(plan.model or "")
    size = float(found[0]) if found else None
    prices = FACTS["prices"]
    bracket = next((b for b in prices["brackets"] if size is not None and size <= b["billions"]), None)
    if bracket is None:
        return None
    kind = "full" if plan.effective.get("adapter") == "full" else "lora"
    counted = stages if stages is not None else plan.stages
    dpo = int(plan.filled["tokens"]) if "dpo" in counted else 0
    sft = int(plan.filled["sft_tokens"]) if "sft" in counted else 0
    amount = (dpo * bracket[kind]["dpo"] + sft * bracket[kind]["sft"]) / 1e6
    rate = f"{bracket[kind]['dpo']:g} USD per million tokens up to {bracket['billions']} billion parameters, {kind}"
    return Quote(
        cost=Cost(amount=round(amount, 4), basis=f"price list {prices['date']}"),
        tokens=dpo + sft,
        assumptions=(
            f"{rate} ({prices['source']})",
            plan.filled["counted"],
            "the service's own estimate comes with the uploaded files",
        ),
    )
