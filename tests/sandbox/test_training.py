"""Real training behind the wire: numbers, weights and repeatability. The only tests here that start the trainer."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import openai
import pytest
import zstandard
from safetensors.numpy import load_file

from anydpo.sandbox import server as serving
from anydpo.sandbox.server import Sandbox, serve
from anydpo.sandbox.training import Task, curve
from tests.sandbox.conftest import chats, preferences
from tests.sandbox.recorded import Recorder, openai_client, together_client
from tests.sandbox.test_openai import BASE, send
from tests.sandbox.test_together import create as create_together
from tests.sandbox.test_together import send as send_together

ENDS = ("succeeded", "failed", "cancelled")
SCHEMA = "schemas/sandbox.schema.json"
PATIENCE = 120  # seconds: the trainer is a process, so this is real time


class Heard(logging.Handler):
    """What a sandbox of this process says of its jobs, kept until it is asked for."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: queue.Queue[str] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put(record.getMessage())

    def until(self, job: str, *kinds: str) -> str:
        """Return the first of these things that happens to a job."""
        while True:
            name, _, kind = self._lines.get(timeout=PATIENCE).partition(" ")
            if name == job and kind in kinds:
                return kind


@pytest.fixture
def heard() -> Iterator[Heard]:
    log, handler = logging.getLogger("anydpo.sandbox"), Heard()
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def real() -> Iterator[Sandbox]:
    with serve(trainer="local", steps=4) as box:
        yield box


def test_openai_and_azure_train_the_same_numbers(real: Sandbox, heard: Heard, prefs: Path) -> None:
    """The same data, hyperparameters and seed: the same metrics to the last digit, and DPO's first loss is ln 2."""
    hyper: Any = {"beta": 0.3, "batch_size": 8, "n_epochs": 2}
    found = []
    with openai_client(real, Recorder()) as client:
        for service, base in (("openai", client.base_url), ("azure", f"{real.origins['azure']}/openai/v1/")):
            one = client.with_options(base_url=base)
            file = send(one, prefs)
            job = one.fine_tuning.jobs.create(
                model=BASE,
                training_file=file,
                validation_file=file,
                method={"type": "dpo", "dpo": {"hyperparameters": hyper}},
                seed=5,
                extra_body={"trainingType": "GlobalStandard"} if service == "azure" else {},
            ).id
            assert heard.until(job, *ENDS) == one.fine_tuning.jobs.retrieve(job).status == "succeeded"
            done = real.world.jobs(service).get(job)
            assert done is not None
            numbers = [
                {k: v for k, v in record.items() if k.startswith(("train/", "eval/"))} for record in done.records
            ]
            found.append(numbers)
            results = one.fine_tuning.jobs.retrieve(job).result_files
            assert one.files.content(results[0]).text.count("\n") == 5  # a heading and four steps
    assert found[0] == found[1]
    assert found[0][0]["train/loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert found[0][3]["train/loss"] < found[0][0]["train/loss"]
    assert found[0][3]["train/rewards/margins"] > 0
    assert found[0][4]["eval/rewards/accuracies"] == 1  # the evaluation at the end


def test_sft_then_dpo_on_adapters_with_weights_that_load(
    real: Sandbox, heard: Heard, prefs: Path, written: Callable[..., Path], tmp_path: Path
) -> None:
    with together_client(real, Recorder()) as tg:
        chat = send_together(tg, written(chats(12), "chat.jsonl"))
        sft = create_together(tg, chat, training_method="sft", lora=True, lora_r=8, batch_size=8)
        assert heard.until(sft, *ENDS) == "succeeded"
        dpo = create_together(tg, send_together(tg, prefs), model=None, from_checkpoint=sft, batch_size=8)
        assert heard.until(dpo, *ENDS) == "succeeded"
        assert tg.fine_tuning.retrieve(dpo).status == "completed"
        points = tg.fine_tuning.list_metrics(dpo).metrics or []
        assert points[0]["train/loss"] == pytest.approx(np.log(2), abs=1e-6)
        merged = unpacked(tg.fine_tuning.content(ft_id=dpo, checkpoint="merged").read(), tmp_path / "merged")
        adapter = unpacked(tg.fine_tuning.content(ft_id=dpo, checkpoint="adapter").read(), tmp_path / "adapter")
        before = unpacked(tg.fine_tuning.content(ft_id=sft, checkpoint="merged").read(), tmp_path / "sft")
    check_merge(before, adapter, merged)


def unpacked(archive: bytes, folder: Path) -> Path:
    data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(archive)).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def check_merge(base: Path, adapter: Path, merged: Path) -> None:
    """Compare with peft's own merge."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    theirs = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    ours = load_file(merged / "model.safetensors")
    changed = 0
    for name, value in load_file(base / "model.safetensors").items():
        assert torch.allclose(theirs[name], torch.from_numpy(ours[name]), atol=1e-6), name
        changed += not np.array_equal(value, ours[name])
    assert changed > 0


def test_closing_ends_what_trains(heard: Heard, prefs: Path) -> None:
    with serve(trainer="local", steps=500) as box, openai_client(box, Recorder()) as client:
        job = client.fine_tuning.jobs.create(model=BASE, training_file=send(client, prefs)).id
        assert job
        chat = client.fine_tuning.jobs.create(
            model=BASE,
            training_file=send(client, prefs),
            method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 50}}},
        ).id
        assert heard.until(chat, "started", *ENDS) == "started"
        folder = box.world.folder
        assert [line for line in processes() if str(folder) in line]
    assert not folder.exists()
    assert not [line for line in processes() if str(folder) in line]


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leave no process where a test fails."""
    try:
        yield
    finally:
        process.terminate()


