"""What happened to a job, in Together's words: events, and metrics as flat points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anydpo.sandbox.clock import iso
from anydpo.sandbox.jobs import Job, Moment
from anydpo.sandbox.wire import digest

WORDS = {
    "validating": "pending",
    "queued": "queued",
    "running": "running",
    "compressing": "compressing",
    "uploading": "uploading",
    "cancelling": "cancel_requested",
    "pausing": "running",
    "paused": "running",
    "resuming": "running",
    "succeeded": "completed",
    "failed": "error",
    "cancelled": "cancelled",
}
TYPES = {  # a moment → (type, message)
    "created": ("job_pending", "Fine tune request created"),
    "validated": ("training_data_download_complete", "Training data downloaded and validated"),
    "started": ("training_start", "Training started"),
    "checkpoint": ("checkpoint_save", "Checkpoint saved"),
    "trained": ("training_complete", "Training completed"),
    "packed": ("model_compression_complete", "Model compression completed"),
    "succeeded": ("job_complete", "Job finished"),
    "failed": ("job_error", "Job failed"),
    "cancel_asked": ("cancel_requested", "Job cancellation requested"),
    "cancelled": ("job_stopped", "Job stopped"),
    "restarted": ("job_restarted", "Job restarted"),
    "refund": ("refund", "The job was refunded"),
    "warning": ("warning", "Warning"),
}


def event(job: Job, moment: Moment, output: str) -> dict[str, Any] | None:
    """Return a moment as a FineTuneEvent, None for one that Together does not tell."""
    if moment.kind not in TYPES:
        return None
    kind, said = TYPES[moment.kind]
    if moment.kind == "failed" and job.failure is not None:
        said = job.failure.message
    if moment.kind == "restarted":
        said = f"Job restarted as {moment.record['successor']}"
    step = int(moment.record.get("step", job.records[-1]["step"] if job.records and moment.kind != "created" else 0))
    return {
        "object": "fine-tune-event",
        "created_at": iso(moment.at),
        "level": "error" if moment.kind == "failed" else "info",
        "message": said,
        "type": kind,
        "param_count": 0,
        "token_count": 0,
        "total_steps": job.task.steps if job.task else 0,
        "wandb_url": "",
        "step": step,
        "checkpoint_path": f"s3://sandbox/finetune/{job.id}/step-{step}" if moment.kind == "checkpoint" else "",
        "model_path": output if moment.kind == "succeeded" else "",
        "training_offset": 0,
        "hash": digest(f"{job.id}{moment.at}{moment.kind}".encode())[:32],
    }


def metrics(job: Job) -> Iterator[tuple[float, dict[str, float]]]:
    """Yield (when, point); the evaluation of a step is a point of its own, as Together has it.

    Names of training points are those of Together's specification; those of an evaluation's rewards are the labels of
    its cookbook's runs, for no source lists the names of DPO's metrics.
    """
    beta = float(job.task.method.get("beta", 0.1)) if job.task else 0.1
    rate = 50.0  # the stand-in model's rate is 50 times the job's
    for moment in list(job.moments):
        record = moment.record
        if moment.kind != "metrics":
            continue
        step = float(record["step"])
        if record.get("train/loss") is not None:
            point = {"train/global_step": step, "train/loss": record["train/loss"]}
            if record.get("train/learning_rate") is not None:
                point["train/learning_rate"] = record["train/learning_rate"] / rate
            if record.get("train/grad_norm") is not None:
                point["train/grad_norm"] = record["train/grad_norm"]
            yield moment.at, point
        if record.get("eval/loss") is not None:
            point = {"train/global_step": step, "eval/loss": record["eval/loss"]}
            if record.get("eval/rewards/accuracies") is not None:
                point["eval/reward/accuracy"] = record["eval/rewards/accuracies"]
                point["eval/approx. KL/chosen"] = record["eval/rewards/chosen"] / beta
                point["eval/approx. KL/rejected"] = record["eval/rewards/rejected"] / beta
            yield moment.at, point


def checkpoint(job: Job, step: int, output: str, *, final: bool) -> dict[str, Any]:
    """Return a FineTuneCheckpoint."""
    return {
        "step": step,
        "created_at": iso(job.updated),
        "path": f"s3://sandbox/finetune/{job.id}/{'final' if final else f'step-{step}'}",
        "checkpoint_type": f"Final Model (step {step})" if final else f"Intermediate (step {step})",
        "checkpoint": "model",
        "object_name": f"{output}{'' if final else f'-step-{step}'}",
    }


def status(job: Job) -> str:
    """Return the job's status word."""
    if job.failure is not None and job.failure.by_user and job.state == "failed":
        return "user_error"
    return "error" if job.facts.get("replaced_by") else WORDS[job.state]
