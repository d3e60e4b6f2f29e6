"""The emulator's hub: documents of models with the recipes of their DPO, whose hyperparameters lie in S3."""

from __future__ import annotations

import json
from typing import Any

from anydpo_sagemaker.sandbox_s3 import ACCOUNT, REGION, S3
from anydpo_sagemaker.settings import FACTS

BUCKET = f"jumpstart-cache-prod-{REGION}"
HUB = "SageMakerPublicHub"
KINDS = ("LORA", None)


def make_recipes(s3: S3) -> None:
    """Put the hyperparameters of every family where the documents say they are."""
    s3.make(BUCKET)
    for family, schema in FACTS["hyperparameters"].items():
        rules = {name: {"required": False, **rule} for name, rule in schema.items()}
        s3.put(f"s3://{BUCKET}/recipes/{family}_dpo_override_params.json", json.dumps(rules).encode())


def document(hub: str, name: str) -> dict[str, Any] | None:
    """Return DescribeHubContent of a model, None where there is none."""
    known = {model["id"]: model for model in FACTS["models"].values()}
    if hub != HUB or name not in known:
        return None
    family = known[name]["family"]
    recipes = [
        {
            "Name": f"{name}-dpo-{'lora' if kind else 'fft'}",
            "Type": "FineTuning",
            "CustomizationTechnique": "DPO",
            **({"Peft": kind} if kind else {}),
            "SequenceLength": "4K",
            "SmtjRecipeTemplateS3Uri": f"s3://{BUCKET}/recipes/{family}_dpo.yaml",
            "SmtjOverrideParamsS3Uri": f"s3://{BUCKET}/recipes/{family}_dpo_override_params.json",
        }
        for kind in KINDS
    ]
    gated = bool(known[name].get("gated"))
    content = {"ModelId": name, "GatedBucket": gated, "RecipeCollection": recipes}
    owner = f"arn:aws:sagemaker:{REGION}:aws:hub-content/{hub}/Model/{name}"
    return {
        "HubContentName": name,
        "HubContentArn": f"{owner}/1.0.0",
        "HubContentVersion": "1.0.0",
        "HubContentType": "Model",
        "DocumentSchemaVersion": "2.3.0",
        "HubName": hub,
        "HubArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:hub/{hub}",
        "HubContentStatus": "Available",
        "CreationTime": 1.0,
        "HubContentDocument": json.dumps(content),
    }
