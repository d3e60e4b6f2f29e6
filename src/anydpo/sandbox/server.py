"""The sandbox's server: one loopback port a service, one for its storage, all in one thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from anydpo.errors import Invalid
from anydpo.sandbox import faults as fault_scripts
from anydpo.sandbox.environment import base_environment
from anydpo.sandbox.faults import Faults
from anydpo.sandbox.files import store
from anydpo.sandbox.gate import Door, Dropped, Wire
from anydpo.sandbox.wire import Refusal, Service, answer, json_object
from anydpo.sandbox.world import World

GROUP = "anydpo.sandboxes"
HOST = "127.0.0.1"
STORAGE = "storage"
MOST_STORED = 60 << 30


class Sandbox:
    """A running sandbox: `env` has what a command needs, `close` ends it and whatever it trains."""

    def __init__(self, world: World, port: int, names: Sequence[str] | None) -> None:
        self.world = world
        makers = services()
        if unknown := sorted(set(names or ()) - set(makers)):
            raise Invalid(f"no emulator of {unknown[0]!r}", hint=f"there is one of: {', '.join(makers)}")
        makers = makers if names is None else {name: makers[name] for name in names}
        made = {name: cast("Service", maker(world)) for name, maker in makers.items()}
        self.services: Mapping[str, Service] = made
        self._sockets = _sockets([*made, STORAGE], port)
        self.origins = {name: f"http://{HOST}:{sock.getsockname()[1]}" for name, sock in self._sockets.items()}
        world.storage.origin = self.origins[STORAGE]
        doors = {name: Door(service, world) for name, service in made.items()}
        by_port = {sock.getsockname()[1]: name for name, sock in self._sockets.items()}
        self._transports: dict[Any, asyncio.Transport] = {}
        config = uvicorn.Config(
            Switch(self, doors, by_port),
            http=_protocol(self._transports),
            ws="none",
            lifespan="off",
            log_level="critical",
            access_log=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="anydpo sandbox", daemon=True)

    def _serve(self) -> None:
        self._server.run(sockets=list(self._sockets.values()))

    def start(self) -> Sandbox:
        """Serve, and return once requests are answered."""
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.close()
                raise Invalid("the sandbox could not start", hint="is another program using its ports?")
            time.sleep(0.01)
        return self

    @property
    def env(self) -> dict[str, str]:
        """Return the variables to export, by which every SDK finds its emulator."""
        made = base_environment()
        for name, service in self.services.items():
            made |= service.environment(self.origins[name])
        return made

    @property
    def clears(self) -> tuple[str, ...]:
        """Return the beginnings of variables that a command must not inherit."""
        return tuple(start for service in self.services.values() for start in service.clears)

    def requests(self, provider: str | None = None, operation: str | None = None) -> list[dict[str, Any]]:
        """Return the requests so far, oldest first; `operation` is `create`, `upload`, `retrieve` …"""
        return [
            entry
            for entry in self.world.requests.read()
            if provider in (None, entry["provider"]) and operation in (None, entry["operation"])
        ]

    def break_(self, *given: Mapping[str, Any]) -> None:
        """Put faults in force, each as in a script."""
        self.world.faults.add(fault_scripts.parse(list(given))[0])

    def mend(self) -> None:
        """End every fault."""
        self.world.faults.clear()

    def close(self) -> None:
        """Stop serving, end every training, remove the sandbox's folder."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(15)
        for sock in self._sockets.values():
            sock.close()
        self.world.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Switch:
    """Takes each request to the service whose port it came in by."""

    def __init__(self, box: Sandbox, doors: Mapping[str, Door], by_port: Mapping[int, str]) -> None:
        self._box, self._doors, self._by_port = box, doors, by_port
        self._admin = Admin(box.world)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or drop its connection."""
        if scope["type"] != "http":
            return
        name = self._by_port[scope["server"][1]]
        try:
            if scope["path"].startswith("/_sandbox/"):
                await self._admin(scope, receive, send)
            elif name == STORAGE:
                await _storage(self._box.world, scope, receive, send)
            else:
                await self._doors[name](scope, receive, send)
        except Dropped:
            transport = self._box._transports.get(tuple(scope["client"]))
            if transport is not None:
                transport.abort()
            for _ in range(3):  # until the server has seen that the connection is gone
                await asyncio.sleep(0)


class Admin:
    """`/_sandbox/…` on every port: the request log, the faults, the clock."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request, scope["path"].removeprefix("/_sandbox/"))
        except Invalid as exc:
            response = answer({"error": exc.to_dict()}, 400)
        except Refusal as exc:
            response = answer({"error": {"message": exc.message}}, exc.status)
        await response(scope, receive, send)

    async def _answer(self, request: Request, what: str) -> Response:
        world = self._world
        match request.method, what:
            case "GET", "requests":
                since = request.query_params.get("since", "0")
                return answer({"requests": world.requests.read(int(since) if since.isdecimal() else 0)})
            case "DELETE", "requests":
                world.requests.clear()
            case "POST", "faults":
                world.faults.add(fault_scripts.parse(await json_object(request))[0])
            case "DELETE", "faults":
                world.faults.clear()
            case "POST", "clock":
                world.clock.advance(float((await json_object(request)).get("advance", 0)))
            case "GET", "clock" | "status":
                return answer({"now": world.clock.now(), "jobs": world.counts()})
            case _:
                raise Refusal(404, "known: GET/DELETE requests, POST/DELETE faults, GET/POST clock")
        return answer({"ok": True})


