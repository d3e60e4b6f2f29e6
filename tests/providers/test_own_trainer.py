"""Our trainer in the clouds' machines: the same numbers and weights as here, several machines, spot interruptions."""

from __future__ import annotations

import io
import json
import random
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
import torch
from safetensors.torch import load_file

import anydpo
from anydpo import DPO, LoRA, PreferenceJob
from anydpo.clock import SystemClock
from anydpo.dispatch import Dispatch
from anydpo.errors import JobInvalid
from anydpo.journal import Journal
from anydpo.plan import prepare
from anydpo.result import Result
from anydpo.sandbox import Sandbox, serve
from anydpo_azure.sandbox_ml import CONTAINER
from anydpo_trainer import model as models
from tests.providers.sagemaker.conftest import OPTIONS

STEPS = 8
BUCKET = "sagemaker-us-east-1-123456789012"
CLOUDS = {"azure/command": "azureml://datastores/workspaceblobstore/paths/theirs/adapter"}
CLOUDS["sagemaker/training"] = f"s3://{BUCKET}/theirs/model.tar.gz"
IN_S3 = f"s3://{BUCKET}/theirs/adapter"


class Soon(SystemClock):
    """Asks local processes again at once: what is polite to a cloud is too slow here."""

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.2))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("box")
    with (
        pytest.MonkeyPatch.context() as patch,
        serve(steps=1000, providers=["azureml", "sagemaker"], folder=folder) as box,
    ):
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, value in box.env.items():
            patch.setenv(name, value)
        yield box


