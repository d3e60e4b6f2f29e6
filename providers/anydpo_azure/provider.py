"""Azure's two routes under one name: the managed service for OpenAI's models, a command job for open weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from anydpo import own_trainer
from anydpo.adapter import Rule
from anydpo.errors import ProviderRefused
from anydpo.job import PreferenceJob
from anydpo.provider import (
    Capabilities,
    DataFile,
    DataSummary,
    Described,
    Diagnosis,
    Examined,
    JobRef,
    Outcome,
    Plan,
    Poll,
    Quote,
    Staged,
)
from anydpo.result import Artifact
from anydpo_azure import command, request, scope
from anydpo_azure.managed import AZURE, ManagedAzure
from anydpo_azure.scope import Scope
from anydpo_azure.workspace import Workspace
from anydpo_trainer.config import LOSSES

COMMAND = Capabilities(
    about="an Azure Machine Learning command job with our own trainer, on a cluster or serverless machines",
    losses=tuple(LOSSES),
    adapters=("lora", "full"),
    models="tiny, a hub id that transformers loads, azureml:NAME:VERSION, or a folder in a datastore",
    fields=own_trainer.FIELDS,
    writes="canonical",
    holds=("tools", "weight", "many_messages"),
    weights=True,
    quote=False,
    finds_by_key=True,
    lag_seconds=5.0,
    poll_seconds=10.0,
)


class AzureProvider:
    """Fine-tuning in an Azure AI Foundry resource, or in an Azure Machine Learning workspace."""

    name: ClassVar[str] = "azure"
    capabilities: ClassVar[Mapping[str, Capabilities]] = {**ManagedAzure.capabilities, "command": COMMAND}

    def __init__(self, today: Callable[[], date] = date.today) -> None:
        self._today = today
        self._workspaces: dict[Scope, Workspace] = {}

    def plan(self, job: PreferenceJob, data: DataSummary, route: str | None = None) -> Plan:
        """Return the plan of a route; where none is named, of the one that fits model, loss and adapter."""
        reason = "named in the place"
        if route is None:
            route, reason = picked(job)
        if route == "command":
            return request.plan(_with_options(job, {*request.OPTIONS, *own_trainer.EXTRA}, AZURE.options), data, reason)
        others: dict[str, Rule] = {**request.OPTIONS, **dict.fromkeys(own_trainer.EXTRA, lambda _: None)}
        made = self._managed.plan(_with_options(job, set(AZURE.options), others), data, route)
        return made.model_copy(update={"route_reason": f"the managed service: {reason}"})

    def quote(self, plan: Plan) -> Quote | None:
        """Return what the price table says of tokens, or of machines the most they can cost at the user's own price."""
        return request.quote(plan) if _is_command(plan.place) else self._managed.quote(plan)

    def limited(self, plan: Plan, usd: float) -> Plan:
        """Return the plan of a job that is stopped before it has cost so much; only machines are billed by the hour."""
        return request.limited(plan, usd) if _is_command(plan.place) else plan

    def stage(self, plan: Plan, file: DataFile) -> Staged:
        """Bring one file there; the same content again is the same file."""
        if _is_command(plan.place):
            return command.stage(self._workspace(request.scope_of(plan)), plan, file)
        return self._managed.stage(plan, file)

    def examine(self, staged: Staged) -> Examined:
        """Return what the managed service says of a file; a blob is not examined by anybody."""
        if staged.id.startswith("azureml://"):
            return Examined(state="accepted")
        return self._managed.examine(staged)

    def submit(self, plan: Plan, staged: tuple[Staged, ...], key: str) -> JobRef:
        """Create the one job of this key."""
        if _is_command(plan.place):
            return command.submit(self._workspace(request.scope_of(plan)), plan, staged, key)
        return self._managed.submit(plan, staged, key)

    def find(self, key: str) -> JobRef | None:
        """Return the job of this key, looked for by each route that is set up; where none is, that is an error."""
        if scope.settings() and not self._has_managed:
            return command.find(self._workspace(scope.current()), key)  # says what is missing of the three
        mine = command.find(self._workspace(scope.current()), key) if self._has_workspace else None
        return mine or self._managed.find(key)

    def found(self) -> tuple[tuple[str, JobRef], ...]:
        """Return (key, job) of every job that carries one of our keys."""
        made = command.found(self._workspace(scope.current())) if self._has_workspace else ()
        return (*made, *(self._managed.found() if self._has_managed or not self._has_workspace else ()))

    def poll(self, ref: JobRef, cursor: str = "") -> Poll:
        """Return the state and what happened since `cursor`."""
        return command.poll(*self._job(ref), cursor) if _is_command(ref.place) else self._managed.poll(ref, cursor)

    def result(self, ref: JobRef) -> Outcome:
        """Return all that is known of the job."""
        if _is_command(ref.place):
            return command.result(*self._job(ref)).model_copy(update={"sdk": _sdk()})
        return self._managed.result(ref)

    def cancel(self, ref: JobRef) -> None:
        """Ask the job to stop; one that has ended is left alone."""
        if _is_command(ref.place):
            command.cancel(*self._job(ref))
        else:
            self._managed.cancel(ref)

    def pause(self, ref: JobRef) -> None:
        """Let a managed job wait."""
        self._only_managed(ref, "paused")
        self._managed.pause(ref)

    def resume(self, ref: JobRef) -> None:
        """Let a paused managed job go on."""
        self._only_managed(ref, "resumed")
        self._managed.resume(ref)

    def fetch(self, ref: JobRef, folder: Path, checkpoint: int | None = None) -> tuple[Artifact, ...]:
        """Download the weights of a command job; the managed service keeps what it trains."""
        if _is_command(ref.place):
            return command.fetch(*self._job(ref), folder, checkpoint)
        return self._managed.fetch(ref, folder, checkpoint)

    def diagnose(self) -> tuple[Diagnosis, ...]:
        """Say of each route whether it would work."""
        if not self._has_workspace:
            mine: tuple[Diagnosis, ...]
            missing = [variable for name, variable in scope.VARIABLES.items() if name not in scope.settings()]
            mine = (Diagnosis(what="workspace", ok=None, detail=f"{', '.join(missing)} is not set"),)
        else:
            mine = command.diagnose(self._workspace(scope.current()))
        return (*self._managed.diagnose(), *mine)

    def described(self, body: Mapping[str, Any]) -> Described | None:
        """Return the job that a create body of the managed service stands for, None for what is none."""
        return self._managed.described(body)

    def describe(self, ref: JobRef) -> Described:
        """Return a managed job as it was asked for; a command job is somebody's own program, which tells nothing."""
        if _is_command(ref.place):
            hint = "anydpo doctor --rebuild finds your own"
            raise ProviderRefused("what a command job trains is not told", provider=self.name, hint=hint)
        return self._managed.describe(ref)

    @cached_property
    def _managed(self) -> ManagedAzure:
        return ManagedAzure(self._today)

    @property
    def _has_managed(self) -> bool:
        return bool(os.environ.get("AZURE_OPENAI_ENDPOINT"))

    @property
    def _has_workspace(self) -> bool:
        return set(scope.settings()) == set(scope.VARIABLES)

    def _workspace(self, where: Scope) -> Workspace:
        return self._workspaces.setdefault(where, Workspace(where))

    def _job(self, ref: JobRef) -> tuple[Workspace, str]:
        where, name = scope.of_job(ref.id)
        return self._workspace(where), name

    def _only_managed(self, ref: JobRef, verb: str) -> None:
        if _is_command(ref.place):
            hint = "cancel it; the same job with --again goes on from nothing, start_from from its weights"
            raise ProviderRefused(f"command jobs cannot be {verb}", provider=self.name, hint=hint)


