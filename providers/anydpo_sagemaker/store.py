"""Files in S3: each under the hash of its content, put there once, and brought back without leaving its folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from anydpo.archive import MOST_BYTES, MOST_FILES
from anydpo.errors import AnyDPOError, AuthFailed, DataInvalid, JobInvalid, Unavailable
from anydpo_sagemaker.wire import NAME, Absent, client, speaking

WHOLE = 64 << 20  # bytes up to which a file is one request
MOST_TEXT = 256 << 20  # bytes of a file that is read into memory


class Store:
    """S3 in one region."""

    def __init__(self, region: str) -> None:
        self._region = region

    @property
    def _s3(self) -> Any:
        return client("s3", self._region)

    def put(self, uri: str, file: BinaryIO, size: int, sha256: str) -> None:
        """Put a file there unless it is there already; raises `JobInvalid` where the bucket is missing."""
        bucket, key = parted(uri)
        if self._size(bucket, key) == size:
            return
        digest = base64.b64encode(bytes.fromhex(sha256)).decode()
        try:
            with speaking(f"s3: put {uri}"):
                if size <= WHOLE:
                    self._s3.put_object(
                        Bucket=bucket, Key=key, Body=file, ContentLength=size, IfNoneMatch="*", ChecksumSHA256=digest
                    )
                else:
                    self._s3.upload_fileobj(file, bucket, key, ExtraArgs={"Metadata": {"sha256": sha256}})
        except AnyDPOError as exc:
            if "PreconditionFailed" in exc.message or "ConditionalRequestConflict" in exc.message:
                return  # another process was first: the key is the content
            raise self._explained(exc, bucket) from None
        if self._size(bucket, key) not in (size, None):
            raise Unavailable(f"s3: {uri} did not arrive whole", provider=NAME)

    def text(self, uri: str) -> str | None:
        """Return a small file, None where it is not there."""
        bucket, key = parted(uri)
        try:
            with speaking(f"s3: get {uri}"):
                answer = self._s3.get_object(Bucket=bucket, Key=key)
                if answer["ContentLength"] > MOST_TEXT:
                    raise DataInvalid(f"{uri} has {answer['ContentLength']:,} bytes, more than {MOST_TEXT:,}")
                data: bytes = answer["Body"].read()
        except Absent:
            return None
        return data.decode("utf-8", "replace")

    def json(self, uri: str) -> dict[str, Any]:
        """Return a JSON object, an empty one where there is none."""
        try:
            found = json.loads(self.text(uri) or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def bring(self, uri: str, target: Path) -> int:
        """Write one object to a file and return its size; raises `Unavailable` where it came short."""
        bucket, key = parted(uri)
        written = 0
        with speaking(f"s3: get {uri}"):
            answer = self._s3.get_object(Bucket=bucket, Key=key)
            if answer["ContentLength"] > MOST_BYTES:
                raise DataInvalid(f"{uri} has {answer['ContentLength']:,} bytes, more than {MOST_BYTES:,}")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                for chunk in answer["Body"].iter_chunks(1 << 20):
                    written += len(chunk)
                    file.write(chunk)
        if written != answer["ContentLength"]:
            raise Unavailable(f"{written:,} of {answer['ContentLength']:,} bytes of {uri} arrived", provider=NAME)
        return written

    def bring_folder(self, uri: str, folder: Path) -> int:
        """Write everything below a prefix into a folder and return the number of files."""
        bucket, prefix = parted(uri.rstrip("/") + "/")
        total = 0
        found = list(self._below(bucket, prefix))
        for key, size in found:
            total += size
            if total > MOST_BYTES or len(found) > MOST_FILES:
                raise DataInvalid(f"{uri} holds more than {MOST_BYTES:,} bytes or {MOST_FILES:,} files")
            self.bring(f"s3://{bucket}/{key}", folder.joinpath(*_inside(key[len(prefix) :])))
        return len(found)

    def folders(self, uri: str) -> list[str]:
        """Return the names of what lies directly below a prefix, once each."""
        bucket, prefix = parted(uri.rstrip("/") + "/")
        return sorted({key[len(prefix) :].partition("/")[0] for key, _ in self._below(bucket, prefix)})

    def _below(self, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
        while True:
            with speaking(f"s3: list s3://{bucket}/{prefix}"):
                page = self._s3.list_objects_v2(**asked)
            yield from ((one["Key"], one["Size"]) for one in page.get("Contents", ()) if not one["Key"].endswith("/"))
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def _size(self, bucket: str, key: str) -> int | None:
        try:
            with speaking(f"s3: head s3://{bucket}/{key}"):
                return int(self._s3.head_object(Bucket=bucket, Key=key)["ContentLength"])
        except (Absent, AuthFailed):  # who may not list is told 403 where nothing is
            return None

    def _explained(self, exc: AnyDPOError, bucket: str) -> AnyDPOError:
        if not isinstance(exc, Absent):
            return exc
        hint = f"`aws s3 mb s3://{bucket} --region {self._region}`, or set options.sagemaker.bucket"
        return JobInvalid(f"there is no bucket {bucket}", provider=NAME, hint=hint)


def parted(uri: str) -> tuple[str, str]:
    """Return (bucket, key) of an `s3://` address."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise DataInvalid(f"{uri!r:.200} is no s3:// address")
    return bucket, key


def _inside(name: str) -> tuple[str, ...]:
    """Return the parts of a name below a prefix; raises `DataInvalid` where they lead out of a folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise DataInvalid(f"an object's name leads out of its folder: {name!r}", hint="nothing was kept")
    return path.parts
