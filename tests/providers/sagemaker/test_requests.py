"""What would be sent: valid against botocore's own model and its limits, in the words of AWS's documents and SDK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

import anydpo
from anydpo import DPO, SFT, LoRA
from anydpo.adapter import filled
from anydpo.plan import check
from anydpo.provider import Plan
from anydpo_sagemaker.limits import problems
from anydpo_sagemaker.training import definitions
from tests.conftest import FORMATS
from tests.providers.sagemaker.conftest import ROLE, ROWS, make_job

KNOWN = {
    "key": "anydpo-0123456789abcdef01234567",
    "training_file": "s3://bucket-one/anydpo/train/00/",
    "validation_file": "s3://bucket-one/anydpo/validation/00/",
    "sft_file": "s3://bucket-one/anydpo/sft/00/",
    "checkpoints": "s3://bucket-one/anydpo/checkpoints/x",
}

# What DPOTrainer of sagemaker-train 1.27.0 sent to the sandbox on 2026-11-25, for Qwen3 8B with LoRA and no setting
SDK_CONFIG = {"JobType": "FineTuning", "CustomizationTechnique": "DPO", "Peft": "LORA"}
SDK_PARAMETERS = {
    "adam_beta": "0.1", "learning_rate": "0.0001", "max_epochs": "3", "global_batch_size": "16",
    "lr_scheduler": "cosine", "lr_warmup_steps_ratio": "0.1", "weight_decay": "0.0", "gradient_clipping": "True",
    "gradient_clipping_threshold": "1.0", "dataset_max_len": "4096", "seed": "42", "logging_steps": "1",
    "lora_rank": "16", "lora_alpha": "32", "lora_dropout": "0.05", "merge_weights": "True",
    "train_val_split_ratio": "0.9",
}  # fmt: skip


def body_of(plan: Plan) -> dict[str, Any]:
    """Return the create request as it would go out."""
    made: dict[str, Any] = filled(plan.requests[-1].body, KNOWN)
    return made


def botocore_says(body: dict[str, Any]) -> str:
    model = ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")
    report = ParamValidator().validate(body, model.operation_model("CreateTrainingJob").input_shape)
    return str(report.generate_report())


JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "training": ("sagemaker/training", {}),
    "every loss": ("sagemaker/training", {"method": DPO(loss_type="apo_zero", beta=0.3), "adapter": LoRA(r=4)}),
    "a sum": ("sagemaker/training", {"method": DPO(loss_type=("sigmoid", "sft"), loss_weights=(1, 2))}),
    "two stages": ("sagemaker/training", {"sft": SFT(epochs=2), "adapter": "full", "options": {"instance_count": 2}}),
    "spot": ("sagemaker/training", {"options": {"spot": True, "kms_key": "alias/x", "prefix": "a/b"}}),
    "choices": ("sagemaker/training", {"options": {"instance_type": ["ml.g5.2xlarge", "ml.g6.2xlarge"]}}),
    "network": ("sagemaker/training", {"options": {"subnets": ["subnet-1"], "security_groups": "sg-1"}}),
    "tags": ("sagemaker/training", {"tags": {"Équipe": "données 1"}}),
    "serverless": ("sagemaker/serverless", {"model": "Qwen/Qwen3-8B", "validation": 0.25}),
    "nova": ("sagemaker/serverless", {"model": "amazon.nova-lite-v1", "options": {"accept_eula": True}}),
    "whole weights": ("sagemaker/serverless", {"model": "Qwen/Qwen3-0.6B", "adapter": "full"}),
}


@pytest.mark.parametrize("name", JOBS)
def test_requests_are_what_botocore_and_its_limits_take(name: str) -> None:
    place, fields = JOBS[name]
    plan = check(make_job(**fields), place)
    assert plan.ok, plan.problems
    body = body_of(plan)
    assert botocore_says(body) == ""
    assert problems("CreateTrainingJob", body) == []


@pytest.mark.parametrize(
    ("body", "path", "code"),
    [
        ({"TrainingJobName": "under_score"}, "TrainingJobName", "wrong_value"),
        ({"TrainingJobName": "a" * 64}, "TrainingJobName", "out_of_range"),
        ({"TrainingJobName": "ends-"}, "TrainingJobName", "wrong_value"),
        ({"RoleArn": "arn:aws:iam::1:role/x"}, "RoleArn", "wrong_value"),
        ({"HyperParameters": {f"k{i}": "1" for i in range(101)}}, "HyperParameters", "out_of_range"),
        ({"HyperParameters": {"k": "v" * 2501}}, "HyperParameters.k", "out_of_range"),
        ({"ServerlessJobConfig": {"BaseModelArn": "x", "JobType": "Nope"}}, "ServerlessJobConfig.JobType", "not_a_choice"),
        ({"ResourceConfig": {"InstancePreferences": [{"InstanceType": "ml.g5.xlarge"}] * 6}}, "ResourceConfig", "out_of_range"),
        ({"ResourceConfig": {"InstanceType": "ml.g5.2xlarg"}}, "ResourceConfig.InstanceType", "not_a_choice"),
        ({"Tags": [{"Key": "k" * 129, "Value": ""}]}, "Tags[0].Key", "out_of_range"),
        ({"Unheard": 1}, "Unheard", "unknown_field"),
    ],
)  # fmt: skip
def test_what_botocore_lets_through_is_found(body: dict[str, Any], path: str, code: str) -> None:
    whole = {"TrainingJobName": "a", "RoleArn": ROLE, "OutputDataConfig": {"S3OutputPath": "s3://b/c"}, **body}
    found = problems("CreateTrainingJob", whole)
    assert [one for one in found if one.field.startswith(f"CreateTrainingJob.{path}") and one.code == code], found


def test_a_serverless_job_has_the_words_of_awss_own_sdk() -> None:
    job = make_job(
        model="Qwen/Qwen3-8B", epochs=3, learning_rate=1e-4, batch_size=16, lr_scheduler_type="cosine",
        warmup_ratio=0.1, weight_decay=0.0, max_grad_norm=1.0, max_length=4096, seed=42,
        adapter=LoRA(r=16, lora_alpha=32, lora_dropout=0.05),
        options={"hyperparameters": {"logging_steps": 1, "merge_weights": True, "train_val_split_ratio": 0.9,
                                     "gradient_clipping": True}},
    )  # fmt: skip
    body = body_of(check(job, "sagemaker/serverless"))
    assert body["HyperParameters"] == SDK_PARAMETERS
    base = body["ServerlessJobConfig"].pop("BaseModelArn")
    assert base == "arn:aws:sagemaker:us-east-1:aws:hub-content/SageMakerPublicHub/Model/huggingface-reasoning-qwen3-8b"
    assert body["ServerlessJobConfig"] == SDK_CONFIG  # the licence is accepted by nobody but the user
    (source,) = [one["DataSource"]["S3DataSource"] for one in body["InputDataConfig"]]
    assert source["S3DataType"] == "S3Prefix"


def test_nova_and_whole_weights_differ_as_documented() -> None:
    nova = body_of(check(make_job(model="amazon.nova-lite-v1", options={"accept_eula": True}), "sagemaker/serverless"))
    assert nova["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3DataType"] == "Converse"
    assert nova["ServerlessJobConfig"]["AcceptEula"] is True
    whole = body_of(check(make_job(model="Qwen/Qwen3-0.6B", adapter="full"), "sagemaker/serverless"))
    assert "Peft" not in whole["ServerlessJobConfig"]


@pytest.mark.parametrize(
    ("place", "fields", "field", "said"),
    [
        ("training", {"options": {"role": None}}, "options.sagemaker.role", "execution role"),
        ("training", {"options": {"role": "SageMakerRole"}}, "options.sagemaker.role", "no ARN of a role"),
        ("training", {"options": {"bucket": "s3://mine"}}, "options.sagemaker.bucket", "no name of a bucket"),
        ("training", {"options": {"instance_type": "ml.g5.2xlarg"}}, "CreateTrainingJob.ResourceConfig.InstanceType", "g5"),
        ("training", {"options": {"instance_type": ["ml.g5.2xlarge", "ml.g6.2xlarge"], "spot": True}}, "options.sagemaker.spot", "excludes"),
        ("training", {"options": {"subnets": ["subnet-1"]}}, "options.sagemaker.subnets", "go together"),
        ("training", {"options": {"spot": True, "max_wait_seconds": 5}}, "options.sagemaker.max_wait_seconds", "below"),
        ("training", {"model": "./folder"}, "model", "lies on this machine"),
        ("training", {"sft": SFT(), "adapter": LoRA(), "options": {"instance_count": 2}}, "sft", "no disk in common"),
        ("training", {"tags": {"k": "v" * 257}}, "CreateTrainingJob.Tags[1].Value", "257"),
        ("training", {"options": {"no_such": 1}}, "options.sagemaker.no_such", "no such option"),
        ("serverless", {"model": "Qwen/Qwen3-9B"}, "model", "no model"),
        ("serverless", {"model": "arn:aws:sagemaker:us-east-1:aws:hub-content/x"}, "model", "no model"),
        ("serverless", {"model": "Qwen/Qwen3-8B", "method": DPO(beta=0.5)}, "method.beta", "0.001 to 0.1"),
        ("serverless", {"model": "Qwen/Qwen3-8B", "batch_size": 24}, "batch_size", "one of 16"),
        ("serverless", {"model": "Qwen/Qwen3-8B", "method": DPO(loss_type="ipo")}, "method.loss_type", "no ipo"),
        ("serverless", {"model": "amazon.nova-lite-v1", "options": {"accept_eula": True}, "seed": 1}, "seed", "no effect"),
        ("serverless", {"model": "meta-llama/Llama-3.2-1B-Instruct"}, "options.sagemaker.accept_eula", "licence"),
        ("serverless", {"model": "Qwen/Qwen3-8B", "options": {"min_pairs": None}}, "data", "1,000"),
        ("serverless", {"model": "Qwen/Qwen3-8B", "options": {"model_package_group": None}}, "options.sagemaker.model_package_group", "group"),
        ("training", {"start_from": "./folder"}, "start_from", "nothing to go on from"),
        ("serverless", {"model": "Qwen/Qwen3-8B", "start_from": "ft-1"}, "start_from", "nothing to go on from"),
    ],
)  # fmt: skip
def test_each_wrong_thing_has_its_own_sentence(place: str, fields: dict[str, Any], field: str, said: str) -> None:
    found = check(make_job(**fields), f"sagemaker/{place}").problems
    mine = [one for one in found if one.field == field]
    assert mine, found
    assert said in str(mine[0])
    assert mine[0].hint or said in str(mine[0])


@pytest.mark.parametrize(
    ("region", "said"), [("", "no AWS region"), ("nowhere", "no AWS region"), ("eu-central-1", "no serverless DPO")]
)
def test_a_wrong_region_is_a_problem(region: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", region)
    found = check(make_job(model="Qwen/Qwen3-8B"), "sagemaker/serverless").problems
    assert [one for one in found if said in one.message], found


@pytest.mark.parametrize(
    ("fields", "route", "why"),
    [
        ({"model": "Qwen/Qwen3-8B"}, "serverless", "chooses the machines"),
        ({"model": "Qwen/Qwen3-8B", "method": DPO(loss_type="ipo")}, "training", "sigmoid only"),
        ({"model": "Qwen/Qwen3-8B", "method": DPO(label_smoothing=0.1)}, "training", "method.label_smoothing"),
        ({"model": "Qwen/Qwen3-8B", "sft": SFT()}, "training", "sft"),
        ({"model": "tiny"}, "training", "no model of the serverless route"),
        ({"model": "amazon.nova-pro-v1"}, "serverless", "Amazon's own"),
    ],
)
def test_a_bare_sagemaker_picks_its_route_and_says_why(fields: dict[str, Any], route: str, why: str) -> None:
    plan = check(make_job(**fields), "sagemaker")
    assert plan.place == f"sagemaker/{route}"
    assert why in plan.route_reason


def test_images_are_those_of_awss_table() -> None:
    body = body_of(check(make_job(), "sagemaker/training"))
    assert body["AlgorithmSpecification"]["TrainingImage"] == (
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-training:"
        "2.9.0-transformers5.3.0-gpu-py312-cu130-ubuntu22.04"
    )
    assert len(definitions()) <= 40


def test_lines_of_nova_are_those_of_its_documents() -> None:
    wanted = [json.loads(line) for line in (FORMATS / "amazon_nova.jsonl").read_text("utf-8").splitlines()[:2]]
    from anydpo.data.write import writer_of

    for row in wanted:
        system = [{"role": "system", "content": one["text"]} for one in row.get("system", ())]
        *turns, last = row["messages"]
        prompt = [*system, *({"role": one["role"], "content": one["content"][0]["text"]} for one in turns)]
        by = {one["preferenceLabel"]: one["content"][0]["text"] for one in last["candidates"]}
        (pair,) = anydpo.load([{"prompt": prompt, "chosen": by["preferred"], "rejected": by["non-preferred"]}])
        assert writer_of("nova").row(pair) == row


def test_the_archive_is_the_same_every_time_and_has_the_template(tmp_path: Path) -> None:
    import io
    import zipfile

    from anydpo_sagemaker.source import archive

    (tmp_path / "t.jinja").write_text("{{ messages }}")
    first = archive(str(tmp_path / "t.jinja"))
    assert first == archive(str(tmp_path / "t.jinja")) != archive()
    names = zipfile.ZipFile(io.BytesIO(first.data)).namelist()
    assert {"__main__.py", "chat_template.jinja", "anydpo_trainer/config.py", "anydpo_trainer/tiny_words.txt"} <= set(
        names
    )
    assert not [name for name in names if "pycache" in name]


def test_the_price_is_the_users_own() -> None:
    from anydpo.spend import quote

    assert quote(make_job(), "sagemaker/training") == {"sagemaker/training": None}
    job = make_job(options={"price_per_hour_usd": 1.5, "max_runtime_seconds": 7200, "instance_count": 2})
    made = quote(job, "sagemaker/training")["sagemaker/training"]
    assert made is not None
    assert made.cost.amount == 6.0
    assert len(ROWS) == 32
