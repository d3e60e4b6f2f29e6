"""Azure's blob storage on loopback, as far as files are put, read and listed. Blobs are files of the same name."""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response

from anydpo.sandbox.files import store
from anydpo.sandbox.wire import identifier

MOST = 5_242_880_000
STAMP = "Wed, 25 Nov 2026 00:00:00 GMT"


class Blobs:
    """The containers of one account."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, container: str, name: str) -> Path:
        """Return the file of a blob."""
        parts = [part for part in PurePosixPath(container, name).parts if part not in ("/", "..", ".")]
        return self._folder.joinpath(*parts)

    def folder_of(self, uri: str) -> Path:
        """Return the folder that an address with https names."""
        return self._folder.joinpath(*[p for p in unquote(urlsplit(uri).path).split("/") if p not in ("", "..", ".")])

    async def put(self, request: Request) -> Response:
        """Put Blob; with `If-None-Match: *` only where none is."""
        target = self._of(request)
        if request.headers.get("x-ms-blob-type") != "BlockBlob" or "comp" in request.query_params:
            return _error(400, "UnsupportedHeader")
        if request.headers.get("if-none-match") == "*" and target.is_file():
            return _error(409, "BlobAlreadyExists")
        arriving = self._folder / ".arriving" / identifier("")
        stored = await store(request.stream(), arriving, MOST)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(arriving, target)
        md5 = base64.b64encode(bytes.fromhex(stored.md5)).decode()
        return Response(status_code=201, headers={**_marks(stored.sha256), "content-md5": md5})

    async def get(self, request: Request) -> Response:
        """Get Blob, or its head; `x-ms-range` names the first byte."""
        target = self._of(request)
        if not target.is_file():
            return _error(404, "BlobNotFound", head=request.method == "HEAD")
        data = target.read_bytes()
        headers = _marks(hashlib.sha256(data).hexdigest())
        if request.method == "HEAD":
            return Response(headers={**headers, "content-length": str(len(data)), "x-ms-blob-type": "BlockBlob"})
        wanted = request.headers.get("x-ms-range", "").removeprefix("bytes=").partition("-")[0]
        start = int(wanted or 0)
        if wanted and start >= len(data):
            return _error(416, "InvalidRange")
        return Response(data[start:], 206 if wanted else 200, headers)

    async def list(self, request: Request) -> Response:
        """List Blobs whose names begin with `prefix`."""
        if request.query_params.get("comp") != "list":
            return _error(400, "InvalidQueryParameterValue")
        root = self._folder / request.path_params["container"]
        prefix = request.query_params.get("prefix", "")
        found = []
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and name.startswith(prefix):
                data = path.read_bytes()
                md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
                about = f"<Content-Length>{len(data)}</Content-Length><Content-MD5>{md5}</Content-MD5>"
                found.append(f"<Blob><Name>{escape(name)}</Name><Properties>{about}</Properties></Blob>")
        body = f"<EnumerationResults><Blobs>{''.join(found)}</Blobs><NextMarker/></EnumerationResults>"
        return Response(f'<?xml version="1.0" encoding="utf-8"?>{body}', media_type="application/xml")

    def _of(self, request: Request) -> Path:
        return self.path(request.path_params["container"], request.path_params["path"])


def _marks(digest: str) -> dict[str, str]:
    return {"etag": f'"0x{digest[:16].upper()}"', "last-modified": STAMP, "x-ms-version": "2021-12-02"}


def _error(status: int, code: str, *, head: bool = False) -> Response:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return Response(b"" if head else body, status, {"x-ms-error-code": code}, "application/xml")
