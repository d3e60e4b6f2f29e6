"""A fine-tuning job that another tool made, or the body of its create request, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anydpo.provider import Described
from anydpo_openai.service import Service

HYPERPARAMETERS = {"n_epochs": "epochs", "batch_size": "batch_size", "beta": "method.beta"}
# What an answer has beside what was asked for
ANSWERED = frozenset(
    "id object created_at status fine_tuned_model finished_at estimated_finish error organization_id result_files"
    " trained_tokens user_provided_suffix hyperparameters usage_metrics shared_with_openai eval_id".split()
)


def is_body(body: Mapping[str, Any]) -> bool:
    """Say whether this is the body of a create request of DPO, or a job."""
    method = body.get("method")
    return isinstance(method, Mapping) and "training_file" in body and method.get("type") in ("dpo", "supervised")


def described(body: Mapping[str, Any], service: Service) -> Described:
    """Return the job that a body stands for; files keep the service's own ids."""
    method = body.get("method") or {}
    kind = str(method.get("type"))
    lost: dict[str, str] = {}
    job: dict[str, Any] = {}
    if body.get("model"):
        own = service.own_models in str(body["model"])
        job["start_from" if own else "model"] = body["model"]
        if own:
            job["model"] = str(body["model"]).removeprefix("ft:").partition(":")[0].partition(".ft-")[0]
    for name, ours in (("training_file", "data"), ("validation_file", "validation")):
        if body.get(name):
            job[ours] = body[name]
            lost[name] = f"{body[name]} lies at the service: name your own file as {ours}"
    if kind != "dpo":
        lost["method.type"] = f"{kind} trains no pairs"
    told = (method.get(kind) or {}).get("hyperparameters") or {}
    options: dict[str, Any] = {}
    for name, value in told.items():
        path = HYPERPARAMETERS.get(name)
        if value in (None, "auto"):
            continue
        if name == "learning_rate_multiplier":
            options[name] = value
        elif path is None:
            lost[f"method.{kind}.hyperparameters.{name}"] = "no equivalent"
        elif path.startswith("method."):
            job.setdefault("method", {})[path.removeprefix("method.")] = value
        else:
            job[path] = value
    if body.get("seed") is not None:
        job["seed"] = body["seed"]
    if suffix := body.get("suffix") or body.get("user_provided_suffix"):
        options["suffix"] = suffix
    if body.get("metadata"):
        options["metadata"] = dict(body["metadata"])
    for name in ("integrations", "trainingType"):
        if body.get(name):
            lost[name] = f"[options.{service.provider}] has it under its own name"
    known = {"model", "training_file", "validation_file", "method", "seed", "suffix", "metadata", "integrations"}
    for name, value in body.items():
        if name not in known | ANSWERED | {"trainingType"} and value not in (None, [], {}):
            lost[name] = "no equivalent"
    if options:
        job["options"] = {service.provider: options}
    called = options.get("suffix") or _suffix_of(body.get("fine_tuned_model"))
    return Described(job=job, lost=lost, place=service.place, name=called, created=body.get("created_at"))


def _suffix_of(tuned: Any) -> str | None:
    """Return the suffix in `ft:BASE:ORGANISATION:SUFFIX:ID`; a job itself does not tell its own."""
    parts = str(tuned or "").split(":")
    return parts[3] or None if len(parts) == 5 and parts[0] == "ft" else None
