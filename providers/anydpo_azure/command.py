"""The verbs of `azure/command`: our trainer as an Azure ML command job. Its name is its key, so a PUT can be lost."""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from anydpo import own_trainer
from anydpo.errors import (
    AnyDPOError,
    DataInvalid,
    JobInvalid,
    OutcomeUnknown,
    ProviderRefused,
    QuotaExceeded,
    RunFailed,
    Unavailable,
)
from anydpo.provider import DataFile, Diagnosis, Event, JobRef, Outcome, Plan, Poll, Staged
from anydpo.result import Artifact, Error, Model, State
from anydpo_azure import payload, scope
from anydpo_azure.request import ASSET_API as API
from anydpo_azure.request import (
    CODE,
    DATA,
    PLACE,
    RUNS,
    code_asset,
    create_of,
    datastore_of,
    facts,
    image_asset,
    seconds_of,
)
from anydpo_azure.store import Blob, Store
from anydpo_azure.workspace import NotThere, Workspace

METRICS, RESULT, LOG = "metrics.jsonl", "result.json", "trainer.log"
MOST_EVENTS = 1000
TAIL = 20  # lines of the service's own log that go with a failure


def stage(workspace: Workspace, plan: Plan, file: DataFile) -> Staged:
    """Upload a file unless its bytes are there; before the first one, see that the job could run at all."""
    if file.bytes > facts()["limits"]["upload_bytes"]:
        raise DataInvalid(f"{file.name}: {file.bytes:,} bytes, more than one upload takes", provider="azure")
    name = datastore_of(plan)
    if file.name == "train":
        _can_run(workspace, plan.requests[-1].body["properties"])
    store = workspace.store(name)
    if file.name == "train":
        _bring_code(workspace, store)
        _bring_image(workspace, plan)
    path = f"{DATA}/{file.sha256[:32]}/{file.name}.jsonl"
    try:
        with file.open() as opened:
            if store.size(path) != file.bytes:
                store.put_once(path, opened, file.bytes)
    except FileNotFoundError:
        raise DataInvalid(f"{file.path}: the staged file is gone", hint="submit the job again") from None
    if (arrived := store.size(path)) != file.bytes:
        raise Unavailable(f"of {file.bytes} bytes of the {file.name} file {arrived} are there", provider="azure")
    return Staged(name=file.name, id=f"azureml://datastores/{name}/paths/{path}")


def submit(workspace: Workspace, plan: Plan, staged: tuple[Staged, ...], key: str) -> JobRef:
    """Send the one request that makes the job."""
    body = create_of(plan, {item.name: item.id for item in staged}, key)
    job = command_job(body["properties"], key)
    ml = workspace.ml
    with workspace.speaking(creating=True):
        made = ml.jobs.create_or_update(job)
    if not made.id or made.name != key:
        raise OutcomeUnknown("the answer to the create names no job", provider="azure")
    return JobRef(id=workspace.where.job(key), place=PLACE)


def command_job(body: Mapping[str, Any], key: str) -> Any:
    """Return the SDK's job of a create body."""
    from azure.ai.ml import Input, Output, PyTorchDistribution, command
    from azure.ai.ml.entities import ManagedIdentityConfiguration

    resources, more = body["resources"], dict[str, Any]()
    if "distribution" in body:
        more["distribution"] = PyTorchDistribution(process_count_per_instance=1)
    if "limits" in body:
        more["timeout"] = seconds_of(body["limits"]["timeout"])
    if "identity" in body:
        more["identity"] = ManagedIdentityConfiguration()
    if "queueSettings" in body:
        more["job_tier"] = body["queueSettings"]["jobTier"]
    if "computeId" in body:
        more["compute"] = body["computeId"].rpartition("/")[2]
    else:
        more["instance_type"] = resources["instanceType"]
    modes = {"ReadOnlyMount": "ro_mount", "ReadWriteMount": "rw_mount"}
    made = command(
        name=key,
        display_name=body["displayName"],
        experiment_name=body["experimentName"],
        tags=dict(body["tags"]),
        code=body["codeId"],
        environment=body["environmentId"],
        command=body["command"],
        environment_variables=dict(body["environmentVariables"]),
        inputs={
            name: Input(type=one["jobInputType"], path=one["uri"], mode=modes[one["mode"]])
            for name, one in body["inputs"].items()
        },
        outputs={
            name: Output(type=one["jobOutputType"], path=one["uri"], mode=modes[one["mode"]])
            for name, one in body["outputs"].items()
        },
        instance_count=resources["instanceCount"],
        shm_size=resources["shmSize"],
        **more,
    )
    made.properties = dict(body["properties"])
    return made


