"""The route `training`: a job for our own trainer in a Hugging Face training image."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydpo.adapter import Wishes
from anydpo.errors import JobInvalid
from anydpo.job import PreferenceJob
from anydpo.own_trainer import FIELDS as TRAINER_FIELDS
from anydpo.own_trainer import batch_notes, in_4bit, trainer_config
from anydpo.provider import DataSummary, Plan, Quote, Request
from anydpo.result import METRICS, TRAINING_ONLY, Cost
from anydpo_sagemaker import limits, source
from anydpo_sagemaker.settings import (
    FACTS,
    OPTIONS,
    SERVERLESS,
    Where,
    channel,
    common,
    create_request,
    domain,
    listed,
    uploads,
)
from anydpo_trainer.config import Config

PLACE = "sagemaker/training"
FIELDS = TRAINER_FIELDS
ARCHIVE = "anydpo.zip"
NUMBER = r"([-+0-9.eE]+)"
IN_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/\S+")
OF_THE_PLACE = frozenset({"train_data", "validation_data", "start_from", "chat_template"})
RULES = FACTS["training"]


def plan(job: PreferenceJob, data: DataSummary, place: Where, wishes: Wishes, reason: str) -> Plan:
    """Return the create request of a training job, and what stands against it."""
    options, model = job.options.get("sagemaker", {}), job.model_for(PLACE)
    if model is None:
        wishes.refuse("model", "no_model_here", "the table names no model for sagemaker/training", "add default = …")
    elif Path(model).exists() or model.startswith((".", "/", "~")) or model.endswith(".gguf"):
        hint = "a hub id such as Qwen/Qwen3-8B, or tiny"
        wishes.refuse("model", "no_model_here", f"{model!r} lies on this machine and not in the job's container", hint)
    if job.start_from is not None and not IN_S3.fullmatch(job.start_from):
        hint = "a run of sagemaker/training, or s3://BUCKET/… with a folder of weights or a model.tar.gz"
        wishes.refuse("start_from", "other_place", f"{job.start_from!r} is nothing to go on from here", hint)
    template = job.chat_template if job.chat_template not in ("auto", "none") else None
    config: dict[str, Any] = {}
    try:
        config = trainer_config(
            job,
            model or "tiny",
            place=PLACE,
            has_validation=data.validation_pairs is not None,
            start_from=job.start_from,
            chat_template=template or job.chat_template,
            in_4bit=in_4bit(job, wishes, _without_gpu(options)),
            ours=OPTIONS,
        )
        code = source.archive(template).sha256
    except JobInvalid as exc:
        wishes.problems += [p for p in exc.problems if not p.field.startswith("options.sagemaker.")]
        code = source.archive().sha256
    except OSError as exc:
        wishes.refuse("chat_template", "no_file", str(exc))
        code = source.archive().sha256
    body = _create(job, data, place, config, code)
    _machines(job, options, config, wishes)
    wishes.problems += limits.problems("CreateTrainingJob", body)
    return Plan(
        place=PLACE,
        route_reason=reason,
        target=place.target,
        model=model,
        format="canonical",
        problems=tuple(wishes.problems),
        warnings=(*job.method.method.advice(), *batch_notes(job, data.train_pairs), *_warnings(options)),
        ignored=tuple(wishes.ignored),
        effective={name: value for name, value in config.items() if name not in ("train_data", "validation_data")},
        requests=(
            Request(method="PUT", url=f"{place.store}/code/{code}/{ARCHIVE}"),
            *uploads(place, data, sft=job.sft is not None and job.sft.data != "chosen"),
            create_request(place, body),
        ),
        sandbox=place.sandbox,
        filled={
            "store": place.store,
            "checkpoints_below": f"{place.store}/checkpoints",
            **({"template": str(Path(template).absolute())} if template else {}),
            **({"price_per_hour_usd": str(options["price_per_hour_usd"])} if "price_per_hour_usd" in options else {}),
        },
    )


def hyperparameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what differs from the trainer's defaults under dotted names, each value as JSON."""
    plain = Config(model="", train_data="").to_dict()
    made: dict[str, str] = {}
    for name, value in config.items():
        if name in OF_THE_PLACE and not (name == "chat_template" and value == "none"):
            continue
        if not isinstance(value, Mapping):
            if value != plain[name]:
                made[name] = json.dumps(value)
            continue
        usual = plain[name] if name == "method" else {}
        for inner, item in value.items():
            if item is not None and (name != "method" or item != usual[inner]) and not str(item).startswith("${"):
                made[f"{name}.{inner}"] = json.dumps(item)
    return made


def definitions() -> list[dict[str, str]]:
    """Return how SageMaker finds the metrics in the log, for its console, its charts and its tuner."""
    names = [f"train/{name}" for name in METRICS]
    names += [f"eval/{name}" for name in METRICS if name not in TRAINING_ONLY]
    return [{"Name": name, "Regex": f'"{name}": {NUMBER}'} for name in names]


def image_uri(region: str) -> str:
    """Return the Hugging Face training image of a region."""
    image = FACTS["image"]
    account = image["accounts"].get(region, image["account"])
    return f"{account}.dkr.ecr.{region}.{domain(region)}/{image['repository']}:{image['tag']}"


def quote(plan: Plan) -> Quote | None:
    """Return the most that a job can cost at the user's own price, None where there is none: nobody publishes one."""
    if "price_per_hour_usd" not in plan.filled:
        return None
    body = plan.requests[-1].body
    hours, count = body["StoppingCondition"]["MaxRuntimeInSeconds"] / 3600, _count(body["ResourceConfig"])
    amount = float(plan.filled["price_per_hour_usd"]) * hours * count
    said = f"{count} instance(s) for the whole of max_runtime_seconds ({hours:g} h); a shorter run costs less"
    return Quote(cost=Cost(amount=round(amount, 4), basis="options.sagemaker.price_per_hour_usd"), assumptions=(said,))


