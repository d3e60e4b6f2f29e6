"""The verbs, for both routes. A job's name is its key, so that a second create of the same is refused there."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from anydpo.adapter import Wishes, filled, is_loopback, origin
from anydpo.archive import new_folder, unpack
from anydpo.errors import AnyDPOError, DataInvalid, JobInvalid, NotEligible, OutcomeUnknown, ProviderRefused, RunFailed
from anydpo.job import PreferenceJob
from anydpo.provider import (
    Capabilities,
    DataFile,
    DataSummary,
    Described,
    Diagnosis,
    Event,
    JobRef,
    Outcome,
    Plan,
    Poll,
    Quote,
    Staged,
)
from anydpo.result import Artifact, State
from anydpo_sagemaker import dialect, imported, routes, serverless, source, training
from anydpo_sagemaker.hub import Hub
from anydpo_sagemaker.settings import region_of, where
from anydpo_sagemaker.store import Store
from anydpo_sagemaker.wire import CREDENTIALS, NAME, Absent, client, speaking
from anydpo_trainer.config import LOSSES

LOGS = "/aws/sagemaker/TrainingJobs"
MOST_EVENTS = 1000
ARN = re.compile(r"arn:aws[a-z-]*:sagemaker:([a-z0-9-]+):\d{12}:training-job/([a-zA-Z0-9-]+)")
FILE_NAMES = {"train": "training_file", "validation": "validation_file", "sft": "sft_file"}


class SageMakerProvider:
    """Amazon SageMaker: its own DPO, or our trainer in a training job."""

    name: ClassVar[str] = NAME
    capabilities: ClassVar[Mapping[str, Capabilities]] = {
        "serverless": Capabilities(
            about="SageMaker's serverless model customization: plain DPO of listed models, billed by tokens",
            losses=("sigmoid",),
            adapters=("lora", "full"),
            models="the models of its list, such as Qwen/Qwen3-8B, a hub id or ARN, and Amazon Nova 1.0",
            fields=serverless.FIELDS,
            beta=(0.001, 1.0),
            writes="sagemaker_chat",
            holds=(),
            weights=True,
            quote=False,
            finds_by_key=True,
            lag_seconds=10.0,
            poll_seconds=10.0,
        ),
        "training": Capabilities(
            about="our own trainer in a SageMaker training job: every loss, any model of the Hugging Face hub",
            losses=tuple(LOSSES),
            adapters=("lora", "full"),
            models="tiny, or a hub id that transformers loads",
            fields=training.FIELDS,
            beta=None,
            writes="canonical",
            holds=("tools", "weight", "many_messages"),
            weights=True,
            quote=False,
            finds_by_key=True,
            lag_seconds=10.0,
            poll_seconds=5.0,
        ),
    }

    def plan(self, job: PreferenceJob, data: DataSummary, route: str | None = None) -> Plan:
        """Return the create request and what stands against it; a bare `sagemaker` picks the route."""
        wishes = Wishes(job)
        place = where(job, wishes)
        reason = f"sagemaker/{route}: as asked"
        if route is None:
            route, reason = routes.pick(job, place.region)
        plan = serverless.plan if route == "serverless" else training.plan
        return plan(job, data, place, wishes, reason)

    def quote(self, plan: Plan) -> Quote | None:
        """Return the most it can cost at the user's own price of an hour; AWS's prices are not to be had here."""
        return training.quote(plan) if plan.place == training.PLACE else None

    def limited(self, plan: Plan, usd: float) -> Plan:
        """Return the plan of a job that is stopped before it has cost so much; only machines are billed by the hour."""
        return training.limited(plan, usd) if plan.place == training.PLACE else plan

    def stage(self, plan: Plan, file: DataFile) -> Staged:
        """Put a file into S3 under its hash, unless it is there."""
        if plan.place == serverless.PLACE and file.name == "train":
            body = plan.requests[-1].body
            Hub(self._region(), self._store()).check(body)
        folder = f"{plan.filled['store']}/{file.name}/{file.sha256}/"
        try:
            with file.open() as data:
                self._store().put(f"{folder}{file.name}.jsonl", data, file.bytes, file.sha256)
        except FileNotFoundError:
            raise DataInvalid(f"{file.path}: the staged file is gone", hint="submit the job again") from None
        return Staged(name=file.name, id=folder)

    def submit(self, plan: Plan, staged: tuple[Staged, ...], key: str) -> JobRef:
        """Send the one create; the name being taken means that it was sent before."""
        values = {FILE_NAMES[item.name]: item.id for item in staged}
        if plan.place == training.PLACE:
            self._send_code(plan)
            values["checkpoints"] = f"{plan.filled['checkpoints_below']}/{key}"
        body = filled(plan.requests[-1].body, {**values, "key": key})
        made = self._client("sagemaker")
        try:
            with speaking("CreateTrainingJob", creating=True):
                answer = made.create_training_job(**body)
        except ProviderRefused as exc:
            if "(ResourceInUse)" not in exc.message or (found := self.find(key)) is None:
                raise
            return found
        if not answer.get("TrainingJobArn"):
            raise OutcomeUnknown("the answer to the create names no job", provider=NAME)
        return JobRef(id=str(answer["TrainingJobArn"]), place=plan.place)

    def find(self, key: str) -> JobRef | None:
        """Return the job of this name."""
        try:
            job = self._describe(key, self._region())
        except Absent:
            return None
        return JobRef(id=str(job["TrainingJobArn"]), place=dialect.place_of(job))

    def found(self) -> tuple[tuple[str, JobRef], ...]:
        """Return (key, job) of every training job that carries one of our keys."""
        asked: dict[str, Any] = {"NameContains": "anydpo-", "MaxResults": 100}
        made: list[tuple[str, JobRef]] = []
        while True:
            with speaking("ListTrainingJobs"):
                page = self._client("sagemaker").list_training_jobs(**asked)
            made += [
                (one["TrainingJobName"], JobRef(id=one["TrainingJobArn"], place=NAME))
                for one in page.get("TrainingJobSummaries", ())
                if str(one["TrainingJobName"]).startswith("anydpo-")
            ]
            if not page.get("NextToken"):
                return tuple(made)
            asked["NextToken"] = page["NextToken"]

    def poll(self, ref: JobRef, cursor: str = "") -> Poll:
        """Return the state and what happened since the cursor: the service's timeline, then each stream of the log."""
        region, name = _parts(ref)
        job = self._describe(name, region)  # before the log, so that an end comes with all that led to it
        at: dict[str, Any] = json.loads(cursor) if cursor else {"steps": 0, "streams": {}}
        made: list[Event] = dialect.transitions(job, at["steps"])
        at["steps"] += len(made)
        more = False
        for stream in self._streams(name, region):
            lines, token = self._lines(stream, region, at["streams"].get(stream))
            made += dialect.log_events(lines)
            at["streams"][stream] = token
            more = more or len(lines) == MOST_EVENTS
        state = dialect.state_of(job)
        if state is None:
            words = f"the status {job.get('TrainingJobStatus')!r} is not known; it is taken for running"
            made.append(Event(kind="log", text=words))
        return Poll(state=state or State.RUNNING, events=tuple(made), cursor=json.dumps(at, sort_keys=True), more=more)

    def result(self, ref: JobRef) -> Outcome:
        """Return what is known of the job; our trainer's own files lie beside its checkpoints."""
        region, name = _parts(ref)
        job = self._describe(name, region)
        if dialect.place_of(job) == serverless.PLACE or not job.get("CheckpointConfig"):  # not our trainer's
            return dialect.served(job, _sdk())
        store, kept = self._store(region), _checkpoints(job)
        records = [json.loads(line) for line in (store.text(f"{kept}/metrics.jsonl") or "").splitlines()]
        return dialect.trained(job, store.json(f"{kept}/result.json"), records, _sdk(), _kept(store, kept))

    def cancel(self, ref: JobRef) -> None:
        """Ask the job to stop; one that has ended is left alone."""
        region, name = _parts(ref)
        if self._describe(name, region)["TrainingJobStatus"] != "InProgress":
            return
        try:
            with speaking("StopTrainingJob"):
                self._client("sagemaker", region).stop_training_job(TrainingJobName=name)
        except JobInvalid:  # it ended in between
            if not (dialect.state_of(self._describe(name, region)) or State.RUNNING).done:
                raise

    def fetch(self, ref: JobRef, folder: Path, checkpoint: int | None = None) -> tuple[Artifact, ...]:
        """Bring the weights, or a checkpoint's, into a new folder."""
        region, name = _parts(ref)
        with new_folder(folder) as unfinished:
            job, store = self._describe(name, region), self._store(region)
            if checkpoint is not None:
                self._bring_checkpoint(job, store, checkpoint, unfinished)
            else:
                _bring_model(job, store, unfinished, folder.parent)
        return (Artifact(kind="model", path=str(folder)),)

    def diagnose(self) -> tuple[Diagnosis, ...]:
        """Say whether the AWS chain has a region and credentials, and who they are."""
        region = region_of()
        if region is None:
            return (Diagnosis(what="region", ok=None, detail="no AWS region is set: export AWS_REGION=us-east-1"),)
        try:
            with speaking("sts: GetCallerIdentity"):
                who = client("sts", region).get_caller_identity()
            said = Diagnosis(what="credentials", ok=True, detail=f"account {who['Account']}, {who['Arn']}")
        except AnyDPOError as exc:
            return (Diagnosis(what="credentials", ok=None, detail=f"{exc.message}: {CREDENTIALS}"),)
        try:
            with speaking("ListTrainingJobs"):
                client("sagemaker", region).list_training_jobs(MaxResults=1)
        except AnyDPOError as exc:
            return (said, Diagnosis(what="service", ok=False, detail=exc.message))
        return (said, Diagnosis(what="service", ok=True, detail=f"SageMaker answers in {region}"))

    def described(self, body: Mapping[str, Any]) -> Described | None:
        """Return the job that a create body stands for, None for what is none."""
        return imported.described(body) if imported.is_body(body) else None

    def describe(self, ref: JobRef) -> Described:
        """Return a training job as it was asked for, whoever made it."""
        region, name = _parts(ref)
        job = self._describe(name, region)
        found = imported.described(job)
        url = str(self._client("sagemaker", region).meta.endpoint_url)
        told = {"id": str(job["TrainingJobArn"]), "target": f"{origin(url)} {region}", "sandbox": is_loopback(url)}
        return found.model_copy(update=told)

    # The wire

    def _region(self) -> str:
        found = region_of()
        if found is None:
            raise JobInvalid("no AWS region is set", provider=NAME, hint="export AWS_REGION=us-east-1")
        return found

    def _client(self, service: str, region: str | None = None) -> Any:
        with speaking(service):
            return client(service, region or self._region())

    def _store(self, region: str | None = None) -> Store:
        return Store(region or self._region())

    def _send_code(self, plan: Plan) -> None:
        code = source.archive(plan.filled.get("template"))
        uri = plan.requests[-1].body["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"]
        if code.sha256 not in uri:
            raise JobInvalid(
                "the trainer or the chat template changed since the plan was made",
                provider=NAME,
                hint="submit the job again",
            )
        self._store().put(f"{uri}{training.ARCHIVE}", io.BytesIO(code.data), len(code.data), code.sha256)

    def _describe(self, name: str, region: str) -> dict[str, Any]:
        with speaking("DescribeTrainingJob"):
            job: dict[str, Any] = self._client("sagemaker", region).describe_training_job(TrainingJobName=name)
            if not job.get("TrainingJobArn") or not job.get("TrainingJobStatus"):
                raise ValueError("an answer cut half-way")
        return job

    def _streams(self, name: str, region: str) -> list[str]:
        """Return the streams of the first host, which alone writes; after an interruption there is one more."""
        asked: dict[str, Any] = {"logGroupName": LOGS, "logStreamNamePrefix": f"{name}/algo-1-"}
        made: list[str] = []
        while True:
            try:
                with speaking("DescribeLogStreams"):
                    page = self._client("logs", region).describe_log_streams(**asked)
            except Absent:  # until the first container has started
                return made
            made += [str(one["logStreamName"]) for one in page.get("logStreams", ())]
            if not page.get("nextToken"):
                return sorted(made)
            asked["nextToken"] = page["nextToken"]

    def _lines(self, stream: str, region: str, token: str | None) -> tuple[list[dict[str, Any]], str | None]:
        asked = {"logGroupName": LOGS, "logStreamName": stream, "startFromHead": True, "limit": MOST_EVENTS}
        if token is not None:
            asked["nextToken"] = token
        try:
            with speaking("GetLogEvents"):
                page = self._client("logs", region).get_log_events(**asked)
        except Absent:
            return [], token
        return list(page.get("events", ())), page.get("nextForwardToken") or token

    def _bring_checkpoint(self, job: Mapping[str, Any], store: Store, step: int, target: Path) -> None:
        if dialect.place_of(job) == serverless.PLACE:
            raise JobInvalid("a serverless job keeps no checkpoints", provider=NAME, hint="fetch the model")
        kept = _kept(store, _checkpoints(job))
        if step not in kept or store.bring_folder(kept[step], target) == 0:
            hint = f"kept are: {', '.join(map(str, sorted(kept))) or 'none'}; save_steps sets how often"
            raise JobInvalid(f"no checkpoint at step {step}", provider=NAME, hint=hint)


