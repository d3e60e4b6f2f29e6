"""Azure Machine Learning on loopback: its management plane, run history, blobs, and the sign-in before them.

Written from requests of azure-ai-ml 1.35.2 and azure-identity 1.27 as they were recorded. One workspace, one
datastore, two clusters; a service principal that anybody may be.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from anydpo.sandbox.clock import iso
from anydpo.sandbox.faults import Fault
from anydpo.sandbox.jobs import Failure, Job
from anydpo.sandbox.training import Task
from anydpo.sandbox.wire import Refusal, answer, json_object
from anydpo.sandbox.world import World
from anydpo_azure.sandbox_blobs import Blobs
from anydpo_azure.sandbox_command import Command, Nodes
from anydpo_azure.sandbox_tls import Proxy
from anydpo_azure.scope import REHEARSAL

ACCOUNT, CONTAINER, DATASTORE, REGION = "anydposandbox", "azureml-blobstore", "workspaceblobstore", "eastus"
NAMES = {"sub": REHEARSAL, "rg": "sandbox", "ws": "sandbox"}
TENANT = "00000000-0000-4000-8000-74656e616e74"
SECRET = "azureml-sandbox"  # noqa: S105
WORKSPACE = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.MachineLearningServices/workspaces/{ws}"
PROVIDER = "/subscriptions/{sub}/providers/Microsoft.MachineLearningServices/locations/{region}"
CLUSTERS = {"gpu-cluster": 2, "cpu-cluster": 4}  # name → most nodes
SIZES = [  # name, family, vCPUs, GPUs, quota in vCPUs
    ("STANDARD_NC24ADS_A100_V4", "standardNCADSA100v4Family", 24, 1, 96),
    ("STANDARD_NC40ADS_H100_V5", "standardNCadsH100v5Family", 40, 1, 0),
    ("STANDARD_NC4AS_T4_V3", "standardNCASv3T4Family", 4, 1, 16),
    ("STANDARD_DS3_V2", "standardDSv2Family", 4, 0, 100),
]
TIERS = (None, "Spot", "Basic", "Standard", "Premium")
SIGNATURE = "sv=2021-12-02&sr=c&sp=racwl&sig=sandbox-signature"
Handler: TypeAlias = "Callable[[Request], Awaitable[Response]]"


class AzureMLSandbox:
    """The emulator of Azure Machine Learning."""

    name = "azureml"
    clears = ("AZURE_", "AZUREML_", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
    words: ClassVar[Mapping[str, str]] = {
        "validating": "NotStarted",
        "queued": "Queued",
        "running": "Running",
        "compressing": "Finalizing",
        "uploading": "Finalizing",
        "cancelling": "CancelRequested",
        "succeeded": "Completed",
        "failed": "Failed",
        "cancelled": "Canceled",
    }

    def __init__(self, world: World) -> None:
        self.world = world
        nodes = Nodes(world.folder / "cache", world.steps, instant=world.trainer.instant)
        self.jobs = world.jobs(self.name, nodes)
        self.blobs = Blobs(world.place(self.name, "blobs"))
        self.assets: dict[str, dict[str, Any]] = {}
        self.clusters = dict(CLUSTERS)
        self._proxy: Proxy | None = None
        self.routes: list[BaseRoute] = [
            Route(path, handler, methods=[method], name=name) for name, method, path, handler in self._table()
        ]

    def environment(self, origin: str) -> Mapping[str, str]:
        """Return what the SDK and azure-identity read; the proxy listens from the first time this is asked."""
        if self._proxy is None:
            self._proxy = Proxy(self.world.folder / "tls")
            self.world.closing.append(self._proxy.close)
        self._proxy.start(origin)
        bundle = str(self._proxy.certificate)
        return {
            "HTTPS_PROXY": self._proxy.url,
            "https_proxy": self._proxy.url,
            "REQUESTS_CA_BUNDLE": bundle,
            "SSL_CERT_FILE": bundle,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": "00000000-0000-4000-8000-00636c69656e",
            "AZURE_CLIENT_SECRET": SECRET,
            "AZURE_SUBSCRIPTION_ID": REHEARSAL,
            "AZURE_RESOURCE_GROUP": NAMES["rg"],
            "AZURE_ML_WORKSPACE": NAMES["ws"],
        }

    def authorised(self, request: Request) -> bool:
        """Take any token that was signed in for, and the signature of the container; sign-in needs neither."""
        path = request.url.path
        if path.startswith(("/subscriptions/", "/history/")):
            return self._token(request)
        if path.startswith(("/discovery/", "/common/")) or "/oauth2/" in path or "/.well-known/" in path:
            return True
        return self._signed(request)

    def _token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme == "Bearer" and token.endswith(".sandbox")

    def _signed(self, request: Request) -> bool:
        return request.query_params.get("sig") == "sandbox-signature" or self._token(request)

    def refusal(self, fault: Fault) -> Refusal:
        """Return the answer to an account that may not, or of a service in a storm."""
        if fault.fault == "not_eligible":
            said = "The client does not have authorization to perform action 'jobs/write' over scope."
            return Refusal(403, fault.message or said, fault.code or "AuthorizationFailed")
        if fault.fault == "insufficient_quota":
            said = "The specified subscription has a quota of 0 vCPUs for this family, which is not enough."
            return Refusal(400, fault.message or said, fault.code or "QuotaExceeded")
        code = {429: "TooManyRequests", 503: "ServiceUnavailable"}.get(fault.status, "InternalServerError")
        return Refusal(fault.status, fault.message or "Try again later.", fault.code or code)

    def error_body(self, refusal: Refusal) -> Mapping[str, Any]:
        """Return ARM's error."""
        code = refusal.code or {401: "InvalidAuthenticationToken", 404: "NotFound"}.get(refusal.status, "BadRequest")
        return {"error": {"code": code, "message": refusal.message}}

    def _table(self) -> list[tuple[str, str, str, Handler]]:
        one = f"{WORKSPACE}/jobs/{{name}}"
        return [
            ("workspace", "GET", WORKSPACE, self.workspace),
            ("compute", "GET", f"{WORKSPACE}/computes/{{name}}", self.compute),
            ("sizes", "GET", f"{PROVIDER}/vmSizes", self.sizes),
            ("usages", "GET", f"{PROVIDER}/usages", self.usages),
            ("asset", "GET", f"{WORKSPACE}/{{kind}}/{{name}}/versions/{{version}}", self.asset),
            ("put_asset", "PUT", f"{WORKSPACE}/{{kind}}/{{name}}/versions/{{version}}", self.put_asset),
            ("datastore", "GET", f"{WORKSPACE}/datastores/{{name}}", self.datastore),
            ("secrets", "POST", f"{WORKSPACE}/datastores/{{name}}/listSecrets", self.secrets),
            ("list", "GET", f"{WORKSPACE}/jobs", self.list_jobs),
            ("create", "PUT", one, self.create),
            ("retrieve", "GET", one, self.retrieve),
            ("cancel", "POST", f"{one}/cancel", self.cancel),
            ("operation", "GET", f"{WORKSPACE}/operations/{{name}}", self.operation),
            ("details", "GET", f"/history/v1.0{WORKSPACE}/runs/{{name}}/details", self.details),
            ("discovery", "GET", "/discovery/workspaces/{ws}", self.discovery),
            ("token", "POST", "/{tenant}/oauth2/v2.0/token", self.token),
            ("openid", "GET", "/{tenant}/v2.0/.well-known/openid-configuration", self.openid),
            ("instance", "GET", "/common/discovery/instance", self.instance),
            ("list_blobs", "GET", "/{container}", self.blobs.list),
            ("put", "PUT", "/{container}/{path:path}", self.blobs.put),
            ("content", "GET", "/{container}/{path:path}", self.blobs.get),
        ]

    # The management plane

    async def workspace(self, request: Request) -> Response:
        """GET a workspace."""
        path = self._within(request)
        about = {"discoveryUrl": f"https://{REGION}.api.azureml.ms/discovery/workspaces/{NAMES['ws']}"}
        kind = "Microsoft.MachineLearningServices/workspaces"
        return answer({"id": path, "name": NAMES["ws"], "type": kind, "location": REGION, "properties": about})

    async def compute(self, request: Request) -> Response:
        """GET a cluster."""
        path, name = self._within(request), request.path_params["name"]
        if name not in self.clusters:
            raise Refusal(404, f"The compute {name} was not found in the workspace.", "ComputeNotFound")
        inner = {"scaleSettings": {"maxNodeCount": self.clusters[name], "minNodeCount": 0}, "vmSize": SIZES[0][0]}
        about = {"computeType": "AmlCompute", "provisioningState": "Succeeded", "properties": inner}
        return answer({"id": f"{path}/computes/{name}", "name": name, "location": REGION, "properties": about})

    async def sizes(self, request: Request) -> Response:
        """GET the sizes of a region."""
        self._subscription(request)
        shown = [{"name": n, "family": f, "vCPUs": v, "gpus": g} for n, f, v, g, _ in SIZES]
        return answer({"value": shown})

    async def usages(self, request: Request) -> Response:
        """GET the quotas of a region."""
        self._subscription(request)
        shown = [
            {"name": {"value": f"{family} Cluster Dedicated vCPUs"}, "limit": limit, "currentValue": 0, "unit": "Count"}
            for _, family, _, _, limit in SIZES
        ]
        return answer({"value": shown})

    async def asset(self, request: Request) -> Response:
        """GET a version of a code asset or an environment."""
        path = self._asset_path(request)
        if path not in self.assets:
            raise Refusal(404, f"{path} was not found.", "NotFound")
        return answer(self._asset(path))

    async def put_asset(self, request: Request) -> Response:
        """PUT one; what it is made of cannot be changed."""
        path, given = self._asset_path(request), await json_object(request)
        properties = given.get("properties") or {}
        if path in self.assets and self.assets[path] != properties:
            raise Refusal(409, "The version exists and is immutable.", "UserError")
        uri = str(properties.get("codeUri", ""))
        if "/codes/" in path and not self.blobs.folder_of(uri).is_dir():
            raise Refusal(400, f"There is nothing at {uri}.", "UserError")
        self.assets[path] = properties
        return answer(self._asset(path), 201)

    async def datastore(self, request: Request) -> Response:
        """GET the datastore."""
        path = self._datastore_path(request)
        about = {
            "datastoreType": "AzureBlob",
            "accountName": ACCOUNT,
            "containerName": CONTAINER,
            "endpoint": "core.windows.net",
            "protocol": "https",
            "isDefault": True,
            "credentials": {"credentialsType": "AccountKey"},
        }
        return answer({"id": path, "name": DATASTORE, "type": "datastores", "properties": about})

    async def secrets(self, request: Request) -> Response:
        """POST: a signature for an hour."""
        self._datastore_path(request)
        return answer({"secretsType": "Sas", "sasToken": SIGNATURE})

    # Jobs

    async def create(self, request: Request) -> Response:
        """PUT a job: the same again is the same job, another one of its name is refused."""
        path, name = self._within(request), request.path_params["name"]
        given = await json_object(request)
        known = self.jobs.get(name)
        if known is not None:
            if known.request != given:
                raise Refusal(400, f"A job with the name {name} exists already, and differs.", "UserError")
            return answer(self.show(known), 200)
        properties = given.get("properties") or {}
        self._check(properties, path)
        folder = self.world.place(self.name, "jobs", name)
        job = Job(name, self.world.clock.now(), given, folder, lambda: self._task(name, properties))
        for fault in request.state.faults:
            if fault.fault == "job_fails":
                job.fails = fault
            elif fault.fault == "late_list":
                job.hidden_for = fault.requests
        self.jobs.add(job)
        return answer(self.show(job), 201)

    def _check(self, given: Mapping[str, Any], workspace: str) -> None:
        """Refuse what the service refuses at once."""
        if given.get("jobType") != "Command":
            raise Refusal(400, "Only command jobs are rehearsed here.", "UserError")
        for field in ("command", "environmentId"):
            if not given.get(field):
                raise Refusal(400, f"The {field} field is required.", "UserError")
        for field in ("codeId", "environmentId"):
            found = str(given.get(field) or "")
            if found.startswith("/subscriptions/") and found not in self.assets:
                code = "EnvironmentNotFound" if field == "environmentId" else "UserError"
                raise Refusal(404, f"{found} was not found.", code)
        compute, resources = given.get("computeId"), given.get("resources") or {}
        if compute and compute.removeprefix(f"{workspace}/computes/") not in self.clusters:
            raise Refusal(404, f"The compute {compute} was not found.", "ComputeNotFound")
        if not compute and str(resources.get("instanceType")).upper() not in [size[0] for size in SIZES]:
            raise Refusal(400, f"The instance type {resources.get('instanceType')} is not here.", "InvalidInstanceType")
        if (given.get("queueSettings") or {}).get("jobTier") not in TIERS:
            raise Refusal(400, "The job tier is unknown.", "UserError")
        if (given.get("distribution") or {}).get("distributionType") not in (None, "PyTorch"):
            raise Refusal(400, "The distribution is unknown.", "UserError")

    def _task(self, name: str, given: Mapping[str, Any]) -> Task | Failure:
        """Return what to run, or why it cannot: an input that is not there fails the job, as at the service."""
        paths: dict[str, str] = {}
        for kind in ("inputs", "outputs"):
            for key, one in (given.get(kind) or {}).items():
                uri = str(one.get("uri") or one.get("value") or "")
                stored = self._path_of(uri) if uri.startswith("azureml://datastores/") else None
                paths[f"{kind}.{key}"] = str(stored or uri)
                if kind == "inputs" and stored is not None and not stored.exists():
                    return Failure("DataNotFound", f"The input {key} was not found: {uri}")
        out = Path(paths.get("outputs.run") or self.world.place(self.name, "out", name))
        code = self.blobs.folder_of(str(self.assets.get(str(given.get("codeId")), {}).get("codeUri", "")))
        return Command("dpo", [], [], properties=given, paths=paths, code=code, out=out, log=self._log(name))

    def _path_of(self, uri: str) -> Path:
        return self.blobs.path(CONTAINER, uri.partition("/paths/")[2])

    def _log(self, name: str) -> Path:
        return self.blobs.path("azureml", f"ExperimentRun/dcid.{name}/user_logs/std_log.txt")

    def show(self, job: Job) -> dict[str, Any]:
        """Return a job as ARM shows it."""
        path = WORKSPACE.format(**NAMES)
        studio = {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{job.id}"}
        about = {**job.request["properties"], "status": self.words[job.state], "services": {"Studio": studio}}
        made = {"createdAt": iso(job.created), "createdBy": "sandbox", "createdByType": "Application"}
        kind = "Microsoft.MachineLearningServices/workspaces/jobs"
        return {"id": f"{path}/jobs/{job.id}", "name": job.id, "type": kind, "properties": about, "systemData": made}

    async def retrieve(self, request: Request) -> Response:
        """GET a job; where nothing trains, looking makes it go on."""
        job = self._job(request)
        self.jobs.poll(job)
        return answer(self.show(job))

    async def list_jobs(self, request: Request) -> Response:
        """GET the jobs, newest first."""
        self._within(request)
        return answer({"value": [self.show(job) for job in self.jobs.visible()]})

    async def cancel(self, request: Request) -> Response:
        """POST: ask a job to stop."""
        job = self._job(request)
        if job.ended:
            raise Refusal(400, f"The job {job.id} is in a final state.", "UserError")
        self.jobs.ask(job, "cancelled")
        location = f"https://management.azure.com{WORKSPACE.format(**NAMES)}/operations/{job.id}"
        return Response(status_code=202, headers={"location": location, "retry-after": "0"})

    async def operation(self, request: Request) -> Response:
        """GET how a cancel stands: done."""
        self._within(request)
        return Response(status_code=200, content=b"{}", media_type="application/json")

    async def details(self, request: Request) -> Response:
        """GET what the run history says of a job."""
        job = self._job(request)
        log = self._log(job.id)
        logs = sorted(log.parent.glob("std_log*")) if log.parent.is_dir() else []
        account = f"https://{ACCOUNT}.blob.core.windows.net/azureml/ExperimentRun/dcid.{job.id}/user_logs"
        error = {"code": job.failure.code, "message": job.failure.message} if job.failure else None
        return answer(
            {
                "runId": job.id,
                "status": self.words[job.state],
                "startTimeUtc": iso(job.started) if job.started else None,
                "endTimeUtc": iso(job.finished) if job.finished else None,
                "error": {"error": error} if error else None,
                "logFiles": {f"user_logs/{one.name}": f"{account}/{one.name}?{SIGNATURE}" for one in logs},
            }
        )

    async def discovery(self, request: Request) -> Response:  # noqa: ARG002
        """GET where the services of a region are."""
        origin = f"https://{REGION}.api.azureml.ms"
        return answer({"api": origin, "history": origin})

    # Signing in

    async def token(self, request: Request) -> Response:
        """POST: a token for whoever brings the sandbox's secret."""
        given = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        if given.get("client_secret") != SECRET:
            said = "AADSTS7000215: Invalid client secret provided."
            body = {"error": "invalid_client", "error_description": said, "error_codes": [7000215]}
            raise Refusal(401, said, body=body)
        now = int(self.world.clock.now())
        claims = {"tid": TENANT, "aud": given.get("scope", ""), "exp": now + 3600, "iat": now}
        made = ".".join([*(_encoded(part) for part in ({"alg": "none"}, claims)), "sandbox"])
        return answer({"token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600, "access_token": made})

    async def openid(self, request: Request) -> Response:
        """GET where tokens are had."""
        start = f"https://login.microsoftonline.com/{request.path_params['tenant']}"
        return answer(
            {
                "token_endpoint": f"{start}/oauth2/v2.0/token",
                "authorization_endpoint": f"{start}/oauth2/v2.0/authorize",
                "issuer": f"{start}/v2.0",
            }
        )

    async def instance(self, request: Request) -> Response:  # noqa: ARG002
        """GET which hosts are one authority."""
        host = "login.microsoftonline.com"
        where = f"https://{host}/{TENANT}/v2.0/.well-known/openid-configuration"
        names = {"preferred_network": host, "preferred_cache": host, "aliases": [host]}
        return answer({"tenant_discovery_endpoint": where, "api-version": "1.1", "metadata": [names]})

    # What a path names

    def _subscription(self, request: Request) -> None:
        if request.path_params["sub"] != NAMES["sub"]:
            said = f"The subscription '{request.path_params['sub']}' could not be found."
            raise Refusal(404, said, "SubscriptionNotFound")

    def _within(self, request: Request) -> str:
        """Return the workspace's path; refuse another one's."""
        self._subscription(request)
        given = request.path_params
        if given["rg"] != NAMES["rg"]:
            raise Refusal(404, f"Resource group '{given['rg']}' could not be found.", "ResourceGroupNotFound")
        if given["ws"] != NAMES["ws"]:
            said = f"The Resource 'Microsoft.MachineLearningServices/workspaces/{given['ws']}' was not found."
            raise Refusal(404, said, "ResourceNotFound")
        return WORKSPACE.format(**NAMES)

    def _job(self, request: Request) -> Job:
        self._within(request)
        job = self.jobs.get(request.path_params["name"])
        if job is None:
            raise Refusal(404, f"No job with the name {request.path_params['name']} was found.", "UserError")
        return job

    def _asset_path(self, request: Request) -> str:
        given = request.path_params
        return f"{self._within(request)}/{given['kind']}/{given['name']}/versions/{given['version']}"

    def _asset(self, path: str) -> dict[str, Any]:
        kind = f"Microsoft.MachineLearningServices/workspaces/{path.split('/')[-4]}/versions"
        return {"id": path, "name": path.rpartition("/")[2], "type": kind, "properties": self.assets[path]}

    def _datastore_path(self, request: Request) -> str:
        path, name = self._within(request), request.path_params["name"]
        if name != DATASTORE:
            raise Refusal(404, f"No datastore named {name} was found.", "DatastoreNotFound")
        return f"{path}/datastores/{name}"


def _encoded(part: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
