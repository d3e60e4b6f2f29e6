"""SIGKILL while a cloud's adapter works, with the real SDK over HTTP: never two jobs, never one that is lost."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import PreferenceJob, adapter, dispatch, journal, outgoing, watcher
from anydpo.dispatch import Dispatch
from anydpo.journal import Journal
from anydpo.plan import Prepared, prepare
from anydpo.registry import provider, split_place, using
from anydpo.sandbox import Sandbox, serve
from anydpo.testing.clock import ManualClock
from anydpo.testing.kill import dies_at, tracing
from tests.providers.clouds import ROWS, a_job

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL: run it on Linux or macOS")

CORE = (dispatch, journal, watcher, outgoing, adapter)
PATIENCE = 60  # seconds after which a forked process that hangs ends itself
ROLE = "arn:aws:iam::123456789012:role/sandbox"
SAGEMAKER = {"role": ROLE, "model_package_group": "tuned", "min_pairs": 1, "instance_type": "ml.g5.2xlarge"}


@dataclass(frozen=True)
class Case:
    """A place: the emulator that stands for it, its SDK, the modules of its adapter that speak, what a job needs."""

    place: str
    emulator: str
    sdk: str
    modules: tuple[str, ...]
    options: dict[str, Any]
    model: str | None = None

    def job(self, seed: int) -> PreferenceJob:
        """Return a job with data of its own, which have to be uploaded."""
        fields: dict[str, Any] = {"model": self.model} if self.model else {}
        fields["data"] = anydpo.load([*ROWS, {**ROWS[0], "chosen": [{"role": "assistant", "content": f"Ask {seed}."}]}])
        return a_job(seed=seed, batch_size=16, options={split_place(self.place)[0]: self.options}, **fields)

    def prepared(self, seed: int) -> Prepared:
        return prepare(self.job(seed), self.place).or_raise()


OPENAI = "anydpo_openai.provider"
AZURE_ML = tuple(f"anydpo_azure.{name}" for name in ("provider", "command", "workspace", "store", "scope", "request"))
AWS = tuple(f"anydpo_sagemaker.{name}" for name in ("provider", "store", "wire", "source", "hub", "dialect"))
CASES = (
    Case("openai", "openai", "openai", (OPENAI,), {}),
    Case("azure/managed", "azure", "openai", ("anydpo_azure.provider", "anydpo_azure.managed", OPENAI), {}),
    Case("together", "together", "together", ("anydpo_together.provider",), {}),
    Case("azure/command", "azureml", "azure.ai.ml", AZURE_ML, {"compute": "gpu-cluster"}, "tiny"),
    Case("sagemaker/serverless", "sagemaker", "boto3", AWS, SAGEMAKER),
    Case("sagemaker/training", "sagemaker", "boto3", AWS, SAGEMAKER, "tiny"),
)


@pytest.fixture(params=CASES, ids=lambda case: case.place)
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param
    return made


@pytest.fixture
def box(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with serve(trainer="instant", steps=4, providers=[case.emulator], folder=tmp_path / "box") as made:
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        import_module(case.sdk)  # once, and not in every child
        case.prepared(0)
        yield made


def jobs(box: Sandbox) -> int:
    """Return how many jobs the cloud has, asked for past the wire."""
    (service,) = box.services.values()
    jobs: Any = service
    return len(list(jobs.jobs.all()))


def forget_assets(box: Sandbox) -> None:
    """Let the trainer's code be new to Azure ML again, so that every submission has the lines of the first."""
    for service in box.services.values():
        getattr(service, "assets", {}).clear()


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process, which opens connections of its own; return the signal that ended it, or its exit."""
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def submit(case: Case, home: Path, seed: int, each: Callable[[int], None], count: Path) -> None:
    mine, modules = provider(split_place(case.place)[0]), map(import_module, case.modules)
    with using(mine):
        prepared = case.prepared(seed)
        with tracing((*CORE, *modules), each) as lines:
            Dispatch(Journal(home), ManualClock()).submit(prepared)
    count.write_text(str(lines[0]))


def test_killed_while_a_cloud_is_asked(case: Case, box: Sandbox, tmp_path: Path, full: bool) -> None:
    count = tmp_path / "count"
    for seed in (1000, 0):  # the first has more to do: the code of the trainer is new there
        forget_assets(box)
        assert in_child(partial(submit, case, tmp_path / f"h{seed}", seed, lambda _: None, count)) == 0
    lines = int(count.read_text())
    points = range(1, lines + 1, max(1, lines // (60 if full else 3)))
    killed = 0
    for seed, last in enumerate(points, 1):
        before, home = jobs(box), tmp_path / f"h{seed}"
        forget_assets(box)
        ended = in_child(partial(submit, case, home, seed, dies_at(last), count))
        assert ended in (0, signal.SIGKILL)
        killed += ended == signal.SIGKILL
        assert in_child(partial(submit, case, home, seed, lambda _: None, count)) == 0
        assert jobs(box) == before + 1, last
        (run,) = Journal(home).runs()
        (attempt,) = Journal(home).attempts(run.id)
        assert attempt.phase == "submitted"
        shutil.rmtree(home)
    assert killed >= len(points) - 1
    print(f"\n{case.place}: killed at {killed} of {lines} lines, 0 duplicates, 0 lost")  # noqa: T201


def test_a_lost_reply_is_one_create(case: Case, box: Sandbox, tmp_path: Path) -> None:
    box.break_({"fault": "lost_reply", "on": ["create"], "times": 1})
    with using(provider(split_place(case.place)[0])):
        made = Dispatch(Journal(tmp_path / "home"), ManualClock()).submit(case.prepared(0))
    assert made.created
    assert (jobs(box), len(box.requests(case.emulator, "create"))) == (1, 1)
    print(f"\n{case.place}: a lost reply, 1 create, 1 job")  # noqa: T201
