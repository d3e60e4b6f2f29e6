"""Which of the two routes a bare `sagemaker` means, and why."""

from __future__ import annotations

from anydpo.job import PreferenceJob
from anydpo_sagemaker import serverless

# Fields that every route has to honour or that are not about training
NEUTRAL = frozenset({"model", "data", "validation", "method", "adapter", "name", "tags", "options", "allow_ignored"})


def pick(job: PreferenceJob, region: str) -> tuple[str, str]:
    """Return (route, the sentence that says why): serverless where it can do all that the job asks, else training."""
    model = job.model_for(serverless.PLACE)
    base = serverless.base_of(model, region)
    if base is None:
        return "training", f"sagemaker/training: {model!r} is no model of the serverless route"
    if base.family == "nova":
        return "serverless", f"sagemaker/serverless: {model} is Amazon's own and trained nowhere else"
    if job.start_from is not None and job.start_from.startswith("s3://"):
        return "training", "sagemaker/training: the serverless route goes on from its own model packages only"
    losses = job.method.loss_type
    if losses != "sigmoid":
        return "training", f"sagemaker/training: the serverless route has no {losses}, sigmoid only"
    known = {name.removeprefix("method.") for name in serverless.FIELDS} | {"loss_type"}
    extra = sorted(f"method.{name}" for name in job.method.model_fields_set - known)
    extra += sorted(job.model_fields_set - set(serverless.FIELDS) - NEUTRAL - set(job.allow_ignored))
    if extra:
        return "training", f"sagemaker/training: the serverless route has no {', '.join(extra)}"
    kind = "full" if job.adapter == "full" else "LoRA"
    return "serverless", f"sagemaker/serverless: it has {model}, sigmoid and {kind}, and chooses the machines itself"