def processes() -> list[str]:
    return subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_synthetic_curve_is_a_function_of_what_is_trained() -> None:
    rows = [{"prompt": [], "n": i} for i in range(16)]
    one = Task("dpo", rows, [], {"beta": 0.1}, steps=8)
    assert curve(one) == curve(Task("dpo", list(rows), [], {"beta": 0.1}, steps=8))
    for other in (
        Task("dpo", rows[::-1], [], {"beta": 0.1}, steps=8),
        Task("dpo", rows, [], {"beta": 0.2}, steps=8),
        Task("dpo", rows, [], {"beta": 0.1}, steps=8, seed=1),
    ):
        assert curve(other) != curve(one)
    losses = [record["train/loss"] for record in curve(one)]
    assert losses == sorted(losses, reverse=True)


def test_a_command_that_is_stopped_stops_its_trainers(tmp_path: Path, prefs: Path) -> None:
    """SIGTERM to `anydpo sandbox`: it ends, with the trainer of a job that runs."""
    anydpo = Path(sys.executable).with_name("anydpo")
    command = [str(anydpo), "sandbox", "--json", "--providers", "openai", "--steps", "500"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ) as process, ended(process):
        assert process.stdout is not None
        assert process.stderr is not None
        text = ""
        while (line := process.stdout.readline()) and line != "}\n":
            text += line
        told = json.loads(text + "}")
        jsonschema.validate(told, json.loads((Path(serving.__file__).parents[1] / SCHEMA).read_text("utf-8")))
        env = told["env"]
        client = openai.OpenAI(base_url=env["OPENAI_BASE_URL"], api_key="k", max_retries=0)
        with client:
            rows = preferences(40)
            path = tmp_path / "many.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            job = client.fine_tuning.jobs.create(
                model=BASE,
                training_file=send(client, path),
                method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 50}}},
            ).id
            while (line := process.stderr.readline()) != f"{job} started\n":
                assert line
        mine = [line for line in processes() if "anydpo_trainer" in line and job in line]
        assert mine
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not [line for line in processes() if job in line]