def find(workspace: Workspace, key: str) -> JobRef | None:
    """Return the job of this name, None where there is none."""
    try:
        _job(workspace, key)
    except NotThere:
        return None
    return JobRef(id=workspace.where.job(key), place=PLACE)


def poll(workspace: Workspace, name: str, cursor: str) -> Poll:
    """Return the state and what the trainer wrote since the cursor, which is a place in each of its two files."""
    job = _job(workspace, name)  # its state before its files, so that an end comes with all that led to it
    word, store = _word(job), workspace.store(_datastore(job))
    made: list[Event] = []
    state = _state(word)
    if word not in facts()["states"]:
        made.append(Event(kind="log", text=f"the status {word!r} is not known; it is taken for running"))
    metrics_at, log_at = (int(part) for part in (cursor or "0:0").split(":"))
    records, metrics_end, more_records = _lines(store, f"{RUNS}/{name}/{METRICS}", metrics_at)
    lines, log_end, more_lines = _lines(store, f"{RUNS}/{name}/{LOG}", log_at)
    made += own_trainer.events([json.loads(record) for record in records], lines)
    return Poll(state=state, events=tuple(made), cursor=f"{metrics_end}:{log_end}", more=more_records or more_lines)


def result(workspace: Workspace, name: str) -> Outcome:
    """Return what the run's folder and the run history say."""
    job = _job(workspace, name)
    state, datastore = _state(_word(job)), _datastore(job)
    store, folder = workspace.store(datastore), f"{RUNS}/{name}"
    lines, _, _ = _lines(store, f"{folder}/{METRICS}", 0, most=None)
    found = json.loads(store.read_from(f"{folder}/{RESULT}") or b"{}")
    if state is State.SUCCEEDED:
        uri = f"azureml://datastores/{datastore}/paths/{folder}/model"
        model = own_trainer.model_of(found, uri, uri, "DIR")
        model = model.model_copy(update={"how_to_use": f"# anydpo fetch RUN -o DIR\n{model.how_to_use}"})
    else:
        model = Model(provider_model=(found.get("model") or {}).get("start"))
    below = f"azureml://datastores/{datastore}/paths"
    kept = [Artifact(kind="checkpoint", path=f"{below}/{path}", step=step) for step, path in _kept(store, folder)]
    made = own_trainer.outcome(found, state, [json.loads(line) for line in lines], model=model, artifacts=kept)
    told: dict[str, Any] = {}
    if state.done:
        details = workspace.details(name)
        told = {"started": _time(details.get("startTimeUtc")), "finished": _time(details.get("endTimeUtc"))}
        told = {key: value for key, value in told.items() if value is not None}
        if state is State.FAILED and made.error is None:
            told["error"] = _failure(workspace, details)
    return made.model_copy(update=told)


def cancel(workspace: Workspace, name: str) -> None:
    """Ask the job to stop; one that has ended is left alone."""
    if _state(_word(_job(workspace, name))).done:
        return
    with workspace.speaking():
        workspace.ml.jobs.begin_cancel(name, polling=False)


