"""What tests of the sagemaker adapter share: an account that can be planned for, and its emulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import PreferenceJob
from anydpo.sandbox import Sandbox, serve

ROLE = "arn:aws:iam::123456789012:role/sandbox"
OPTIONS = {"role": ROLE, "model_package_group": "tuned", "min_pairs": 1, "instance_type": "ml.g5.2xlarge"}
ROWS = [{"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No."} for i in range(32)]


def make_job(**fields: Any) -> PreferenceJob:
    """Return a job; `options` are laid over those that suffice."""
    options = {**OPTIONS, **fields.pop("options", {})}
    given = {name: value for name, value in options.items() if value is not None}
    return PreferenceJob(**{"model": "tiny", "data": anydpo.load(ROWS), **fields, "options": {"sagemaker": given}})


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the AWS files and variables of this machine out."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


def _served(monkeypatch: pytest.MonkeyPatch, **how: Any) -> Iterator[Sandbox]:
    with serve(providers=["sagemaker"], **how) as box:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        yield box


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sandbox]:
    """An account whose jobs end by being looked at."""
    yield from _served(monkeypatch, trainer="instant", steps=4, folder=tmp_path / "box")


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sandbox]:
    """An account whose jobs run their containers."""
    yield from _served(monkeypatch, steps=1000, folder=tmp_path / "box")
