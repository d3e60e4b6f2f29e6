"""Sweeps: the same trials for whoever asks again, at most one run a trial, a cap over all, the best by arithmetic."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import anydpo
from anydpo import Range, Sweep, cli, samples
from anydpo.data.write import json_line
from anydpo.errors import CapExceeded, JobInvalid, ProviderMissing
from anydpo.home import home
from anydpo.journal import journal_of
from anydpo.provider import Tuning
from anydpo.registry import using
from anydpo.result import State
from anydpo.sandbox import serve
from anydpo.space import combinations, parse, with_values
from anydpo.suggest import Tried, suggest
from anydpo.sweeping import prepare_sweep
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import Service
from anydpo.trials import Trial
from tests.conformance.helpers import ROWS, Shell, memory_job
from tests.tools.shops import Shop, accuracy
from tests.trainer.helpers import small_model

BETAS = [0.05, 0.1, 0.2, 0.4, 0.8]
SPACE: dict[str, Any] = {"beta": BETAS, "learning_rate": "1e-6..1e-4:log"}


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop(Service())
    with using(made):
        yield made


@pytest.fixture
def service(shop: Shop) -> Service:
    return shop.service


def a_job(**fields: Any) -> anydpo.PreferenceJob:
    return memory_job(**{"validation": anydpo.load(ROWS[:2]), "name": "tone", **fields})


def a_sweep(trials: int = 6, **more: Any) -> Sweep:
    return anydpo.sweep(a_job(), "memory", space=SPACE, trials=trials, **more)


def values(found: Sweep) -> list[dict[str, Any]]:
    return [trial.values for trial in found.trials]


def test_the_same_sweep_is_the_same_trials_and_the_same_runs(service: Service) -> None:
    first = a_sweep()
    assert [trial.created for trial in first.trials] == [True] * 6
    assert len({trial.run for trial in first.trials}) == 6
    assert service.requests("create") == 6
    again = a_sweep()
    assert [trial.created for trial in again.trials] == [False] * 6
    assert (values(again), again.best_trial) == (values(first), first.best_trial)
    assert service.requests("create") == 6
    more = a_sweep(8)
    assert values(more)[:6] == values(first)
    assert service.requests("create") == 8


def test_the_best_is_the_best_by_arithmetic_and_a_result(service: Service) -> None:
    found = a_sweep()
    reached = [accuracy(trial.values["method.beta"], trial.values["learning_rate"]) for trial in found.trials]
    assert [trial.value for trial in found.trials] == reached
    assert found.best_trial == 1 + reached.index(max(reached))
    assert found.best is not None
    assert found.best_trial is not None
    assert found.best.run == found.trials[found.best_trial - 1].run
    assert found.best.name == f"tone-{found.best_trial}"
    told = [stage for stage in found.best.stages if stage.stage == "trial"]
    assert [stage.provider_job_id for stage in told] == [trial.provider_job_id for trial in found.trials]
    assert found.cost is not None
    assert found.cost.amount == 0.048  # six jobs at 0.008 dollars
    assert found.columns == ("trial", "method.beta", "learning_rate", "state", "eval/rewards/accuracies", "run", "")
    assert [row[0] for row in found.rows() if row[-1] == "best"] == [found.best_trial]
    low = a_sweep(goal="min")
    assert low.best_trial is not None
    assert low.trials[low.best_trial - 1].value == min(trial.value or 9 for trial in low.trials)


def test_later_trials_learn_from_earlier_ones() -> None:
    """Of 30 trials the last ten are better than the first ten, where each would be as good by chance."""
    space = parse({"beta": "0.01..2:log", "learning_rate": "1e-7..1e-3:log"})
    tuning = Tuning(space=space, metric="eval/rewards/accuracies", goal="max", trials=30, parallel=1)
    tried: list[Tried] = []
    for _ in range(30):
        asked = suggest(tuning, tried)
        assert asked is not None
        tried.append(Tried(asked, accuracy(asked["method.beta"], asked["learning_rate"])))
    reached = [each.value or 0.0 for each in tried]
    assert sum(reached[-10:]) > 1.3 * sum(reached[:10])


def test_a_small_space_is_tried_whole_and_no_longer(service: Service) -> None:
    found = anydpo.sweep(a_job(), "memory", space={"beta": [0.1, 0.2], "epochs": "1..2"}, trials=10)
    tried = {(trial.values["method.beta"], trial.values["epochs"]) for trial in found.trials}
    assert tried == {(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)}
    assert len(found.trials) == 4
    assert "4 sets of values" in found.notes[0]
    assert found.tied  # epochs change nothing here


def test_a_failed_trial_is_a_row(service: Service) -> None:
    service.script("create", "ok", "refuse", "quota")
    found = a_sweep(4, parallel=1)
    assert [trial.state for trial in found.trials] == ["succeeded", "failed", "failed", "succeeded"]
    assert [trial.error.code if trial.error else None for trial in found.trials] == [
        None,
        "provider_refused",
        "quota_exceeded",
        None,
    ]
    assert found.best_trial in (1, 4)
    again = a_sweep(4, parallel=1)  # what was refused before anything ran is tried again, what ran is not
    assert [trial.created for trial in again.trials] == [False, True, True, False]
    assert all(trial.state is State.SUCCEEDED for trial in again.trials)
    assert values(again) == values(found)


def test_a_lost_reply_is_a_row_that_is_not_sent_again(service: Service) -> None:
    service.script("create", "ok", "no_answer")
    service.set(lag=0.0)
    found = a_sweep(3, parallel=1)
    assert [trial.state for trial in found.trials] == ["succeeded", "unknown", "succeeded"]
    assert service.requests("create") == 3
    again = a_sweep(3, parallel=1)
    assert again.trials[1].state is State.UNKNOWN
    assert service.requests("create") == 3


@pytest.mark.parametrize("parallel", [1, 3])
def test_interrupted_it_goes_on_where_it_was(service: Service, parallel: int, tmp_path: Path) -> None:
    def stop_at_the_fourth(trial: Trial) -> None:
        if trial.number == 4 and not trial.state.done:
            raise KeyboardInterrupt

    if parallel == 1:
        with pytest.raises(KeyboardInterrupt):
            a_sweep(parallel=1, on_trial=stop_at_the_fourth)
        assert service.requests("create") == 4
    else:
        a_sweep(3, parallel=parallel)
    found = a_sweep(parallel=parallel)
    assert service.requests("create") == 6
    whole = Service()
    with pytest.MonkeyPatch.context() as elsewhere, using(Shop(whole)):
        elsewhere.setenv("ANYDPO_HOME", str(tmp_path / "another"))
        unbroken = a_sweep(parallel=parallel)
    assert values(found) == values(unbroken)
    assert [trial.value for trial in found.trials] == [trial.value for trial in unbroken.trials]


def test_what_a_trial_will_be_is_written_before_it_is_sent(service: Service) -> None:
    seen: list[int] = []

    def look(trial: Trial) -> None:
        group = journal_of(home()).group(sweep_of_one)
        assert group is not None
        seen.append(len(group["trials"]))
        assert group["trials"][trial.number - 1]["values"] == trial.values

    made = prepare_sweep(a_job(), "memory", space=SPACE, trials=3, parallel=1)
    sweep_of_one = made.id
    made.run(on_trial=look)
    assert seen == [1, 1, 2, 2, 3, 3]


def test_the_cap_is_over_all_trials(service: Service) -> None:
    """Eight pairs at 0.001 dollars each: six trials are 0.048 dollars."""
    with pytest.raises(CapExceeded, match=r"0\.05"):
        a_sweep(max_cost_usd=0.047)
    assert service.requests("create") == 0
    assert len(a_sweep(max_cost_usd=0.048).trials) == 6
    with pytest.raises(CapExceeded, match="not known"):
        anydpo.sweep(a_job(options={"memory": {"price": "unknown"}}), "memory", space=SPACE, trials=2, max_cost_usd=100)
    assert service.requests("create") == 6


def test_dearer_trials_than_quoted_end_a_sweep_at_its_cap(shop: Shop, service: Service) -> None:
    """Each is quoted at 0.008 dollars and billed at 0.50: after the first, 0.5 of 0.51 are spent."""
    shop.bills = 0.5
    found = a_sweep(3, parallel=1, max_cost_usd=0.51)
    assert [trial.state for trial in found.trials] == ["succeeded", "succeeded", "pending"]
    assert found.trials[2].error is not None
    assert found.trials[2].error.code == "cap_exceeded"
    assert "max_cost_usd" in found.notes[0]
    assert service.requests("create") == 2
    again = prepare_sweep(a_job(), "memory", space=SPACE, trials=3, parallel=1)
    assert again.price()[1] == 1  # recorded, not sent: it is still to be paid for


def test_the_places_own_tuner_is_one_run(service: Service) -> None:
    found = anydpo.sweep(a_job(), "memory", space={"beta": BETAS}, trials=5, native=True)
    assert [trial.value for trial in found.trials] == [accuracy(beta, 1e-5) for beta in BETAS]
    assert len({trial.run for trial in found.trials}) == 1
    assert found.best_trial == 3
    assert found.best is not None
    assert [stage.stage for stage in found.best.stages] == ["trial"] * 5
    assert service.requests("create") == 1
    again = anydpo.sweep(a_job(), "memory", space={"beta": BETAS}, trials=5, native=True)
    assert [trial.created for trial in again.trials] == [False] * 5
    other = anydpo.sweep(a_job(), "memory", space={"beta": BETAS[:3]}, trials=3, native=True)
    assert other.best is not None
    assert found.best.run != other.best.run  # another search is another run
    with using(MemoryProvider(service)), pytest.raises(ProviderMissing, match="no tuner of its own"):
        a_sweep(native=True)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "nothing varies"),
        ({"betta": [1]}, "did you mean beta"),
        ({"data": ["a", "b"]}, "cannot be compared"),
        ({"learning_rate": "1e-4..1e-6"}, "no range"),
        ({"learning_rate": "0..1e-6:log"}, "no range"),
        ({"learning_rate": "1e-6..1e-4:lin"}, "no range"),
        ({"beta": "0.1,0.1"}, "one twice"),
        ({"beta": [0.1, -1.0]}, "above 0"),
        ({"loss_type": ["sigmoid", "sigmod"]}, "sigmoid"),
        ({"epochs": [0]}, "at least 1"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_before_anything_is_sent(
    service: Service, space: dict[str, Any], said: str
) -> None:
    with pytest.raises(JobInvalid, match=said):
        anydpo.sweep(a_job(), "memory", space=space, trials=2)
    assert service.requests("stage") == 0


def test_a_value_may_need_another(service: Service) -> None:
    """exo_pair takes the logarithm of the smoothing, so it is refused at 0 and trains at 0.1."""
    job = a_job(allow_ignored=("method.loss_type", "method.label_smoothing"))
    space = {"loss_type": ["sigmoid", "exo_pair"], "label_smoothing": [0.0, 0.1]}
    found = anydpo.sweep(job, "memory", space=space, trials=4)
    assert [trial.error.code for trial in found.trials if trial.error] == ["job_invalid"]
    with pytest.raises(JobInvalid, match="logarithm"):
        anydpo.sweep(job, "memory", space={"loss_type": ["sigmoid", "exo_pair"]}, trials=2)


def test_without_held_out_pairs_nothing_can_be_chosen(service: Service) -> None:
    with pytest.raises(JobInvalid, match="no pairs are held out"):
        anydpo.sweep(memory_job(), "memory", space=SPACE, trials=2)
    shares = memory_job(validation=0.5)
    with pytest.raises(JobInvalid, match="which pairs are held out"):
        anydpo.sweep(shares, "memory", space={"seed": "0..9"}, trials=2)


def test_spaces_as_text_and_as_python_are_one() -> None:
    as_text = parse({"beta": "0.05,0.1", "lr": "1e-6..1e-4:log", "epochs": "1..3", "loss_type": "sigmoid,ipo"})
    assert as_text == parse(
        {
            "method.beta": [0.05, 0.1],
            "learning_rate": Range(low=1e-6, high=1e-4, log=True),
            "epochs": {"low": 1, "high": 3},
            "loss_type": ("sigmoid", "ipo"),
        }
    )
    assert combinations(as_text) is None
    job = with_values(memory_job(), {"method.beta": 0.3, "adapter.r": 4, "options.memory.tier": "a", "sft.epochs": 2})
    assert (job.method.beta, job.options, job.sft.epochs if job.sft else 0) == (0.3, {"memory": {"tier": "a"}}, 2)
    with pytest.raises(JobInvalid, match="full"):
        with_values(memory_job(adapter="full"), {"adapter.r": 4})


def test_suggestions_stay_in_their_ranges_and_follow_from_the_seed_alone() -> None:
    space = parse({"beta": "0.01..1:log", "epochs": "1..3", "weight_decay": "0..0.1", "loss_type": "sigmoid,ipo,hinge"})
    draw = random.Random(0)
    tunings = [
        Tuning(space=space, metric="eval/loss", goal="min", trials=20, parallel=1, seed=seed) for seed in (1, 1, 2)
    ]
    tried: list[list[Tried]] = [[], [], []]
    for _ in range(12):
        worth = draw.random()
        for tuning, history in zip(tunings, tried, strict=True):
            found = suggest(tuning, history)
            assert found is not None
            assert 0.01 <= found["method.beta"] <= 1
            assert found["epochs"] in (1, 2, 3)
            assert 0 <= found["weight_decay"] <= 0.1
            assert found["method.loss_type"] in ("sigmoid", "ipo", "hinge")
            assert found not in [each.values for each in history]
            history.append(Tried(found, None if worth < 0.2 else worth))
    assert tried[0] == tried[1]
    assert tried[0] != tried[2]


@pytest.fixture
def local_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job that trains in seconds, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefs.jsonl").write_bytes(b"".join(map(json_line, samples.pairs(48))))
    small_model(tmp_path / "model")
    path = tmp_path / "job.toml"
    path.write_text(
        'name = "quick"\nmodel = "model"\ndata = "prefs.jsonl"\nvalidation = 0.25\nadapter = "full"\nmax_steps = 3\n'
    )
    return path


def test_on_this_machine_from_the_command_line(local_job: Path, capsys: pytest.CaptureFixture[str], full: bool) -> None:
    """Six trials over beta and learning rate in `make proof`, two elsewhere."""
    trials = 6 if full else 2
    command = ["sweep", str(local_job), "-p", "local", "--space", "beta=0.05..0.5:log", "--space"]
    command += ["learning_rate=1e-4..1e-2:log", "--trials", str(trials), "--json"]
    assert cli.run(command) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    schema = json.loads((Path(anydpo.__file__).parent / "schemas" / "sweep.schema.json").read_text())
    jsonschema.validate(found, schema)
    assert [trial["number"] for trial in found["trials"]] == list(range(1, trials + 1))
    shown = [anydpo.Run(trial["run"]).result().metric("eval/rewards/accuracies") for trial in found["trials"]]
    assert [trial["value"] for trial in found["trials"]] == shown
    assert found["trials"][found["best_trial"] - 1]["value"] == max(value for value in shown if value is not None)
    assert found["best"]["run"] == found["trials"][found["best_trial"] - 1]["run"]
    assert f"trial {trials}/{trials}: eval/rewards/accuracies" in said.err
    assert cli.run(command[:-1]) == 0
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["trial", "method.beta", "learning_rate", "state", "eval/rewards/accuracies", "run", ""]
    assert [row[-1] for row in table[1:]].count("best") == 1
    if full:
        sys.stdout.write(f"local sweep: {[(trial['values'], trial['value']) for trial in found['trials']]}\n")


def test_at_a_cloud_the_table_has_the_same_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    """On `sagemaker/training`: six trials that train in `make proof`, elsewhere two that are only acted."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    trials = 6 if full else 2
    options = {"role": "arn:aws:iam::123456789012:role/sandbox", "instance_type": "ml.g5.2xlarge"}
    job = anydpo.PreferenceJob(
        model="tiny",
        data=anydpo.load(samples.pairs(60)),
        validation=0.3,
        max_steps=4,
        batch_size=8,
        options={"sagemaker": options},
    )
    how: dict[str, Any] = {"steps": 1000} if full else {"steps": 4, "trainer": "instant"}
    with serve(providers=["sagemaker"], folder=tmp_path / "box", **how) as box:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        space = {"beta": "0.05..0.5:log", "learning_rate": "1e-4..1e-2:log"}
        found = anydpo.sweep(job, "sagemaker/training", space=space, trials=trials)
        assert found.columns == ("trial", "method.beta", "learning_rate", "state", "eval/rewards/accuracies", "run", "")
        assert [trial.state for trial in found.trials] == ["succeeded"] * trials
        assert found.best is not None
        assert found.best.metric("eval/rewards/accuracies") == max(trial.value or 0.0 for trial in found.trials)
        again = anydpo.sweep(job, "sagemaker/training", space=space, trials=trials)
        assert [trial.created for trial in again.trials] == [False] * trials


