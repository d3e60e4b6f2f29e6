"""AWS's own SDK, version 3, submits its `DPOTrainer` to the sandbox; it is too heavy for the usual environment."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from anydpo.sandbox import Sandbox
from tests.providers.sagemaker.conftest import ROLE, ROWS

PYTHON = os.environ.get("ANYDPO_SAGEMAKER_PYTHON")
HERE = importlib.util.find_spec("sagemaker") is not None
SKIP = (
    "AWS's SDK is not here: python -m venv DIR, DIR/bin/pip install 'sagemaker-train>=1.27', "
    "then ANYDPO_SAGEMAKER_PYTHON=DIR/bin/python"
)
SCRIPT = """
import sys
from sagemaker.core.helper.session_helper import Session
from sagemaker.train.dpo_trainer import DPOTrainer

trainer = DPOTrainer(
    model="huggingface-reasoning-qwen3-8b",
    model_package_group="tuned",
    training_dataset=sys.argv[1],
    sagemaker_session=Session(),
    role=sys.argv[2],
)
job = trainer.train(wait=True, poll=1, wait_timeout=120)
print("ended", job.training_job_name, job.training_job_status, job.output_model_package_arn)
"""


@pytest.mark.skipif(not (PYTHON or HERE), reason=SKIP)
def test_dpo_trainer_submits_to_the_sandbox(box: Sandbox, tmp_path: Path) -> None:
    s3 = boto3.client("s3")
    bucket = "sagemaker-us-east-1-123456789012"
    s3.put_object(Bucket=bucket, Key="theirs/train.jsonl", Body="".join(json.dumps(row) + "\n" for row in ROWS))
    done = subprocess.run(
        [PYTHON or sys.executable, "-c", SCRIPT, f"s3://{bucket}/theirs/train.jsonl", ROLE],
        env={**os.environ, **box.env, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    said = next(line for line in done.stdout.splitlines() if line.startswith("ended")).split()
    assert said[2] == "Completed"
    assert "model-package/tuned/" in said[3]
    (sent,) = box.requests("sagemaker", "create")
    config = sent["body"]["ServerlessJobConfig"]
    assert (config["JobType"], config["CustomizationTechnique"], config["Peft"]) == ("FineTuning", "DPO", "LORA")
    assert sent["body"]["HyperParameters"]["adam_beta"] == "0.1"
