"""What is in the wheel: a wrong include is silent, so the wheel is built, looked into and installed."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_holds_every_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    packages = {path.parent.name for root in ("src", "providers") for path in (ROOT / root).glob("*/__init__.py")}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages
    assert all(f"{package}/py.typed" in names for package in packages)
    sources = {
        str(path.relative_to(ROOT / root))
        for root in ("src", "providers")
        for path in (ROOT / root).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert sources <= set(names)
    assert {"anydpo_trainer/tiny_words.txt", "anydpo/schemas/job.schema.json"} <= set(names)
    assert not [name for name in names if name.endswith(".md") and ".dist-info" not in name]


def test_providers_folders_entry_points_and_extras_agree() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folders = {path.name.removeprefix("anydpo_") for path in (ROOT / "providers").iterdir() if path.is_dir()}
    assert folders == set(project["entry-points"]["anydpo.providers"])
    assert folders <= set(project["optional-dependencies"])
    assert {point.name for point in entry_points(group="anydpo.providers")} >= folders


def test_a_clean_environment_can_lint_and_lists_its_providers(wheel: Path, tmp_path: Path) -> None:
    """Without torch: the core works, and `local` says what it lacks."""
    venv.create(tmp_path / "env")
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "env"), "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "env" / "bin" / "anydpo"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run("init", ".").returncode == 0
    assert "300 rows = 300 pairs" in run("lint", "support_tone.jsonl").stdout
    listed = run("providers")
    assert any(line.startswith("local\t") for line in listed.stdout.splitlines())
    refused = run("check", "job.toml")
    assert refused.returncode == 2
    assert "torch, transformers, safetensors, peft is not installed" in refused.stderr
    assert "pip install 'anydpo[local]'" in refused.stderr