@pytest.fixture
def here(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Point both SDKs to the emulators."""
    for name, value in box.env.items():
        monkeypatch.setenv(name, value)
    box.mend()
    return box


@pytest.fixture(scope="module")
def start(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that another machine has trained, as a folder and in both clouds' stores."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("start")
    make: Any = AutoModelForCausalLM
    base = make.from_pretrained(models.folder_of("tiny", folder / "cache"))
    made: Any = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    for name, weight in made.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.05)
    adapter = folder / "adapter"
    made.save_pretrained(adapter)
    about = json.loads((adapter / "adapter_config.json").read_text())
    about["base_model_name_or_path"] = "/mnt/another/machine/tiny"
    (adapter / "adapter_config.json").write_text(json.dumps(about))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(adapter, ".")
    s3, service = boto3.client("s3"), box.services["azureml"]
    azure: Any = service
    s3.put_object(Bucket=BUCKET, Key="theirs/model.tar.gz", Body=packed.getvalue())
    for path in adapter.iterdir():
        s3.put_object(Bucket=BUCKET, Key=f"theirs/adapter/{path.name}", Body=path.read_bytes())
        blob: Path = azure.blobs.path(CONTAINER, f"theirs/adapter/{path.name}")
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
    return adapter


def make(hh: Path, start_from: str, **options: Any) -> PreferenceJob:
    """Return the job that every place runs: real pairs, another loss than the default, an adapter to go on from."""
    azure = {"compute": "gpu-cluster", "instance_count": options.get("instance_count", 1)}
    return PreferenceJob(
        model="tiny",
        data={"path": str(hh / "harmless-base-train.jsonl.gz"), "max_pairs": 80},
        validation=0.2,
        method=DPO(loss_type="apo_zero", beta=0.2),
        adapter=LoRA(r=4, lora_alpha=8),
        start_from=start_from,
        dtype="float64",
        batch_size=4,
        max_steps=STEPS,
        max_length=128,
        save_steps=3,
        options={
            "sagemaker": {**OPTIONS, **options, "device": "cpu"},
            "azure": {**azure, "device": "cpu"},
            "local": {"device": "cpu"},
        },
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


def weights(result: Result, dispatch: Dispatch, folder: Path) -> dict[str, torch.Tensor]:
    provider, ref = dispatch.live_ref(result.run)
    provider.fetch(ref, folder)
    return load_file(folder / "adapter_model.safetensors")


class Local(NamedTuple):
    """What this machine makes of the job."""

    result: Result
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def made() -> dict[str, Local]:
    """The one run here, made once."""
    return {}


def local(made: dict[str, Local], hh: Path, start: Path, home: Path) -> Local:
    """Return the run that every other is compared with."""
    if not made:
        result, dispatch = run(make(hh, str(start)), "local", home / "local")
        made["local"] = Local(result, weights(result, dispatch, home / "weights"))
        first = result.metrics.history[0]
        assert first["train/rewards/margins"] == 0  # what it goes on from is what it is held against
    return made["local"]


@pytest.mark.parametrize("place", CLOUDS)
def test_a_cloud_s_job_is_the_local_run(
    here: Sandbox,
    hh: Path,
    start: Path,
    tmp_path: Path,
    made: dict[str, Local],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    full: bool,
) -> None:
    """Two machines beside one process; where everything is counted, one machine too."""
    one = local(made, hh, start, tmp_path)
    for machines in (1, 2) if full else (2,):
        job = make(hh, CLOUDS[place], instance_count=machines)
        there, dispatch = run(job, place.partition("/")[0], tmp_path / f"there{machines}")
        assert (there.place, there.sandbox) == (place, True)
        found = difference(there, one.result)
        theirs = weights(there, dispatch, tmp_path / f"w{machines}")
        assert set(one.weights) == set(theirs)
        apart = max(float((one.weights[name] - theirs[name]).abs().max()) for name in theirs)
        print(f"{place} on {machines} machine(s) beside local: metrics {found:.2g}, weights {apart:.2g}")  # noqa: T201
        assert found <= 1e-5
        assert apart <= 1e-5
        assert there.method.effective["processes"] == machines
        provider, ref = dispatch.live_ref(there.run)
        (kept,) = provider.fetch(ref, tmp_path / f"c{machines}", 6)
        assert (Path(kept.path) / "adapter_model.safetensors").is_file()
        left = {one.step: one.path for one in there.artifacts if one.kind == "checkpoint"}
        assert list(left) == [6, 8]
        monkeypatch.setenv("ANYDPO_HOME", str(tmp_path / f"there{machines}"))
        for start_from, path in ((there.run, there.model.weights), (f"{there.run}@6", left[6])):
            following = anydpo.check(make(hh, start_from), place)
            assert following.ok, following.problems
            assert str(path) in json.dumps(following.requests[-1].body)
        with pytest.raises(JobInvalid, match="no checkpoint at step 3") as told:
            provider.fetch(ref, tmp_path / f"d{machines}", 3)
        assert "kept are: 6, 8" in str(told.value.hint)
        assert there.timing.started
        assert any("to train" in event.text for event in dispatch.events(there.run))


def test_interruptions_change_nothing(
    here: Sandbox, hh: Path, start: Path, tmp_path: Path, made: dict[str, Local], full: bool
) -> None:
    """SIGKILL at once, and SIGTERM with time to save, at random steps."""
    one, draw = local(made, hh, start, tmp_path), random.Random(7)
    worst, times = 0.0, 10 if full else 1
    for number in range(times):
        steps, grace = [draw.randrange(1, STEPS)], 60 if number % 2 else 0
        here.break_({"fault": "interrupted", "steps": steps, "seconds": grace, "times": 1})
        job = make(hh, IN_S3, spot=True, max_wait_seconds=90000 + number)
        broken, dispatch = run(job, "sagemaker/training", tmp_path / str(number))
        said = [event.text for event in dispatch.events(broken.run)]
        assert [text for text in said if text.startswith("Interrupted")]
        assert broken.usage.billable_seconds
        worst = max(worst, difference(broken, one.result))
    print(f"{times} interruption(s): the largest difference is {worst:.2g}")  # noqa: T201 - a figure
    assert worst <= 1e-6


def test_a_failed_job_says_why(here: Sandbox, hh: Path, tmp_path: Path) -> None:
    """The trainer's own words come back; here, of an adapter that is none."""
    boto3.client("s3").put_object(Bucket=BUCKET, Key="theirs/none/notes.txt", Body=b"no weights")
    job = make(hh, f"s3://{BUCKET}/theirs/none/")
    dispatch = Dispatch(Journal(tmp_path / "home"), Soon())
    made = dispatch.submit(prepare(job, "sagemaker/training")).run
    for _ in dispatch.watch(made):
        pass
    result = dispatch.result(made)
    assert result.state == "failed"
    assert result.error is not None
    assert result.error.code == "no_model"
    assert "holds neither config.json nor adapter_config.json" in result.error.message
