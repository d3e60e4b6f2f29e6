"""Jobs that other tools made: at a cloud through its own SDK, or on this disk by TRL; each a run with a result."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anydpo
from anydpo import cli
from anydpo.data.write import json_line
from anydpo.errors import DataInvalid, Invalid, ProviderRefused
from anydpo.result import State
from anydpo.samples import pairs
from anydpo.sandbox import Sandbox, serve
from anydpo_local.pickled import state_of
from tests.sandbox.conftest import preferences
from tests.trainer.helpers import small_model

TRL_RUN = Path(__file__).parent / "trl_run"
BASE, QWEN = "gpt-4.1-mini-2025-04-14", "Qwen/Qwen3-8B"


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with serve(trainer="instant", steps=4, folder=tmp_path / "box") as made:
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        yield made


def by_openais_own_client(tmp_path: Path, **more: Any) -> str:
    import openai

    path = tmp_path / "prefs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferences(24)))
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "n_epochs": 2, "batch_size": 8}}}
    with openai.OpenAI(max_retries=0) as client:
        with path.open("rb") as file:
            sent = client.files.create(file=file, purpose="fine-tune").id
        return client.fine_tuning.jobs.create(model=BASE, training_file=sent, method=method, **more).id


def by_togethers_own_client(tmp_path: Path) -> str:
    import together

    path = tmp_path / "prefs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferences(24)))
    with together.Together(max_retries=0) as client:
        sent = client.files.upload(path, purpose="fine-tune", check=False).id
        while client.files.retrieve(sent).processing_status not in ("COMPLETED", None):
            pass
        made = client.fine_tuning.create(
            training_file=sent,
            model=QWEN,
            n_epochs=2,
            learning_rate=2e-5,
            training_method="dpo",
            dpo_beta=0.3,
            lora=True,
        )
        return str(made.id)


def test_a_job_of_openais_own_client_is_a_run(box: Sandbox, tmp_path: Path) -> None:
    job = by_openais_own_client(tmp_path, suffix="tone", seed=7)
    run = anydpo.import_run(f"openai:{job}")
    assert run.created
    assert not run.state.done  # it runs on, watched by us now
    result = run.wait()
    assert (result.state, result.provider_job_id, result.place) == (State.SUCCEEDED, job, "openai")
    assert result.sandbox
    assert result.job["method"] == {"beta": 0.3}
    assert (result.job["model"], result.job["epochs"], result.job["batch_size"], result.job["seed"]) == (BASE, 2, 8, 7)
    assert result.method.effective["method"] == {"loss_type": "sigmoid", "beta": 0.3}
    assert result.metric("train/loss") is not None
    assert [w.code for w in result.warnings].count("provider") >= 1  # the file that lies at the service
    again = anydpo.import_run(f"openai:{job}")
    assert (again.id, again.created) == (run.id, False)
    assert [one.id for one in anydpo.runs()] == [run.id]
    creates = box.requests("openai", "create")
    assert len(creates) == 1  # the one of the other client


def test_a_job_of_togethers_own_client_is_a_run(box: Sandbox, tmp_path: Path) -> None:
    job = by_togethers_own_client(tmp_path)
    result = anydpo.import_run(f"together:{job}").wait()
    assert result.state is State.SUCCEEDED
    assert (result.job["model"], result.job["epochs"], result.job["learning_rate"]) == (QWEN, 2, 2e-5)
    assert result.job["method"]["beta"] == 0.3
    assert result.model.tuned


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with serve(providers=["sagemaker"], trainer="instant", steps=4, folder=tmp_path / "box") as made:
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        yield made


def test_a_job_of_boto3_is_a_run(aws: Sandbox) -> None:
    import boto3

    s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    s3.create_bucket(Bucket="mine")
    s3.put_object(Bucket="mine", Key="prefs/train.jsonl", Body=b"".join(json_line(row) for row in pairs(20)))
    hub = "arn:aws:sagemaker:us-east-1:aws:hub-content/SageMakerPublicHub/Model/huggingface-reasoning-qwen3-06b"
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://mine/prefs/"}
    made = sagemaker.create_training_job(
        TrainingJobName="by-hand",
        RoleArn="arn:aws:iam::123456789012:role/sandbox",
        InputDataConfig=[{"ChannelName": "train", "DataSource": {"S3DataSource": source}}],
        OutputDataConfig={"S3OutputPath": "s3://mine/out"},
        HyperParameters={"adam_beta": "0.05", "max_epochs": "2", "learning_rate": "0.0001"},
        ServerlessJobConfig={
            "BaseModelArn": hub,
            "JobType": "FineTuning",
            "CustomizationTechnique": "DPO",
            "Peft": "LORA",
        },
        ModelPackageConfig={"ModelPackageGroupArn": "arn:aws:sagemaker:us-east-1:123456789012:model-package-group/t"},
    )
    run = anydpo.import_run("sagemaker:by-hand")
    result = run.wait()
    assert result.state.done
    assert (result.place, result.provider_job_id) == ("sagemaker/serverless", made["TrainingJobArn"])
    assert (result.job["model"], result.job["epochs"], result.job["learning_rate"]) == ("Qwen/Qwen3-0.6B", 2, 1e-4)
    assert result.job["method"]["beta"] == 0.05
    assert result.job["data"] == "s3://mine/prefs/"
    assert anydpo.import_run(f"sagemaker:{made['TrainingJobArn']}").id == run.id


def test_our_own_job_is_known_by_its_id(box: Sandbox) -> None:
    rows = preferences(24)
    run = anydpo.submit(anydpo.PreferenceJob(model=BASE, data=anydpo.load(rows)), "openai")
    assert anydpo.import_run(f"openai:{run.provider_job_id}").id == run.id


def test_what_is_not_there_is_said(box: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(ProviderRefused):
        anydpo.import_run("openai:ftjob-nothing")
    with pytest.raises(Invalid, match="neither a folder nor PLACE:JOB_ID"):
        anydpo.import_run("some-folder")
    with pytest.raises(DataInvalid, match=r"no trainer_state\.json"):
        anydpo.import_run(tmp_path)
    assert anydpo.runs() == []


class Arguments:
    """Stands for the object whose state a `training_args.bin` holds."""

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


class Schedule:
    """An enumeration's member, as pickle writes it: its class, called with its word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def __reduce__(self) -> Any:
        return Schedule, (self.word,)


