"""Official SDK clients whose exchanges are kept, and their comparison with the published specifications and with the
SDKs' own types, strictly: a number that is text, a missing key or an unknown word is found here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import together
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from anydpo.sandbox.server import Sandbox

SPECS = Path(__file__).parents[1] / "specs"

# (service, last part of the path, value) that a specification refuses, and why it is right all the same
EXCEPTIONS = {
    ("openai", "status", "paused"): "the documented sample of the pause call, in no enum (facts, section 3)",
    ("together", "status", "user_error"): "in the SDK's hand-written enum and the docs, not in the specification",
    ("together", "training_type", "None"): "what the SDK's own `create` sends to the estimate where lora is not given",
    ("together", "lr_scheduler_args", "{'min_lr_ratio': 0.0, 'num_cycles': 0.5}"): (
        "what the SDK sends by default; the specification's oneOf refuses it since both of its schemas hold it"
    ),
}
NEWER_PATHS = {  # what the SDK calls and the specification of 2026-04-28 does not have
    ("POST", "/files"), ("POST", "/files/{id}/preprocess"), ("GET", "/whoami"),
    ("POST", "/files/multipart/initiate"), ("POST", "/files/multipart/complete"),
}  # fmt: skip


@dataclass
class Exchange:
    method: str
    path: str
    request: Any
    status: int
    text: str
    answer: Any


@dataclass
class Recorder:
    exchanges: list[Exchange] = field(default_factory=list)

    def keep(self, response: Any) -> None:
        if "json" not in response.headers.get("content-type", ""):
            return
        response.read()
        request = response.request
        try:
            body = json.loads(request.content)
        except (ValueError, httpx.RequestNotRead, httpx2.RequestNotRead):
            body = None
        self.exchanges.append(
            Exchange(request.method, request.url.path, body, response.status_code, response.text, response.json())
        )


def openai_client(box: Sandbox, recorder: Recorder) -> openai.OpenAI:
    http = httpx2.Client(event_hooks={"response": [recorder.keep]}, trust_env=False)
    url, key = box.env["OPENAI_BASE_URL"], box.env["OPENAI_API_KEY"]
    return openai.OpenAI(base_url=url, api_key=key, http_client=http, max_retries=0)


def together_client(box: Sandbox, recorder: Recorder) -> together.Together:
    http = httpx.Client(event_hooks={"response": [recorder.keep]}, trust_env=False, follow_redirects=True)
    url, key = box.env["TOGETHER_BASE_URL"], box.env["TOGETHER_API_KEY"]
    return together.Together(base_url=url, api_key=key, http_client=http, max_retries=0)


def as_3_1(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without OpenAPI 3.0's `exclusiveMinimum: true`, which both documents still have in places."""
    if schema.get("exclusiveMinimum") is True:
        schema["exclusiveMinimum"] = schema.pop("minimum")
    return schema


@cache
def specification(name: str) -> tuple[dict[str, Any], Registry]:
    document = json.loads((SPECS / f"{name}-fine-tuning.json").read_text(), object_hook=as_3_1)
    resource = DRAFT202012.create_resource(document)
    return document, Registry().with_resource("urn:spec", resource)


def operation(name: str, method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """Return the specification's operation of a request; fixed parts win over parameters."""
    document, _ = specification(name)
    found = []
    for template, methods in document["paths"].items():
        pattern = re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in methods:
            found.append((template.count("{"), template))
    if not found:
        return None
    template = min(found)[1]
    return template, document["paths"][template][method.lower()]


def violations(name: str, recorder: Recorder) -> list[str]:
    """Return every difference between what was exchanged and the specification."""
    found = []
    for exchange in recorder.exchanges:
        path = re.sub(r"^/v[13]", "", exchange.path)
        known = operation(name, exchange.method, path)
        if known is None:
            template = re.sub(r"/file-[^/]+", "/{id}", path)
            if (exchange.method, template) not in NEWER_PATHS:
                found.append(f"{exchange.method} {path} is in no specification")
            continue
        template, spec = known
        where = f"{exchange.method} {template}"
        body = spec.get("requestBody", {}).get("content", {}).get("application/json")
        if body and exchange.request is not None:
            found += [f"{where} request: {one}" for one in errors(name, body["schema"], exchange.request)]
        reply = spec["responses"].get(str(exchange.status), {}).get("content", {}).get("application/json")
        if reply:
            found += [f"{where} answer: {one}" for one in errors(name, reply["schema"], exchange.answer)]
        elif exchange.status >= 400:
            assert set(exchange.answer["error"]) == {"message", "type", "param", "code"}, where
    return found


def errors(name: str, schema: dict[str, Any], value: Any) -> list[str]:
    _, registry = specification(name)
    text = json.dumps(schema).replace('"#/', '"urn:spec#/')  # the schema is taken out of its document
    validator = Draft202012Validator(json.loads(text), registry=registry)
    return [
        f"{error.json_path}: {error.message[:200]}"
        for error in validator.iter_errors(value)
        if (name, str(error.path[-1]) if error.path else "", str(error.instance)) not in EXCEPTIONS
    ]


def strict(kind: Any, value: Any) -> Any:
    """Validate an answer as an SDK's type without any conversion but those JSON needs."""
    return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
