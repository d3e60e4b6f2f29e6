"""Sources beyond this machine's disk: fsspec URLs (`s3://`, `abfs://`, `https://` …) and data sets of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, cast

from anydpo.errors import DataInvalid

PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs",
    "http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub", "sftp": "paramiko", "ssh": "paramiko",
}  # fmt: skip
EXTRAS = {"s3fs": "anydpo[s3]", "adlfs": "anydpo[abfs]", "aiohttp": "anydpo[data]", "huggingface_hub": "anydpo[data]"}


@dataclass(frozen=True)
class Remote:
    """A file that fsspec opens; it stands where a path would."""

    fs: Any
    path: str
    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The last suffix of the name."""
        return PurePosixPath(self.path).suffix

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.path).stem

    def open(self, mode: str) -> IO[bytes]:
        """Open the file; raises `OSError` where the store does not give it."""
        return cast("IO[bytes]", self.fs.open(self.path, mode))

    def stamp(self) -> tuple[object, ...]:
        """Return what changes when the content does, as far as the store says."""
        found = self.fs.info(self.path)
        return tuple(str(found.get(key)) for key in ("size", "mtime", "ETag", "LastModified", "last_modified"))


def is_url(source: str) -> bool:
    """Say whether this is an address and not a path."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.isalnum() and len(scheme) > 1


def expand_url(url: str, readable: Any) -> list[Remote]:
    """Return the files that an fsspec URL names: one file, a glob, or everything readable in a folder."""
    scheme = url.partition("://")[0]
    try:
        import fsspec
    except ImportError as exc:
        raise DataInvalid(f"{url}: needs fsspec", hint="pip install 'anydpo[data]'") from exc
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as exc:
        package = PACKAGES.get(scheme, "")
        named = EXTRAS.get(package, package)
        hint = f"pip install '{named}'" if named else "https://filesystem-spec.readthedocs.io lists the protocols"
        raise DataInvalid(f"{url}: {exc}", hint=hint) from exc
    try:
        if "*" in path or "?" in path:
            found = sorted(fs.glob(path))
        elif fs.isdir(path):
            found = [one for one in sorted(fs.find(path)) if readable(Remote(fs, one, one))]
        else:
            fs.info(path)
            found = [path]
    except Exception as exc:  # each store has errors of its own
        raise DataInvalid(
            f"{url}: {exc or type(exc).__name__}", hint="is the address right, and may you read it?"
        ) from exc
    if not found:
        raise DataInvalid(f"{url}: no file matches")
    return [Remote(fs, one, url if one == path else fs.unstrip_protocol(one)) for one in found]


def hub_dataset(url: str, split: str | None) -> Any:
    """Return the data set `hf://NAME` of the Hugging Face hub, its `split` or `train`."""
    name = url.removeprefix("hf://").strip("/")
    try:
        import datasets
    except ImportError as exc:
        raise DataInvalid(f"{url}: needs the package datasets", hint="pip install 'anydpo[data]'") from exc
    try:
        found = datasets.load_dataset(name)
    except Exception as exc:  # the hub's own, the network's, the file system's
        said = str(exc).strip().splitlines()
        raise DataInvalid(
            f"{url}: {said[0] if said else type(exc).__name__}",
            hint="is the name right, and can the hub be reached? A file that was downloaded can be given by its path",
        ) from exc
    return split_of(found, split, url)


def split_of(found: Any, split: str | None, name: str) -> Any:
    """Return one split of a table of them: the one asked for, `train`, or the only one."""
    splits = list(found)
    chosen = split or ("train" if "train" in splits else splits[0] if len(splits) == 1 else None)
    if chosen not in splits:
        listed = ", ".join(splits)
        problem = f"no split {split!r}" if split else "which split is meant is not clear"
        raise DataInvalid(f"{name}: {problem}", hint=f"split = one of {listed}")
    return found[chosen]
