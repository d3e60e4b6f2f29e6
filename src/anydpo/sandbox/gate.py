"""The door of the sandbox: every request is logged here, and every fault strikes here."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anydpo.sandbox.faults import Fault
from anydpo.sandbox.wire import Refusal, Service, refused, retry_after
from anydpo.sandbox.world import MOST_LOGGED, World, logged_body

log = logging.getLogger("anydpo.sandbox")

JOB_FAULTS = frozenset({"late_list", "job_fails", "restarted", "interrupted"})  # the services carry these out
REPLY_FAULTS = frozenset({"lost_reply", "unknown_status", "wrong_hash", "half_reply"})


class Dropped(Exception):
    """The connection is to be dropped without another byte."""


class Door:
    """One service's ASGI application behind the log and the faults."""

    def __init__(self, service: Service, world: World) -> None:
        self._service, self._world = service, world
        handlers: Mapping[Any, Any] = {Refusal: self._refuse}
        self._app: ASGIApp = Starlette(routes=list(service.routes), exception_handlers=dict(handlers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or raise `Dropped`."""
        operation = operation_of(self._service.routes, scope)
        entry = self._world.requests.begin(self._service.name, operation, scope["method"], scope["path"])
        faults = self._world.faults.strike(self._service.name, operation)
        entry.faults = [fault.fault for fault in faults]
        scope.setdefault("state", {})["faults"] = [fault for fault in faults if fault.fault in JOB_FAULTS]

        def note() -> None:
            entry.status, entry.received, entry.body = wire.status, wire.received, logged_body(bytes(wire.kept))

        wire = Wire(receive, send, faults, int(dict(scope["headers"]).get(b"content-length", 0)), note)
        request = Request(scope, wire.receive)
        try:
            if operation == "unknown":
                refusal = Refusal(404, f"Invalid URL ({scope['method']} {scope['path']})", type="invalid_request_error")
                await refused(self._service, refusal)(scope, wire.receive, wire.send)
            elif (stopped := self._stopped(request, faults)) is not None:
                await wire.drain()
                await refused(self._service, stopped)(scope, wire.receive, wire.send)
            else:
                entry.carried_out = True
                await self._app(scope, wire.receive, wire.send)
            await wire.finish()
        except Exception as exc:
            if not isinstance(exc, (Dropped, ClientDisconnect)):
                raise
            entry.carried_out = entry.carried_out and not wire.cut and isinstance(exc, Dropped)
            raise Dropped from exc
        finally:
            note()

    def _stopped(self, request: Request, faults: list[Fault]) -> Refusal | None:
        """Return the refusal of wrong credentials, a storm or an account that may not; nothing is carried out then."""
        try:
            if not self._service.authorised(request):
                return Refusal(401, "Incorrect API key provided.", "invalid_api_key")
        except Refusal as exc:
            return exc
        for fault in faults:
            if fault.fault in {"storm", "not_eligible", "insufficient_quota"}:
                refusal = self._service.refusal(fault)
                refusal.headers = {**refusal.headers, **retry_after(fault, self._world.clock.now())}
                return refusal
        return None

    async def _refuse(self, request: Request, exc: Exception) -> Any:  # noqa: ARG002
        assert isinstance(exc, Refusal)
        return refused(self._service, exc)


def operation_of(routes: Any, scope: Scope) -> str:
    """Return the name of the route that a request is for, `unknown` where there is none."""
    route: BaseRoute
    for route in routes:
        if route.matches(scope)[0] is Match.FULL:
            return str(getattr(route, "name", "unknown"))
    return "unknown"


class Wire:
    """A request's body and answer, with what faults do to them.

    `note` writes down what is known of the request, before the answer leaves: who reads the log then finds it there.
    """

    def __init__(
        self, receive: Receive, send: Send, faults: list[Fault], length: int, note: Callable[[], None] = lambda: None
    ) -> None:
        self._receive, self._send, self._note = receive, send, note
        self._faults = {fault.fault: fault for fault in faults}
        self.received, self.kept, self.cut = 0, bytearray(), False
        self.status: int | None = None
        upload = self._faults.pop("cut_upload", None)
        self._limit = int(length * upload.percent / 100) if upload and upload.percent < 100 else None
        if upload and self._limit is None:  # all of it arrives: what is cut is the answer
            self._faults["lost_reply"] = upload
        self._held: list[Message] = []
        self._holds = bool(REPLY_FAULTS & set(self._faults))

    async def receive(self) -> Message:
        """Return the next part of the body; raises `Dropped` where the upload is cut."""
        if self._limit is not None and self.received >= self._limit:
            self.cut = True
            raise Dropped
        message = await self._receive()
        body = message.get("body", b"")
        self.received += len(body)
        if self._limit is not None and self.received >= self._limit:
            self.cut = True
            raise Dropped
        if len(self.kept) <= MOST_LOGGED:
            self.kept += body
        if (slow := self._faults.get("slow")) and body:
            await asyncio.sleep(len(body) / slow.bytes_per_second)
        return message

    async def drain(self) -> None:
        """Read the rest of the body, as a server does that refuses a request it has read."""
        while (await self.receive()).get("more_body"):
            pass

    async def send(self, message: Message) -> None:
        """Send a part of the answer, or hold it where a fault changes the whole."""
        if self.cut:
            raise Dropped
        if self._holds:
            self._held.append(message)
            return
        await self._pass(message)

    async def finish(self) -> None:
        """Send what was held, as the faults have it; raises `Dropped` where the answer is lost or cut."""
        if not self._holds:
            return
        if "lost_reply" in self._faults:
            raise Dropped
        start = dict(self._held[0])
        body = b"".join(message.get("body", b"") for message in self._held[1:])
        body, promised = self._spoilt(body)
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        start["headers"] = [*headers, (b"content-length", str(promised).encode())]
        await self._pass(start)
        whole = promised == len(body)
        await self._pass({"type": "http.response.body", "body": body, "more_body": not whole})
        if not whole:
            raise Dropped

    def _spoilt(self, body: bytes) -> tuple[bytes, int]:
        """Return (the bytes that are sent, the length that is promised)."""
        if "wrong_hash" in self._faults and body:
            at = len(body) // 2
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        if fault := self._faults.get("unknown_status"):
            body = _changed(body, status=fault.word)
        if fault := self._faults.get("half_reply"):
            if fault.shape == "no_id":
                body = _changed(body, id=None)
            else:
                return body[: len(body) // 2], len(body) if fault.shape == "cut" else len(body) // 2
        return body, len(body)

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._note()
        body = message.get("body", b"")
        if (slow := self._faults.get("slow")) and body:
            size = max(1, slow.bytes_per_second // 10)
            for at in range(0, len(body), size):
                piece = body[at : at + size]
                await asyncio.sleep(len(piece) / slow.bytes_per_second)
                await self._send({**message, "body": piece, "more_body": True})
            message = {**message, "body": b""}
        await self._send(message)


def _changed(body: bytes, **changes: Any) -> bytes:
    """Return a JSON object with keys set, or left out where None."""
    found = json.loads(body)
    if not isinstance(found, dict):
        return body
    return json.dumps({key: item for key, item in {**found, **changes}.items() if item is not None}).encode()
