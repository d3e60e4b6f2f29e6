"""Azure OpenAI's fine-tuning API on loopback: OpenAI's with other paths, words and keys.

Sources: facts measured with openai 3.54's two clients; Azure's specification 2025-04-01-preview; Microsoft's docs of
October 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from starlette.requests import Request

from anydpo.sandbox.faults import Fault
from anydpo.sandbox.jobs import Job
from anydpo.sandbox.lines import Rules
from anydpo.sandbox.wire import Refusal
from anydpo_openai.sandbox import OpenAISandbox

V1, DATED, PROJECT = "/openai/v1", "/openai", "/api/projects/{project}/openai/v1"
MODELS = {  # what DPO takes (Microsoft docs, 2026-10-06)
    "gpt-4o-2024-08-06": "2027-01-14",
    "gpt-4.1-2025-04-14": "2027-01-14",
    "gpt-4.1-mini-2025-04-14": "2027-01-14",
    "gpt-4.1-nano-2025-04-14": "2027-01-14",
}


class AzureSandbox(OpenAISandbox):
    """The emulator of the managed route."""

    name = "azure"
    base = V1
    models: ClassVar[Mapping[str, str]] = MODELS
    clears = ("AZURE_", "OPENAI_API_VERSION")
    rules = Rules(least=10, output_roles=frozenset({"assistant", "tool"}))
    id_length = 32
    new_file_status = "pending"
    organization = None
    words: ClassVar[Mapping[str, str]] = {
        **OpenAISandbox.words,
        "validating": "pending",
        "queued": "pending",
        "pausing": "pausing",
        "resuming": "resuming",
    }

    def bases(self) -> tuple[str, ...]:
        """Return the v1 paths, the project client's and the dated ones."""
        return (V1, PROJECT, DATED)

    def environment(self, origin: str) -> Mapping[str, str]:
        """Return what `AzureOpenAI` and this package's adapter read."""
        return {"AZURE_OPENAI_ENDPOINT": origin, "AZURE_OPENAI_API_KEY": "azure-sandbox"}

    def authorised(self, request: Request) -> bool:
        """Take a key in `api-key`, or a key or token as bearer; a dated path without a version is not there."""
        if "/openai/v1/" not in request.url.path and "api-version" not in request.query_params:
            raise Refusal(404, "Resource not found", "404")
        return request.headers.get("api-key", "invalid") not in ("", "invalid") or super().authorised(request)

    def error_body(self, refusal: Refusal) -> Mapping[str, Any]:
        """Return Azure's error: code and message, the status as code where there is no word for it."""
        said = refusal.message
        if refusal.status == 401:
            said = "Access denied due to invalid subscription key or wrong API endpoint."
        return {"error": {"code": refusal.code or str(refusal.status), "message": said, "param": refusal.param}}

    def refusal(self, fault: Fault) -> Refusal:
        """Return the answer to an account that may not, or of a service in a storm."""
        if fault.fault == "insufficient_quota":
            return Refusal(429, "The fine-tuning quota of this resource is used up.", "insufficient_quota")
        return super().refusal(fault)

    def extra_fields(self) -> frozenset[str]:
        """Take `trainingType`."""
        return frozenset({"trainingType"})

    def check_create(self, given: Mapping[str, Any], request: Request) -> None:
        """Refuse a v1 request without a training type, in the service's misleading words."""
        if "trainingType" not in given and "/v1/" in request.url.path:
            raise Refusal(400, "The specified base model does not support fine-tuning.", "invalidPayload", "model")
        suffix = given.get("suffix")
        if suffix is not None and not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", suffix):
            raise Refusal(400, "The suffix may have up to 40 characters of a-z, A-Z, 0-9, - and _.", "invalidPayload")

    def matches(self, job: Job, request: Request) -> bool:  # noqa: ARG002
        """Let every job through: no source says that Azure filters."""
        return True

    def show(self, job: Job) -> dict[str, Any]:
        """Return the job with what Azure adds, and without what it is not known to keep."""
        body = super().show(job)
        body["result_files"] = body["result_files"] or None
        body.pop("metadata")
        body["suffix"] = job.request.get("suffix")
        if "trainingType" in job.request:
            body["trainingType"] = job.request["trainingType"]
        return body

    def show_model(self, name: str) -> dict[str, Any]:
        """Return the model with Azure's own fields beside OpenAI's."""
        return {
            **super().show_model(name),
            "status": "succeeded",
            "capabilities": {"fine_tune": True, "inference": True},
        }

    def tuned_name(self, job: Job, step: int | None = None) -> str | None:
        """Return `<base>.ft-<32 hex>`, with the suffix as Azure puts it."""
        if step is None and job.state != "succeeded":
            return None
        base = job.request["model"].partition(".ft-")[0]
        suffix = f"-{job.request['suffix']}" if job.request.get("suffix") else ""
        made = f"{base}.ft-{job.id.removeprefix('ftjob-')}{suffix}"
        return made if step is None else f"{made}:ckpt-step-{step}"
