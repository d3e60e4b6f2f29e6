"""Who a job is: its fingerprint, the key of each attempt, the id of a run. Golden keys in the tests never change.

A fingerprint covers the fields that differ from the defaults of version 1, so that a default may change later
without changing the identity of jobs that were sent before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from anydpo.job import LoRA, PreferenceJob
from anydpo.registry import split_place

NEVER = frozenset({"name", "tags", "data", "validation", "model", "options", "method", "adapter", "sft"})

# The defaults of version 1, for ever. A new field is added here with the value that means "as before".
V1: dict[str, Any] = {
    "ref_model": None,
    "epochs": 1,
    "max_steps": None,
    "learning_rate": "auto",
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.1,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "batch_size": 16,
    "micro_batch_size": None,
    "max_length": None,
    "chat_template": "auto",
    "dtype": "auto",
    "load_in_4bit": False,
    "gradient_checkpointing": False,
    "eval_steps": None,
    "save_steps": None,
    "early_stopping_patience": None,
    "start_from": None,
    "seed": 0,
    "allow_ignored": [],
}
V1_METHOD: dict[str, Any] = {
    "beta": 0.1,
    "loss_type": "sigmoid",
    "loss_weights": None,
    "label_smoothing": 0.0,
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": 0.5,
    "use_weighting": False,
    "ld_alpha": None,
    "discopop_tau": 0.05,
    "reference_free": False,
    "simpo_gamma": 0.5,
    "cpo_alpha": 1.0,
    "precompute_ref_log_probs": None,
    "precompute_ref_batch_size": None,
    "sync_ref_model": False,
    "ref_model_mixup_alpha": 0.6,
    "ref_model_sync_steps": 512,
}
V1_LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32.0, "lora_dropout": 0.0, "target_modules": "all-linear"}
V1_SFT: dict[str, Any] = {"data": "chosen", "epochs": 1, "learning_rate": None, "max_length": None}


def job_fingerprint(
    job: PreferenceJob, place: str, data: str, validation: str | None, contents: dict[str, str] | None = None
) -> str:
    """Return `sha256:` of the job as this place would train it.

    `data` and `validation` are data fingerprints; `contents` gives the hash that stands for a file which a field
    names (`sft.data`, `chat_template`), since paths never count, and what stands for a run in `start_from`.
    """
    contents = contents or {}
    provider, _ = split_place(place)
    fields = job.model_dump(mode="json", exclude={"data", "validation"})
    known: dict[str, Any] = {"data": data, "model": job.named_for(place)}
    if validation is not None:
        known["validation"] = validation
    for name in ("chat_template", "start_from"):
        fields[name] = contents.get(name, fields[name])
    known |= _different({name: value for name, value in fields.items() if name not in NEVER}, V1)
    if method := _different(fields["method"], V1_METHOD):
        known["method"] = method
    if isinstance(job.adapter, LoRA):
        known["adapter"] = {"lora": _different(fields["adapter"], V1_LORA)}
    elif job.adapter != "auto":
        known["adapter"] = job.adapter
    if job.sft is not None:
        known["sft"] = _different({**fields["sft"], "data": contents.get("sft", job.sft.data)}, V1_SFT)
    if options := fields["options"].get(provider):
        known["options"] = options
    return f"sha256:{_hash(known)}"


def tuning_fingerprint(job: str, tuning: dict[str, Any]) -> str:
    """Return `sha256:` of a search over a job by a provider's own tuner."""
    return f"sha256:{_hash([job, tuning])}"


def sweep_id(job: str, place: str, target: str, search: dict[str, Any]) -> str:
    """Return the short id of a sweep; how many trials it may take is no part of it, so that more can be asked for."""
    return _hash([job, split_place(place)[0], target, search])[:10]


def attempt_key(job: str, provider: str, target: str, stage: str, attempt: int) -> str:
    """Return the key under which one attempt is submitted: at most 31 characters, letters, digits and `-`."""
    return f"anydpo-{_hash([job, provider, target, stage, attempt])[:24]}"


def run_id(job: str, place: str, target: str) -> str:
    """Return the short id of a user's request; the same request has the same id everywhere."""
    return _hash([job, split_place(place)[0], target])[:10]


def imported_id(provider: str, target: str, job: str) -> str:
    """Return the short id of a run whose job another tool made."""
    return _hash(["imported", provider, target, job])[:10]


def chain_id(places: Sequence[tuple[str, str, str]]) -> str:
    """Return the short id of a request at several places in order: (fingerprint, place, target) of each."""
    if len(places) == 1:
        return run_id(*places[0])
    return _hash([[job, split_place(place)[0], target] for job, place, target in places])[:10]


def group_id(runs: Sequence[str]) -> str:
    """Return the short id of runs that are asked for together."""
    return f"g-{_hash(sorted(runs))[:8]}"


def _different(fields: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value != defaults[name]}


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