def _bring_model(job: Mapping[str, Any], store: Store, target: Path, beside: Path) -> None:
    if dialect.state_of(job) is not State.SUCCEEDED:
        raise RunFailed("this run has left no model yet", provider=NAME, hint="anydpo watch RUN")
    weights = (job.get("ModelArtifacts") or {}).get("S3ModelArtifacts")
    if not weights:
        said = job.get("OutputModelPackageArn") or "a model package"
        raise NotEligible(f"the service keeps these weights ({said})", provider=NAME, hint=dialect.OUT_OF_REACH)
    if not weights.endswith(".tar.gz"):
        if store.bring_folder(weights, target) == 0:
            raise RunFailed(f"there is nothing at {weights}", provider=NAME)
        return
    with tempfile.TemporaryDirectory(prefix=".download-", dir=beside) as name:
        archive = Path(name) / "model.tar.gz"
        store.bring(weights, archive)
        unpack(archive, target)


def _checkpoints(job: Mapping[str, Any]) -> str:
    found = (job.get("CheckpointConfig") or {}).get("S3Uri")
    if not found:
        raise ProviderRefused("this job keeps no checkpoints in S3: it is not one of ours", provider=NAME)
    return str(found).rstrip("/")


def _kept(store: Store, folder: str) -> dict[int, str]:
    """Return step → where the weights are of every checkpoint in a job's folder."""
    below = f"{folder}/checkpoints"
    found = [name for name in store.folders(below) if name.startswith("dpo-step-")]
    return {int(name.rpartition("-")[2]): f"{below}/{name}/model" for name in found}


def _parts(ref: JobRef) -> tuple[str, str]:
    """Return (region, name) of a job."""
    if match := ARN.fullmatch(ref.id):
        return match[1], match[2]
    found = region_of()
    if found is None:
        raise JobInvalid("no AWS region is set", provider=NAME, hint="export AWS_REGION=us-east-1")
    return found, ref.id


def _sdk() -> str:
    import boto3

    return f"boto3 {boto3.__version__}"
