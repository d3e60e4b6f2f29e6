"""What must hold of any training run, whatever the numbers: batches, weights, references, resuming."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anydpo_trainer import model as models
from anydpo_trainer.config import Config, ConfigError
from anydpo_trainer.engine import Stopped
from anydpo_trainer.errors import TrainerError
from tests.trainer.helpers import metrics, run, same, small_model, text_pairs, write_jsonl

LORA = {"r": 4, "lora_alpha": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_model(tmp_path_factory.mktemp("small")))


@pytest.fixture
def base(model: str, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": model,
        "train_data": str(write_jsonl(tmp_path / "train.jsonl", text_pairs(22))),
        "validation_data": str(write_jsonl(tmp_path / "val.jsonl", text_pairs(9, start=100))),
        "learning_rate": 3e-3,
        "batch_size": 4,
        "dtype": "float64",
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def close_weights(left: Path, right: Path, tolerance: float) -> bool:
    a, b = weights(left), weights(right)
    return a.keys() == b.keys() and all(torch.allclose(a[n], b[n], rtol=0, atol=tolerance) for n in a)


def after(questions: int) -> Callable[[], str | None]:
    """Ask a run to stop once it has looked that often whether it should."""
    asked = itertools.count()
    return lambda: "interrupted" if next(asked) > questions else None


@pytest.mark.parametrize(
    "method",
    [
        {},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
        {"loss_type": "aot", "label_smoothing": 0.1},
        {"loss_type": ["aot_unpaired", "sft"]},
        {"use_weighting": True, "ld_alpha": 0.3},
        {"loss_type": "orpo"},
        {"loss_type": "simpo", "beta": 2.0},
        {"loss_type": "ipo", "f_divergence_type": "js_divergence"},
    ],
    ids=str,
)
def test_micro_batches_equal_the_whole_batch(base: dict[str, Any], tmp_path: Path, method: dict[str, Any]) -> None:
    options = {**base, "method": method, "batch_size": 8, "max_steps": 4}
    _, whole = run(tmp_path / "whole", **options, micro_batch_size=8)
    _, parts = run(tmp_path / "parts", **options, micro_batch_size=3)
    assert same(whole, parts, 1e-6)
    assert close_weights(tmp_path / "whole" / "model", tmp_path / "parts" / "model", 1e-6)


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("precompute", [True, False, None])
def test_reference_once_or_each_step_is_the_same(
    base: dict[str, Any], tmp_path: Path, adapter: Any, precompute: bool | None
) -> None:
    options = {**base, "adapter": adapter, "max_steps": 6, "dtype": "float32"}
    _, found = run(tmp_path / "a", **options, method={"precompute_ref_log_probs": precompute})
    _, wanted = run(tmp_path / "b", **options, method={"precompute_ref_log_probs": not precompute})
    assert same(found, wanted, 2e-5)
    first = found[0]
    assert first["train/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["train/rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_policy_and_reference_agree_to_the_bit_before_the_first_step(base: dict[str, Any], tmp_path: Path) -> None:
    """Otherwise accuracy at the start is the sign of rounding noise."""
    _, records = run(tmp_path / "out", **{**base, "dtype": "float32"})
    assert records[0]["train/rewards/margins"] == records[0]["train/rewards/accuracies"] == 0


def test_cached_reference_depends_on_all_it_should(base: dict[str, Any], tmp_path: Path, model: str) -> None:
    cache = tmp_path / "cache" / "reference"

    def files() -> int:
        return len(list(cache.glob("*.safetensors")))

    run(tmp_path / "a", **base, max_steps=6)
    assert files() == 2  # training and held-out pairs
    run(tmp_path / "b", **{**base, "learning_rate": 1e-3}, max_steps=6, method={"beta": 0.7})
    assert files() == 2  # neither depends on these
    other = small_model(tmp_path / "other", seed=9)
    for changed in (
        {"model": str(other)},
        {"max_length": 16, "truncation": "keep_start"},
        {"dtype": "float32"},
        {"method": {"ld_alpha": 0.5}},
        {"train_data": str(write_jsonl(tmp_path / "more.jsonl", text_pairs(23)))},
        {"chat_template": "none"},
    ):
        before = files()
        run(tmp_path / f"c{before}{len(changed)}{next(iter(changed))}", **{**base, "max_steps": 6, **changed})
        assert files() > before, changed


def test_pair_weight_multiplies_its_loss_before_the_mean(base: dict[str, Any], tmp_path: Path) -> None:
    pairs = text_pairs(4)
    weighted = [{**pair, "weight": weight} for pair, weight in zip(pairs, (0.0, 2.0, 0.5, 1.0), strict=True)]
    options = {**base, "shuffle": False, "max_steps": 1, "method": {"loss_type": "ipo"}}
    alone = []
    for i, pair in enumerate(pairs):
        data = str(write_jsonl(tmp_path / f"{i}.jsonl", [pair]))
        _, records = run(tmp_path / f"one{i}", **{**options, "train_data": data, "batch_size": 1})
        alone.append(records[0]["train/loss"])
    data = str(write_jsonl(tmp_path / "weighted.jsonl", weighted))
    _, records = run(tmp_path / "out", **{**options, "train_data": data})
    expected = sum(w * loss for w, loss in zip((0.0, 2.0, 0.5, 1.0), alone, strict=True)) / 4
    assert records[0]["train/loss"] == pytest.approx(expected, rel=1e-9)


def test_weights_are_refused_where_a_pair_has_no_loss(base: dict[str, Any], tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "w.jsonl", [{**pair, "weight": 2.0} for pair in text_pairs(4)])
    with pytest.raises(TrainerError, match="no loss to weight"):
        run(tmp_path / "out", **{**base, "train_data": str(data), "method": {"loss_type": "aot"}})


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing(base: dict[str, Any], tmp_path: Path, adapter: Any) -> None:
    options = {**base, "adapter": adapter, "max_steps": 3}
    _, plain = run(tmp_path / "a", **options)
    _, checkpointed = run(tmp_path / "b", **options, gradient_checkpointing=True)
    assert same(plain, checkpointed, 1e-9)


def test_dropout_of_an_adapter_repeats(base: dict[str, Any], tmp_path: Path) -> None:
    options = {**base, "adapter": {**LORA, "lora_dropout": 0.4}, "max_steps": 4}
    _, once = run(tmp_path / "a", **options)
    _, twice = run(tmp_path / "b", **options)
    _, other = run(tmp_path / "c", **options, seed=1)
    assert once == twice
    assert not same(once, other, 1e-6)


def test_reference_follows_the_policy(base: dict[str, Any], tmp_path: Path) -> None:
    """TR-DPO: after the sync step the margin is measured against a reference 0.6 of the way to the policy."""
    method = {"sync_ref_model": True, "ref_model_sync_steps": 3, "ref_model_mixup_alpha": 1.0}
    options = {**base, "max_steps": 4, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    _, records = run(tmp_path / "out", **options, method=method)
    assert abs(records[2]["train/rewards/margins"]) > 1e-3
    assert records[3]["train/rewards/margins"] == pytest.approx(0, abs=1e-9)
    assert records[3]["train/loss"] == pytest.approx(math.log(2), abs=1e-9)


def test_a_trained_adapter_is_the_reference_of_its_further_training(base: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "first", **base, adapter=LORA, epochs=2)
    _, records = run(tmp_path / "second", **base, adapter=LORA, start_from=str(tmp_path / "first" / "model"))
    _, against_base = run(
        tmp_path / "third", **base, adapter=LORA, start_from=str(tmp_path / "first" / "model"), ref_model=base["model"]
    )
    assert records[0]["train/rewards/margins"] == pytest.approx(0, abs=1e-9)
    assert abs(against_base[0]["train/rewards/margins"]) > 1e-3
    assert not close_weights(tmp_path / "first" / "model", tmp_path / "second" / "model", 1e-6)


def test_full_training_from_an_adapter_merges_it(base: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "first", **base, adapter=LORA, epochs=2)
    _, records = run(tmp_path / "second", **base, start_from=str(tmp_path / "first" / "model"))
    assert records[0]["train/rewards/margins"] == pytest.approx(0, abs=1e-9)
    assert not (tmp_path / "second" / "model" / "adapter_config.json").exists()


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_sft_stage_comes_first_and_is_the_reference(base: dict[str, Any], tmp_path: Path, adapter: Any) -> None:
    options = {**base, "adapter": adapter, "sft": {"data": "chosen", "epochs": 3, "learning_rate": 1e-2}}
    report, records = run(tmp_path / "out", **options)
    sft = [record for record in records if record["stage"] == "sft"]
    dpo = [record for record in records if record["stage"] == "dpo"]
    assert len(sft) == 18
    assert sft[-1]["sft/loss"] < sft[0]["sft/loss"] - 0.3
    assert dpo[0]["train/rewards/margins"] == pytest.approx(0, abs=1e-9)
    assert [stage["stage"] for stage in report.stages] == ["sft", "dpo"]
    assert not close_weights(tmp_path / "out" / "sft", tmp_path / "out" / "model", 1e-6)


def test_sft_on_a_chat_file_trains_every_answer(base: dict[str, Any], tmp_path: Path) -> None:
    def turn(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    chat = [turn("user", "one"), turn("assistant", "two"), turn("user", "three"), turn("assistant", "four five")]
    data = write_jsonl(tmp_path / "chat.jsonl", [{"messages": chat}, {"messages": chat[:2]}])
    _, records = run(tmp_path / "out", **base, sft={"data": str(data)}, max_steps=1)
    first = next(record for record in records if record["stage"] == "sft")
    assert first["total_steps"] == 1  # three answers, one batch of four


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"sft": {"data": "chosen", "epochs": 1, "learning_rate": 1e-3}},
        {"eval_steps": 2, "early_stopping_patience": 50},
    ],
    ids=["dpo", "sft", "early"],
)
def test_stopping_anywhere_and_going_on_changes_nothing(
    base: dict[str, Any], tmp_path: Path, adapter: Any, extra: dict[str, Any]
) -> None:
    options = {**base, "adapter": adapter, "epochs": 2, "dtype": "float32", "save_steps": 3, **extra}
    _, unbroken = run(tmp_path / "unbroken", **options)
    for stop_at in (4, 2, 1):  # questions the loop asks, so that a stop falls into different places
        with pytest.raises(Stopped):
            run(tmp_path / "broken", **options, stop=after(stop_at))
    _, resumed = run(tmp_path / "broken", **options)
    assert same(unbroken, resumed, 1e-6)
    assert close_weights(tmp_path / "unbroken" / "model", tmp_path / "broken" / "model", 1e-6)


def test_moving_reference_is_restored(base: dict[str, Any], tmp_path: Path) -> None:
    method = {"sync_ref_model": True, "ref_model_sync_steps": 2}
    options = {**base, "method": method, "epochs": 2, "save_steps": 3}
    _, unbroken = run(tmp_path / "unbroken", **options)
    with pytest.raises(Stopped):
        run(tmp_path / "broken", **options, stop=after(6))
    _, resumed = run(tmp_path / "broken", **options)
    assert same(unbroken, resumed, 1e-9)


def test_early_stopping_returns_to_the_best(base: dict[str, Any], tmp_path: Path) -> None:
    options = {**base, "epochs": 30, "eval_steps": 2, "early_stopping_patience": 2, "learning_rate": 3e-2}
    report, records = run(tmp_path / "out", **options)
    evaluated = [r for r in records if "eval/loss" in r and "final" not in r]
    losses = [r["eval/loss"] for r in evaluated]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 3
    assert report.stages[-1]["best_step"] == evaluated[best]["step"]
    assert report.metrics["eval/loss"] == pytest.approx(losses[best], rel=1e-9)
    assert records[-1]["step"] < 180


def test_a_checkpoint_of_another_run_is_refused(base: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "out", **base, max_steps=2)
    other = str(small_model(tmp_path / "other", seed=3))
    for changed in ({"model": other}, {"method": {"beta": 0.2}}, {"adapter": LORA}):
        with pytest.raises(TrainerError, match="another model or configuration"):
            run(tmp_path / "out", **{**base, "max_steps": 2, **changed})


def test_weights_that_do_not_fit_are_refused(model: str, tmp_path: Path) -> None:
    from anydpo_trainer.checkpoint import load_weights

    other = tmp_path / "other"
    run_model = models.load_model(model, torch.float32, torch.device("cpu"))
    larger = models.load_model(str(small_model(tmp_path / "m")), torch.float32, torch.device("cpu"))
    larger.resize_token_embeddings(2100)
    larger.save_pretrained(other)
    with pytest.raises(TrainerError, match="does not fit"):
        load_weights(run_model, other)


def test_a_damaged_checkpoint_is_passed_over(base: dict[str, Any], tmp_path: Path) -> None:
    options = {**base, "epochs": 2, "save_steps": 2, "dtype": "float32"}
    _, unbroken = run(tmp_path / "unbroken", **options)
    with pytest.raises(Stopped):
        run(tmp_path / "broken", **options, stop=after(8))
    newest = max((tmp_path / "broken" / "checkpoints").iterdir())
    weights_file = next((newest / "model").glob("*.safetensors"))
    weights_file.write_bytes(weights_file.read_bytes()[:-100])
    _, resumed = run(tmp_path / "broken", **options)
    assert same(unbroken, resumed, 1e-6)


def test_checkpoints_are_pruned_but_the_best_stays(base: dict[str, Any], tmp_path: Path) -> None:
    options = {**base, "epochs": 4, "save_steps": 2, "eval_steps": 2, "early_stopping_patience": 50}
    report, _ = run(tmp_path / "out", **options, save_total_limit=2)
    names = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    best = f"dpo-step-{report.stages[-1]['best_step']:06d}"
    assert best in names
    assert len(names) <= 3
    assert all((tmp_path / "out" / "checkpoints" / name / "state.json").is_file() for name in names)


def test_loss_that_is_not_finite_stops_the_run(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="gradient norm") as found:
        run(tmp_path / "out", **{**base, "learning_rate": 1e6, "epochs": 10, "dtype": "float32", "max_grad_norm": 0.0})
    assert found.value.code == "not_finite"
    assert found.value.hint
    assert all(math.isfinite(r["train/loss"]) for r in metrics(tmp_path / "out"))


def test_no_pair_left_is_an_error(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="22 too_long"):
        run(tmp_path / "out", **base, max_length=3)


def test_a_model_that_is_not_there(base: dict[str, Any], tmp_path: Path) -> None:
    for name in ("/nowhere/model", "./nowhere", "tinny", str(tmp_path)):
        with pytest.raises(TrainerError) as found:
            run(tmp_path / "out", **{**base, "model": name})
        assert found.value.code == "no_model"


def test_memory_that_cannot_suffice_is_refused_with_a_number(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anydpo_trainer.memory.available_ram", lambda: 1e5)
    with pytest.raises(TrainerError, match=r"needs at least \d+\.\d GB") as found:
        run(tmp_path / "out", **base)
    assert found.value.code == "no_memory"
    assert found.value.hint


def test_order_of_data_is_a_function_of_the_seed(tmp_path: Path) -> None:
    from anydpo_trainer.batch import Plan

    plan = Plan(10, 4, 2, None, 7, shuffle=True)
    assert (plan.steps, plan.per_epoch) == (6, 3)
    epochs = [[i for step in range(3) for i in plan[3 * e + step]] for e in (0, 1)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert plan[0] == Plan(10, 4, 2, None, 7, shuffle=True)[0] == [3, 9, 1, 8]  # the same on every machine, for ever
    assert plan.epoch(2) == 1.0
    assert Plan(10, 4, 1, 5, 7, shuffle=False)[3] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("given", "field", "code"),
    [
        ({"method": {"beta": 0}}, "method.beta", "out_of_range"),
        ({"method": {"beta": float("nan")}}, "method.beta", "out_of_range"),
        ({"method": {"loss_type": "sigmod"}}, "method.loss_type", "unknown_loss"),
        ({"method": {"loss_type": []}}, "method.loss_type", "no_loss"),
        ({"method": {"loss_type": ["ipo", "ipo"]}}, "method.loss_type", "repeated_loss"),
        ({"method": {"loss_type": ["ipo", "sft"], "loss_weights": [1]}}, "method.loss_weights", "weights_count"),
        ({"method": {"loss_weights": [-1]}}, "method.loss_weights", "weights_value"),
        ({"method": {"loss_type": "exo_pair"}}, "method.label_smoothing", "needs_smoothing"),
        ({"method": {"loss_type": "ipo", "label_smoothing": 0.1}}, "method.label_smoothing", "unused_smoothing"),
        ({"method": {"label_smoothing": 0.5}}, "method.label_smoothing", "out_of_range"),
        (
            {"method": {"loss_type": "apo_zero", "f_divergence_type": "forward_kl"}},
            "method.f_divergence_type",
            "unused_divergence",
        ),
        ({"method": {"f_divergence_type": "revers_kl"}}, "method.f_divergence_type", "not_a_choice"),
        ({"method": {"loss_type": "aot", "use_weighting": True}}, "method.use_weighting", "unused_weighting"),
        ({"method": {"loss_type": "bco_pair", "reference_free": True}}, "method.reference_free", "needs_reference"),
        (
            {"method": {"reference_free": True, "f_divergence_type": "forward_kl"}},
            "method.reference_free",
            "needs_reference",
        ),
        ({"method": {"loss_type": ["simpo", "sigmoid"]}}, "method.loss_type", "mixed_kinds"),
        ({"method": {"loss_type": ["simpo", "cpo"]}}, "method.loss_type", "mixed_kinds"),
        ({"method": {"loss_type": "simpo", "sync_ref_model": True}}, "method.sync_ref_model", "no_reference"),
        ({"method": {"loss_type": "simpo", "ld_alpha": 0.5}}, "method.ld_alpha", "length_twice"),
        ({"method": {"simpo_gamma": 1.0}}, "method.simpo_gamma", "unused_option"),
        ({"method": {"f_alpha_divergence_coef": 0.7}}, "method.f_alpha_divergence_coef", "unused_option"),
        (
            {"method": {"sync_ref_model": True, "precompute_ref_log_probs": True}},
            "method.precompute_ref_log_probs",
            "moving_reference",
        ),
        ({"method": {"sync_ref_model": True}, "adapter": LORA}, "method.sync_ref_model", "no_separate_reference"),
        ({"method": {"loss_type": "orpo"}, "ref_model": "x/y"}, "ref_model", "no_reference"),
        ({"ref_model": "x/y", "sft": {}}, "ref_model", "two_references"),
        ({"method": {"loss_type": "aot"}, "batch_size": 1}, "batch_size", "batch_of_one"),
        ({"micro_batch_size": 5, "batch_size": 4}, "micro_batch_size", "above_batch"),
        ({"load_in_4bit": True}, "load_in_4bit", "needs_adapter"),
        ({"load_in_4bit": True, "adapter": LORA, "device": "cpu"}, "load_in_4bit", "needs_gpu"),
        ({"load_in_4bit": True, "adapter": LORA, "sharding": "full"}, "load_in_4bit", "not_sharded"),
        ({"processes": 0}, "processes", "out_of_range"),
        ({"sharding": "zero3"}, "sharding", "not_a_choice"),
        ({"early_stopping_patience": 2}, "early_stopping_patience", "no_validation"),
        ({"eval_steps": 2}, "eval_steps", "no_validation"),
        ({"epochs": 0}, "epochs", "out_of_range"),
        ({"epochs": 1.5}, "epochs", "wrong_type"),
        ({"epochs": True}, "epochs", "wrong_type"),
        ({"adapter": {"r": 0}}, "adapter.r", "out_of_range"),
        ({"adapter": {"rank": 8}}, "adapter.rank", "unknown_field"),
        ({"dtype": "float16"}, "dtype", "not_a_choice"),
        ({"learning_rate": -1}, "learning_rate", "out_of_range"),
        ({"lerning_rate": 1}, "lerning_rate", "unknown_field"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_senseless_configurations_are_refused_before_anything_is_loaded(
    given: dict[str, Any], field: str, code: str
) -> None:
    with pytest.raises(ConfigError) as found:
        Config.parse({"model": "/nowhere", "train_data": "/nowhere", **given})
    assert (field, code) in [(problem.field, problem.code) for problem in found.value.problems]
    assert all(problem.message for problem in found.value.problems)


def test_unusual_but_possible_is_said() -> None:
    config = Config.parse({"model": "m", "train_data": "d", "method": {"loss_type": "simpo"}})
    assert "2 to 10" in config.method.advice()[0]
