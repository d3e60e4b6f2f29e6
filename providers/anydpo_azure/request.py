"""From a job to the one request that makes a command job, and what stands against it. Nothing is asked here."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from anydpo import own_trainer
from anydpo.adapter import Rule, Wishes, filled, number, text, truth
from anydpo.errors import JobInvalid, Problem
from anydpo.job import PreferenceJob
from anydpo.provider import DataSummary, Plan, Quote, Request
from anydpo.result import Cost
from anydpo.secrets import NAMES
from anydpo_azure import payload, scope
from anydpo_azure.scope import ARM, Scope
from anydpo_trainer.azureml import CONFIG, TEMPLATE
from anydpo_trainer.config import SMOLLM2, TINY

PLACE = "azure/command"
JOB_API, ASSET_API = "2025-01-01-preview", "2023-04-01"
STORE = "https://${account}.blob.core.windows.net/${container}"
DATA, CODE, RUNS = "anydpo/data", "anydpo/code", "anydpo/runs"  # folders in the datastore's container
FILES = {"train": "${training_file}", "validation": "${validation_file}", "sft": "${sft_file}"}
IN_DATASTORE = r"azureml://datastores/[A-Za-z0-9_]+/paths/\S+"
ASSET = r"azureml:[A-Za-z0-9][-\w.]*:[A-Za-z0-9][-\w.]*"
IN_REGISTRY = r"azureml://registries/[-\w]+/{kind}/[-\w.]+/(versions/[-\w.]+|labels/[-\w]+)"
GIT = ("mlflow.source.git.repoURL", "mlflow.source.git.branch", "mlflow.source.git.commit", "azureml.git.dirty")
GIT_BUILD = ("azureml.git.build_id", "azureml.git.build_uri")
QUIET = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}


@cache
def facts() -> Mapping[str, Any]:
    """Return the data file."""
    return tomllib.loads((files("anydpo_azure") / "azureml.toml").read_text("utf-8"))


def one_of(*words: str) -> Rule:
    """Return the rule of an option that takes one of these words."""
    return lambda value: None if value in words else f"one of {', '.join(words)}"


def environment_name(value: Any) -> str | None:
    """Say what was expected where a value names no environment."""
    patterns = (ASSET, IN_REGISTRY.format(kind="environments"))
    if isinstance(value, str) and any(re.fullmatch(pattern, value) for pattern in patterns):
        return None
    return "azureml:NAME:VERSION or azureml://registries/REGISTRY/environments/NAME/versions/VERSION"


def variables(value: Any) -> str | None:
    """Say what was expected where a value is no table of environment variables, or would show a secret."""
    if isinstance(value, Mapping) and all(
        re.fullmatch(r"[A-Za-z_]\w*", str(name))
        and isinstance(item, str)
        and not str(name).startswith("ANYDPO_")
        and not NAMES.search(str(name))
        for name, item in value.items()
    ):
        return None
    return "a table of texts; no name that begins with ANYDPO_, and no secret: every reader of the workspace sees a job"


OPTIONS: dict[str, Rule] = {
    "compute": text(32, r"[a-zA-Z][-a-zA-Z0-9]{1,30}[a-zA-Z0-9]"),
    "instance_type": text(64, r"(?i:standard)_[A-Za-z0-9]+(_[A-Za-z0-9]+)*"),
    "instance_count": number(least=1, whole=True),
    "environment": environment_name,
    "image": text(512, r"[a-z0-9][\w.\-/:@]*"),
    "datastore": text(255, r"[A-Za-z0-9_]+"),
    "experiment_name": text(255, r"[a-zA-Z0-9][-\w]*"),
    "job_tier": one_of("Spot", "Basic", "Standard", "Premium"),
    "timeout_seconds": number(least=60, whole=True),
    "identity": one_of("managed"),
    "shm_size": text(16, r"\d+[bkmgBKMG]"),
    "environment_variables": variables,
    "git": truth,
    "price_per_hour_usd": number(0),
    **{name: text(90) for name in scope.VARIABLES},
}


def plan(job: PreferenceJob, data: DataSummary, reason: str) -> Plan:
    """Return the requests of a job, uploads first, and what stands against it."""
    wishes = Wishes(job)
    options = job.options.get("azure", {})
    rules = {**OPTIONS, **dict.fromkeys(own_trainer.EXTRA, lambda _: None)}
    wishes.options("azure", options, rules)
    where, warnings = _where(options, wishes)
    _machines(options, wishes)
    model = _model(job, wishes)
    start = _start(job, wishes)
    config = _config(job, data, wishes, model or TINY, start)
    body = _body(job, data, where, options, config, model=model, start=start)
    warnings += [*job.method.method.advice(), *own_trainer.batch_notes(job, data.train_pairs)]
    if "environment" not in options and "image" not in options:
        warnings.append(f"runs in {body['properties']['environmentId']} (pinned {facts()['environment']['date']})")
    if "timeout_seconds" not in options:
        warnings.append("no time limit: machines are billed hourly, options.azure.timeout_seconds ends a run")
    template = "the model's own where it has one, else plain text" if job.chat_template == "auto" else job.chat_template
    return Plan(
        place=PLACE,
        route_reason=reason,
        target=where.target,
        model=model,
        format="canonical",
        problems=tuple(wishes.problems),
        warnings=tuple(warnings),
        ignored=tuple(wishes.ignored),
        effective={**config, "chat_template": template},
        requests=(*_before(options, body), _create(where, body)) if config else (),
        sandbox=where.rehearsal,
        filled={name: str(options[name]) for name in ("price_per_hour_usd",) if name in options},
    )


def quote(plan: Plan) -> Quote | None:
    """Return the most that a job can cost at the user's own price; None without a price, or without an end."""
    limits = plan.requests[-1].body["properties"].get("limits") if plan.requests else None
    if limits is None or "price_per_hour_usd" not in plan.filled:
        return None
    hours, machines = seconds_of(limits["timeout"]) / 3600, _machines_of(plan)
    amount = float(plan.filled["price_per_hour_usd"]) * hours * machines
    said = f"{machines} machine(s) for the whole of timeout_seconds ({hours:g} h); a shorter run costs less"
    return Quote(cost=Cost(amount=round(amount, 4), basis="options.azure.price_per_hour_usd"), assumptions=(said,))