class Trap:
    """What an attacker puts into a pickle: loading it would run this."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("caught"),)


def a_folder(tmp_path: Path, **state: Any) -> Path:
    """What TRL leaves: a state of a real run of it, a LoRA adapter's settings, its arguments and weights."""
    folder = tmp_path / "trl-out"
    shutil.copytree(TRL_RUN, folder)
    arguments = {"beta": 0.3, "loss_type": ["sigmoid"], "learning_rate": 5e-4, "num_train_epochs": 2.0, "seed": 11}
    arguments |= {"per_device_train_batch_size": 4, "lr_scheduler_type": Schedule("cosine"), "max_length": 256, **state}
    (folder / "training_args.bin").write_bytes(pickle.dumps(Arguments(**arguments)))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_a_folder_of_trl_is_a_run_with_its_metrics(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    run = anydpo.import_run(folder)
    result = run.wait()
    assert (result.state, result.place, result.name) == (State.SUCCEEDED, "local", "trl-out")
    steps = [record for record in log if "loss" in record]
    assert [r["train/loss"] for r in result.metrics.history if "train/loss" in r] == [r["loss"] for r in steps]
    last = [record for record in log if "eval_loss" in record][-1]
    for theirs, ours in (
        ("eval_loss", "eval/loss"),
        ("eval_rewards/accuracies", "eval/rewards/accuracies"),
        ("eval_rewards/margins", "eval/rewards/margins"),
        ("eval_logps/chosen", "eval/logps/chosen"),
    ):
        assert result.metric(ours) == last[theirs]
    assert result.metric("train/rewards/accuracies") == steps[-1]["rewards/accuracies"]
    assert result.metric("train/num_tokens") == steps[-1]["num_tokens"] == result.usage.train_tokens
    assert result.metrics.final["provider/train_loss"] == log[-1]["train_loss"]  # the mean of the run, no step's loss
    effective = result.method.effective
    assert effective["method"] == {"loss_type": "sigmoid", "beta": 0.3}
    assert (effective["epochs"], effective["learning_rate"], effective["batch_size"]) == (2, 5e-4, 4)
    assert (effective["lr_scheduler_type"], effective["max_length"], effective["seed"]) == ("cosine", 256, 11)
    assert effective["adapter"]["r"] == json.loads((folder / "adapter_config.json").read_text())["r"]
    again = anydpo.import_run(folder)
    assert (again.id, again.created) == (run.id, False)


def test_weights_of_a_taken_folder_are_fetched_and_it_is_watched_like_any_run(tmp_path: Path) -> None:
    run = anydpo.import_run(a_folder(tmp_path))
    assert [event.step for event in run.watch() if event.kind == "metrics" and "train/loss" in event.metrics]
    run.fetch(tmp_path / "mine")
    found = sorted(path.name for path in (tmp_path / "mine").iterdir())
    assert found == ["adapter_config.json", "adapter_model.safetensors"]
    assert not (tmp_path / "mine" / "adapter_model.safetensors").is_symlink()
    with pytest.raises(anydpo.AnyDPOError):
        run.cancel()


def test_nothing_that_a_pickle_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = anydpo.import_run(a_folder(tmp_path, hub_token=Trap()))
    assert not (tmp_path / "caught").exists()
    assert run.result().method.effective["method"]["beta"] == 0.3
    pickle.loads((tmp_path / "trl-out" / "training_args.bin").read_bytes())
    assert (tmp_path / "caught").exists()


def test_a_pickle_without_end_is_read_to_an_end(tmp_path: Path) -> None:
    """Tables that hold themselves, and tuples of tuples that would unfold to 2^60 values."""
    endless: list[Any] = []
    endless.append(endless)
    unfolding: Any = ()
    for _ in range(60):
        unfolding = (unfolding, unfolding)
    folder = a_folder(tmp_path, endless=endless, unfolding=unfolding)
    assert anydpo.import_run(folder).result().method.effective["method"]["beta"] == 0.3


def test_any_bytes_are_arguments_or_none() -> None:
    """Whatever a file holds, it is read as nothing or as a table, and never raises."""
    draw = random.Random(0)
    sound = pickle.dumps(Arguments(beta=0.3, loss_type=["sigmoid"], schedule=Schedule("cosine")))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "training_args.bin"
        for _ in range(500):
            content = bytearray(sound)
            for _ in range(draw.randrange(1, 6)):
                content[draw.randrange(len(content))] = draw.randrange(256)
            path.write_bytes(bytes(content[: draw.randrange(1, len(content) + 1)]))
            assert isinstance(state_of(path), dict)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04", b"PK\x03\x04", b"(" * 5000, pickle.dumps([1])])
def test_arguments_that_cannot_be_read_are_told_of(tmp_path: Path, content: bytes) -> None:
    folder = a_folder(tmp_path)
    (folder / "training_args.bin").write_bytes(content)
    result = anydpo.import_run(folder).result()
    assert result.state is State.SUCCEEDED
    assert "method" not in result.method.effective
    assert any("training_args" in warning.message for warning in result.warnings)


def test_arguments_of_other_kinds_are_told_of(tmp_path: Path) -> None:
    result = anydpo.import_run(a_folder(tmp_path, num_train_epochs="many")).result()
    assert "method" not in result.method.effective
    assert any("training_args" in warning.message for warning in result.warnings)


def test_torchs_archive_is_read_too(tmp_path: Path) -> None:
    import torch

    folder = a_folder(tmp_path)
    torch.save(Arguments(beta=0.7, loss_type=["ipo"]), folder / "training_args.bin")
    assert anydpo.import_run(folder).result().method.effective["method"] == {"loss_type": "ipo", "beta": 0.7}


def test_an_unfinished_training_is_no_success(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    state = json.loads((folder / "trainer_state.json").read_text())
    (folder / "adapter_model.safetensors").unlink()
    checkpoint = folder / "checkpoint-2"
    checkpoint.mkdir()
    state |= {"global_step": 2, "log_history": [r for r in state["log_history"] if r["step"] <= 2 and "loss" in r]}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (folder / "trainer_state.json").unlink()
    result = anydpo.import_run(folder).result()
    assert result.state is State.CANCELLED
    assert result.error is not None
    assert result.error.message == f"training has come to step 2 of {state['max_steps']}"


def test_a_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "trainer_state.json").write_text('{"log_history": [{"loss": 1.0, "step": 1}]}')
    with pytest.raises(DataInvalid, match="no training on pairs"):
        anydpo.import_run(tmp_path / "sft")
    (tmp_path / "sft" / "trainer_state.json").write_text("{")
    with pytest.raises(DataInvalid, match="no state"):
        anydpo.import_run(tmp_path / "sft")


def test_a_taken_model_answers(tmp_path: Path, full: bool) -> None:
    """In `make proof` alone: it is the same path as that of a run of ours."""
    if not full:
        return
    folder = a_folder(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_config.json").unlink()
    small_model(folder)
    run = anydpo.import_run(folder)
    assert len(run.sample(["Is it open?"], max_tokens=3)) == 1


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_folder(tmp_path)
    assert cli.run(["import", str(folder), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert found["created"]
    assert found["result"]["run"] == found["run"]
    assert cli.run(["import", str(folder)]) == 0
    said = capsys.readouterr()
    assert "trl-out on local: succeeded" in said.out
    assert "was there already" in said.err
    assert cli.run(["show", "trl-out"]) == 0
    assert cli.run(["import", "nowhere:job-1"]) == 2
    assert cli.run(["import", "nothing"]) == 2
