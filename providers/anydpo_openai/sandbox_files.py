"""The emulator's files and uploads. Sources: OpenAI's OpenAPI document of 2026-08-21; ../../docs/sandbox.md."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from anydpo.sandbox.files import File, Stored, chunks_of, join, store
from anydpo.sandbox.wire import Refusal, answer, identifier, json_object, page
from anydpo.sandbox.world import World

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MB, GB = 10**6, 10**9
MOST_FILE, MOST_UPLOAD, MOST_PART = 512 * MB, 8 * GB, 64 * 1024 * 1024
UPLOAD_SECONDS = 3600
PARAMETERS = frozenset({"purpose", "file", "expires_after[anchor]", "expires_after[seconds]"})


class Files:
    """`/files` and `/uploads` of one service. `new_status` is what a file has before it is `processed`."""

    def __init__(self, world: World, service: str, *, new_status: str | None = None, id_length: int = 24) -> None:
        self._world, self._service, self._new_status, self._id_length = world, service, new_status, id_length
        self._files: dict[str, File] = {}
        self._uploads: dict[str, dict[str, Any]] = {}

    def find(self, file_id: str) -> File | None:
        """Return a file that is there and has not expired."""
        file = self._files.get(file_id)
        return None if file is None or self._expired(file) else file

    def get(self, file_id: str) -> File:
        """Return a file; raises a 404 `Refusal`."""
        file = self.find(file_id)
        if file is None:
            raise Refusal(404, f"No such File object: {file_id}", param="id")
        return file

    def add(self, name: str, purpose: str, stored: Stored, expires: float | None = None) -> File:
        """Take in bytes that have arrived."""
        now = self._world.clock.now()
        made = File(identifier("file-", self._id_length), name, purpose, now, stored.path, stored.size, stored.sha256)
        made.expires = None if expires is None else now + expires
        self._files[made.id] = made
        return made

    def show(self, file: File) -> dict[str, Any]:
        """Return the File object."""
        body = {
            "id": file.id,
            "object": "file",
            "bytes": file.size,
            "created_at": int(file.created),
            "filename": file.name,
            "purpose": file.purpose,
            "status": self._new_status if self._new_status and file.looks < 2 else "processed",
        }
        return body if file.expires is None else {**body, "expires_at": int(file.expires)}

    async def upload(self, request: Request) -> Response:
        """POST /files."""
        async with request.form(max_files=1, max_fields=10) as form:
            if unknown := sorted(set(form) - PARAMETERS):
                raise Refusal(400, f"Unknown parameter: '{unknown[0]}'.", "unknown_parameter", unknown[0])
            purpose, sent = form.get("purpose"), form.get("file")
            if purpose not in PURPOSES:
                raise Refusal(400, f"'{purpose}' is not one of {list(PURPOSES)} - 'purpose'", param="purpose")
            if not isinstance(sent, UploadFile):
                raise Refusal(400, "'file' is a required property", param="file")
            self._check_size(sent.size or 0, MOST_FILE)
            path = self._world.place(self._service, "files", identifier("upload-"))
            stored = await store(chunks_of(sent), path, MOST_FILE)
            name = sent.filename or "file"
            expires = _expires(form.get("expires_after[anchor]"), form.get("expires_after[seconds]"))
        self._check_content(name, str(purpose), stored)
        return answer(self.show(self.add(name, str(purpose), stored, expires)))

    async def files(self, request: Request) -> Response:
        """GET /files, newest first."""
        query = request.query_params
        found = [file for file in reversed(self._files.values()) if not self._expired(file)]
        if purpose := query.get("purpose"):
            found = [file for file in found if file.purpose == purpose]
        if query.get("order") == "asc":
            found.reverse()
        shown, more = page(found, request, lambda file: file.id, 10_000, 10_000)
        data = [self.show(file) for file in shown]
        ends = {"first_id": data[0]["id"] if data else "", "last_id": data[-1]["id"] if data else ""}
        return answer({"object": "list", "data": data, **ends, "has_more": more})

    async def file(self, request: Request) -> Response:
        """GET /files/{file_id}."""
        file = self.get(request.path_params["file_id"])
        file.looks += 1
        return answer(self.show(file))

    async def delete_file(self, request: Request) -> Response:
        """DELETE /files/{file_id}."""
        file = self.get(request.path_params["file_id"])
        del self._files[file.id]
        if file.path is not None:
            file.path.unlink(missing_ok=True)
        return answer({"id": file.id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        """GET /files/{file_id}/content."""
        file = self.get(request.path_params["file_id"])
        assert file.path is not None
        return FileResponse(file.path, media_type="application/octet-stream", filename=file.name)

    async def start_upload(self, request: Request) -> Response:
        """POST /uploads."""
        given = await json_object(request)
        for name in ("bytes", "filename", "mime_type", "purpose"):
            if name not in given:
                raise Refusal(400, f"Missing required parameter: '{name}'.", "missing_required_parameter", name)
        self._check_size(int(given["bytes"]), MOST_UPLOAD)
        now = self._world.clock.now()
        expiry = given.get("expires_after") or {}
        made = identifier("upload_")
        self._uploads[made] = {
            "id": made,
            "object": "upload",
            "bytes": int(given["bytes"]),
            "created_at": int(now),
            "filename": str(given["filename"]),
            "purpose": str(given["purpose"]),
            "status": "pending",
            "expires_at": int(now + UPLOAD_SECONDS),
            "_parts": {},
            "_expires": _expires(expiry.get("anchor"), expiry.get("seconds")),
        }
        return answer(_public(self._uploads[made]))

    async def part(self, request: Request) -> Response:
        """POST /uploads/{upload_id}/parts."""
        upload = self._pending(request)
        async with request.form(max_files=1, max_fields=1) as form:
            sent = form.get("data")
            if not isinstance(sent, UploadFile):
                raise Refusal(400, "Missing required parameter: 'data'.", "missing_required_parameter", "data")
            made = identifier("part_")
            stored = await store(chunks_of(sent), self._world.place(self._service, "parts", made), MOST_PART)
        upload["_parts"][made] = stored
        ids = {"id": made, "upload_id": upload["id"]}
        return answer({**ids, "object": "upload.part", "created_at": int(self._world.clock.now())})

    async def complete(self, request: Request) -> Response:
        """POST /uploads/{upload_id}/complete."""
        upload, given = self._pending(request), await json_object(request)
        parts = upload["_parts"]
        ids = given.get("part_ids")
        if not isinstance(ids, list) or not ids or any(part not in parts for part in ids):
            raise Refusal(400, "Invalid 'part_ids': every part has to be one of this upload.", param="part_ids")
        path = self._world.place(self._service, "files", upload["id"])
        stored = join([parts[part].path for part in ids], path)
        if stored.size != upload["bytes"]:
            path.unlink()
            said = f"The upload has {stored.size} bytes, {upload['bytes']} were announced."
            raise Refusal(400, said, param="part_ids")
        if given.get("md5") not in (None, stored.md5):
            path.unlink()
            raise Refusal(400, "The MD5 checksum does not match.", param="md5")
        self._check_content(upload["filename"], upload["purpose"], stored)
        file = self.add(upload["filename"], upload["purpose"], stored, upload["_expires"])
        upload |= {"status": "completed", "file": self.show(file)}
        self._forget_parts(upload)
        return answer(_public(upload))

    async def cancel_upload(self, request: Request) -> Response:
        """POST /uploads/{upload_id}/cancel."""
        upload = self._pending(request)
        upload["status"] = "cancelled"
        self._forget_parts(upload)
        return answer(_public(upload))

    def _pending(self, request: Request) -> dict[str, Any]:
        upload = self._uploads.get(request.path_params["upload_id"])
        if upload is None:
            raise Refusal(404, f"No such Upload object: {request.path_params['upload_id']}", param="upload_id")
        if upload["status"] == "pending" and upload["expires_at"] <= self._world.clock.now():
            upload["status"] = "expired"
            self._forget_parts(upload)
        if upload["status"] != "pending":
            raise Refusal(400, f"The upload is {upload['status']}.", param="upload_id")
        return upload

    def _forget_parts(self, upload: dict[str, Any]) -> None:
        for stored in upload["_parts"].values():
            stored.path.unlink(missing_ok=True)
        upload["_parts"] = {}

    def _check_size(self, size: int, most: int) -> None:
        if size < 1:
            raise Refusal(400, "File is empty.", param="file")
        if size > most:
            raise Refusal(413, f"The file is too large: {size} bytes, at most {most} are allowed.", param="file")

    def _check_content(self, name: str, purpose: str, stored: Stored) -> None:
        """Refuse at once what is no JSON Lines; its examples are looked at once a job uses it."""
        if purpose != "fine-tune":
            return
        if Path(name).suffix != ".jsonl":
            stored.path.unlink()
            said = (
                f"Invalid file format for Fine-Tuning API. Must be .jsonl, got {Path(name).suffix or 'no extension'}."
            )
            raise Refusal(400, said, param="file")
        with stored.path.open("rb") as file:
            first = file.readline().removeprefix(b"\xef\xbb\xbf")
        found = None
        with suppress(ValueError):
            found = json.loads(first)
        if not isinstance(found, dict):
            stored.path.unlink()
            raise Refusal(400, "Invalid file format. Line 1 is not a dictionary.", param="file")

    def _expired(self, file: File) -> bool:
        return file.expires is not None and file.expires <= self._world.clock.now()


def _expires(anchor: Any, seconds: Any) -> float | None:
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at" or not str(seconds).isdecimal() or not 3600 <= int(str(seconds)) <= 2_592_000:
        said = "Invalid 'expires_after': anchor has to be created_at, seconds between 3600 and 2592000."
        raise Refusal(400, said, param="expires_after")
    return float(str(seconds))


def _public(upload: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in upload.items() if not key.startswith("_")}