def limited(plan: Plan, usd: float) -> Plan:
    """Return the plan of a job that Azure stops before its machines have cost so much, at the user's own price."""
    if "price_per_hour_usd" not in plan.filled or not plan.requests:
        return plan
    create = plan.requests[-1]
    most = int(3600 * usd / (float(plan.filled["price_per_hour_usd"]) * _machines_of(plan)))
    known = create.body["properties"].get("limits")
    if known is not None and most >= seconds_of(known["timeout"]):
        return plan
    limits = {"jobLimitsType": "Command", "timeout": duration(max(1, most))}
    body = {**create.body, "properties": {**create.body["properties"], "limits": limits}}
    said = f"the cap of {usd:.2f} USD ends the job after {max(1, most):,} s"
    changed = {"requests": (*plan.requests[:-1], create.model_copy(update={"body": body}))}
    return plan.model_copy(update={**changed, "warnings": (*plan.warnings, said)})


def _machines_of(plan: Plan) -> int:
    return int(plan.requests[-1].body["properties"]["resources"]["instanceCount"])


def create_of(plan: Plan, staged: Mapping[str, str], key: str) -> dict[str, Any]:
    """Return the create's body with files and key in their places."""
    body = plan.requests[-1].body
    known = {placeholder[2:-1]: staged[name] for name, placeholder in FILES.items() if name in staged} | {"key": key}
    made: dict[str, Any] = _with_key(filled(body, known), key)
    return made


def datastore_of(plan: Plan) -> str:
    """Return the datastore that a plan's files go to."""
    uri: str = plan.requests[-1].body["properties"]["outputs"]["run"]["uri"]
    return uri.split("/")[3]


