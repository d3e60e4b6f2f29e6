"""An archive from outside goes into its folder whole or not at all, whatever it holds."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from anydpo.archive import new_folder, unpack
from anydpo.errors import DataInvalid, JobInvalid


def packed(path: Path, fill: Callable[[tarfile.TarFile], None], mode: str) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz" if mode == "gz" else "w") as tar:
        fill(tar)
    data = plain.getvalue()
    path.write_bytes(zstandard.compress(data) if mode == "zst" else data)
    return path


def put(
    name: str, data: bytes = b"weights", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> Callable[[tarfile.TarFile], None]:
    def fill(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, link, len(data) if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(data))

    return fill


@pytest.mark.parametrize("mode", ["gz", "zst", "tar"])
def test_files_of_every_compression_arrive(tmp_path: Path, mode: str) -> None:
    archive = packed(tmp_path / "a", put("deep/model.safetensors", b"x" * 100_000), mode)
    with new_folder(tmp_path / "out") as folder:
        assert unpack(archive, folder) == 100_000
    assert (tmp_path / "out" / "deep" / "model.safetensors").read_bytes() == b"x" * 100_000


HOSTILE = {
    "up": put("../outside"),
    "deep up": put("a/../../outside"),
    "absolute": put("/tmp/anydpo-outside"),
    "backslash": put("..\\outside"),
    "symbolic link": put("link", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "hard link": put("link", kind=tarfile.LNKTYPE, link="model"),
    "device": put("null", kind=tarfile.CHRTYPE),
    "pipe": put("pipe", kind=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_leads_out_of_the_folder_leaves_nothing(tmp_path: Path, what: str) -> None:
    archive = packed(tmp_path / "a", HOSTILE[what], "zst")
    with pytest.raises(DataInvalid, match="archive"), new_folder(tmp_path / "in" / "out") as folder:
        unpack(archive, folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "in"]


def test_a_bomb_stops_at_its_cap(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a", put("zeros", b"\0" * 10_000_000), "zst")
    assert archive.stat().st_size < 10_000
    with pytest.raises(DataInvalid, match="more than 1,000,000 bytes"), new_folder(tmp_path / "out") as folder:
        unpack(archive, folder, most_bytes=1_000_000)


@pytest.mark.parametrize("mode", ["gz", "zst", "tar"])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, mode: str) -> None:
    archive = packed(tmp_path / "a", put("model", bytes(range(256)) * 500), mode)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(DataInvalid), new_folder(tmp_path / "out") as folder:
        unpack(archive, folder)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(JobInvalid, match="not empty"), new_folder(tmp_path / "out"):
        pass
