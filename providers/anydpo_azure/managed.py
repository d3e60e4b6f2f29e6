"""Azure's managed route: the OpenAI adapter with another address, another key, and Azure's own words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from anydpo.adapter import Advice, is_loopback, origin, text
from anydpo.errors import AuthFailed
from anydpo.job import PreferenceJob
from anydpo.provider import Capabilities, DataSummary, Plan
from anydpo_openai.provider import FIELDS, PAGE, OpenAIProvider
from anydpo_openai.service import COMMON, Service, facts_of

if TYPE_CHECKING:
    from openai import OpenAI

NAMES = ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN")
SCOPE = "https://cognitiveservices.azure.com/.default"
NOWHERE = "https://RESOURCE.openai.azure.com"  # stands in a plan until AZURE_OPENAI_ENDPOINT is set

AZURE = Service(
    provider="azure",
    place="azure/managed",
    format="azure",
    facts=facts_of("anydpo_azure", "azure.toml"),
    options={**COMMON, "training_type": text(64)},
    key_in_suffix=True,
    own_models=".ft-",
    advice=Advice(
        provider="azure",
        credentials="set AZURE_OPENAI_ENDPOINT, and AZURE_OPENAI_API_KEY or sign in with `az login` (azure-identity)",
        not_eligible="the account needs the role Foundry User, and the resource's region has to offer the model",
        retired="choose another model, or another place: `anydpo migrate RUN -p PLACE`",
        safety="Azure screens training pairs, the rejected answers too: leave the named harm types out, ask for a "
        "modified filter, or train them on a place that does not screen: local",
    ),
)


class ManagedAzure(OpenAIProvider):
    """Fine-tuning of OpenAI's models in an Azure AI Foundry resource."""

    name: ClassVar[str] = "azure"
    service: ClassVar[Service] = AZURE
    variables: ClassVar[tuple[str, ...]] = NAMES
    capabilities: ClassVar[Mapping[str, Capabilities]] = {
        "managed": Capabilities(
            about="Azure AI Foundry's managed fine-tuning of OpenAI's models; open weights cannot take DPO there",
            losses=("sigmoid",),
            adapters=(),
            models="gpt-4o (2024-08-06), gpt-4.1, gpt-4.1-mini, gpt-4.1-nano (2025-04-14) and models tuned from them",
            fields=FIELDS,
            beta=(0.0, 2.0),
            writes="azure",
            holds=("tools", "many_messages"),
            weights=False,
            quote=False,
            finds_by_key=True,
            lag_seconds=30.0,
            resumable=True,
            poll_seconds=10.0,
        )
    }

    def plan(self, job: PreferenceJob, data: DataSummary, route: str | None = None) -> Plan:
        """Return the create requests and what stands against them; without an endpoint they name none."""
        made = super().plan(job, data, route)
        if os.environ.get("AZURE_OPENAI_ENDPOINT"):
            return made
        return made.model_copy(update={"warnings": (*made.warnings, "AZURE_OPENAI_ENDPOINT is not set yet")})

    def _url(self) -> str:
        given = (os.environ.get("AZURE_OPENAI_ENDPOINT") or NOWHERE).rstrip("/")
        return f"{given.removesuffix('/v1').removesuffix('/openai')}/openai/v1"

    def _target(self, url: str) -> str:
        return origin(url)

    def _is_mine(self, body: Mapping[str, Any]) -> bool:
        return "trainingType" in body

    def _make_client(self) -> OpenAI:
        if not os.environ.get("AZURE_OPENAI_ENDPOINT"):
            raise AuthFailed(
                "AZURE_OPENAI_ENDPOINT is not set", provider=self.name, hint=self.service.advice.credentials
            )
        key = self._key()
        from openai import OpenAI

        made = OpenAI(base_url=self._url(), api_key=key, max_retries=0)
        made.organization = made.project = None  # of the user's OpenAI account; they mean nothing here
        return made

    def _key(self) -> str | Callable[[], str]:
        for name in ("AZURE_OPENAI_AD_TOKEN", "AZURE_OPENAI_API_KEY"):
            if value := os.environ.get(name):
                return value
        try:
            if is_loopback(self._url()):
                raise ImportError  # a rehearsal asks no identity service
            from azure.identity import DefaultAzureCredential, get_bearer_token_provider
        except ImportError:
            raise AuthFailed(
                "AZURE_OPENAI_API_KEY is not set, and there is no azure-identity to sign in with",
                provider=self.name,
                hint=self.service.advice.credentials,
            ) from None
        provider: Callable[[], str] = get_bearer_token_provider(DefaultAzureCredential(), SCOPE)
        return provider

    def _secrets(self) -> list[str | None]:
        return [os.environ.get(name) for name in NAMES[1:]]

    def _credentials_found(self) -> str:
        found = next((name for name in reversed(NAMES[1:]) if os.environ.get(name)), None)
        return f"AZURE_OPENAI_ENDPOINT and {found} are set" if found else "signs in with azure-identity"

    def _listed(self, key: str) -> Any:  # noqa: ARG002 - nothing can be filtered by there
        return self._client.fine_tuning.jobs.list(limit=PAGE)

    def _key_of(self, job: Mapping[str, Any]) -> str | None:
        """Return the key in whatever a list gives back: the suffix, the metadata, or the tuned model's name."""
        tuned = str(job.get("fine_tuned_model") or "")
        places = (
            job.get("suffix"),
            super()._key_of(job),
            tuned[tuned.find("anydpo-") :] if "anydpo-" in tuned else None,
        )
        return next((str(value)[:31] for value in places if value and str(value).startswith("anydpo-")), None)
