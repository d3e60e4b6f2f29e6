"""One workspace on the wire: Azure's SDK for jobs, our own requests for the rest, one credential for both.

Of `azure-ai-ml` only calls are used that do what they say in 1.35.2: `jobs.create_or_update`, `jobs.get`,
`jobs.begin_cancel`, `datastores.get`. Nothing is repeated here; the core asks again.
"""

from __future__ import annotations

import logging
import os
import re
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from anydpo.adapter import Advice, Answer, answer_of, refusal
from anydpo.errors import (
    AnyDPOError,
    AuthFailed,
    JobInvalid,
    NotEligible,
    ProviderMissing,
    ProviderRefused,
    QuotaExceeded,
)
from anydpo_azure.request import facts
from anydpo_azure.scope import ARM, Scope
from anydpo_azure.store import Store

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

MANAGEMENT, STORAGE = "https://management.azure.com/.default", "https://storage.azure.com/.default"
WORKSPACE_API = "2024-10-01"
HISTORY_HOSTS = (".azureml.ms", ".azureml.net")
ANSI = re.compile(r"\x1b\[\d*m")  # azure-ai-ml paints what it refuses
SECONDS = 60.0
SIGNED_SECONDS = 3600
ADVICE = Advice(
    provider="azure",
    credentials="sign in with `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
    not_eligible="the account needs the role AzureML Data Scientist in the workspace",
    retired="choose another environment or image: options.azure.environment",
    safety="the service's policy refused this",
)


class NotThere(ProviderRefused):
    """What was asked for does not exist."""


