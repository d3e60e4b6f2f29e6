"""S3, STS and IAM of the emulator: moto's server, spoken to in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

ACCOUNT, REGION = "123456789012", "us-east-1"
OWN = "sagemaker-"  # AWS's own SDK makes the buckets it calls sagemaker-REGION-ACCOUNT itself: they are there
BUCKET = f"{OWN}{REGION}-{ACCOUNT}"
ROLE = "sandbox"
TRUST = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}


class S3:
    """moto's buckets, which every sandbox of a process shares; a new one begins empty."""

    def __init__(self) -> None:
        from moto.iam.models import iam_backends
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.s3.models import s3_backends

        app: Any = DomainDispatcherApplication
        self._app = app(create_backend_app)
        self._backend: Any = s3_backends[ACCOUNT]["aws"]
        self._backend.reset()
        self._backend.create_bucket(BUCKET, REGION)
        roles: Any = iam_backends[ACCOUNT]["aws"]
        roles.reset()
        trust = json.dumps({"Version": "2012-10-17", "Statement": [TRUST]})
        roles.create_role(ROLE, trust, "/", None, "", [], 3600)

    async def serve(self, request: Request) -> Response:
        """Answer one request as moto does."""
        bucket = request.url.path.lstrip("/").partition("/")[0]
        if bucket.startswith(OWN):
            self.make(bucket)
        body = await request.body()
        return await run_in_threadpool(self._answer, request, body)

    def _answer(self, request: Request, body: bytes) -> Response:
        scope = request.scope
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": scope["path"].encode().decode("latin-1"),
            "RAW_URI": scope["raw_path"].decode("latin-1") + (f"?{request.url.query}" if request.url.query else ""),
            "QUERY_STRING": request.url.query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(scope["server"][1]),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in request.headers.items():
            if name not in ("content-type", "content-length"):
                environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
        told: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            told.extend((int(status.split()[0]), headers))

        parts: Iterable[bytes] = self._app(environ, start)
        made = Response(b"".join(parts), told[0])
        kept = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in told[1]]
        if request.method != "HEAD":  # moto says how long what it does not send would be
            kept = [(n, v) for n, v in kept if n != b"content-length"]
            kept.append((b"content-length", str(len(made.body)).encode()))
        made.raw_headers = [(n, v) for n, v in kept if n not in (b"connection", b"transfer-encoding")]
        return made

    # What the machines of a job do with S3

    def has(self, bucket: str) -> bool:
        """Say whether there is a bucket."""
        return bucket in self._backend.buckets

    def make(self, bucket: str) -> None:
        """Make a bucket unless it is there."""
        if not self.has(bucket):
            self._backend.create_bucket(bucket, REGION)

    def below(self, uri: str) -> dict[str, bytes]:
        """Return name → content of every object under a prefix, the names below the prefix's last folder."""
        bucket, prefix = parted(uri)
        if not self.has(bucket):
            return {}
        start = len(prefix.rpartition("/")[0] + "/") if "/" in prefix else 0
        found = {name: key for name, key in self._backend.buckets[bucket].keys.items() if name.startswith(prefix)}
        return {name[start:]: key.value for name, key in found.items()}

    def put(self, uri: str, data: bytes) -> None:
        """Write an object."""
        bucket, key = parted(uri)
        self._backend.put_object(bucket, key, data)

    def put_folder(self, folder: Path, uri: str) -> None:
        """Write every file of a folder whose content is not there yet under a prefix."""
        there = self.below(f"{uri}/")
        for path in sorted(folder.rglob("*")):
            try:
                data = path.read_bytes() if path.is_file() else None
            except OSError:  # written away while we looked
                continue
            name = str(path.relative_to(folder))
            if data is not None and there.get(name) != data:
                self.put(f"{uri}/{name}", data)


def parted(uri: str) -> tuple[str, str]:
    """Return (bucket, key) of an address."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key