def limited(plan: Plan, usd: float) -> Plan:
    """Return the plan of a job that SageMaker stops before its machines have cost so much, at the user's own price."""
    if "price_per_hour_usd" not in plan.filled:
        return plan
    create = plan.requests[-1]
    stopping = create.body["StoppingCondition"]
    most = int(3600 * usd / (float(plan.filled["price_per_hour_usd"]) * _count(create.body["ResourceConfig"])))
    if most >= stopping["MaxRuntimeInSeconds"]:
        return plan
    body = {**create.body, "StoppingCondition": {**stopping, "MaxRuntimeInSeconds": max(1, most)}}
    said = f"the cap of {usd:.2f} USD ends the job after {max(1, most):,} s"
    changed = {"requests": (*plan.requests[:-1], create.model_copy(update={"body": body}))}
    return plan.model_copy(update={**changed, "warnings": (*plan.warnings, said)})


def _count(resources: Mapping[str, Any]) -> int:
    found = resources.get("InstanceCount") or resources["InstancePreferences"][0]["InstanceCount"]
    return int(found)


def _create(
    job: PreferenceJob, data: DataSummary, place: Where, config: Mapping[str, Any], code: str
) -> dict[str, Any]:
    options = job.options.get("sagemaker", {})
    channels = [channel("code", f"{place.store}/code/{code}/"), channel("train", "${training_file}")]
    if data.validation_pairs is not None:
        channels.append(channel("validation", "${validation_file}"))
    if job.sft is not None and job.sft.data != "chosen":
        channels.append(channel("sft", "${sft_file}"))
    if job.start_from is not None and IN_S3.fullmatch(job.start_from):
        whole = job.start_from if job.start_from.endswith((".tar.gz", "/")) else f"{job.start_from}/"
        channels.append(channel("start_from", whole))
    longest = options.get("max_runtime_seconds", RULES["max_runtime_seconds"])
    body = {
        **common(job, place, "output"),
        "AlgorithmSpecification": {
            "TrainingImage": options.get("image_uri", image_uri(place.region)),
            "TrainingInputMode": "File",
            "MetricDefinitions": definitions(),
            "ContainerEntrypoint": ["python3"],
            "ContainerArguments": [f"/opt/ml/input/data/code/{ARCHIVE}"],
        },
        "HyperParameters": hyperparameters(config),
        "InputDataConfig": channels,
        "ResourceConfig": _resources(options),
        "StoppingCondition": {"MaxRuntimeInSeconds": longest},
        "CheckpointConfig": {"S3Uri": "${checkpoints}"},
    }
    if options.get("spot"):
        wait = options.get("max_wait_seconds", longest + RULES["spot_wait_seconds"])
        body |= {"EnableManagedSpotTraining": True}
        body["StoppingCondition"] = {"MaxRuntimeInSeconds": longest, "MaxWaitTimeInSeconds": wait}
    return body


def _resources(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the machines: one type, or types in the order of preference."""
    types, count = listed(options.get("instance_type", RULES["instance_type"])), options.get("instance_count", 1)
    made: dict[str, Any] = {"VolumeSizeInGB": options.get("volume_size_gb", RULES["volume_size_gb"])}
    if len(types) == 1:
        made |= {"InstanceType": types[0], "InstanceCount": count}
    else:
        made["InstancePreferences"] = [{"InstanceType": name, "InstanceCount": count} for name in types]
    if "keep_alive_seconds" in options:
        made["KeepAlivePeriodInSeconds"] = options["keep_alive_seconds"]
    return made


def _machines(job: PreferenceJob, options: Mapping[str, Any], config: Mapping[str, Any], wishes: Wishes) -> None:
    """Check what cannot be combined."""
    several = options.get("instance_count", 1) > 1
    if options.get("spot") and len(listed(options.get("instance_type", ""))) > 1:
        hint = "one instance_type with spot, or a list without"
        wishes.refuse("options.sagemaker.spot", "no_such_sum", "spot excludes a list of instance types", hint)
    longest = options.get("max_runtime_seconds", RULES["max_runtime_seconds"])
    if options.get("spot") and options.get("max_wait_seconds", longest) < longest:
        message = f"is below max_runtime_seconds, which is {longest}"
        wishes.refuse("options.sagemaker.max_wait_seconds", "out_of_range", message)
    if several and job.early_stopping_patience is not None:
        message = "several instances have no disk in common, and the best checkpoint lies on the first"
        wishes.refuse("early_stopping_patience", "no_shared_disk", message, "instance_count = 1")
    if several and job.sft is not None and config.get("adapter"):
        message = "several instances have no disk in common, and the adapter of the SFT stage lies on the first"
        wishes.refuse("sft", "no_shared_disk", message, 'instance_count = 1, or adapter = "full"')


def _without_gpu(options: Mapping[str, Any]) -> str | None:
    """Return the first type of instance that has no NVIDIA GPU, by its family."""
    types = listed(options.get("instance_type", RULES["instance_type"]))
    return next((name for name in types if not str(name).startswith(("ml.g", "ml.p"))), None)


def _warnings(options: Mapping[str, Any]) -> list[str]:
    made = [] if "instance_type" in options else [f"runs on {RULES['instance_type']}: no instance_type is set"]
    if others := sorted(set(options) & set(SERVERLESS)):
        made.append(f"{', '.join(others)} has no effect on sagemaker/training")
    return made
