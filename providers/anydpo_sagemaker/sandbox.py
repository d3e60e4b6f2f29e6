"""SageMaker on loopback: its JSON protocol and CloudWatch's logs, with S3 and STS left to moto.

Sources: botocore 1.44 (service models), what boto3 sends and takes; the developer guide's container contract. Jobs of
the route `training` run for real, their containers as processes; serverless ones train a stand-in model.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from anydpo.sandbox.faults import Fault
from anydpo.sandbox.jobs import Failure, Job
from anydpo.sandbox.lines import LineError
from anydpo.sandbox.training import Task
from anydpo.sandbox.wire import Refusal, json_object
from anydpo.sandbox.world import World
from anydpo_sagemaker.sandbox_hosts import GRACE, Containers, Hosts
from anydpo_sagemaker.sandbox_hub import document, make_recipes
from anydpo_sagemaker.sandbox_request import check, invalid, rows_of
from anydpo_sagemaker.sandbox_s3 import ACCOUNT, REGION, S3
from anydpo_sagemaker.sandbox_show import STATES, Shown, arn

if importlib.util.find_spec("moto") is None:  # looked for here, imported when a sandbox begins
    raise ImportError("SageMaker's emulator needs moto", name="moto")

GROUP = "/aws/sagemaker/TrainingJobs"
TARGETS = {  # a target → (operation, handler)
    "SageMaker.CreateTrainingJob": ("create", "create"),
    "SageMaker.DescribeTrainingJob": ("retrieve", "retrieve"),
    "SageMaker.ListTrainingJobs": ("list", "list_jobs"),
    "SageMaker.StopTrainingJob": ("cancel", "cancel"),
    "SageMaker.DeleteTrainingJob": ("delete", "delete"),
    "SageMaker.ListTags": ("tags", "tags"),
    "SageMaker.DescribeHubContent": ("hub", "hub"),
    "SageMaker.DescribeModelPackageGroup": ("package_group", "package_group"),
    "SageMaker.ListMlflowApps": ("mlflow_apps", "mlflow_apps"),
    "Logs_20140328.DescribeLogStreams": ("streams", "streams"),
    "Logs_20140328.GetLogEvents": ("events", "events"),
}
OWN_BETA, OWN_RATE = 0.1, 1e-4  # the service's defaults; its rate is the stand-in model's usual one


class Target(Route):
    """A route of AWS's JSON protocol: one path, told apart by a header."""

    def __init__(self, target: str | None, endpoint: Any, name: str) -> None:
        super().__init__("/", endpoint, methods=["POST"], name=name)
        self._target = target.encode() if target else None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the header's value."""
        found, child = super().matches(scope)
        said = dict(scope.get("headers", ())).get(b"x-amz-target")
        mine = said is not None and self._target in (None, said)
        return (found, child) if mine else (Match.NONE, {})