def scope_of(plan: Plan) -> Scope:
    """Return the workspace that a plan was made for; raises `JobInvalid` where a part of it was not set then."""
    found = scope.ID.match(plan.requests[-1].url.removeprefix(ARM)) if plan.requests else None
    if found is None or any(found[name] == variable for name, variable in scope.VARIABLES.items()):
        return scope.current()
    return Scope(**{name: found[name] for name in scope.VARIABLES})


def _with_key(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_key(item, key) for name, item in value.items()}
    return value.replace("${key}", key) if isinstance(value, str) else value


def _where(options: Mapping[str, Any], wishes: Wishes) -> tuple[Scope, list[str]]:
    """Return the workspace, with names in capitals for what is not set yet."""
    known = scope.settings()
    for name, variable in scope.VARIABLES.items():
        if name in options and str(options[name]) != known.get(name):
            # a lost answer is looked for without the job at hand
            hint = f"set {variable}, or {name} under [options.azure] in anydpo.toml"
            wishes.refuse(f"options.azure.{name}", "not_in_a_job", "has to be known outside the job too", hint)
    missing = [variable for name, variable in scope.VARIABLES.items() if name not in known]
    wishes.problems += [problem for problem in scope.problems(known) if problem.code != "missing_field"]
    warnings = [f"{', '.join(missing)} is not set yet"] if missing else []
    return Scope(**{name: known.get(name, variable) for name, variable in scope.VARIABLES.items()}), warnings


def _machines(options: Mapping[str, Any], wishes: Wishes) -> None:
    if ("compute" in options) == ("instance_type" in options):
        said = "name one of them: a cluster of the workspace, or a size for serverless compute"
        hint = '[options.azure] compute = "gpu-cluster", or instance_type = "Standard_NC24ads_A100_v4"'
        wishes.refuse("options.azure.compute", "no_compute", said, hint)
    if "environment" in options and "image" in options:
        wishes.refuse("options.azure.image", "twice", "stands beside an environment", "name one of them")
    limits = facts()["limits"]
    for name, most in (("instance_count", limits["nodes"]), ("timeout_seconds", limits["timeout_seconds"])):
        value = options.get(name)
        if isinstance(value, int) and value > most:
            wishes.refuse(f"options.azure.{name}", "out_of_range", f"is {value}, at most {most}")


def _model(job: PreferenceJob, wishes: Wishes) -> str | None:
    model = job.model_for(PLACE)
    if model is None:
        hint = 'model = {azure = "Qwen/Qwen3-8B", default = …}'
        wishes.refuse("model", "no_model_here", "the table names no model for azure", hint)
    elif not _is_asset(model) and model != TINY and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
        hint = "a hub id such as Qwen/Qwen3-8B, azureml:NAME:VERSION, or azureml://datastores/NAME/paths/FOLDER"
        what = "a package of this machine" if model == SMOLLM2 else "nothing that a machine in the cloud can load"
        wishes.refuse("model", "no_model_here", f"{model!r} is {what}", hint)
    return model


def _is_asset(name: str) -> bool:
    return any(re.fullmatch(p, name) for p in (IN_DATASTORE, ASSET, IN_REGISTRY.format(kind="models")))


def _start(job: PreferenceJob, wishes: Wishes) -> str | None:
    """Return the folder in a datastore that a job goes on from, which is what a run of this place leaves."""
    if job.start_from is not None and not re.fullmatch(IN_DATASTORE, job.start_from):
        hint = f"a run of {PLACE}, or azureml://datastores/NAME/paths/FOLDER; other weights have to be uploaded first"
        wishes.refuse("start_from", "other_place", f"{job.start_from!r} is nothing to go on from here", hint)
        return None
    return job.start_from