async def _storage(world: World, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at a signed address as object stores do: credentials beside a signature are an error."""
    request = Request(scope, receive)
    key, signature = scope["path"].lstrip("/"), request.query_params.get("X-Amz-Signature", "")
    operation = "put" if request.method == "PUT" else STORAGE
    entry = world.requests.begin(STORAGE, operation, request.method, scope["path"])
    faults = world.faults.strike(STORAGE, operation)
    entry.faults = [fault.fault for fault in faults]

    def note() -> None:
        entry.status, entry.received = wire.status, wire.received

    wire = Wire(receive, send, faults, int(request.headers.get("content-length", 0)), note)
    ticket = world.storage.ticket("GET" if request.method == "HEAD" else request.method, key, signature)
    try:
        if any(fault.fault == "storm" for fault in faults):
            response = Response("<Error><Code>SlowDown</Code></Error>", 503, media_type="application/xml")
        elif "authorization" in request.headers:
            words = "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>"
            response = Response(words, 400, media_type="application/xml")
        elif ticket is None:
            response = Response("<Error><Code>AccessDenied</Code></Error>", 403, media_type="application/xml")
        elif request.method == "PUT":
            entry.carried_out = True
            stored = await store(Request(scope, wire.receive).stream(), Path(ticket.facts["path"]), MOST_STORED)
            ticket.facts["arrived"](stored)
            response = Response(b"", 200, {"etag": f'"{stored.md5}"'})
        else:
            entry.carried_out = True
            response = FileResponse(ticket.facts["path"], headers=dict(ticket.facts.get("headers", {})))
        await response(scope, wire.receive, wire.send)
        await wire.finish()
    except Exception:
        entry.carried_out = entry.carried_out and not wire.cut
        raise
    finally:
        note()


def serve(
    *,
    faults: Any = None,
    trainer: str = "local",
    steps: int = 20,
    port: int = 0,
    seed: int = 0,
    providers: Sequence[str] | None = None,
    folder: Path | None = None,
) -> Sandbox:
    """Return a running sandbox, to be used in a `with`.

    `faults` is a script's path or its content. `trainer` is `local` (the real one, at most `steps` steps a job) or
    `instant` (a synthetic curve; a job goes on by one state each time it is retrieved). `port` 0 picks free ones.
    """
    if trainer not in {"local", "instant"}:
        raise Invalid(f"trainer: {trainer!r}", hint="local or instant")
    if steps < 1:
        raise Invalid(f"steps: {steps}, at least 1 is needed")
    script = fault_scripts.read(Path(faults)) if isinstance(faults, (str, Path)) else fault_scripts.parse(faults or [])
    world = World(folder, trainer, steps, Faults(script[0], script[1] or seed))
    try:
        return Sandbox(world, port, providers).start()
    except BaseException:
        world.close()
        raise


def services() -> dict[str, Any]:
    """Return each installed emulator's class by provider name."""
    found = {}
    for point in sorted(entry_points(group=GROUP)):
        with suppress(ImportError):
            found[point.name] = point.load()
    if not found:
        raise Invalid("no emulator is installed", hint="pip install 'anydpo[sandbox]'")
    return found


def _sockets(names: Sequence[str], port: int) -> dict[str, socket.socket]:
    """Bind a loopback port for each name, one after the other from `port` on, or free ones."""
    made: dict[str, socket.socket] = {}
    for offset, name in enumerate(names):
        # asyncio sends small answers at once only where the protocol is named; else each one costs 40 ms
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wanted = port + offset if port else 0
        try:
            sock.bind((HOST, wanted))
        except (OSError, OverflowError) as exc:
            for other in (*made.values(), sock):
                other.close()
            hint = f"{len(names)} ports in a row are needed; choose another --port"
            raise Invalid(f"port {wanted} cannot be used: {exc}", hint=hint) from None
        made[name] = sock
    return made


def _protocol(transports: dict[Any, asyncio.Transport]) -> type[H11Protocol]:
    """Return the HTTP protocol that also keeps each connection's transport, so that it can be dropped."""

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._peer = tuple(transport.get_extra_info("peername"))
            transports[self._peer] = transport
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            transports.pop(self._peer, None)
            super().connection_lost(exc)

    return Protocol