def picked(job: PreferenceJob) -> tuple[str, str]:
    """Return (route, why): the managed service where it can do what is asked, else our trainer on Azure's machines."""
    model = job.start_from if job.start_from and AZURE.own_models in job.start_from else job.model_for("azure") or ""
    if AZURE.model(model) is None and not model.startswith("gpt-"):
        return "command", f"open weights: the managed service has DPO for OpenAI's models only, and {model} is none"
    losses = (job.method.loss_type,) if isinstance(job.method.loss_type, str) else job.method.loss_type
    others = [loss for loss in losses if loss not in ManagedAzure.capabilities["managed"].losses]
    more = f"; it knows no {others[0]}" if others else "; it decides what it trains" if job.adapter != "auto" else ""
    return "managed", f"{model} is OpenAI's, whose weights only it has{more}"


def _with_options(job: PreferenceJob, mine: set[str], others: Mapping[str, Any]) -> PreferenceJob:
    """Return the job without options of the other route, which may stand in settings for both."""
    options = job.options.get("azure", {})
    kept = {name: value for name, value in options.items() if name in mine or name not in others}
    return job if kept == options else job.replace(options={**job.options, "azure": kept})


def _is_command(place: str) -> bool:
    return place == request.PLACE


def _sdk() -> str:
    from importlib.metadata import version

    return f"azure-ai-ml {version('azure-ai-ml')}"
