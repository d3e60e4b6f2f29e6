"""A fine-tuning job that another tool made, or the body of its create request, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anydpo.provider import Described
from anydpo_together.dialect import time_of
from anydpo_together.request import OPTIONS, effective_of

TAKEN = frozenset(
    "model from_checkpoint training_file validation_file n_epochs learning_rate lr_scheduler warmup_ratio weight_decay"
    " max_grad_norm batch_size max_seq_length random_seed training_type training_method suffix"
    " early_stopping_patience early_stopping_enabled".split()
)
# What an answer has beside what was asked for
ANSWERED = frozenset(
    "id status created_at updated_at started_at user_id owner_address events token_count param_count total_price"
    " total_steps steps_completed epochs_completed evals_completed queue_depth output_name model_output_name"
    " model_output_path x_model_output_name wandb_url wandb_project_name wandb_name job_id project_id progress"
    " trainingfile_numlines trainingfile_size eval_steps object enable_checkpoints is_output_merged"
    " early_stopped early_stopping_best_step train_on_inputs multimodal_params".split()
)


def is_body(body: Mapping[str, Any]) -> bool:
    """Say whether this is the body of a create request, or a job."""
    method = body.get("training_method")
    return isinstance(method, Mapping) and "training_file" in body and "method" in method


def described(body: Mapping[str, Any]) -> Described:
    """Return the job that a body stands for; files keep the service's own ids."""
    method = dict(body.get("training_method") or {})
    lost: dict[str, str] = {}
    job: dict[str, Any] = {}
    if body.get("model"):
        job["model"] = body["model"]
    if body.get("from_checkpoint"):
        job["start_from"] = body["from_checkpoint"]
    for name, ours in (("training_file", "data"), ("validation_file", "validation")):
        if body.get(name):
            job[ours] = body[name]
            lost[name] = f"{body[name]} lies at the service: name your own file as {ours}"
    if method.get("method") != "dpo":
        lost["training_method.method"] = f"{method.get('method')} trains no pairs"
    job |= {name: value for name, value in effective_of(body).items() if _tells(name, value)}
    if job.get("adapter") == "lora":
        job["adapter"] = {}
    if isinstance(modules := (job.get("adapter") or {}), dict) and isinstance(modules.get("target_modules"), str):
        names = [name.strip() for name in modules["target_modules"].split(",")]
        modules["target_modules"] = names[0] if len(names) == 1 else names
    for part in [part for part in ("method", "adapter") if isinstance(job.get(part), dict)]:
        job[part] = {name: value for name, value in job[part].items() if value not in (None, False)}
    if body.get("early_stopping_enabled") and body.get("early_stopping_patience"):
        lost["early_stopping_patience"] = (
            "counts evaluations of n_evals there: set eval_steps and early_stopping_patience"
        )
    options = {name: body[name] for name in OPTIONS if body.get(name) not in (None, "", 0)}
    for name, value in body.items():
        if name not in TAKEN | ANSWERED | OPTIONS.keys() and value not in (None, "", 0, False, [], {}):
            lost[name] = "no equivalent"
    if options:
        job["options"] = {"together": options}
    return Described(
        job=job, lost=lost, place="together", name=body.get("suffix"), created=time_of(body.get("created_at"))
    )


def _tells(name: str, value: Any) -> bool:
    return value not in ("max", None) and not (name == "max_length" and not value)