class SageMakerSandbox:
    """The emulator: one account in one region."""

    name = "sagemaker"
    clears = ("AWS_",)

    def __init__(self, world: World) -> None:
        self.world, self.s3 = world, S3()
        make_recipes(self.s3)
        self.jobs = world.jobs(self.name, Hosts(world.trainer, self.s3))
        self.shown = Shown(world, self.s3, self.jobs)
        routes: list[BaseRoute] = [
            Target(target, getattr(self, handler), name) for target, (name, handler) in TARGETS.items()
        ]
        routes.append(Target(None, self.unsupported, "unsupported"))
        routes.append(Route("/", self.query, methods=["POST"], name="query"))
        verbs = {"GET": "content", "HEAD": "head", "PUT": "put", "POST": "post", "DELETE": "remove"}
        routes += [Route("/{path:path}", self.s3.serve, methods=[verb], name=name) for verb, name in verbs.items()]
        self.routes: Sequence[BaseRoute] = routes

    def environment(self, origin: str) -> Mapping[str, str]:
        """Return what the AWS chain reads; the user's own files and profiles are left out."""
        return {
            "AWS_ENDPOINT_URL": origin,
            "AWS_ACCESS_KEY_ID": "sandbox",
            "AWS_SECRET_ACCESS_KEY": "sandbox",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def authorised(self, request: Request) -> bool:
        """Take any access key but `invalid`."""
        said = request.headers.get("authorization", "")
        if "Credential=invalid/" in said:
            raise Refusal(403, "The security token included in the request is invalid.", "UnrecognizedClientException")
        return True

    def error_body(self, refusal: Refusal) -> Mapping[str, Any]:
        """Return the JSON protocol's error."""
        kind = refusal.code or ("InternalFailure" if refusal.status >= 500 else "ValidationException")
        return {"__type": kind, "message": refusal.message}

    def refusal(self, fault: Fault) -> Refusal:
        """Return the answer to an account that may not, or of a service in a storm."""
        if fault.fault == "not_eligible":
            said = "User is not authorized to perform: sagemaker:CreateTrainingJob"
            return Refusal(400, fault.message or said, "AccessDeniedException")
        if fault.fault == "insufficient_quota":
            said = (
                "The account-level service limit 'ml.g5.2xlarge for training job usage' is 0 Instances, with current "
                "utilization of 0 Instances and a request delta of 1 Instances."
            )
            return Refusal(400, fault.message or said, "ResourceLimitExceeded")
        if fault.status == 429:
            return Refusal(400, fault.message or "Rate exceeded", "ThrottlingException")
        return Refusal(fault.status, fault.message or "The service is unavailable.", fault.code or "InternalFailure")

    async def query(self, request: Request) -> Response:
        """Leave the older protocol's services (STS, IAM) to moto; what it cannot do, this account may not do."""
        if b"Action=SimulatePrincipalPolicy" in await request.body():
            said = "<Error><Code>AccessDenied</Code><Message>iam:SimulatePrincipalPolicy</Message></Error>"
            body = f"<ErrorResponse>{said}<RequestId>sandbox</RequestId></ErrorResponse>"
            return Response(body, 403, media_type="text/xml")
        return await self.s3.serve(request)

    async def unsupported(self, request: Request) -> Response:  # noqa: ARG002
        """Stand for every other operation."""
        raise Refusal(400, "this operation is not emulated", "UnknownOperationException")

    async def create(self, request: Request) -> Response:
        """CreateTrainingJob."""
        given = await json_object(request)
        check(given, self.s3)
        name = given["TrainingJobName"]
        if self.jobs.get(name) is not None:
            said = (
                "Training job names must be unique within an AWS account and region, and a training job with this name "
            )
            said += f"already exists ({arn(name)})"
            raise Refusal(400, said, "ResourceInUse")
        job = Job(
            name,
            self.world.clock.now(),
            given,
            self.world.place(self.name, name, "job").parent,
            lambda: self._task(job),
        )
        for fault in request.state.faults:
            if fault.fault == "job_fails":
                job.fails = fault
            elif fault.fault == "interrupted":
                job.facts["interruptions"], job.facts["grace"] = fault.steps, fault.seconds
            elif fault.fault == "late_list":
                job.hidden_for = fault.requests
                job.hidden_until = job.created + (0 if fault.requests else fault.seconds)
        self.jobs.add(job)
        return said_({"TrainingJobArn": arn(name)})

    async def retrieve(self, request: Request) -> Response:
        """DescribeTrainingJob."""
        job = self._job(await json_object(request))
        body = self.shown.describe(job)
        self.jobs.poll(job)
        return said_(body)

    async def list_jobs(self, request: Request) -> Response:
        """ListTrainingJobs, newest first."""
        given = await json_object(request)
        wanted = [
            job for job in self.jobs.visible() if given.get("NameContains", "").lower() in job.id.lower()
            and given.get("StatusEquals") in (None, STATES[job.state][0])
        ]  # fmt: skip
        start, most = int(given.get("NextToken") or 0), int(given.get("MaxResults") or 10)
        shown = [
            {
                "TrainingJobName": job.id,
                "TrainingJobArn": arn(job.id),
                "CreationTime": job.created,
                "LastModifiedTime": job.updated,
                "TrainingJobStatus": STATES[job.state][0],
            }
            for job in wanted[start : start + most]
        ]
        more = {"NextToken": str(start + most)} if start + most < len(wanted) else {}
        return said_({"TrainingJobSummaries": shown, **more})

    async def cancel(self, request: Request) -> Response:
        """StopTrainingJob; a job that has ended cannot be stopped."""
        job = self._job(await json_object(request))
        if job.ended:
            status = STATES[job.state][0]
            raise invalid(f"The request was rejected because the training job is in status {status}.")
        self.jobs.ask(job, "cancelled")
        return said_({})

    async def delete(self, request: Request) -> Response:
        """DeleteTrainingJob."""
        job = self._job(await json_object(request))
        if not job.ended:
            raise Refusal(400, "The training job is still in use.", "ResourceInUse")
        self.jobs.remove(job.id)
        return said_({})

    async def tags(self, request: Request) -> Response:
        """ListTags."""
        given = await json_object(request)
        job = self.jobs.get(str(given.get("ResourceArn", "")).rpartition("/")[2])
        return said_({"Tags": job.request.get("Tags", []) if job else []})

    async def hub(self, request: Request) -> Response:
        """DescribeHubContent of a model."""
        given = await json_object(request)
        found = document(str(given["HubName"]), str(given["HubContentName"]))
        if found is None:
            raise Refusal(400, f"Hub content {given['HubContentName']} does not exist.", "ResourceNotFound")
        return said_(found)

    async def package_group(self, request: Request) -> Response:
        """DescribeModelPackageGroup: there is every one that is asked for."""
        name = str((await json_object(request))["ModelPackageGroupName"]).rpartition("/")[2]
        owner = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package-group/{name}"
        about = {"CreationTime": self.world.clock.now(), "CreatedBy": {}, "ModelPackageGroupStatus": "Completed"}
        return said_({"ModelPackageGroupName": name, "ModelPackageGroupArn": owner, **about})

    async def mlflow_apps(self, request: Request) -> Response:  # noqa: ARG002
        """ListMlflowApps: one, ready."""
        owner = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:mlflow-app/app-SANDBOX"
        return said_({"Summaries": [{"Arn": owner, "Name": "sandbox", "Status": "Created", "CreationTime": 1.0}]})

    async def streams(self, request: Request) -> Response:
        """DescribeLogStreams: one a host and a life of it, there once its container has started."""
        given = await json_object(request)
        prefix = str(given.get("logStreamNamePrefix", ""))
        if given.get("logGroupName") != GROUP or not any(self.shown.streams(job) for job in self.jobs.all()):
            raise Refusal(400, "The specified log group does not exist.", "ResourceNotFoundException")
        found = sorted(name for job in self.jobs.all() for name in self.shown.streams(job) if name.startswith(prefix))
        return said_({"logStreams": [{"logStreamName": name, "storedBytes": 0} for name in found]})

    async def events(self, request: Request) -> Response:
        """GetLogEvents; a token is a place in the stream, and the last one stays the same."""
        given = await json_object(request)
        stream = str(given.get("logStreamName", ""))
        job = self.jobs.get(stream.partition("/")[0])
        lines = self.shown.streams(job).get(stream) if job else None
        if lines is None or job is None:
            raise Refusal(400, "The specified log stream does not exist.", "ResourceNotFoundException")
        token, most = str(given.get("nextToken") or "f/0"), int(given.get("limit") or 10000)
        start = int(token.partition("/")[2])
        at = int(job.created * 1000)
        shown = [
            {"timestamp": at + start + number, "message": line, "ingestionTime": at + start + number}
            for number, line in enumerate(lines[start : start + most])
        ]
        end = f"f/{start + len(shown)}"
        return said_({"events": shown, "nextForwardToken": end, "nextBackwardToken": f"b/{start}"})

    # What stands behind the answers

    def _job(self, given: Mapping[str, Any]) -> Job:
        job = self.jobs.get(str(given.get("TrainingJobName", "")))
        if job is None:
            raise invalid("Requested resource not found.")
        return job

    def _task(self, job: Job) -> Task | Failure:
        """Return what to train; a file that cannot be read fails the job, as the service has it."""
        if "ServerlessJobConfig" in job.request:
            return self._served(job)
        given = {name: json.loads(text) for name, text in job.request["HyperParameters"].items() if _is_json(text)}
        rows = self._lines(job.request, "train")
        size = given.get("batch_size", 16)
        natural = given.get("max_steps") or -(-len(rows) // size) * given.get("epochs", 1)
        if self.world.trainer.instant:
            held = self._lines(job.request, "validation")
            steps = min(self.world.steps, natural)
            lora = {"r": 8} if any(name.startswith("adapter.") for name in given) else None
            return Task(
                "dpo", rows, held, adapter=lora, batch_size=size, steps=steps, evals=1, seed=given.get("seed", 0)
            )
        return Containers(
            "dpo",
            [],
            [],
            steps=self.world.steps if natural > self.world.steps else 0,
            request=job.request,
            interruptions=tuple(job.facts.get("interruptions", ()))
            if job.request.get("EnableManagedSpotTraining")
            else (),
            grace=job.facts.get("grace", GRACE),
            tell=lambda what: job.note(self.world.clock.now(), what),
        )

    def _served(self, job: Job) -> Task | Failure:
        given = job.request
        try:
            rows, held = self._lines(given, "train"), self._lines(given, "validation")
        except LineError as exc:
            return Failure("invalid", f"ClientError: the dataset does not match any expected format: {exc}")
        chosen = given.get("HyperParameters", {})
        size = int(chosen.get("global_batch_size", 16))
        epochs = int(chosen.get("max_epochs", 3))
        lora = given["ServerlessJobConfig"].get("Peft") == "LORA"
        used = rows[: self.world.steps * size]
        job.facts["tokens"] = sum(len(json.dumps(row)) for row in used) // 4
        return Task(
            stage="dpo",
            rows=used,
            validation=held,
            method={"beta": float(chosen.get("adam_beta", OWN_BETA)), "loss_type": ["sigmoid"]},
            adapter={"r": min(16, int(chosen.get("lora_rank", 16)))} if lora else None,
            epochs=epochs,
            batch_size=size,
            steps=min(self.world.steps, -(-len(rows) // size) * epochs),
            rate=float(chosen.get("learning_rate", OWN_RATE)) / OWN_RATE,
            seed=int(chosen.get("seed", 42)),
            evals=1 if held else 0,
        )

    def _lines(self, given: Mapping[str, Any], channel: str) -> list[dict[str, Any]]:
        for one in given.get("InputDataConfig", []):
            if one["ChannelName"] == channel:
                files = self.s3.below(one["DataSource"]["S3DataSource"]["S3Uri"])
                if "ServerlessJobConfig" in given:
                    return rows_of(files)
                return [json.loads(line) for data in files.values() for line in data.splitlines() if line.strip()]
        return []


def said_(body: Mapping[str, Any]) -> Response:
    """Return an answer of the JSON protocol."""
    return Response(json.dumps(body), media_type="application/x-amz-json-1.1")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