def test_a_paid_place_is_asked_for(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefs.jsonl").write_bytes(b"".join(map(json_line, samples.pairs(20))))
    command = ["sweep", "--model", "m", "--data", "prefs.jsonl", "--validation", "0.2", "-p", "memory", "--trials", "2"]
    assert cli.run([*command, "--space", "beta=0.1,0.2"]) == 2
    assert cli.run([*command, "--space", "beta"]) == 2
    assert cli.run([*command, "--space", "beta=0.1,0.2", "--max-cost-usd", "0.001"]) == 7
    assert service.requests("create") == 0
    assert cli.run([*command, "--space", "beta=0.1,0.2", "--yes"]) == 0
    assert service.requests("create") == 2
    service.script("create", "refuse", "refuse")
    assert cli.run([*command, "--space", "beta=0.3,0.4", "--yes"]) == 1


def test_killed_in_the_middle_it_makes_no_trial_twice(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.service.set(seconds=0.3)  # so that the kill comes while a trial runs
    (tmp_path / "prefs.jsonl").write_bytes(b"".join(map(json_line, samples.pairs(20))))
    command = ["sweep", "--model", "m", "--data", "prefs.jsonl", "-p", "memory", "--trials", "4", "--yes", "--json"]
    command += ["--space", "beta=0.01..1:log", "--metric", "train/rewards/margins", "--parallel", "1"]
    started = subprocess.Popen(
        [sys.executable, "-m", "anydpo", *command],
        cwd=tmp_path,
        env=shell.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("trial 2/4") and "run " in line:
            started.kill()
            break
    started.stderr.close()
    started.wait()
    made = len(shell.service.jobs())
    assert made == 2
    done = shell(*command)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [trial["created"] for trial in found["trials"]] == [False, False, True, True]
    assert len(shell.service.jobs()) == 4
