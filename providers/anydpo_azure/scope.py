"""Where a command job lives: subscription, resource group, workspace. Names are checked before anything is asked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from anydpo.errors import JobInvalid, Problem

ARM = "https://management.azure.com"
# A subscription that no account can have: what is named so is a rehearsal, and its keys are no real run's
REHEARSAL = "00000000-0000-4000-8000-616e7964706f"
VARIABLES = {
    "subscription_id": "AZURE_SUBSCRIPTION_ID",
    "resource_group": "AZURE_RESOURCE_GROUP",
    "workspace": "AZURE_ML_WORKSPACE",
}
RULES = {  # Microsoft's naming rules for these resources
    "subscription_id": (r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "a GUID of 36 characters"),
    "resource_group": (r"[-\w.()]{0,89}[-\w()]", "1 to 90 letters, digits, . _ - ( ), not ending with a dot"),
    "workspace": (r"[a-zA-Z0-9][-\w]{2,32}", "3 to 33 letters, digits, - and _"),
}
JOB_NAME = r"[a-zA-Z0-9][-\w]{0,254}"
ID = re.compile(
    r"/subscriptions/(?P<subscription_id>[^/]+)/resourceGroups/(?P<resource_group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[^/]+)"
    rf"(/jobs/(?P<job>{JOB_NAME}))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Scope:
    """One workspace."""

    subscription_id: str
    resource_group: str
    workspace: str

    @property
    def path(self) -> str:
        """Return the workspace's ARM id."""
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"
        )

    @property
    def target(self) -> str:
        """Return what stands in an attempt's key."""
        return f"{ARM} {self.subscription_id}/{self.resource_group}/{self.workspace}"

    @property
    def rehearsal(self) -> bool:
        """Whether this is the sandbox's."""
        return self.subscription_id == REHEARSAL

    def job(self, name: str) -> str:
        """Return the ARM id of a job."""
        return f"{self.path}/jobs/{name}"


def settings() -> dict[str, str]:
    """Return what is known of the workspace from the environment, then from the settings files."""
    from anydpo.settings import merged

    kept: dict[str, Any] = merged({}).get("options", {}).get("azure", {})
    found = {name: os.environ.get(variable) or kept.get(name) for name, variable in VARIABLES.items()}
    return {name: str(value) for name, value in found.items() if value}


def current() -> Scope:
    """Return the workspace that is set; raises `JobInvalid` naming each part that is missing or cannot be."""
    known = settings()
    if wrong := problems(known):
        raise JobInvalid.of(wrong, provider="azure")
    return Scope(**known)


def problems(known: dict[str, str]) -> list[Problem]:
    """Return what stands against a workspace's names."""
    made = []
    for name, variable in VARIABLES.items():
        pattern, words = RULES[name]
        if name not in known:
            hint = f"set {variable}, or {name} under [options.azure] in anydpo.toml"
            made.append(Problem(name, "missing_field", "is not set", hint))
        elif not re.fullmatch(pattern, known[name]):
            made.append(Problem(name, "wrong_value", f"is {known[name]!r:.100}, expected {words}", f"{variable}"))
    return made


def of_job(ref: str) -> tuple[Scope, str]:
    """Return (workspace, name) of a job's ARM id, or of its bare name in the workspace that is set."""
    if not ref.startswith("/"):
        if not re.fullmatch(JOB_NAME, ref):
            raise JobInvalid(f"{ref!r:.100} is no name of a job", provider="azure", hint="letters, digits, - and _")
        return current(), ref
    found = ID.fullmatch(ref)
    if found is None or not found["job"]:
        hint = "/subscriptions/…/resourceGroups/…/providers/Microsoft.MachineLearningServices/workspaces/…/jobs/NAME"
        raise JobInvalid(f"{ref!r:.200} is no ARM id of a job", provider="azure", hint=hint)
    return Scope(found["subscription_id"], found["resource_group"], found["workspace"]), found["job"]