def fetch(workspace: Workspace, name: str, folder: Path, checkpoint: int | None) -> tuple[Artifact, ...]:
    """Download the weights into a folder that is not there yet or is empty, whole or not at all."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise JobInvalid(f"{folder} is not empty", hint="fetch into a new folder")
    store, run = workspace.store(_datastore(_job(workspace, name))), f"{RUNS}/{name}"
    start = f"{run}/model/" if checkpoint is None else f"{run}/checkpoints/dpo-step-{checkpoint:06d}/model/"
    blobs = [blob for blob in store.blobs(start) if not blob.name.endswith("/") and blob.size]
    if not blobs:
        if checkpoint is None:
            raise RunFailed("this run has left no model yet", provider="azure")
        there = ", ".join(str(step) for step, _ in _kept(store, run)) or "none"
        raise JobInvalid(f"no checkpoint at step {checkpoint}", hint=f"kept are: {there}; save_steps sets how often")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for blob in blobs:
            target = (unfinished / blob.name.removeprefix(start)).resolve()
            if not target.is_relative_to(unfinished.resolve()):
                raise ProviderRefused(f"the run's folder holds {blob.name!r}, which leads out of it", provider="azure")
            target.parent.mkdir(parents=True, exist_ok=True)
            _save(store, blob, target)
        unfinished.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return (Artifact(kind="model", path=str(folder)),)


def found(workspace: Workspace) -> tuple[tuple[str, JobRef], ...]:
    """Return (key, job) of every job that carries one of our keys."""
    made: list[tuple[str, JobRef]] = []
    page = workspace.arm("GET", "/jobs", api="2024-01-01-preview")
    while True:
        names = [str(one.get("name")) for one in page.get("value", ())]
        made += [(name, JobRef(id=workspace.where.job(name), place=PLACE)) for name in names if _ours(name)]
        following = str(page.get("nextLink") or "")
        if not following.startswith(f"{scope.ARM}/"):
            return tuple(made)
        page = workspace.ask("GET", following)


def diagnose(workspace: Workspace) -> tuple[Diagnosis, ...]:
    """Say whether the workspace can be reached with the credentials that are found."""
    try:
        region = workspace.about.get("location")
    except AnyDPOError as exc:
        return (Diagnosis(what="workspace", ok=False, detail=exc.message),)
    return (Diagnosis(what="workspace", ok=True, detail=f"{workspace.where.workspace} in {region} answers"),)


# What has to be there before a job can run


def _can_run(workspace: Workspace, body: Mapping[str, Any]) -> None:
    """Raise where workspace, cluster, size, nodes or quota cannot be; nothing is paid for by asking."""
    region = str(workspace.about.get("location", "")).replace(" ", "").lower()
    nodes, size = body["resources"]["instanceCount"], body["resources"].get("instanceType")
    if "computeId" in body:
        _cluster_has(workspace, body["computeId"].rpartition("/")[2], nodes)
        return
    where = f"/subscriptions/{workspace.where.subscription_id}/providers/Microsoft.MachineLearningServices"
    try:
        sizes = workspace.arm("GET", f"{where}/locations/{region}/vmSizes")["value"]
        usages = workspace.arm("GET", f"{where}/locations/{region}/usages")["value"]
    except (ProviderRefused, KeyError) as exc:
        if isinstance(exc, Unavailable):
            raise
        return  # not everyone may ask; the create will say it
    known = {str(one["name"]).lower(): one for one in sizes}
    if size.lower() not in known:
        near = difflib.get_close_matches(size.lower(), known, n=3)
        hint = (
            f"nearest: {', '.join(str(known[name]['name']) for name in near)}" if near else "az ml compute list-sizes"
        )
        raise JobInvalid(
            f"options.azure.instance_type: no {size} in {region}, the workspace's region", provider="azure", hint=hint
        )
    _quota_allows(usages, known[size.lower()], nodes, region)


def _cluster_has(workspace: Workspace, name: str, nodes: int) -> None:
    try:
        about = workspace.arm("GET", f"/computes/{name}")["properties"]
    except NotThere:
        hint = facts()["hints"]["ComputeNotFound"]
        raise JobInvalid(f"options.azure.compute: no {name} in the workspace", provider="azure", hint=hint) from None
    scale = (about.get("properties") or {}).get("scaleSettings") or {}
    most = scale.get("maxNodeCount", 1 if about.get("computeType") == "ComputeInstance" else None)
    if most is not None and nodes > most:
        raise JobInvalid(
            f"options.azure.instance_count: {nodes} nodes, {name} has at most {most}",
            provider="azure",
            hint=f"az ml compute update --name {name} --max-instances {nodes}",
        )


def _quota_allows(usages: list[Any], size: Mapping[str, Any], nodes: int, region: str) -> None:
    family = str(size.get("family", "")).lower().replace(" ", "")
    needed = int(size.get("vCPUs", 0)) * nodes
    for one in usages:
        name = str((one.get("name") or {}).get("value", ""))
        if not family or not name.lower().replace(" ", "").startswith(family):
            continue
        limit, used = int(one.get("limit", -1)), int(one.get("currentValue", 0))
        if 0 <= limit < used + needed:
            raise QuotaExceeded(
                f"{size['name']} x {nodes}: {needed} vCPUs in {region}; the quota of {name} is {limit}, {used} used",
                provider="azure",
                hint="ask for quota (Azure portal, Quotas, Machine Learning), or take another size, region or place",
            )


def _bring_code(workspace: Workspace, store: Store) -> None:
    """See that the trainer is a code asset of the workspace; its name is its content, so once is enough."""
    name = payload.name()
    path = f"/codes/{name}/versions/1"
    if _is_there(workspace, path):
        return
    for relative, file in payload.files().items():
        with file.open("rb") as opened:
            store.put_once(f"{CODE}/{name}/{relative}", opened, file.stat().st_size)
    workspace.arm("PUT", path, api=API, json=code_asset(store.url(f"{CODE}/{name}")))


def _bring_image(workspace: Workspace, plan: Plan) -> None:
    """See that an image given by the user is an environment of the workspace."""
    for request in plan.requests[:-1]:
        if "/environments/" in request.url:
            path = request.url.removeprefix(scope.ARM).partition("?")[0]
            if not _is_there(workspace, path):
                workspace.arm("PUT", path, api=API, json=image_asset(request.body["properties"]["image"]))


def _is_there(workspace: Workspace, path: str) -> bool:
    try:
        workspace.arm("GET", path, api=API)
    except NotThere:
        return False
    return True


# The run's folder


def _job(workspace: Workspace, name: str) -> Any:
    with workspace.speaking():
        return workspace.ml.jobs.get(name)


def _word(job: Any) -> str:
    return str(getattr(job.status, "value", job.status))


def _state(word: str) -> State:
    return State(facts()["states"].get(word, "running"))


def _datastore(job: Any) -> str:
    """Return the datastore that a job's folder is in."""
    uri = str(job.outputs["run"].path or "") if "run" in (job.outputs or {}) else ""
    if not uri.startswith("azureml://datastores/"):
        raise ProviderRefused(f"{job.name} is no job of ours: no output named run in a datastore", provider="azure")
    return uri.split("/")[3]


