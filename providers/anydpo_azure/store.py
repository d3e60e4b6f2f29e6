"""A container of blobs: read from a place on, listed, written once. The credential goes to this container only."""

from __future__ import annotations

import base64
import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import quote

from anydpo.errors import Unavailable

if TYPE_CHECKING:
    from anydpo_azure.workspace import Workspace

VERSION = "2021-12-02"  # of the storage interface: one Put Blob takes up to 5,000 MiB
CHUNK = 1 << 20
LATER, NOT_THERE = (409, 412), 404


class Blob(NamedTuple):
    """One blob of a listing."""

    name: str
    size: int
    md5: str | None


class Store:
    """One container, with a signature or the user's own token."""

    def __init__(self, workspace: Workspace, address: str, *, sas: str = "", token: str = "") -> None:
        self._workspace, self.address, self._sas, self._token = workspace, address, sas, token

    def url(self, path: str) -> str:
        """Return a blob's address without the signature."""
        return f"{self.address}/{quote(path)}"

    def size(self, path: str) -> int | None:
        """Return the bytes of a blob, None where it is not there."""
        response = self._ask("HEAD", path)
        return None if response.status_code == NOT_THERE else int(response.headers["content-length"])

    def put_once(self, path: str, file: BinaryIO, size: int) -> bool:
        """Write a blob that is not there yet; say whether it was written. What arrived is compared by its MD5."""
        digest = hashlib.md5(usedforsecurity=False)

        def body() -> Iterator[bytes]:
            while part := file.read(CHUNK):
                digest.update(part)
                yield part

        headers = {"x-ms-blob-type": "BlockBlob", "if-none-match": "*", "content-length": str(size)}
        response = self._ask("PUT", path, headers=headers, content=body())
        if response.status_code in LATER:
            return False
        arrived, sent = response.headers.get("content-md5"), base64.b64encode(digest.digest()).decode()
        if arrived is not None and arrived != sent:
            raise Unavailable(f"{path}: other bytes arrived than were sent", provider="azure", hint="submit again")
        return True

    def read_from(self, path: str, start: int = 0) -> bytes | None:
        """Return a blob's bytes from a place on, None where it is not there."""
        response = self._ask("GET", path, headers={"x-ms-range": f"bytes={start}-"} if start else {})
        if response.status_code == NOT_THERE:
            return None
        return b"" if response.status_code == 416 else bytes(response.content)

    def download(self, path: str) -> Iterator[bytes]:
        """Yield a blob's bytes."""
        with (
            self._workspace.speaking(),
            self._workspace.http.stream("GET", self.url(path), params=self._query(), headers=self._headers()) as found,
        ):
            if found.is_error:
                from anydpo_azure.workspace import raise_for

                raise_for(found)
            yield from found.iter_bytes(CHUNK)

    def blobs(self, prefix: str) -> list[Blob]:
        """Return every blob whose name begins so."""
        made: list[Blob] = []
        marker = ""
        while True:
            query = {"restype": "container", "comp": "list", "prefix": prefix, **({"marker": marker} if marker else {})}
            response = self._ask("GET", "", query=query)
            root = ET.fromstring(response.content)  # noqa: S314 - from the user's own storage over TLS
            for one in root.iter("Blob"):
                size = int(one.findtext("Properties/Content-Length") or 0)
                made.append(Blob(one.findtext("Name") or "", size, one.findtext("Properties/Content-MD5")))
            if not (marker := root.findtext("NextMarker") or ""):
                return made

    def _ask(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        content: Any = None,
    ) -> Any:
        sent = {**self._headers(), **(headers or {})}
        address = self.url(path) if path else self.address
        with self._workspace.speaking():
            response = self._workspace.http.request(
                method, address, params=self._query(query), headers=sent, content=content
            )
            fine = (NOT_THERE, 416) if method in ("HEAD", "GET") and path else LATER if method == "PUT" else ()
            if response.is_error and response.status_code not in fine:
                from anydpo_azure.workspace import raise_for

                raise_for(response)
        return response

    def _query(self, more: dict[str, str] | None = None) -> dict[str, Any]:
        from urllib.parse import parse_qsl

        return {**dict(parse_qsl(self._sas)), **(more or {})}

    def _headers(self) -> dict[str, str]:
        made = {"x-ms-version": VERSION}
        if not self._sas:
            made["authorization"] = f"Bearer {self._workspace.token(self._token)}"
        return made
