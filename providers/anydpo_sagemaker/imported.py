"""A training job that another tool made, or the body of its create request, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydpo.provider import Described
from anydpo.translate import trl
from anydpo_sagemaker import dialect, serverless
from anydpo_sagemaker.settings import FACTS

TAKEN = {"HyperParameters", "InputDataConfig", "OutputDataConfig", "ServerlessJobConfig", "TrainingJobName"}
OPTIONS = {  # where a member of the body stands → our option
    ("RoleArn",): "role",
    ("StoppingCondition", "MaxRuntimeInSeconds"): "max_runtime_seconds",
    ("ResourceConfig", "InstanceType"): "instance_type",
    ("ResourceConfig", "InstanceCount"): "instance_count",
    ("ResourceConfig", "VolumeSizeInGB"): "volume_size_gb",
    ("AlgorithmSpecification", "TrainingImage"): "image_uri",
    ("ModelPackageConfig", "ModelPackageGroupArn"): "model_package_group",
    ("MlflowConfig", "MlflowResourceArn"): "mlflow_arn",
    ("ServerlessJobConfig", "AcceptEula"): "accept_eula",
    ("ServerlessJobConfig", "SequenceLength"): "sequence_length",
    ("EnableManagedSpotTraining",): "spot",
}
ASKED = frozenset(  # what a create request may hold; all else of an answer is what became of it
    "TrainingJobName HyperParameters AlgorithmSpecification RoleArn InputDataConfig OutputDataConfig ResourceConfig"
    " VpcConfig StoppingCondition EnableNetworkIsolation EnableManagedSpotTraining CheckpointConfig DebugHookConfig"
    " TensorBoardOutputConfig ExperimentConfig ProfilerConfig Environment RetryStrategy ServerlessJobConfig"
    " MlflowConfig ModelPackageConfig".split()
)


def is_body(body: Mapping[str, Any]) -> bool:
    """Say whether this is the body of a create request, or a job."""
    return "TrainingJobName" in body and ("ServerlessJobConfig" in body or "AlgorithmSpecification" in body)


def described(job: Mapping[str, Any]) -> Described:
    """Return the job that a body stands for; data stay in the account's S3."""
    lost: dict[str, str] = {}
    made = _serverless(job, lost) if job.get("ServerlessJobConfig") else _script(job, lost)
    for channel in job.get("InputDataConfig") or ():
        name = str(channel.get("ChannelName"))
        where = _uri(channel)
        ours = {"train": "data", "training": "data", "validation": "validation", "test": "validation"}.get(name)
        if ours is not None:
            made[ours] = where
            lost[f"InputDataConfig.{name}"] = f"{where} lies in S3: name your own file as {ours}"
    options: dict[str, Any] = {}
    for path, ours in OPTIONS.items():
        value: Any = job
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value not in (None, False):
            options[ours] = value
    if options:
        made["options"] = {"sagemaker": options}
    for name in sorted(ASKED & job.keys()):
        if name not in TAKEN | {path[0] for path in OPTIONS} and job[name] not in (None, False, {}, []):
            lost[name] = "no equivalent"
    created = dialect.seconds(job.get("CreationTime"))
    return Described(job=made, lost=lost, place=dialect.place_of(job), created=created, name=job.get("TrainingJobName"))


def _serverless(job: Mapping[str, Any], lost: dict[str, str]) -> dict[str, Any]:
    config = job["ServerlessJobConfig"]
    technique = config.get("CustomizationTechnique")
    if technique != "DPO":
        lost["ServerlessJobConfig.CustomizationTechnique"] = f"{technique} trains no pairs"
    effective = serverless.effective_of(job)
    made: dict[str, Any] = {"model": _name_of(str(config.get("BaseModelArn"))), **effective}
    if made["adapter"] == "lora":
        made["adapter"] = {}
    known = {"adam_beta", "max_epochs", "lora_rank", "lora_alpha", "lora_dropout"}
    known |= {name for names in serverless.KEYS.values() for name in names}
    for name, value in (job.get("HyperParameters") or {}).items():
        if name not in known:
            lost[f"HyperParameters.{name}"] = f"is {value}; [options.sagemaker.hyperparameters] has it for SageMaker"
    return made


def _name_of(arn: str) -> str:
    """Return the hub's name of a base, where it is one of the list, else its ARN."""
    match = serverless.ARN.fullmatch(arn)
    ids = {known["id"]: name for name, known in FACTS["models"].items()}
    return ids.get(match[2], arn) if match else arn


def _script(job: Mapping[str, Any], lost: dict[str, str]) -> dict[str, Any]:
    """Return the job of somebody's own script, read as TRL's settings where its hyperparameters are those."""
    given = {name: serverless.number_of(str(value)) for name, value in (job.get("HyperParameters") or {}).items()}
    theirs = {name: value for name, value in given.items() if not name.startswith("sagemaker_")}
    if not trl.fits(theirs):
        lost["HyperParameters"] = "a script's own: what it makes of them is not told"
        return {}
    made = trl.read(theirs, Path())
    lost |= {f"HyperParameters.{remark.field}": remark.message for remark in made.remarks if remark.kind != "elsewhere"}
    return {name: value for name, value in made.job.items() if name != "options"}


def _uri(channel: Mapping[str, Any]) -> str:
    source = channel.get("DataSource") or {}
    kinds = (("S3DataSource", "S3Uri"), ("DatasetSource", "DatasetArn"), ("FileSystemDataSource", "DirectoryPath"))
    return next((str(source[kind][name]) for kind, name in kinds if name in (source.get(kind) or {})), "")
