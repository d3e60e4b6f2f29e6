"""The route `serverless`: SageMaker's own DPO of listed models, where it chooses the machines."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from anydpo.adapter import Wishes
from anydpo.errors import JobInvalid, Problem
from anydpo.job import LoRA, PreferenceJob
from anydpo.provider import DataSummary, Plan
from anydpo_sagemaker import limits
from anydpo_sagemaker.settings import (
    FACTS,
    TRAINING,
    Where,
    channel,
    common,
    create_request,
    partition,
    uploads,
)

PLACE = "sagemaker/serverless"
FIELDS = (
    *("epochs", "learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm", "batch_size"),
    *("max_length", "seed", "start_from", "method.beta"),
)
ARN = re.compile(r"arn:[a-z0-9-]+:sagemaker:[\w-]+:(\d{12}|aws):hub-content/[\w-]+/Model/([\w-]+)(/[\d.]+)?")
HUB_ID = re.compile(r"(huggingface|meta|deepseek|openai|google|nova)-[a-z]+-[a-z0-9-]+")
PACKAGE = re.compile(r"arn:aws[a-z-]*:sagemaker:[a-z0-9-]{9,16}:\d{12}:model-package/\S+")
RULES = FACTS["serverless"]
KEYS: dict[str, tuple[str, ...]] = {  # a field of ours → what the families call it
    "learning_rate": ("learning_rate",),
    "batch_size": ("global_batch_size",),
    "lr_scheduler_type": ("lr_scheduler",),
    "warmup_ratio": ("lr_warmup_steps_ratio",),
    "weight_decay": ("weight_decay",),
    "max_grad_norm": ("gradient_clipping_threshold",),
    "max_length": ("dataset_max_len", "max_context_length"),
    "seed": ("seed",),
}


class Base(NamedTuple):
    """A model that the service can tune: its ARN, the family of its recipe, whether its licence has to be accepted."""

    arn: str
    id: str
    family: str
    gated: bool


def base_of(model: str | None, region: str, hub: str = RULES["hub"]) -> Base | None:
    """Return the service's model of that name, id or ARN; None where it has none."""
    ids = {known["id"]: known for known in FACTS["models"].values()}
    if model is None:
        return None
    found = FACTS["models"].get(model) or ids.get(model)
    if found is None and (match := ARN.fullmatch(model)):
        return _of(match[2], model, ids.get(match[2], {}))
    if found is None and HUB_ID.fullmatch(model):
        found = {"id": model}
    if found is None:
        return None
    owner = f"arn:{partition(region)}:sagemaker:{region}:aws"
    return _of(found["id"], f"{owner}:hub-content/{hub}/Model/{found['id']}", found)


def _of(name: str, arn: str, known: Mapping[str, Any]) -> Base:
    guess = "nova" if name.startswith("nova-") else "llmft"
    return Base(arn, name, known.get("family", guess), bool(known.get("gated", guess == "nova")))


def plan(job: PreferenceJob, data: DataSummary, place: Where, wishes: Wishes, reason: str) -> Plan:
    """Return the create request of a serverless job, and what stands against it."""
    options, model = job.options.get("sagemaker", {}), job.model_for(PLACE)
    base = base_of(model, place.region, options.get("hub", RULES["hub"]))
    if base is None:
        near = difflib.get_close_matches(model or "", FACTS["models"], n=1)
        hint = f"did you mean {near[0]}?" if near else "sagemaker/training takes any model of the Hugging Face hub"
        wishes.refuse("model", "no_model_here", f"{model!r} is no model of sagemaker/serverless", hint)
        base = Base("${model}", "", "llmft", gated=False)
    _conditions(job, data, place, base, wishes)
    chosen = hyperparameters(job, base.family, wishes)
    body = _create(job, data, place, base, chosen)
    wishes.problems += limits.problems("CreateTrainingJob", body)
    rows = (
        f"{data.train_pairs:,} pairs: AWS recommends at least {RULES['rows']:,} for DPO (advice, no limit of its API)"
    )
    return Plan(
        place=PLACE,
        route_reason=reason,
        target=place.target,
        model=model,
        format="nova" if base.family == "nova" else "sagemaker_chat",
        problems=tuple(wishes.problems),
        warnings=tuple([rows] if data.train_pairs < RULES["rows"] else []) + _warnings(job, base),
        ignored=tuple(wishes.ignored),
        effective=effective_of(body),
        requests=(*uploads(place, data), create_request(place, body)),
        sandbox=place.sandbox,
        filled={"store": place.store},
    )


