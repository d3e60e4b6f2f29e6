"""The hub's own document of a model: which hyperparameters its DPO recipe takes today, and whether it has a licence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from anydpo.errors import AuthFailed, JobInvalid, ProviderRefused, Unavailable
from anydpo_sagemaker import serverless
from anydpo_sagemaker.store import Store
from anydpo_sagemaker.wire import NAME, client, speaking


class Hub:
    """Hub documents of one region."""

    def __init__(self, region: str, store: Store) -> None:
        self._region, self._store = region, store

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `JobInvalid` where the document does not take a create request; one that cannot be read says nothing.

        The plan has been checked against the shipped table before.
        """
        config = body["ServerlessJobConfig"]
        match = serverless.ARN.fullmatch(config["BaseModelArn"])
        if match is None:
            return
        document = self._document(config["BaseModelArn"].split("hub-content/")[1].split("/")[0], match[2])
        if document.get("GatedBucket") and not config.get("AcceptEula"):
            raise JobInvalid(
                f"{match[2]} has a licence (EULA) that has to be accepted",
                provider=NAME,
                hint="read it in SageMaker Studio or on the model's page, then --accept-eula",
            )
        recipe = recipe_of(document, config.get("Peft"), config.get("SequenceLength"))
        if recipe is None:
            return
        schema = self._store.json(recipe["SmtjOverrideParamsS3Uri"]) if "SmtjOverrideParamsS3Uri" in recipe else {}
        if schema:
            serverless.check_today(body, schema)

    def _document(self, hub: str, name: str) -> Mapping[str, Any]:
        try:
            with speaking("DescribeHubContent"):
                found = client("sagemaker", self._region).describe_hub_content(
                    HubName=hub, HubContentType="Model", HubContentName=name
                )
            document = json.loads(found.get("HubContentDocument") or "{}")
        except Unavailable:
            raise
        except (ProviderRefused, AuthFailed, JobInvalid, ValueError):
            return {}
        return document if isinstance(document, dict) else {}


def recipe_of(document: Mapping[str, Any], peft: str | None, length: str | None) -> Mapping[str, Any] | None:
    """Return the document's DPO recipe for this kind of adapter, the one of this length where there are several."""
    found = [
        recipe
        for recipe in document.get("RecipeCollection") or []
        if recipe.get("CustomizationTechnique") == "DPO" and (recipe.get("Peft") or None) == peft
    ]
    fitting = [recipe for recipe in found if length is None or recipe.get("SequenceLength") in (None, length)]
    return next(iter(fitting or found), None)