def _config(job: PreferenceJob, data: DataSummary, wishes: Wishes, model: str, start: str | None) -> dict[str, Any]:
    """Return the trainer's configuration; where models are assets, the placeholders of their inputs stand in it."""
    if job.ref_model is not None and not _is_asset(job.ref_model) and job.ref_model.count("/") != 1:
        wishes.refuse("ref_model", "no_model_here", f"{job.ref_model!r} cannot be loaded there", "a hub id or an asset")
    try:
        config = own_trainer.trainer_config(
            job,
            model,
            place=PLACE,
            has_validation=data.validation_pairs is not None,
            start_from=start,
            chat_template=job.chat_template,
            in_4bit=own_trainer.in_4bit(job, wishes, _without_gpu(job.options.get("azure", {}))),
            ours=OPTIONS,
        )
    except JobInvalid as exc:
        known = {problem.field for problem in wishes.problems}
        wishes.problems += [p for p in exc.problems if p.field not in known] or (
            [] if exc.problems else [Problem("job", "refused", exc.message, exc.hint)]
        )
        return {}
    for name in ("model", "start_from", "ref_model"):
        if config[name] is not None and _is_asset(config[name]):
            config[name] = f"${{{name}}}"
    return config


def _without_gpu(options: Mapping[str, Any]) -> str | None:
    """Return the size that has no NVIDIA GPU, as far as its name says; of a cluster nobody knows it here."""
    size = str(options.get("instance_type", ""))
    return size if size and not size.lower().startswith("standard_n") else None


def _body(
    job: PreferenceJob,
    data: DataSummary,
    where: Scope,
    options: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    model: str | None,
    start: str | None,
) -> dict[str, Any]:
    """Return the body of the create request, in the words of the service's interface."""
    defaults, count = facts()["defaults"], int(options.get("instance_count", 1) or 1)
    store = options.get("datastore", defaults["datastore"])
    inputs = _inputs(job, data, model, start)
    properties: dict[str, Any] = {
        "jobType": "Command",
        "displayName": job.name or "${key}",
        "experimentName": options.get("experiment_name", defaults["experiment_name"]),
        "tags": {**job.tags, "anydpo": "${key}"},
        "properties": {} if options.get("git") else dict.fromkeys((*GIT, *GIT_BUILD), "not sent"),
        "codeId": f"{where.path}/codes/{payload.name()}/versions/1",
        "environmentId": _environment(where, options),
        "command": _command(inputs),
        "environmentVariables": {
            **QUIET,
            **options.get("environment_variables", {}),
            CONFIG: json.dumps(config, sort_keys=True),
            **_template(job.chat_template),
        },
        "inputs": inputs,
        "outputs": {"run": _output(f"azureml://datastores/{store}/paths/{RUNS}/${{key}}/")},
        "resources": {
            "instanceCount": count,
            "properties": {},
            "shmSize": options.get("shm_size", defaults["shm_size"]),
        },
    }
    if "compute" in options:
        properties["computeId"] = f"{where.path}/computes/{options['compute']}"
    else:
        properties["resources"]["instanceType"] = options.get("instance_type")
    if count > 1:
        properties["distribution"] = {"distributionType": "PyTorch", "processCountPerInstance": 1}
    if "timeout_seconds" in options:
        properties["limits"] = {"jobLimitsType": "Command", "timeout": duration(options["timeout_seconds"])}
    if "identity" in options:
        properties["identity"] = {"identityType": "Managed"}
    if "job_tier" in options:
        properties["queueSettings"] = {"jobTier": options["job_tier"]}
    return {"properties": properties}


def duration(seconds: int) -> str:
    """Return seconds as ISO 8601 has them, in the form that the SDK sends."""
    rest, made = int(seconds), ""
    for unit, size in (("D", 86_400), ("H", 3600), ("M", 60), ("S", 1)):
        count, rest = divmod(rest, size)
        made += f"{count}{unit}" if count else ""
        made += "T" if unit == "D" and rest else ""
    return f"P{made}"


def seconds_of(given: str) -> int:
    """Return the seconds of a duration of ours."""
    sizes = {"D": 86_400, "H": 3600, "M": 60, "S": 1}
    return sum(int(count) * sizes[unit] for count, unit in re.findall(r"(\d+)([DHMS])", given))


