"""What SageMaker refuses of a create request: written from its model and its documents, apart from the adapter's check.

botocore's model has the shapes with their enums, patterns and limits; the service checks all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from anydpo.sandbox.lines import LineError
from anydpo.sandbox.wire import Refusal
from anydpo_sagemaker.sandbox_s3 import ACCOUNT, ROLE, S3, parted

EVERY_TYPE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9]+")


@cache
def model() -> Any:
    """Return botocore's description of the service."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")


def check(given: Mapping[str, Any], s3: S3) -> None:
    """Raise the service's `ValidationException` for the first thing that is wrong."""
    _shape(model().operation_model("CreateTrainingJob").input_shape, given, "")
    if "ServerlessJobConfig" in given:
        config = given["ServerlessJobConfig"]
        if config["JobType"] == "FineTuning" and "ModelPackageConfig" not in given:
            raise invalid("ModelPackageConfig is required for serverless fine-tuning jobs.")
        if _gated(config["BaseModelArn"]) and not config.get("AcceptEula"):
            raise invalid(
                "You must accept the End User License Agreement (EULA) of this model: set AcceptEula to true."
            )
    else:
        for name in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
            if name not in given:
                raise invalid(f"{name} is required.")
        resources = given["ResourceConfig"]
        if "InstancePreferences" in resources and (
            "InstanceType" in resources or given.get("EnableManagedSpotTraining")
        ):
            raise invalid("InstancePreferences cannot be used with InstanceType or with managed spot training.")
        stop = given["StoppingCondition"]
        if given.get("EnableManagedSpotTraining") and stop.get("MaxWaitTimeInSeconds", 0) < stop["MaxRuntimeInSeconds"]:
            raise invalid("MaxWaitTimeInSeconds must be equal to or greater than MaxRuntimeInSeconds.")
    account, role = given["RoleArn"].split(":")[4], given["RoleArn"].rpartition("/")[2]
    if account == ACCOUNT and role != ROLE:
        said = f"Could not assume role {given['RoleArn']}. Please ensure that the role exists and allows principal "
        raise invalid(f"{said}'sagemaker.amazonaws.com' to assume the role.")
    for uri in (given["OutputDataConfig"]["S3OutputPath"], *(map(_uri, given.get("InputDataConfig", [])))):
        if uri.startswith("s3://") and not s3.has(parted(uri)[0]):
            raise invalid(f"The S3 bucket '{parted(uri)[0]}' does not exist.")
    for one in given.get("InputDataConfig", []):
        if not s3.below(_uri(one)):
            raise invalid(f'No S3 objects found under S3 URL "{_uri(one)}" given in input data source.')


def invalid(message: str) -> Refusal:
    """Return a `ValidationException`."""
    return Refusal(400, message, "ValidationException")


def _uri(channel: Mapping[str, Any]) -> str:
    return str(channel["DataSource"].get("S3DataSource", {}).get("S3Uri", ""))


def _gated(arn: str) -> bool:
    return bool(re.search(r"/Model/(meta-|nova-)", arn))


def _shape(shape: Any, value: Any, path: str) -> None:
    """Check a value against a shape, as the front of the service does."""
    rules = shape.metadata
    size: Any = len(value) if shape.type_name in ("string", "list", "map") else value
    if isinstance(size, (int, float)) and not isinstance(size, bool):
        if "max" in rules and size > rules["max"]:
            raise _failed(value, path, f"Member must have length less than or equal to {rules['max']}")
        if "min" in rules and size < rules["min"]:
            raise _failed(value, path, f"Member must have length greater than or equal to {rules['min']}")
    if shape.type_name == "structure":
        for name in shape.required_members:
            if name not in value:
                raise _failed(None, f"{path}.{name}", "Member must not be null")
        for name, item in value.items():
            if name in shape.members:
                _shape(shape.members[name], item, f"{path}.{name}")
    elif shape.type_name == "list":
        for item in value:
            _shape(shape.member, item, f"{path}.member")
    elif shape.type_name == "map":
        for name, item in value.items():
            _shape(shape.key, name, path)
            _shape(shape.value, item, f"{path}.{name}")
    elif shape.type_name == "string":
        if shape.enum and value not in shape.enum:
            raise _failed(value, path, f"Member must satisfy enum value set: [{', '.join(shape.enum[:20])}]")
        pattern = re.sub(r"\\p\{(L|N|Alnum)\}", r"\\w", str(rules.get("pattern", ""))).replace(r"\p{Z}", r"\s")
        if pattern and not re.fullmatch(pattern, value):
            raise _failed(value, path, f"Member must satisfy regular expression pattern: {rules['pattern']}")


def _failed(value: Any, path: str, constraint: str) -> Refusal:
    name = path.lstrip(".")
    name = name[:1].lower() + name[1:]
    said = f"1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: {constraint}"
    return invalid(said)


def rows_of(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Read a training file of any of the three documented forms into canonical rows; raises `LineError`."""
    made = []
    for data in files.values():
        for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
            if line.strip():
                try:
                    made.append(_row(json.loads(line)))
                except (KeyError, TypeError, ValueError, IndexError) as exc:
                    raise LineError(f"line {number}: {exc!r}") from None
    return made


def _row(given: dict[str, Any]) -> dict[str, Any]:
    if "messages" in given:
        *turns, last = given["messages"]
        system = [{"role": "system", "content": given["system"][0]["text"]}] if "system" in given else []
        prompt = [{"role": turn["role"], "content": turn["content"][0]["text"]} for turn in turns]
        by = {one["preferenceLabel"]: one["content"][0]["text"] for one in last["candidates"]}
        chosen, rejected = by["preferred"], by["non-preferred"]
        if set(by) != {"preferred", "non-preferred"}:
            raise ValueError("preferenceLabel")
        return _pair([*system, *prompt], chosen, rejected)
    if isinstance(given["chosen"], str):
        system = [{"role": "system", "content": given["system"]}] if "system" in given else []
        return _pair([*system, {"role": "user", "content": given["prompt"]}], given["chosen"], given["rejected"])
    chosen, rejected = given["chosen"], given["rejected"]
    if chosen[:-1] != rejected[:-1] or chosen[-1]["role"] != "assistant":
        raise ValueError("the two conversations differ before their last message")
    if any(set(message) != {"role", "content"} or not isinstance(message["content"], str) for message in chosen):
        raise ValueError("a message is more than role and content")
    return _pair(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])


def _pair(prompt: list[dict[str, Any]], chosen: str, rejected: str) -> dict[str, Any]:
    if not prompt or not chosen or not rejected:
        raise ValueError("a text is empty")
    answers = {"chosen": chosen, "rejected": rejected}
    return {"prompt": prompt, **{name: [{"role": "assistant", "content": text}] for name, text in answers.items()}}