def hyperparameters(job: PreferenceJob, family: str, wishes: Wishes) -> dict[str, str]:
    """Return what is set in the words of the model's family; what is not set is the service's own default."""
    known: Mapping[str, Any] = FACTS["hyperparameters"][family]
    made: dict[str, Any] = {"adam_beta": job.method.beta, "max_epochs": job.epochs}
    for field, names in KEYS.items():
        value = getattr(job, field)
        if field not in job.model_fields_set or value in ("auto", None):
            continue
        key = next((name for name in names if name in known), None)
        if key is None:
            wishes.unmet(field, f"has no effect on this family of models ({family})")
        else:
            made[key] = value
    if made.get("gradient_clipping_threshold") == 0:
        made |= {"gradient_clipping": False}
        del made["gradient_clipping_threshold"]
    if isinstance(job.adapter, LoRA):
        for key, value in (("lora_rank", job.adapter.r), ("lora_alpha", job.adapter.lora_alpha)):
            if key in known:
                made[key] = int(value)
        if "lora_dropout" in known:
            made["lora_dropout"] = job.adapter.lora_dropout
        if job.adapter.target_modules != "all-linear":
            wishes.unmet("adapter.target_modules", "the service chooses the modules")
    made |= job.options.get("sagemaker", {}).get("hyperparameters", {})
    for name, value in made.items():
        if name in known and (wrong := refused(known[name], value)):
            wishes.refuse(_ours(name), "out_of_range", f"is {value}, {wrong} for this family of models ({family})")
    return {name: said(value) for name, value in made.items()}


