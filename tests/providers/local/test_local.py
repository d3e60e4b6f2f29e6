"""The local provider through the SDK: a process that outlives its caller, can be stopped, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import anydpo
from anydpo import samples
from anydpo.errors import JobInvalid, RunFailed
from anydpo.home import home
from anydpo.registry import provider
from anydpo.result import State
from anydpo_local import machine
from tests.trainer.helpers import small_model


def small_job(folder: Path) -> anydpo.PreferenceJob:
    return anydpo.PreferenceJob(
        model=str(small_model(folder / "model")),
        data=anydpo.load(samples.pairs(40)),
        validation=anydpo.load(samples.pairs(8, held_out=True)),
        adapter="full",
        batch_size=8,
        learning_rate=1e-3,
        name="support",
    )


@pytest.fixture
def job(tmp_path: Path) -> anydpo.PreferenceJob:
    return small_job(tmp_path)


class Ended(NamedTuple):
    job: anydpo.PreferenceJob
    run: anydpo.Run
    events: list[anydpo.Event]
    home: Path


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Train once for all tests that only look at what is left of a run."""
    folder = tmp_path_factory.mktemp("ended")
    job = small_job(folder).replace(save_steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYDPO_HOME", str(folder / "home"))
        run = anydpo.submit(job, "local")
        return Ended(job, run, list(run.watch()), folder / "home")


@pytest.fixture
def ended(one_run: Ended, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """The run of the module, in the home that it lies in."""
    monkeypatch.setenv("ANYDPO_HOME", str(one_run.home))
    return one_run


def long(job: anydpo.PreferenceJob) -> anydpo.PreferenceJob:
    """The same for so many epochs that it can be stopped in between."""
    return job.replace(epochs=400, save_steps=5, eval_steps=50)


PAUSE = threading.Event()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        PAUSE.wait(0.02)  # yielding would keep a core from the process that is waited for


def folder_of(run: anydpo.Run) -> Path:
    job_id = run.result().provider_job_id
    assert job_id is not None
    return home() / "local" / job_id


def trainer_of(folder: Path) -> int:
    """The process that holds the run's lock, as the kernel lists it."""
    inode = (folder / "lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[5].endswith(f":{inode}") and fields[1] == "FLOCK":
            return int(fields[4])
    raise AssertionError("nobody holds the lock")


def test_a_run_from_job_to_result(ended: Ended) -> None:
    job, run, events, _ = ended
    assert run.created
    states = [event.state for event in events if event.kind == "state"]
    assert states[-1] is State.SUCCEEDED
    steps = [event.step for event in events if event.kind == "metrics" and event.total_steps]
    assert steps == [1, 2, 3, 4, 5]
    assert any("pairs to train" in event.text for event in events if event.kind == "log")
    result = run.result().raise_for_state()
    assert result.place == "local"
    assert result.name == "support"
    assert (result.data.train_pairs, result.data.validation_pairs) == (40, 8)
    assert result.data.fingerprint == job.data.fingerprint
    assert result.metrics.missing == ()
    assert result.metric("eval/rewards/accuracies") is not None
    assert [record["step"] for record in result.metrics.history] == [1, 2, 3, 4, 5, 5]
    assert result.method.effective["learning_rate"] == 1e-3
    assert result.method.effective["device"] in ("cpu", "cuda:0")
    assert result.usage.steps == 5
    assert result.usage.train_tokens
    assert {"model", "metrics", "pairs", "log"} <= {artifact.kind for artifact in result.artifacts}
    assert result.versions["sdk"] is not None
    exec(result.model.how_to_use or "raise")


def test_a_run_of_two_processes_is_killed_and_resumed(job: anydpo.PreferenceJob) -> None:
    """`options.local.processes` starts torchrun; when one process goes, the run can go on."""
    job = job.replace(epochs=4, save_steps=1)
    two = job.replace(options={"local": {"processes": 2, "sharding": "full"}})
    plan = anydpo.check(two, "local")
    assert "torch.distributed.run --standalone --nproc-per-node=2" in plan.requests[0].url
    run = anydpo.submit(two, "local")
    folder = folder_of(run)
    until((folder / "checkpoints" / "dpo-step-000001").is_dir)
    os.kill(trainer_of(folder), signal.SIGKILL)
    until(lambda: run.refresh() is State.PAUSED)
    result = anydpo.submit(two, "local").wait().raise_for_state()
    assert (result.method.effective["processes"], result.method.effective["sharding"]) == (2, "full")
    whole = anydpo.run(job).raise_for_state()
    assert result.metric("eval/loss") == pytest.approx(whole.metric("eval/loss"), abs=1e-4)


def test_the_same_job_again_is_the_same_run(job: anydpo.PreferenceJob) -> None:
    first = anydpo.submit(job, "local")
    first.wait().raise_for_state()
    again = anydpo.submit(job.replace(name="other name", tags={"a": "b"}), "local")
    assert (again.id, again.created) == (first.id, False)
    assert [run.id for run in anydpo.runs()] == [first.id]
    other = anydpo.submit(job.replace(seed=1), "local")
    assert other.id != first.id
    assert other.created
    other.cancel()
    forced = anydpo.submit(job, "local", again=True)
    assert (forced.id, forced.created) == (first.id, True)
    forced.cancel()
    assert len(forced.wait().attempts) == 2
    assert anydpo.Run(first.id[:6]).id == first.id


def test_the_trainer_outlives_its_caller(job: anydpo.PreferenceJob, tmp_path: Path) -> None:
    code = f"""
import anydpo
from anydpo import samples
job = anydpo.PreferenceJob(model={job.model!r}, data=anydpo.load(samples.pairs(40)), adapter="full", batch_size=8)
print(anydpo.submit(job, "local").id)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    run = anydpo.Run(done.stdout.strip())
    assert run.wait().state is State.SUCCEEDED


def test_killed_it_is_paused_and_goes_on_when_resumed(job: anydpo.PreferenceJob) -> None:
    run = anydpo.submit(long(job), "local")
    folder = folder_of(run)
    until(lambda: any((folder / "checkpoints").glob("dpo-step-*")))
    os.kill(trainer_of(folder), signal.SIGKILL)
    result = run.wait()
    assert result.state is State.PAUSED
    assert result.error is not None
    assert result.error.code == "interrupted"
    with pytest.raises(RunFailed, match="stopped before it ended"):
        result.raise_for_state()
    run.resume()
    assert run.refresh() in (State.QUEUED, State.RUNNING)
    until(lambda: "going on after" in (folder / "trainer.log").read_text())
    os.kill(trainer_of(folder), signal.SIGKILL)
    assert run.wait().state is State.PAUSED
    same = anydpo.submit(long(job), "local")  # the same job again means: go on
    assert (same.id, same.created) == (run.id, False)
    assert run.refresh() in (State.QUEUED, State.RUNNING)
    run.cancel()
    assert run.wait().state is State.CANCELLED


def test_cancel_stops_after_the_step_and_stays_cancelled(job: anydpo.PreferenceJob) -> None:
    run = anydpo.submit(long(job), "local")
    folder = folder_of(run)
    until(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").stat().st_size > 0)
    run.cancel()
    result = run.wait()
    assert result.state is State.CANCELLED
    assert any((folder / "checkpoints").iterdir())
    run.refresh()
    assert run.state is State.CANCELLED
    with pytest.raises(RunFailed, match="ended already"):
        run.cancel()
    with pytest.raises(RunFailed) as found:
        anydpo.submit(long(job), "local")
    assert "--again" in (found.value.hint or "")


def test_a_run_that_fails_says_why(job: anydpo.PreferenceJob) -> None:
    result = anydpo.run(job.replace(max_length=3))
    assert result.state is State.FAILED
    assert result.error is not None
    assert result.error.code == "no_pairs"
    assert "40 too_long" in result.error.message or "too_long" in result.error.message


def test_pairs_that_the_trainer_leaves_out_are_in_the_result(job: anydpo.PreferenceJob) -> None:
    rows = samples.pairs(10)
    rows[3]["chosen"] = "word " * 300
    result = anydpo.run(job.replace(data=anydpo.load(rows), max_length=100)).raise_for_state()
    assert result.data.skipped == {"too_long": 1}
    assert result.data.train_pairs == 9
    assert any("rows:4: too_long" in warning.message for warning in result.warnings)


def test_fetch_brings_weights_that_load(ended: Ended, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = ended.run
    (artifact,) = run.fetch(tmp_path / "mine")
    assert artifact.path == str(tmp_path / "mine")
    model: Any = AutoModelForCausalLM
    model.from_pretrained(tmp_path / "mine")
    run.fetch(tmp_path / "earlier", checkpoint=4)
    model.from_pretrained(tmp_path / "earlier")
    with pytest.raises(JobInvalid, match="no checkpoint at step 3") as found:
        run.fetch(tmp_path / "never", checkpoint=3)
    assert "kept are: 4, 5" in (found.value.hint or "")
    with pytest.raises(JobInvalid, match="is not empty"):
        run.fetch(tmp_path / "mine")


def test_starting_from_an_earlier_run(ended: Ended) -> None:
    job, first = ended.job, ended.run
    model = str(folder_of(first) / "model")
    for start in (first.id, model):
        (request,) = anydpo.check(job.replace(start_from=start), "local").requests
        assert request.body["start_from"] == model
    result = anydpo.run(job.replace(start_from=f"{first.id}@4", seed=3)).raise_for_state()
    assert result.metrics.history[0]["train/rewards/margins"] == 0  # to where it starts, which is its reference
    plan = anydpo.check(job.replace(start_from="nonsense"), "local")
    assert [problem.field for problem in plan.problems] == ["start_from"]


def test_samples_stand_side_by_side(ended: Ended) -> None:
    (sample,) = ended.run.sample(["Is it open?"], max_tokens=5)
    assert sample.prompt == "Is it open?"
    assert sample.base is not None
    assert sample.tuned is not None


@pytest.mark.parametrize(
    ("changed", "field", "said"),
    [
        ({"model": "/nowhere/model"}, "model", "is not there"),
        ({"model": "tinny"}, "model", "is not there"),
        ({"model": {"openai": "gpt"}}, "model", "no model for local"),
        ({"load_in_4bit": True}, "load_in_4bit", "need an NVIDIA GPU"),
        ({"load_in_4bit": True, "adapter": "full"}, "load_in_4bit", "cannot be trained themselves"),
        ({"options": {"local": {"sharding": "some"}}}, "sharding", "expected one of"),
        ({"options": {"local": {"truncate": True}}}, "options.local.truncate", "no such option"),
        ({"options": {"local": {"truncation": "end"}}}, "truncation", "expected one of"),
        ({"method": {"sync_ref_model": True}, "adapter": {"r": 4}}, "method.sync_ref_model", "cannot follow"),
    ],
)
def test_what_cannot_be_done_is_a_problem_before_anything_starts(
    job: anydpo.PreferenceJob, changed: dict[str, Any], field: str, said: str
) -> None:
    try:
        problems = anydpo.check(job.replace(**changed), "local").problems
    except JobInvalid as exc:  # what no place can do is refused when the job is made
        problems = exc.problems
    assert field in [problem.field for problem in problems]
    assert any(said in problem.message for problem in problems)
    assert not (home() / "local").exists()


def test_pictures_are_a_problem_here(job: anydpo.PreferenceJob) -> None:
    data = anydpo.load([{"image": "x.png", "prompt": "What?", "chosen": "A dog.", "rejected": "A cat."}])
    plan = anydpo.check(job.replace(data=data, validation=None), "local")
    assert [problem.field for problem in plan.problems] == ["data.images"]
    assert not plan.ok
    with pytest.raises(JobInvalid, match="images"):
        anydpo.submit(job.replace(data=data, validation=None), "local")


def test_a_field_that_may_be_ignored_is_listed(job: anydpo.PreferenceJob) -> None:
    plan = anydpo.check(job.replace(load_in_4bit=True, allow_ignored=("load_in_4bit",)), "local")
    assert plan.ok
    assert plan.ignored == ("load_in_4bit",)


def test_a_model_that_cannot_fit_is_refused_with_numbers(
    job: anydpo.PreferenceJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anydpo_trainer.memory.available_ram", lambda: 1e5)
    monkeypatch.setattr(machine, "gpu_memory", lambda: None)
    (problem,) = anydpo.check(job, "local").problems
    assert problem.code == "no_memory"
    assert "needs at least" in problem.message
    monkeypatch.setattr(machine, "gpu_memory", lambda: 80e9)
    plan = anydpo.check(job, "local")
    assert plan.ok
    assert any("runs on the GPU (80 GB free)" in warning for warning in plan.warnings)


def test_the_plan_says_what_the_trainer_is_told(ended: Ended) -> None:
    plan = anydpo.check(ended.job, "local")
    (request,) = plan.requests
    sent = json.loads((folder_of(ended.run) / "config.json").read_text())
    filled = {**request.body, "train_data": sent["train_data"], "validation_data": sent["validation_data"]}
    assert sent == {**filled, "cache_dir": str(home() / "cache")}
    assert request.body["train_data"] == "${train_file}"
    assert "chat_template" in plan.effective


def test_polling_is_bounded_and_repeats(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    from anydpo.provider import JobRef

    result = ended.run.result()
    monkeypatch.setattr("anydpo_local.provider.MOST_EVENTS", 2)
    local, ref = provider("local"), JobRef(id=result.provider_job_id or "", place="local")
    cursor, seen = "", []
    while True:
        poll = local.poll(ref, cursor)
        assert local.poll(ref, cursor) == poll
        assert len(poll.events) <= 4
        seen += [event for event in poll.events if event.kind == "metrics"]
        cursor = poll.cursor
        if not poll.more:
            break
    assert [event.step for event in seen] == [1, 2, 3, 4, 5, 5]


def test_an_interpreter_that_is_not_there(job: anydpo.PreferenceJob) -> None:
    with pytest.raises(RunFailed, match="could not be started"):
        anydpo.submit(job.replace(options={"local": {"python": "/nowhere/python"}}), "local")
