"""What the emulator says of a job: its description, its streams of log lines, and what it leaves in S3."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

from anydpo.sandbox.jobs import Job, Jobs
from anydpo.sandbox.world import World
from anydpo_sagemaker.container import MARK
from anydpo_sagemaker.sandbox_hosts import Machines, count_of
from anydpo_sagemaker.sandbox_s3 import ACCOUNT, REGION, S3, parted

STATES = {
    "validating": ("InProgress", "Starting"),
    "queued": ("InProgress", "Pending"),
    "running": ("InProgress", "Training"),
    "compressing": ("InProgress", "Uploading"),
    "uploading": ("InProgress", "Uploading"),
    "cancelling": ("Stopping", "Stopping"),
    "succeeded": ("Completed", "Completed"),
    "failed": ("Failed", "Failed"),
    "cancelled": ("Stopped", "Stopped"),
}
TOLD = {  # a moment → (secondary status, message)
    "created": ("Starting", "Starting the training job"),
    "queued": ("Pending", "Preparing the instances for training"),
    "started": ("Training", "Training image download completed. Training in progress."),
    "interrupted": ("Interrupted", "Training job interrupted: the spot capacity was reclaimed"),
    "restarting": ("Restarting", "Restarting the training job from its checkpoints"),
    "trained": ("Uploading", "Uploading generated training model"),
    "succeeded": ("Completed", "Training job completed"),
    "failed": ("Failed", "Training job failed"),
    "cancelled": ("Stopped", "Training job stopped"),
}
ECHOED = (
    *("TrainingJobName", "RoleArn", "HyperParameters", "AlgorithmSpecification", "InputDataConfig", "OutputDataConfig"),
    *("ResourceConfig", "VpcConfig", "StoppingCondition", "CheckpointConfig", "EnableManagedSpotTraining"),
    *("Environment", "RetryStrategy", "ServerlessJobConfig", "MlflowConfig", "ModelPackageConfig"),
    *("EnableNetworkIsolation", "EnableInterContainerTrafficEncryption", "RemoteDebugConfig", "InfraCheckConfig"),
)


class Shown:
    """The jobs of one sandbox as its clients see them."""

    def __init__(self, world: World, s3: S3, jobs: Jobs) -> None:
        self.world, self.s3, self.jobs = world, s3, jobs

    def streams(self, job: Job) -> dict[str, list[str]]:
        """Return stream → lines of a job; serverless ones write none."""
        if "ServerlessJobConfig" in job.request or job.started is None:
            return {}
        began = int(job.created)
        if self.world.trainer.instant:
            records = [moment.record for moment in list(job.moments) if moment.kind == "metrics"]
            return {f"{job.id}/algo-1-{began}": [MARK + json.dumps(dict(record)) for record in records]}
        made = {}
        for path in sorted(job.folder.glob("algo-*.log")):
            host, _, life = path.stem.rpartition("-")
            whole = path.read_text("utf-8", "replace").rpartition("\n")[0]
            made[f"{job.id}/{host}-{began + int(life)}"] = whole.split("\n") if whole else []
        return made

    def describe(self, job: Job) -> dict[str, Any]:
        """Return DescribeTrainingJob."""
        status, detail = STATES[job.state]
        if job.moments and job.moments[-1].kind in ("interrupted", "restarting"):
            detail = TOLD[job.moments[-1].kind][0]
        body = {name: job.request[name] for name in ECHOED if name in job.request}
        body |= {
            "TrainingJobArn": arn(job.id),
            "TrainingJobStatus": status,
            "SecondaryStatus": detail,
            "CreationTime": job.created,
            "LastModifiedTime": job.updated,
            "SecondaryStatusTransitions": _timeline(job),
        }
        if job.started:
            body["TrainingStartTime"] = job.started
        if job.failure is not None and job.state == "failed":
            body["FailureReason"] = job.failure.message[:1024]
        if job.ended:
            body["TrainingEndTime"] = job.finished
            seconds = max(1, round((job.finished or 0) - (job.started or job.created)))
            body |= {"TrainingTimeInSeconds": seconds, "BillableTimeInSeconds": seconds}
        if "ServerlessJobConfig" in job.request:
            self._show_served(job, body)
        else:
            self._show_trained(job, body)
        return body

    def _show_trained(self, job: Job, body: dict[str, Any]) -> None:
        resources = job.request["ResourceConfig"]
        if preferred := resources.get("InstancePreferences"):
            chosen = {
                "SelectedInstanceType": preferred[0]["InstanceType"],
                "SelectedInstanceCount": count_of(job.request),
            }
            body["ResourceConfig"] = {**resources, **chosen}
        body["FinalMetricDataList"] = self._final(job)
        if job.state == "succeeded":
            out = job.request["OutputDataConfig"]["S3OutputPath"].rstrip("/")
            body["ModelArtifacts"] = {"S3ModelArtifacts": f"{out}/{job.id}/output/model.tar.gz"}
            self._publish(job, body["ModelArtifacts"]["S3ModelArtifacts"])

    def _show_served(self, job: Job, body: dict[str, Any]) -> None:
        for name in ("BillableTimeInSeconds", "TrainingTimeInSeconds"):
            body.pop(name, None)
        if job.task is not None and job.records:
            steps = job.task.steps
            about = {"CurrentStep": job.records[-1]["step"], "TotalStepCountPerEpoch": steps}
            body["ProgressInfo"] = {**about, "CurrentEpoch": 1, "MaxEpoch": job.task.epochs}
        if job.state == "succeeded":
            group = job.request["ModelPackageConfig"]["ModelPackageGroupArn"].rpartition("/")[2]
            body["OutputModelPackageArn"] = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package/{group}/1"
            body["BillableTokenCount"] = job.facts.get("tokens", 0)
            if "/Model/nova-" not in job.request["ServerlessJobConfig"]["BaseModelArn"]:
                out = job.request["OutputDataConfig"]["S3OutputPath"].rstrip("/")
                body["ModelArtifacts"] = {"S3ModelArtifacts": f"{out}/{job.id}/output/model.tar.gz"}
                self._publish(job, body["ModelArtifacts"]["S3ModelArtifacts"])

    def _final(self, job: Job) -> list[dict[str, Any]]:
        """Return the last value of each metric that the definitions find in the log."""
        text = "\n".join(line for lines in self.streams(job).values() for line in lines)
        return [
            {"MetricName": one["Name"], "Value": float(found[-1]), "Timestamp": job.updated}
            for one in job.request["AlgorithmSpecification"].get("MetricDefinitions", [])
            if (found := re.findall(one["Regex"], text))
        ]

    def _publish(self, job: Job, uri: str) -> None:
        """Put the model, and what an instant job would have left, where the description says it is."""
        if job.facts.setdefault("published", False):
            return
        job.facts["published"] = True
        training = job.training
        folder = training.model() if isinstance(training, Machines) else self.jobs.weights(job)
        self.s3.make(parted(uri)[0])
        self.s3.put(uri, _packed(folder) if folder else b"")
        kept = job.request.get("CheckpointConfig")
        if kept and self.world.trainer.instant:
            where = kept["S3Uri"].rstrip("/")
            lines = "".join(json.dumps({"time": job.created, **record}) + "\n" for record in job.records)
            self.s3.put(f"{where}/metrics.jsonl", lines.encode())
            final = {name: value for name, value in job.records[-1].items() if "/" in name}
            self.s3.put(f"{where}/result.json", json.dumps({"state": "succeeded", "metrics": final}).encode())


def arn(name: str) -> str:
    """Return the ARN of a training job."""
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/{name}"


def _timeline(job: Job) -> list[dict[str, Any]]:
    told = [(moment.at, *TOLD[moment.kind]) for moment in list(job.moments) if moment.kind in TOLD]
    ends = [at for at, _, _ in told[1:]]
    return [
        {"Status": status, "StartTime": at, "StatusMessage": message, **({"EndTime": ends[n]} if n < len(ends) else {})}
        for n, (at, status, message) in enumerate(told)
    ]


def _packed(folder: Path) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, str(path.relative_to(folder)))
    return made.getvalue()