def refused(rule: Mapping[str, Any], value: Any) -> str | None:
    """Say what a value should have been by one entry of a hyperparameter schema; None where it will do."""
    choices = rule.get("enum")
    if choices:
        return None if said(value) in {said(one) for one in choices} else f"one of {', '.join(map(said, choices))}"
    if rule.get("type") not in ("float", "integer"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return "a number"
    if rule["type"] == "integer" and number != int(number):
        return "a whole number"
    low, high = rule.get("min"), rule.get("max")
    if (low is not None and number < float(low)) or (high is not None and number > float(high)):
        return f"expected {said(low)} to {said(high)}"
    return None


def check_today(body: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise `JobInvalid` where the hub's document of today does not take what would be sent."""
    found = []
    for name, value in body["HyperParameters"].items():
        rule = schema.get(name)
        if rule is None:
            near = difflib.get_close_matches(name, schema, n=1)
            hint = f"the document has {near[0]}" if near else f"it has {', '.join(sorted(schema))}"
            hint += "; options.sagemaker.hyperparameters sets any of them"
            found.append(Problem(_ours(name), "unknown_field", f"the hub's document has no {name}", hint))
        elif wrong := refused(rule, value):
            found.append(Problem(_ours(name), "out_of_range", f"is {value}, by the hub's document {wrong}"))
    if found:
        raise JobInvalid.of(found, provider="sagemaker")


def said(value: Any) -> str:
    """Return a value as the service takes it: everything is text, true and false as AWS's own SDK has them."""
    return str(value)


def effective_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a create request, or the job that was made of it, in our words."""
    given, config = body.get("HyperParameters") or {}, body.get("ServerlessJobConfig") or {}
    made: dict[str, Any] = {"adapter": "lora" if config.get("Peft") == "LORA" else "full"}
    if "lora_rank" in given or "lora_alpha" in given:
        names = {"lora_rank": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
        made["adapter"] = {ours: number_of(given[theirs]) for theirs, ours in names.items() if theirs in given}
    for field, names_of in (*KEYS.items(), ("epochs", ("max_epochs",))):
        for name in names_of:
            if name in given:
                made[field] = number_of(given[name])
    if "adam_beta" in given:
        made["method"] = {"loss_type": "sigmoid", "beta": number_of(given["adam_beta"])}
    return made


def number_of(text: str) -> Any:
    """Return what a hyperparameter's text stands for."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
    except ValueError:
        return text


def _ours(name: str) -> str:
    fields = {"adam_beta": "method.beta", "max_epochs": "epochs", "lora_rank": "adapter.r"}
    fields |= {theirs: field for field, names in KEYS.items() for theirs in names}
    fields |= {"lora_alpha": "adapter.lora_alpha", "lora_dropout": "adapter.lora_dropout"}
    return fields.get(name, f"options.sagemaker.hyperparameters.{name}")


def _conditions(job: PreferenceJob, data: DataSummary, place: Where, base: Base, wishes: Wishes) -> None:
    """Check what the service asks for beside hyperparameters."""
    options = job.options.get("sagemaker", {})
    regions = RULES["nova_regions" if base.family == "nova" else "regions"]
    if place.region not in regions:
        hint = f"export AWS_REGION={regions[0]}, or use sagemaker/training"
        message = f"{place.region} has no serverless DPO of this model; there is {', '.join(regions)}"
        wishes.refuse("options.sagemaker", "wrong_region", message, hint)
    if "model_package_group" not in options:
        hint = "an ARN or a name; `aws sagemaker create-model-package-group` makes one"
        message = "the service puts the tuned model into a model package group"
        wishes.refuse("options.sagemaker.model_package_group", "missing_field", message, hint)
    if base.gated and not options.get("accept_eula"):
        hint = "read it in SageMaker Studio or on the model's page, then --accept-eula"
        message = f"{base.id} has a licence (EULA) that has to be accepted"
        wishes.refuse("options.sagemaker.accept_eula", "eula_not_accepted", message, hint)
    if job.start_from is not None and not PACKAGE.fullmatch(job.start_from):
        hint = "the ARN of a model package, such as an earlier serverless job left"
        wishes.refuse("start_from", "other_place", f"{job.start_from!r} is nothing to go on from here", hint)
    least = options.get("min_pairs", RULES["rows"])
    if data.train_pairs < least:
        hint = f"options.sagemaker.min_pairs = {data.train_pairs} goes on all the same; or use sagemaker/training"
        message = f"{data.train_pairs:,} pairs, below the {least:,} that AWS recommends for DPO to work"
        wishes.refuse("data", "too_few_pairs", message, hint)


def _create(job: PreferenceJob, data: DataSummary, place: Where, base: Base, chosen: dict[str, str]) -> dict[str, Any]:
    options = job.options.get("sagemaker", {})
    kind = "Converse" if base.family == "nova" else "S3Prefix"
    channels = [channel("train", "${training_file}", kind)]
    if data.validation_pairs is not None:
        channels.append(channel("validation", "${validation_file}", kind))
    config: dict[str, Any] = {"BaseModelArn": base.arn, "JobType": "FineTuning", "CustomizationTechnique": "DPO"}
    if job.adapter != "full":  # whole weights: the field is left out
        config["Peft"] = "LORA"
    if "accept_eula" in options:
        config["AcceptEula"] = options["accept_eula"]
    if "sequence_length" in options:
        config["SequenceLength"] = options["sequence_length"]
    group = str(options.get("model_package_group", "${model_package_group}"))
    if not group.startswith(("arn:", "${")):
        owner = f"arn:{partition(place.region)}:sagemaker:{place.region}:{place.account}"
        group = f"{owner}:model-package-group/{group}"
    package = {"ModelPackageGroupArn": group}
    if job.start_from is not None:
        package["SourceModelPackageArn"] = job.start_from
    body = {
        **common(job, place, "output"),
        "InputDataConfig": channels,
        "ServerlessJobConfig": config,
        "HyperParameters": chosen,
        "ModelPackageConfig": package,
    }
    if "mlflow_arn" in options:
        body["MlflowConfig"] = {"MlflowResourceArn": options["mlflow_arn"]}
    if "max_runtime_seconds" in options:
        body["StoppingCondition"] = {"MaxRuntimeInSeconds": options["max_runtime_seconds"]}
    return body


def _warnings(job: PreferenceJob, base: Base) -> tuple[str, ...]:
    made = []
    if others := sorted(set(job.options.get("sagemaker", {})) & set(TRAINING)):
        made.append(f"{', '.join(others)} has no effect on sagemaker/serverless")
    if base.id and base.id not in {known["id"] for known in FACTS["models"].values()}:
        made.append(
            f"{base.id} is not in the table of {FACTS['date']}: its hub document is asked before the job is made"
        )
    if job.learning_rate == "auto":
        usual = FACTS["hyperparameters"][base.family]["learning_rate"]["default"]
        made.append(f"the learning rate is the service's default, {usual:g} by its table")
    return tuple(made)
