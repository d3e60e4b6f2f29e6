"""`evaluate` from weights to figures: beside the trainer's own evaluation, and beside plain transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import anydpo
from anydpo import cli, samples
from anydpo.data.write import json_line
from anydpo.errors import JobInvalid, ProviderRefused, RunFailed
from anydpo.handle import Run
from anydpo.home import home
from anydpo.measured import rows_of
from anydpo.sandbox import serve
from tests.trainer.helpers import small_model
from tests.trainer.test_verbs import plain_logps

SCHEMA = json.loads((Path(anydpo.__file__).parent / "schemas" / "evaluate.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with one LoRA run in it, and its held-out pairs beside it."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYDPO_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        (folder / "held.jsonl").write_bytes(b"".join(map(json_line, samples.pairs(24, held_out=True))))
        job = anydpo.PreferenceJob(
            model=str(small_model(folder / "model")),
            data=anydpo.load(samples.pairs(40)),
            validation=str(folder / "held.jsonl"),
            adapter=anydpo.LoRA(r=4),
            batch_size=8,
            learning_rate=2e-2,
            dtype="float64",  # so that two ways to compute the same thing differ by nothing that counts
            name="evaluated",
        )
        anydpo.run(job, "local").raise_for_state()
    return folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYDPO_HOME", str(place / "home"))


def test_evaluate_equals_the_trainers_own_evaluation_and_plain_transformers(place: Path) -> None:
    run = Run("evaluated")
    told: list[str] = []
    (found,) = anydpo.evaluate(run, place / "held.jsonl", kl_prompts=8, dtype="float64", say=told.append)[run]
    assert len(told) == 1
    own = {name: value for name, value in run.result().metrics.final.items() if name.startswith("eval/")}
    assert len(own) >= 10
    for name, value in own.items():
        assert found.metrics[name.replace("eval/", "measured/")].value == pytest.approx(value, abs=1e-6), name

    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = run.result().model.weights
    tokenizer: Any = AutoTokenizer.from_pretrained(weights)
    load: Any = AutoModelForCausalLM.from_pretrained
    tuned: Any = AutoPeftModelForCausalLM.from_pretrained(weights, dtype=torch.float64).eval()
    base = load(place / "model", dtype=torch.float64).eval()
    margins, shifts = [], []
    for pair, row in zip(anydpo.load(place / "held.jsonl"), rows_of(found), strict=True):
        given = json.loads(pair.canonical())
        after, before = (plain_logps(model, tokenizer, given) for model in (tuned, base))
        shift = {side: after[side] - before[side] for side in ("chosen", "rejected")}
        assert row["margin"] == pytest.approx(0.1 * (shift["chosen"] - shift["rejected"]), abs=1e-6)
        assert row["source"] == pair.source
        margins.append(0.1 * (shift["chosen"] - shift["rejected"]))
        shifts.append(shift["chosen"])
    probabilities = [1 / (1 + math.exp(-margin)) for margin in margins]
    by_hand = {
        "measured/rewards/accuracies": sum(m > 0 for m in margins) / 24,
        "measured/rewards/margins": sum(margins) / 24,
        "measured/logps/chosen_shift": sum(shifts) / 24,
        "measured/calibration/brier": sum((1 - p) ** 2 for p in probabilities) / 24,
        "measured/calibration/log_loss": sum(-math.log(p) for p in probabilities) / 24,
    }
    for name, value in by_hand.items():
        figure = found.metrics[name]
        assert figure.value == pytest.approx(value, abs=1e-6), name
        assert figure.low is not None
        assert figure.low <= figure.value <= (figure.high or 0)
    assert found.metrics["measured/kl"].value > 0
    assert sum(part.pairs for part in found.slices if part.by == "length") == 24
    assert sum(one.pairs for one in found.calibration) == 24


def test_in_single_precision_it_equals_the_trainers_own_as_far_as_that_goes(place: Path, full: bool) -> None:
    if not full:  # the same again, with another run: a log-probability of -187 in float32 is known to 1e-5
        return
    made = Run("evaluated").result().job
    held, model = str(place / "held.jsonl"), str(place / "model")
    job = anydpo.PreferenceJob(
        **{**made, "data": held, "validation": held, "model": model, "dtype": "auto", "name": "single"}
    )
    run = anydpo.submit(job, "local")
    own = run.wait().raise_for_state().metrics.final
    (found,) = anydpo.evaluate(run, place / "held.jsonl")[run]
    for name in (name for name in own if name.startswith("eval/")):
        figure = found.metrics[name.replace("eval/", "measured/")].value
        assert figure == pytest.approx(own[name], rel=1e-6, abs=1e-6), name


def test_what_was_measured_is_kept_shown_and_not_measured_again(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = Run("evaluated"), list[str]()
    anydpo.evaluate(run, place / "held.jsonl", kl_prompts=8, dtype="float64", say=told.append)
    assert told == []
    (kept,) = run.result().evaluations
    assert kept.data == anydpo.load(place / "held.jsonl").fingerprint == run.result().data.validation_fingerprint
    data = str(place / "held.jsonl")
    asked = ["evaluate", "evaluated", "--data", data, "--kl-prompts", "8", "--dtype", "float64", "--json"]
    assert cli.run(asked) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert document["runs"][0]["evaluations"][0]["metrics"]["measured/kl"]["value"] == kept.metrics["measured/kl"].value
    page = place / "report.html"
    assert cli.run(["compare", "evaluated", "-o", str(page)]) == 0
    assert "measured here" in capsys.readouterr().out
    assert "Measured here" in page.read_text("utf-8")


def test_adapters_are_fetched_as_they_are_or_merged(place: Path, tmp_path: Path) -> None:
    run = Run("evaluated")
    (adapter,) = run.fetch(tmp_path / "adapter", form="adapter")
    (merged,) = run.fetch(tmp_path / "merged", form="merged")
    assert (adapter.kind, merged.kind) == ("adapter", "model")
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert "model.safetensors" in names
    assert "tokenizer.json" in names
    assert "adapter_config.json" not in names
    with pytest.raises(JobInvalid, match="not empty"):
        run.fetch(tmp_path / "merged", form="merged")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_run_that_trained_every_weight_has_no_adapter_to_fetch(place: Path, tmp_path: Path) -> None:
    from anydpo.result import Method, Result, State
    from anydpo.weights import bring

    whole = Result(run="r", place="local", state=State.SUCCEEDED, method=Method(effective={"adapter": "full"}))
    provider, ref = Run("evaluated")._dispatch.live_ref(Run("evaluated").id)
    for form in ("adapter", "merged"):
        with pytest.raises(JobInvalid, match="there is no adapter"):
            bring(provider, ref, tmp_path / "out", None, form, whole)
    assert not (tmp_path / "out").exists()


def test_pairs_that_a_broken_model_gives_no_numbers_for_are_left_out_and_counted(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {0, 3}

    def trainer(command: str, config: dict[str, Any], out: Path, *_: Any) -> dict[str, Any]:
        out.mkdir()
        value = {i: math.nan if i in broken else 1.0 for i in range(24)}
        names = ("margin", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
        row = {"logps/ref_chosen": 0.0, "logps/ref_rejected": 0.0, "tokens/chosen": 3, "tokens/rejected": 3}
        rows = [{**row, "source": str(i), **dict.fromkeys(names, v)} for i, v in value.items()]
        (out / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        (out / "divergence.jsonl").write_text(json.dumps({"kl": math.nan, "tokens": 2}) + "\n")
        return {"metrics": {"eval/loss": math.nan, "eval/entropy": 2.0}, "data": {"skipped": {"too_long": 1}}}

    monkeypatch.setattr("anydpo.measure.run_trainer", trainer)
    run = Run("evaluated")
    (found,) = anydpo.evaluate(run, place / "held.jsonl", kl_prompts=1)[run]
    assert (found.pairs, found.skipped) == (22, {"too_long": 1, "not_finite": 2})
    assert all(math.isfinite(figure.value) for figure in found.metrics.values())
    assert found.metrics["measured/entropy"].value == 2.0
    assert not found.metrics.keys() & {"measured/loss", "measured/kl"}
    broken |= set(range(24))
    with pytest.raises(RunFailed, match="not numbers"):
        anydpo.evaluate(run, place / "held.jsonl", kl_prompts=1, again=True)


def test_an_adapter_from_another_machine_names_its_base_as_this_one_knows_it(tmp_path: Path) -> None:
    from anydpo.result import Model, Result, State
    from anydpo.weights import ADAPTER, settle_base

    one = Result(run="r", place="sagemaker/training", state=State.SUCCEEDED, model=Model(requested="Qwen/Qwen3-8B"))
    for base, expected in (("/opt/ml/input/model", "Qwen/Qwen3-8B"), (str(tmp_path), str(tmp_path)), ("a/b", "a/b")):
        (tmp_path / ADAPTER).write_text(json.dumps({"base_model_name_or_path": base, "r": 8}))
        settle_base(tmp_path, one)
        assert json.loads((tmp_path / ADAPTER).read_text()) == {"base_model_name_or_path": expected, "r": 8}


def test_a_reference_that_nobody_here_has_is_asked_for(place: Path) -> None:
    from anydpo.evaluation import _reference
    from anydpo.result import Result, State

    job = {"model": "m", "sft": {"data": "chosen"}}
    one = Result(run="r", place="openai", state=State.SUCCEEDED, job=job)
    with pytest.raises(RunFailed, match="its own supervised stage") as caught:
        _reference(one, None)
    assert "--ref-model" in str(caught.value.hint)
    assert _reference(one, "folder") == "folder"


def test_two_providers_that_train_the_same_data_with_the_same_seed_compare_as_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], full: bool
) -> None:
    places = ["openai", "azure/managed"]
    trainer = "local" if full else "instant"
    monkeypatch.setenv("ANYDPO_HOME", str(tmp_path / "home"))
    with serve(trainer=trainer, steps=4, providers=["openai", "azure"], folder=tmp_path / "box") as box:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        job = anydpo.PreferenceJob(
            model="gpt-4.1-mini-2025-04-14",
            data=anydpo.load(samples.pairs(40)),
            validation=anydpo.load(samples.pairs(12, held_out=True)),
            batch_size=8,
            seed=7,
        )
        runs = anydpo.submit(job, places)
        results = [run.wait().raise_for_state() for run in runs]
    comparison = anydpo.compare(results)
    assert comparison.comparable
    one, other = (dict(comparison.figures(result)) for result in results)
    assert len(one) >= 4
    assert one == other
    curves = [[{k: v for k, v in row.items() if k != "time"} for row in r.metrics.history] for r in results]
    assert len(curves[0]) >= 4
    assert curves[0] == curves[1]
    comparison.print()
    assert "All equal" in capsys.readouterr().out


def test_one_job_at_five_places_is_five_columns_in_one_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], full: bool
) -> None:
    places = ["openai", "azure/managed", "together", "sagemaker/serverless", *(["local"] if full else [])]
    role = "arn:aws:iam::123456789012:role/sandbox"
    monkeypatch.setenv("ANYDPO_HOME", str(tmp_path / "home"))
    with serve(trainer="instant", steps=4, folder=tmp_path / "box") as box:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        gpt = "gpt-4.1-mini-2025-04-14"
        job = anydpo.PreferenceJob(
            model={"openai": gpt, "azure": gpt, "local": "tiny", "default": "Qwen/Qwen3-8B"},
            data=anydpo.load(samples.pairs(64)),
            validation=anydpo.load(samples.pairs(12, held_out=True)),
            batch_size=16,
            options={"sagemaker": {"role": role, "model_package_group": "tuned", "min_pairs": 10}},
        )
        comparison = anydpo.compare([run.wait().raise_for_state() for run in anydpo.submit(job, places)])
    document = comparison.document().model_dump(mode="json")
    schema = json.loads((Path(anydpo.__file__).parent / "schemas" / "compare.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)
    comparison.print()
    runs = capsys.readouterr().out.split("\nRuns\n")[1]
    head = runs.splitlines()[0]
    assert head.split()[1::2] == places
    assert comparison.groups[0].runs == tuple(one.run for one in comparison.results[:2])
    assert not comparison.comparable  # three bases, which is said


def test_a_cloud_that_hands_out_adapters_is_measured_like_a_run_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path, full: bool
) -> None:
    if not full:  # two runs of the real trainer, behind the wire and here
        return
    monkeypatch.setenv("ANYDPO_HOME", str(tmp_path / "home"))
    with serve(trainer="local", steps=6, providers=["together"], folder=tmp_path / "box") as box:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        job = anydpo.PreferenceJob(
            model={"local": "tiny", "default": "Qwen/Qwen3-8B"},
            data=anydpo.load(samples.pairs(60)),
            validation=str(place / "held.jsonl"),
            adapter=anydpo.LoRA(r=8),
            batch_size=8,
        )
        runs = anydpo.submit(job, ["together", "local"])
        results = [run.wait().raise_for_state() for run in runs]
        found = anydpo.evaluate(runs, place / "held.jsonl", kl_prompts=8)
    assert found.not_measured == {}
    for run, result in zip(runs, results, strict=True):
        (evaluation,) = found[run]
        for name in ("rewards/margins", "logps/chosen", "loss"):
            own = result.metric(f"eval/{name}")
            if own is not None:
                assert evaluation.metrics[f"measured/{name}"].value == pytest.approx(own, rel=1e-5, abs=1e-5)
    assert len(found.comparison.groups) == 2  # the sandbox's stand-in is not the model whose name it bears


def test_a_place_that_hands_out_no_weights_says_what_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.setenv("ANYDPO_HOME", str(tmp_path / "home"))
    with serve(trainer="instant", steps=2, providers=["openai"], folder=tmp_path / "box") as box:
        for name, value in box.env.items():
            monkeypatch.setenv(name, value)
        job = anydpo.PreferenceJob(model="gpt-4.1-mini-2025-04-14", data=anydpo.load(samples.pairs(20)))
        run = anydpo.submit(job, "openai")
        run.wait()
        with pytest.raises(ProviderRefused, match="does not hand out weights") as caught:
            anydpo.evaluate(run, place / "held.jsonl")
        assert "--judge" in str(caught.value.hint)
    assert home() == tmp_path / "home"
