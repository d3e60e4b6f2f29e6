"""Training jobs that run: the container's contract, the same numbers as here, several machines, spot interruptions."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from anydpo import DPO, LoRA, PreferenceJob
from anydpo.clock import SystemClock
from anydpo.dispatch import Dispatch
from anydpo.errors import JobInvalid
from anydpo.journal import Journal
from anydpo.plan import prepare
from anydpo.result import Result
from anydpo.sandbox import Sandbox, serve
from tests.providers.sagemaker.conftest import OPTIONS

STEPS = 8


class Soon(SystemClock):
    """Asks local processes again at once: what is polite to a cloud is too slow here."""

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.2))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("box")
    with pytest.MonkeyPatch.context() as patch, serve(steps=1000, providers=["sagemaker"], folder=folder) as box:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield box


@pytest.fixture
def here(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Point the AWS chain to the emulator."""
    for name, value in box.env.items():
        monkeypatch.setenv(name, value)
    box.mend()
    return box


def make(hh: Path, **options: Any) -> PreferenceJob:
    """Return the job that every place runs: real pairs, another loss than the default, an adapter."""
    return PreferenceJob(
        model="tiny",
        data={"path": str(hh / "harmless-base-train.jsonl.gz"), "max_pairs": 80},
        validation=0.2,
        method=DPO(loss_type="apo_zero", beta=0.2),
        adapter=LoRA(r=4),
        batch_size=4,
        max_steps=STEPS,
        max_length=128,
        save_steps=3,
        options={"sagemaker": {**OPTIONS, **options}},
    )


def run(job: PreferenceJob, place: str, home: Path) -> tuple[Result, Dispatch]:
    """Return what a place makes of a job."""
    dispatch = Dispatch(Journal(home), Soon())
    made = dispatch.submit(prepare(job, place)).run
    for _ in dispatch.watch(made):
        pass
    return dispatch.result(made).raise_for_state(), dispatch


def difference(one: Result, other: Result) -> float:
    """Return the largest difference of any metric at any step, the final ones included."""
    assert len(one.metrics.history) == len(other.metrics.history) == STEPS + 1
    assert set(one.metrics.final) == set(other.metrics.final)
    pairs = [
        (a[name], b[name])
        for a, b in zip(one.metrics.history, other.metrics.history, strict=True)
        for name in a
        if "/" in name
    ]
    pairs += [(one.metrics.final[name], other.metrics.final[name]) for name in one.metrics.final]
    assert all(a is not None and b is not None for a, b in pairs)
    return float(max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs))


def weights(result: Result, dispatch: Dispatch, folder: Path) -> dict[str, Any]:
    provider, ref = dispatch.live_ref(result.run)
    provider.fetch(ref, folder)
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def here_too() -> dict[str, Any]:
    """What this machine makes of the job, made once."""
    return {}


def local(made: dict[str, Any], hh: Path, home: Path) -> Result:
    """Return the run that every other is compared with, and keep its weights."""
    if not made:
        made["result"], dispatch = run(make(hh), "local", home / "local")
        made["weights"] = weights(made["result"], dispatch, home / "weights")
    result: Result = made["result"]
    return result


def test_training_jobs_are_the_local_run(
    here: Sandbox, hh: Path, tmp_path: Path, here_too: dict[str, Any], full: bool
) -> None:
    """Two machines beside one process; one machine too where everything is counted, else the next test has it."""
    one = local(here_too, hh, tmp_path)
    for machines in (1, 2) if full else (2,):
        there, dispatch = run(make(hh, instance_count=machines), "sagemaker/training", tmp_path / f"there{machines}")
        found = difference(there, one)
        print(f"sagemaker/training on {machines} machine(s) beside local: {found:.2g}")  # noqa: T201 - a figure
        assert found <= 1e-5
        assert there.method.effective["processes"] == machines
        theirs = weights(there, dispatch, tmp_path / f"w{machines}")
        assert set(here_too["weights"]) == set(theirs)
        assert max(float((here_too["weights"][name] - theirs[name]).abs().max()) for name in theirs) <= 1e-5
        provider, ref = dispatch.live_ref(there.run)
        (kept,) = provider.fetch(ref, tmp_path / f"c{machines}", 6)
        assert (Path(kept.path) / "adapter_model.safetensors").is_file()
        with pytest.raises(JobInvalid, match="no checkpoint at step 3") as told:
            provider.fetch(ref, tmp_path / f"d{machines}", 3)
        assert "kept are: 6, 8" in str(told.value.hint)
        assert there.usage.billable_seconds


def test_interruptions_change_nothing(
    here: Sandbox, hh: Path, tmp_path: Path, here_too: dict[str, Any], full: bool
) -> None:
    """SIGKILL at once, and SIGTERM with time to save, at random steps."""
    one, draw = local(here_too, hh, tmp_path), random.Random(7)
    worst, times = 0.0, 10 if full else 1
    for number in range(times):
        steps, grace = [draw.randrange(1, STEPS)], 60 if number % 2 else 0
        here.break_({"fault": "interrupted", "steps": steps, "seconds": grace, "times": 1})
        job = make(hh, spot=True, max_wait_seconds=90000 + number)
        broken, dispatch = run(job, "sagemaker/training", tmp_path / str(number))
        said = [event.text for event in dispatch.events(broken.run)]
        assert [text for text in said if text.startswith("Interrupted")]
        worst = max(worst, difference(broken, one))
    print(f"{times} interruption(s): the largest difference is {worst:.2g}")  # noqa: T201 - a figure
    assert worst <= 1e-6


def test_a_failed_job_says_why(here: Sandbox, hh: Path, tmp_path: Path) -> None:
    job = make(hh).replace(learning_rate=1e30, adapter="full", max_steps=4)
    dispatch = Dispatch(Journal(tmp_path / "home"), Soon())
    made = dispatch.submit(prepare(job, "sagemaker/training")).run
    for _ in dispatch.watch(made):
        pass
    result = dispatch.result(made)
    assert result.state == "failed"
    assert result.error is not None
    assert result.error.code == "not_finite"
    assert "learning_rate" in str(result.error.hint)
