"""What the emulators' handlers have in common: refusals, identifiers, pages, bodies."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from anydpo.sandbox.faults import Fault

T = TypeVar("T")
CHUNK = 1 << 20
MOST_JSON = 4 << 20


@dataclass
class Refusal(Exception):
    """An answer of 4xx or 5xx, in words that each service puts into its own body."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None  # instead of the usual one


class Service(Protocol):
    """One provider's emulator, found through the entry-point group `anydpo.sandboxes`."""

    name: str
    routes: Sequence[BaseRoute]  # a route's `name` is its operation: create, upload, retrieve, list …
    clears: Sequence[str]  # beginnings of environment variables that a command must not inherit

    def environment(self, origin: str) -> Mapping[str, str]:
        """Return the variables by which the provider's own SDK finds this emulator."""
        ...

    def authorised(self, request: Request) -> bool:
        """Say whether the request carries credentials as this provider takes them."""
        ...

    def refusal(self, fault: Fault) -> Refusal:
        """Return how this provider words a storm, `not_eligible` or `insufficient_quota`."""
        ...

    def error_body(self, refusal: Refusal) -> Mapping[str, Any]:
        """Return the provider's documented error body."""
        ...


def identifier(prefix: str, length: int = 24) -> str:
    """Return a fresh id such as `file-…`."""
    return prefix + secrets.token_hex((length + 1) // 2)[:length]


def answer(body: Mapping[str, Any] | Sequence[Any], status: int = 200, **headers: str) -> Response:
    """Return a JSON answer; header names take _ for -."""
    return JSONResponse(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


def bearer(request: Request) -> bool:
    """Say whether a request brings a key, which is any but `invalid`."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and key not in ("", "invalid")


def error_object(refusal: Refusal) -> Mapping[str, Any]:
    """Return the error body that OpenAI and Together share."""
    kind = refusal.type or ("server_error" if refusal.status >= 500 else "invalid_request_error")
    said = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    return {"error": said}


def refused(service: Service, refusal: Refusal) -> Response:
    """Return a refusal in the service's own words."""
    body = refusal.body if refusal.body is not None else service.error_body(refusal)
    return JSONResponse(body, refusal.status, dict(refusal.headers))


def retry_after(fault: Fault, now: float) -> dict[str, str]:
    """Return the `Retry-After` header that a storm asks for."""
    said = {
        "seconds": f"{fault.seconds:g}",
        "date": formatdate(now + fault.seconds, usegmt=True),
        "nonsense": "in a while",
    }
    return {"retry-after": said[fault.retry_after]} if fault.retry_after else {}


async def json_object(request: Request) -> dict[str, Any]:
    """Return the body's JSON object; raises a 400 `Refusal`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_JSON:
            raise Refusal(413, "The request body is too large.")
    try:
        found = json.loads(body)
    except ValueError:
        raise Refusal(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(found, dict):
        raise Refusal(400, "The body of your request has to be a JSON object.")
    return found


def page(items: Sequence[T], request: Request, key: Callable[[T], str], limit: int, most: int) -> tuple[list[T], bool]:
    """Return (the items after the query's `after`, at most `limit`; whether more follow); raises a 400 `Refusal`."""
    after, asked = request.query_params.get("after"), request.query_params.get("limit")
    if asked is not None:
        if not asked.isdecimal() or not 1 <= int(asked) <= most:
            raise Refusal(400, f"Invalid 'limit': expected an integer between 1 and {most}.", param="limit")
        limit = int(asked)
    start = 0
    if after:
        known = [key(item) for item in items]
        if after not in known:
            raise Refusal(400, f"Invalid 'after': no such object: {after}", param="after")
        start = known.index(after) + 1
    return list(items[start : start + limit]), start + limit < len(items)


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()