class Workspace:
    """The connection to one workspace."""

    def __init__(self, where: Scope) -> None:
        self.where = where
        self._stores: dict[str, tuple[float, Store]] = {}

    @cached_property
    def credential(self) -> Any:
        """The azure-identity chain: environment, workload, managed identity, az login …"""
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError:
            raise ProviderMissing("azure-identity is not installed", hint="pip install 'anydpo[azure]'") from None
        made: Any = DefaultAzureCredential
        if self.where.rehearsal:  # a rehearsal asks no identity of this machine
            from azure.identity import EnvironmentCredential

            made = EnvironmentCredential
        found = made(retry_total=0)
        weakref.finalize(self, found.close)
        return found

    @cached_property
    def ml(self) -> MLClient:
        """Azure's own client, its repetitions and telemetry off."""
        try:
            from azure.ai.ml import MLClient
        except ImportError:
            raise ProviderMissing("azure-ai-ml is not installed", hint="pip install 'anydpo[azure]'") from None
        from azure.core.pipeline.transport import RequestsTransport

        transport = RequestsTransport()
        weakref.finalize(self, transport.close)
        logging.getLogger("azure.ai.ml").setLevel(logging.CRITICAL)  # it logs each error that it raises
        where = self.where
        return MLClient(
            self.credential,
            where.subscription_id,
            where.resource_group,
            where.workspace,
            enable_telemetry=False,
            show_progress=False,
            retry_total=0,
            transport=transport,
        )

    @cached_property
    def http(self) -> httpx.Client:
        """The client of our own requests; it trusts what Azure's SDK is told to trust."""
        verify: Any = True
        if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
            import ssl

            verify = ssl.create_default_context(cafile=bundle)
        made = httpx.Client(timeout=SECONDS, verify=verify)
        weakref.finalize(self, made.close)
        return made

    def token(self, audience: str) -> str:
        """Return a bearer token."""
        with self.speaking():
            token: str = self.credential.get_token(audience).token
        return token

    def ask(self, method: str, url: str, **given: Any) -> Any:
        """Return the JSON that Azure's management plane or run history answers; raises typed errors."""
        headers = {"authorization": f"Bearer {self.token(MANAGEMENT)}"}
        with self.speaking():
            response = self.http.request(method, url, headers=headers, **given)
            if response.is_error:
                raise_for(response)
            return response.json() if response.content else {}

    def arm(self, method: str, path: str, *, api: str = WORKSPACE_API, **given: Any) -> Any:
        """Ask for something under the workspace, or for a whole path that begins with /subscriptions."""
        whole = path if path.startswith("/subscriptions/") else f"{self.where.path}{path}"
        return self.ask(method, f"{ARM}{whole}", params={"api-version": api}, **given)

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """What Azure says of the workspace: its region, its discovery address."""
        found: Mapping[str, Any] = self.arm("GET", "")
        return found

    @cached_property
    def history(self) -> str:
        """The address of the workspace's run history."""
        discovery = str(self.about.get("properties", {}).get("discoveryUrl") or "")
        with self.speaking():
            response = self.http.get(discovery)  # needs no credential, so none is sent
            if response.is_error:
                raise_for(response)
            api = str(response.json().get("api") or "")
        host = urlsplit(api).hostname or ""
        if not (api.startswith("https://") and host.endswith(HISTORY_HOSTS)):
            raise ProviderRefused(f"the workspace names {api!r} as its run history", provider="azure")
        return f"{api}/history/v1.0{self.where.path}"

    def details(self, job: str) -> Mapping[str, Any]:
        """Return the run history's own words about a job: times, error, addresses of its logs."""
        found: Mapping[str, Any] = self.ask("GET", f"{self.history}/runs/{job}/details")
        return found

    def store(self, name: str) -> Store:
        """Return a datastore's container, with the right to read and write it for some time."""
        made, known = self._stores.get(name, (0.0, None))
        if known is None or time.monotonic() - made > SIGNED_SECONDS / 2:
            known = self._signed(name)
            self._stores[name] = (time.monotonic(), known)
        return known

    def _signed(self, name: str) -> Store:
        with self.speaking():
            found: Any = self.ml.datastores.get(name)
        kind = str(getattr(found.type, "value", found.type))
        if kind.lower().replace("_", "") != "azureblob":
            raise JobInvalid(
                f"options.azure.datastore: {name} is of type {kind}",
                provider="azure",
                hint="a datastore of Azure blobs is needed, such as workspaceblobstore",
            )
        address = f"https://{found.account_name}.blob.{found.endpoint or 'core.windows.net'}/{found.container_name}"
        asked = {"expirableSecret": True, "expireAfterHours": SIGNED_SECONDS // 3600}
        kept = type(found.credentials).__name__
        if kept.startswith("None"):  # identity-based: the user's own rights on the storage count
            return Store(self, address, token=STORAGE)
        secret = self.arm("POST", f"/datastores/{name}/listSecrets", json=asked)
        if secret.get("sasToken"):
            return Store(self, address, sas=str(secret["sasToken"]).lstrip("?"))
        if secret.get("key"):
            return Store(self, address, sas=_sas_of(found.account_name, found.container_name, str(secret["key"])))
        return Store(self, address, token=STORAGE)

    @contextmanager
    def speaking(self, *, creating: bool = False) -> Iterator[None]:
        """Translate what SDKs and the wire raise; `creating` is the request that makes a job."""
        import azure.core.exceptions as core

        try:
            yield
        except AnyDPOError:
            raise
        except core.ClientAuthenticationError as exc:
            if exc.response is not None:
                raise _typed(_answer(exc), creating=creating) from None
            said = str(exc.message).splitlines()[0][:500]
            raise AuthFailed(f"signing in failed: {said}", provider="azure", hint=ADVICE.credentials) from None
        except core.HttpResponseError as exc:
            raise _typed(_answer(exc), creating=creating) from None
        except (core.ServiceRequestError, core.ServiceResponseError, httpx.TransportError, ValueError) as exc:
            raise _typed(Answer(0, f"{type(exc).__name__} from Azure"), creating=creating) from None
        except core.AzureError as exc:  # what the SDK refuses by itself
            raise JobInvalid(ANSI.sub("", str(exc)).strip()[:1000], provider="azure", hint=ADVICE.invalid) from None


def raise_for(response: httpx.Response) -> None:
    """Raise the typed error of an answer that is one."""
    response.read()
    try:
        body: Any = response.json()
    except ValueError:
        said = response.headers.get("x-ms-error-code") or f"HTTP {response.status_code}"
        body = {"error": {"code": said, "message": said}}
    raise _typed(answer_of(response.status_code, body, response.headers))


def _answer(exc: Any) -> Answer:
    """Return an SDK's error in our shape."""
    error = getattr(exc, "error", None)
    body = {"error": {"code": getattr(error, "code", None), "message": getattr(error, "message", None) or exc.message}}
    headers = exc.response.headers if exc.response is not None else {}
    return answer_of(exc.status_code or 0, body, headers)


def _typed(answer: Answer, *, creating: bool = False) -> AnyDPOError:
    """Return the error of an answer; Azure's own codes say more than its statuses."""
    hint = facts()["hints"].get(answer.code or "")
    said = f"{answer.code}: {answer.message}" if answer.code else answer.message
    if 400 <= answer.status < 500 and answer.status not in (401, 408, 429):
        if "quota" in said.lower():
            ask = "ask for quota (Azure portal, Quotas, Machine Learning), or take another size, region or place"
            return QuotaExceeded(said, provider="azure", hint=ask)
        if answer.status == 404:
            return NotThere(said, provider="azure", hint=hint)
        if hint is not None:
            return JobInvalid(said, provider="azure", hint=hint)
        if answer.status == 403:
            return NotEligible(said, provider="azure", hint=ADVICE.not_eligible)
    return refusal(answer._replace(message=said), ADVICE, creating=creating)


def _sas_of(account: str, container: str, key: str) -> str:
    """Return a signature of one hour on one container, made of the account's key, which is never sent."""
    from datetime import UTC, datetime, timedelta

    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    made: str = generate_container_sas(
        account,
        container,
        account_key=key,
        permission=ContainerSasPermissions(read=True, create=True, write=True, list=True),
        expiry=datetime.now(UTC) + timedelta(seconds=SIGNED_SECONDS),
        protocol="https",
    )
    return made