def _inputs(job: PreferenceJob, data: DataSummary, model: str | None, start: str | None) -> dict[str, Any]:
    made = {"train": _input(FILES["train"])}
    if data.validation_pairs is not None:
        made["validation"] = _input(FILES["validation"])
    if job.sft is not None and job.sft.data != "chosen":
        made["sft"] = _input(FILES["sft"])
    for name, value in (("model", model), ("start_from", start), ("ref_model", job.ref_model)):
        if value is not None and _is_asset(value):
            kind = "uri_folder" if re.fullmatch(IN_DATASTORE, value) else "custom_model"
            made[name] = _input(value, kind)
    return made


def _input(uri: str, kind: str = "uri_file") -> dict[str, Any]:
    return {"jobInputType": kind, "uri": uri, "mode": "ReadOnlyMount"}


def _output(uri: str) -> dict[str, Any]:
    return {"jobOutputType": "uri_folder", "uri": uri, "mode": "ReadWriteMount"}


def _command(inputs: Mapping[str, Any]) -> str:
    names = {"train": "train_file", "validation": "validation_file", "sft": "sft_file"}
    paths = " ".join(f"--path {names.get(name, name)}=${{{{inputs.{name}}}}}" for name in inputs)
    return f"python -m anydpo_trainer.azureml --out ${{{{outputs.run}}}} {paths}"


def _environment(where: Scope, options: Mapping[str, Any]) -> str:
    if image := options.get("image"):
        return f"{where.path}/environments/{image_name(str(image))}/versions/1"
    given: str = options.get("environment", facts()["environment"]["default"])
    if not isinstance(given, str) or given.startswith("azureml://"):
        return str(given)
    _, name, version = (*given.split(":"), "", "")[:3]
    return f"{where.path}/environments/{name}/versions/{version}"


def image_name(image: str) -> str:
    """Return the name of the environment that is this image and nothing else."""
    import hashlib

    return f"anydpo-image-{hashlib.sha256(image.encode()).hexdigest()[:24]}"


def _template(given: str) -> dict[str, str]:
    if given in ("auto", "none"):
        return {}
    try:
        return {TEMPLATE: Path(given).read_text("utf-8")}
    except (OSError, UnicodeDecodeError):
        return {}  # the core says so where it hashes the file


def _before(options: Mapping[str, Any], body: Mapping[str, Any]) -> list[Request]:
    """Return what is sent before the create, each only where it is not there yet."""
    once = {"if-none-match": "*"}
    names = [name for name in FILES if name in body["properties"]["inputs"]]
    made = [Request(method="PUT", url=f"{STORE}/{DATA}/${{{name}_sha}}/{name}.jsonl", body=once) for name in names]
    code = f"{STORE}/{CODE}/{payload.name()}"
    made += [Request(method="PUT", url=f"{code}/{path}", body=once) for path in payload.files()]
    asset = code_asset(code)
    url = f"{ARM}{body['properties']['codeId']}?api-version={ASSET_API}"
    made.append(Request(method="PUT", url=url, body=asset))
    if image := options.get("image"):
        url = f"{ARM}{body['properties']['environmentId']}?api-version={ASSET_API}"
        made.append(Request(method="PUT", url=url, body=image_asset(str(image))))
    return made


def code_asset(uri: str) -> dict[str, Any]:
    """Return the body that makes a folder of blobs a code asset."""
    return {"properties": {"codeUri": uri, "description": "anydpo's trainer", "isAnonymous": False}}


def image_asset(image: str) -> dict[str, Any]:
    """Return the body that makes an image an environment."""
    return {"properties": {"image": image, "osType": "Linux", "isAnonymous": False}}


def _create(where: Scope, body: Mapping[str, Any]) -> Request:
    return Request(method="PUT", url=f"{ARM}{where.job('${key}')}?api-version={JOB_API}", body=dict(body))
