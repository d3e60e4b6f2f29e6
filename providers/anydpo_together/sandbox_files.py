"""The emulator's files: announced, put at a signed address, examined on the server's own time.

Sources: together 3.1.1 (lib/resources/files.py) and what it sends; Together's OpenAPI document of 2026-04-28.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from anydpo.sandbox.counting import tokens_in
from anydpo.sandbox.files import File, Stored, chunks_of, join, store
from anydpo.sandbox.lines import Findings, Rules, examine
from anydpo.sandbox.wire import Refusal, answer, identifier, json_object
from anydpo.sandbox.world import World

PURPOSES = (
    "fine-tune",
    "eval",
    "eval-sample",
    "eval-output",
    "eval-summary",
    "batch-generated",
    "batch-api",
    "calibration",
)
TYPES = ("jsonl", "parquet", "csv")
GIB = 1 << 30
MOST_FILE = 100 * GIB
MOST_PARTS = 250
RULES = Rules(least=1, one_output=True, alternate=True, weight=True)
FORMATS = {"preference": "PREFERENCE_OPENAI", "conversation": "CONVERSATION"}


class Files:
    """`/v1/files` and what is under it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._files: dict[str, File] = {}
        self._uploads: dict[str, dict[str, Any]] = {}

    def find(self, file_id: str) -> File | None:
        """Return a file whose bytes have arrived."""
        file = self._files.get(file_id)
        return file if file is not None and file.path is not None else None

    def state(self, file: File) -> str:
        """Return the processing status: where it is looked at, one word further with each look."""
        if file.status != "UPLOADED":
            return "PENDING"
        if file.purpose != "fine-tune":
            return "COMPLETED"
        if file.looks < 2:
            return ("QUEUED", "RUNNING")[file.looks]
        return "INVALID_FORMAT" if self.findings(file).wrong else "COMPLETED"

    def findings(self, file: File) -> Findings:
        """Return what is in a file; it is read once."""
        if file.findings is None:
            assert file.path is not None
            file.findings = examine(file.path, RULES, self._world.steps * 64)
        return file.findings

    def tokens(self, file: File, model: str) -> int:
        """Return the tokens of one pass over a file, by the model's own tokenizer where it is here."""
        found = self.findings(file)
        if found.wrong or file.path is None:
            return found.tokens
        known: dict[str, int] = file.facts.setdefault("tokens", {})
        if model not in known:
            counted = tokens_in(file.path, model)
            known[model] = found.tokens if counted is None else counted
        return known[model]

    def show(self, file: File) -> dict[str, Any]:
        """Return the FileResponse object."""
        state = self.state(file)
        body: dict[str, Any] = {
            "id": file.id,
            "object": "file",
            "created_at": int(file.created),
            "filename": file.name,
            "bytes": file.size,
            "purpose": file.purpose,
            "FileType": file.facts["type"],
            "Processed": state == "COMPLETED",
            "processing_status": state,
            "LineCount": self.findings(file).lines if state in {"COMPLETED", "INVALID_FORMAT"} and file.path else 0,
        }
        if state in {"COMPLETED", "INVALID_FORMAT"} and file.purpose == "fine-tune":
            body["validation_report"] = self._report(file)
        return body

    def _report(self, file: File) -> dict[str, Any]:
        found = self.findings(file)
        report: dict[str, Any] = {"valid": not found.wrong, "file_id": file.id, "nlines": found.lines}
        if found.wrong:
            line, what = found.wrong[0]
            said = f"Error on line {line}: the line {what}." if line else f"The file {what}."
            return {**report, "error_type": "INVALID_FORMAT", "error": said}
        return {
            **report,
            "dataset_format": FORMATS[found.kind or "conversation"],
            "dataset_has_message_weights": False,
            "dataset_has_sample_weights": found.weights,
            "dataset_has_tools": found.tools,
            "dataset_has_parallel_tool_calls": False,
            "dataset_has_reasoning": False,
            "dataset_is_multimodal": False,
        }

    async def announce(self, request: Request) -> Response:
        """POST /v1/files: a redirect to where the bytes go."""
        async with request.form(max_files=0, max_fields=10) as form:
            given = {name: str(value) for name, value in form.items()}
        file = self._announced(given, "file_name")
        key = f"uploads/{file.id}"

        def arrived(stored: Stored) -> None:
            self._take(file, stored)

        address = self._world.storage.sign("PUT", key, path=self._path(file), arrived=arrived)
        return Response(b"", 302, {"location": address, "x-together-file-id": file.id})

    async def preprocess(self, request: Request) -> Response:
        """POST /v1/files/{id}/preprocess: the bytes are there, the examination begins."""
        file = self._files.get(request.path_params["id"])
        if file is None or file.path is None:
            raise Refusal(404, f"File {request.path_params['id']} not found")
        if file.facts["checksum"] not in ("", file.sha256):
            file.findings = Findings(wrong=[(0, "does not match its checksum")])
        file.status = "UPLOADED"
        return answer(self.show(file))

    async def upload(self, request: Request) -> Response:
        """POST /v1/files/upload: all in one request."""
        async with request.form(max_files=1, max_fields=10) as form:
            sent = form.get("file")
            if not isinstance(sent, UploadFile):
                raise Refusal(400, "file is required", param="file")
            fields = {name: str(value) for name, value in form.items() if name != "file"}
            file = self._announced({"file_type": "jsonl", "checksum": "", **fields}, "file_name")
            self._take(file, await store(chunks_of(sent), self._path(file), MOST_FILE))
        file.status = "UPLOADED"
        return answer(self.show(file))

    async def initiate(self, request: Request) -> Response:
        """POST /v1/files/multipart/initiate: one signed address a part."""
        given = await json_object(request)
        parts = given.get("num_parts")
        if not isinstance(parts, int) or not 1 <= parts <= MOST_PARTS:
            raise Refusal(400, f"num_parts must be between 1 and {MOST_PARTS}", param="num_parts")
        file = self._announced({name: str(value) for name, value in given.items()}, "file_name")
        upload_id = identifier("upload-")
        arrived: dict[int, Stored] = {}
        self._uploads[upload_id] = {"file": file, "parts": arrived, "size": given.get("file_size")}
        addresses = [self._part_address(upload_id, number, arrived) for number in range(1, parts + 1)]
        return answer({"upload_id": upload_id, "file_id": file.id, "parts": addresses})

    async def complete(self, request: Request) -> Response:
        """POST /v1/files/multipart/complete."""
        given = await json_object(request)
        upload = self._uploads.get(str(given.get("upload_id")))
        if upload is None or upload["file"].id != given.get("file_id"):
            raise Refusal(404, "upload not found")
        file, arrived = upload["file"], upload["parts"]
        numbers = [part.get("part_number") for part in given.get("parts") or []]
        wrong = [part for part in given.get("parts") or [] if not self._whole(part, arrived)]
        if not numbers or wrong or sorted(arrived) != sorted(numbers):
            raise Refusal(400, "parts are missing or their ETags do not match")
        stored = join([arrived[number].path for number in sorted(numbers)], self._path(file))
        if upload["size"] not in (None, stored.size):
            raise Refusal(400, f"expected {upload['size']} bytes, got {stored.size}")
        del self._uploads[str(given["upload_id"])]
        for part in arrived.values():
            part.path.unlink()
        self._take(file, stored)
        file.status = "UPLOADED"
        return answer({"file": self.show(file)})

    async def abort(self, request: Request) -> Response:
        """POST /v1/files/multipart/abort."""
        given = await json_object(request)
        upload = self._uploads.pop(str(given.get("upload_id")), None)
        if upload is None:
            raise Refusal(404, "upload not found")
        for part in upload["parts"].values():
            part.path.unlink(missing_ok=True)
        self._files.pop(upload["file"].id, None)
        return answer({"ok": True})

    async def files(self, request: Request) -> Response:  # noqa: ARG002
        """GET /v1/files, newest first; what has not arrived is not there."""
        return answer({"data": [self.show(file) for file in reversed(self._files.values()) if file.path is not None]})

    async def file(self, request: Request) -> Response:
        """GET /v1/files/{id}."""
        file = self._files.get(request.path_params["id"])
        if file is None:
            raise Refusal(404, f"File {request.path_params['id']} not found")
        body = self.show(file)
        file.looks += 1
        return answer(body)

    async def content(self, request: Request) -> Response:
        """GET /v1/files/{id}/content."""
        file = self.find(request.path_params["id"])
        if file is None or file.path is None:
            raise Refusal(404, f"File {request.path_params['id']} not found")
        return FileResponse(file.path, media_type="application/octet-stream")

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/files/{id}."""
        file = self._files.pop(request.path_params["id"], None)
        if file is None:
            raise Refusal(404, f"File {request.path_params['id']} not found")
        if file.path is not None:
            file.path.unlink(missing_ok=True)
        return answer({"id": file.id, "deleted": True})

    def _announced(self, given: dict[str, str], name_key: str) -> File:
        """Return a new file of an announcement; raises the 409 that names a file of the same content."""
        if given.get("purpose") not in PURPOSES:
            raise Refusal(400, f"purpose must be one of {', '.join(PURPOSES)}", param="purpose")
        if given.get("file_type") not in TYPES:
            raise Refusal(400, f"file_type must be one of {', '.join(TYPES)}", param="file_type")
        if not given.get(name_key):
            raise Refusal(400, "file_name is required", param="file_name")
        checksum = given.get("checksum", "")
        for file in self._files.values():
            if checksum and file.path is not None and (file.sha256, file.purpose) == (checksum, given["purpose"]):
                known = {"file_id": file.id, "message": "A file with this content exists already"}
                raise Refusal(409, known["message"], body=known)
        made = File(
            identifier("file-", 32), given[name_key], given["purpose"], self._world.clock.now(), status="ANNOUNCED"
        )
        made.facts = {"type": given["file_type"], "checksum": checksum}
        self._files[made.id] = made
        return made

    def _take(self, file: File, stored: Stored) -> None:
        file.path, file.size, file.sha256 = stored.path, stored.size, stored.sha256

    def _path(self, file: File) -> Any:
        return self._world.place("together", "files", file.id)

    def _part_address(self, upload_id: str, number: int, arrived: dict[int, Stored]) -> dict[str, Any]:
        def take(stored: Stored) -> None:
            arrived[number] = stored

        key = f"uploads/{upload_id}/{number}"
        path = self._world.place("together", "parts", upload_id, str(number))
        return {
            "PartNumber": number,
            "URL": self._world.storage.sign("PUT", key, path=path, arrived=take),
            "Headers": {},
        }

    def _whole(self, part: dict[str, Any], arrived: dict[int, Stored]) -> bool:
        number = part.get("part_number")
        return number in arrived and str(part.get("etag", "")).strip('"') == arrived[number].md5