def _lines(store: Store, path: str, start: int, most: int | None = MOST_EVENTS) -> tuple[list[str], int, bool]:
    """Return (whole lines after a place in a blob, the next place, whether `most` cut the reading short)."""
    size = store.size(path)
    if size is None:
        return [], start, False
    if size < start:  # cut back by a trainer that went on from a checkpoint
        start = 0
    data = (store.read_from(path, start) or b"") if size > start else b""
    whole = data.split(b"\n")[:-1]
    shown = whole[:most]
    end = start + sum(len(line) + 1 for line in shown)
    return [line.decode("utf-8", "replace") for line in shown], end, len(whole) > len(shown)


def _kept(store: Store, run: str) -> list[tuple[int, str]]:
    """Return (step, path of its weights) of every checkpoint in a run's folder."""
    start = f"{run}/checkpoints/dpo-step-"
    steps = {blob.name.removeprefix(start).partition("/")[0] for blob in store.blobs(start)}
    return [(int(step), f"{start}{step}/model") for step in sorted(steps)]


def _save(store: Store, blob: Blob, target: Path) -> None:
    """Write a blob to a file; raises `Unavailable` where what arrived is not what the service has."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with target.open("wb") as file:
        for part in store.download(blob.name):
            digest.update(part)
            size += len(part)
            file.write(part)
    md5 = base64.b64encode(digest.digest()).decode()
    if size != blob.size or (blob.md5 and blob.md5 != md5):
        raise Unavailable(f"{blob.name} did not arrive whole", provider="azure", hint="fetch again")


def _failure(workspace: Workspace, details: Mapping[str, Any]) -> Error:
    """Return why a job failed that left no word of the trainer's own: the service's, with the end of its log."""
    error = (details.get("error") or {}).get("error") or {}
    message = str(error.get("message") or "the job failed, and the service does not say why")
    logs: Mapping[str, str] = details.get("logFiles") or {}
    name = next((one for one in sorted(logs) if "std_log" in one), None)
    if name is not None and logs[name].startswith("https://"):
        with workspace.speaking():
            said = workspace.http.get(logs[name])  # signed by itself, so no credential goes with it
        tail = [line for line in said.text.splitlines() if line.strip()][-TAIL:] if said.is_success else []
        message += f"; the end of {name}:\n" + "\n".join(tail) if tail else ""
    return Error(code=str(error.get("code") or "failed"), message=message, hint="the log is in Azure ML studio too")


def _time(given: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(given)).timestamp() if given else None
    except ValueError:
        return None


def _ours(name: str) -> bool:
    return name.startswith("anydpo-")
