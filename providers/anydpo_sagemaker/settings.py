"""Where a job goes and what it may use there: region, account, bucket, and the options under `[options.sagemaker]`."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, NamedTuple

from anydpo.adapter import Rule, Wishes, is_loopback, number, origin, public, text, truth
from anydpo.job import PreferenceJob
from anydpo.own_trainer import EXTRA
from anydpo.provider import DataSummary, Request

FACTS: Mapping[str, Any] = tomllib.loads((files("anydpo_sagemaker") / "sagemaker.toml").read_text("utf-8"))
ROLE = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):role/[\w+=,.@/-]+")
REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
NOWHERE, NOBODY = "REGION", "ACCOUNT"  # stand in a plan until they are known


def _texts(value: Any) -> str | None:
    good = isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(v, str) for v in value))
    return None if good else "a text, or a list of them in the order of preference"


def _table(value: Any) -> str | None:
    good = isinstance(value, Mapping) and all(isinstance(v, (str, int, float, bool)) for v in value.values())
    return None if good else "a table of names and values"


SHARED: dict[str, Rule] = {
    "role": text(2048),
    "bucket": text(63),
    "prefix": text(200, r"[\w.-]+(/[\w.-]+)*"),
    "kms_key": text(2048),
    "subnets": _texts,
    "security_groups": _texts,
    "max_runtime_seconds": number(least=1, whole=True),
}
TRAINING: dict[str, Rule] = {
    "instance_type": _texts,
    "instance_count": number(least=1, whole=True),
    "volume_size_gb": number(least=1, whole=True),
    "keep_alive_seconds": number(least=0, whole=True),
    "spot": truth,
    "max_wait_seconds": number(least=1, whole=True),
    "image_uri": text(255),
    "price_per_hour_usd": number(0),
}
SERVERLESS: dict[str, Rule] = {
    "accept_eula": truth,
    "model_package_group": text(2048),
    "hub": text(63),
    "sequence_length": text(50, r"\d+K"),
    "hyperparameters": _table,
    "mlflow_arn": text(2048),
    "min_pairs": number(least=1, whole=True),
}
OPTIONS: dict[str, Rule] = {**SHARED, **TRAINING, **SERVERLESS}


class Where(NamedTuple):
    """Region, account and store of a job; words in capitals stand for what is not known."""

    region: str
    account: str
    role: str
    bucket: str
    prefix: str
    url: str

    @property
    def store(self) -> str:
        """The folder in S3 that everything of ours lies under."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def target(self) -> str:
        """What tells this place from another, without a credential."""
        return f"{origin(self.url)} {self.region} {self.account}"

    @property
    def sandbox(self) -> bool:
        """Whether this is a rehearsal on this machine."""
        return is_loopback(self.url)


def where(job: PreferenceJob, wishes: Wishes) -> Where:
    """Return where a job goes; what is missing or wrong is a problem."""
    options = job.options.get("sagemaker", {})
    known = {**OPTIONS, **dict.fromkeys(EXTRA, lambda _: None)}  # the trainer's own, which its rules check
    wishes.options("sagemaker", options, known)
    region, role = region_of(), str(options.get("role", ""))
    if region is None:
        wishes.refuse("options.sagemaker", "no_region", "no AWS region is set", "export AWS_REGION=us-east-1")
    elif not REGION.fullmatch(region):
        wishes.refuse("options.sagemaker", "wrong_region", f"{region!r} is no AWS region", "such as us-east-1")
    match = ROLE.fullmatch(role)
    if not role:
        hint = 'role = "arn:aws:iam::123456789012:role/NAME" under [options.sagemaker] of the job or of anydpo.toml'
        wishes.refuse("options.sagemaker.role", "no_role", "SageMaker needs an execution role", hint)
    elif not match:
        hint = "arn:aws:iam::123456789012:role/NAME: the whole ARN, not the name alone"
        wishes.refuse("options.sagemaker.role", "wrong_role", f"{role!r:.100} is no ARN of a role", hint)
    account = match[1] if match else NOBODY
    bucket = str(options.get("bucket", f"sagemaker-{region or NOWHERE}-{account}"))
    if "bucket" in options and not BUCKET.fullmatch(bucket):
        hint = "3 to 63 of a-z, 0-9, - and .; the name alone, without s3://"
        wishes.refuse("options.sagemaker.bucket", "wrong_bucket", f"{bucket!r:.100} is no name of a bucket", hint)
    if bool(options.get("subnets")) != bool(options.get("security_groups")):
        wishes.refuse("options.sagemaker.subnets", "half_a_vpc", "subnets and security_groups go together")
    here = region or NOWHERE
    return Where(here, account, role or "ROLE", bucket, str(options.get("prefix", "anydpo")), url_of(here))


def region_of() -> str | None:
    """Return the region of the AWS chain: the environment, else the profile; None where neither says."""
    if found := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        return found
    try:
        import botocore.session
    except ImportError:
        return None
    said: str | None = botocore.session.get_session().get_config_variable("region")
    return said


def url_of(region: str) -> str:
    """Return SageMaker's address, or the one that the environment puts in its place."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        given = os.environ.get("AWS_ENDPOINT_URL_SAGEMAKER") or os.environ.get("AWS_ENDPOINT_URL")
        if given:
            return given.rstrip("/")
    return f"https://api.sagemaker.{region}.{domain(region)}"


def domain(region: str) -> str:
    """Return the domain of a region's services."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def partition(region: str) -> str:
    """Return what an ARN of a region begins with."""
    return "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"


def listed(value: Any) -> list[str]:
    """Return a text or texts as a list."""
    return [value] if isinstance(value, str) else list(value)


def common(job: PreferenceJob, place: Where, output: str) -> dict[str, Any]:
    """Return the part of a create request that both routes share."""
    options = job.options.get("sagemaker", {})
    made: dict[str, Any] = {
        "TrainingJobName": "${key}",
        "RoleArn": place.role,
        "OutputDataConfig": {"S3OutputPath": f"{place.store}/{output}"},
        "Tags": [{"Key": "anydpo", "Value": "${key}"}, *({"Key": k, "Value": v} for k, v in job.tags.items())],
    }
    if "kms_key" in options:
        made["OutputDataConfig"]["KmsKeyId"] = options["kms_key"]
    if options.get("subnets") and options.get("security_groups"):
        made["VpcConfig"] = {
            "SecurityGroupIds": listed(options["security_groups"]),
            "Subnets": listed(options["subnets"]),
        }
    return made


def channel(name: str, uri: str, kind: str = "S3Prefix") -> dict[str, Any]:
    """Return one input channel: everything under a prefix, on every host."""
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def uploads(place: Where, data: DataSummary, *, sft: bool = False) -> list[Request]:
    """Return the requests that bring the files, each under the hash of its content."""
    names = {"training_file": "train"}
    names |= {"validation_file": "validation"} if data.validation_pairs is not None else {}
    names |= {"sft_file": "sft"} if sft else {}
    return [
        Request(method="PUT", url=f"{place.store}/{name}/${{{place_of}_hash}}/{name}.jsonl")
        for place_of, name in names.items()
    ]


def create_request(place: Where, body: dict[str, Any]) -> Request:
    """Return the one request that makes a job."""
    return Request(
        method="POST", url=f"{public(place.url).rstrip('/')}/ (X-Amz-Target: SageMaker.CreateTrainingJob)", body=body
    )
