"""Where tests find their figures, and a home folder of their own for each."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: one thread each, their trainers included
    os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.set_threshold(100_000, 50, 50)  # torch, transformers and five SDKs stay: not to be looked through at every turn

HERE = Path(__file__).parent
ORACLES = Path(os.environ.get("ANYDPO_ORACLES", HERE / "oracles"))
FORMATS = Path(os.environ.get("ANYDPO_FORMATS", HERE / "formats"))
SHARED = Path(os.environ.get("ANYDPO_SHARED", HERE.parent.parent / "shared"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proof", action="store_true", help="run every figure at full count")


LONG = ("test_docs", "test_smollm2", "test_local", "test_kill", "test_training", "test_sharded", "test_cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))


def pytest_collection_finish() -> None:
    gc.freeze()  # nor at each of the collections that tests and pytest ask for; a fork shares them for longer, too


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the user's own folders and off the network."""
    monkeypatch.setenv("ANYDPO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("ANYDPO_PROVIDERS", raising=False)


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether this is `make proof`, which counts in full."""
    return bool(request.config.getoption("--proof"))


@pytest.fixture
def hh() -> Path:
    """The folder with the real Anthropic HH sample."""
    folder = SHARED / "data" / "hh-rlhf"
    if not (folder / "harmless-base-train.jsonl.gz").is_file():
        pytest.skip(f"the HH sample is not in {folder}; set ANYDPO_SHARED to the folder that holds data/hh-rlhf")
    return folder
