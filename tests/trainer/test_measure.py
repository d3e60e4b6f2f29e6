"""The divergence from the reference, and an adapter merged into its base, beside plain transformers and peft."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from anydpo_trainer.config import ConfigError, Evaluation, Merge
from anydpo_trainer.divergence import chosen
from anydpo_trainer.engine import Engine
from anydpo_trainer.errors import TrainerError
from anydpo_trainer.evaluate import evaluate
from anydpo_trainer.merge import merge
from anydpo_trainer.shard import World
from tests.trainer.helpers import run, small_model, text_pairs, write_jsonl

PROMPTS = 24


def engine() -> Engine:
    return Engine(torch.device("cpu"), torch.float32, World())


@pytest.fixture(scope="module", params=[None, {"r": 4}], ids=["full", "lora"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("trained")
    model = small_model(folder / "model")
    data = write_jsonl(folder / "train.jsonl", text_pairs(12))
    options = {"batch_size": 4, "epochs": 4, "learning_rate": 2e-2, "adapter": request.param}
    run(folder / "out", model=str(model), train_data=str(data), **options)
    held_out = write_jsonl(folder / "held.jsonl", text_pairs(PROMPTS, start=50))
    return {"base": model, "tuned": folder / "out" / "model", "data": held_out, "adapter": request.param}


def measured(trained: dict[str, Any], out: Path, **options: Any) -> list[dict[str, Any]]:
    out.mkdir()
    given = {"model": str(trained["tuned"]), "data": str(trained["data"]), "kl_prompts": PROMPTS, **options}
    given["ref_model"] = None if trained["adapter"] else str(trained["base"])
    evaluate(Evaluation.parse(given), out, engine(), out / "cache")
    return [json.loads(line) for line in (out / "divergence.jsonl").read_text().splitlines()]


def plain(folder: Path) -> Any:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    kind: Any = AutoPeftModelForCausalLM if (folder / "adapter_config.json").is_file() else AutoModelForCausalLM
    return kind.from_pretrained(folder).eval()


def log_probabilities(model: Any, row: dict[str, Any]) -> torch.Tensor:
    """Of every token of the vocabulary at each place of the answer, one sequence at a time, in float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["prompt"] + row["answer"]])).logits[0].double()
    return torch.log_softmax(logits, dim=-1)[len(row["prompt"]) - 1 : -1]


def test_the_divergence_is_that_of_plain_transformers(trained: dict[str, Any], tmp_path: Path) -> None:
    rows = measured(trained, tmp_path / "out", kl_tokens=12)
    policy, reference = plain(trained["tuned"]), plain(trained["base"])
    assert len(rows) == len({tuple(row["prompt"]) for row in rows})
    by_samples, by_distribution = [], []
    for row in rows:
        ours, theirs = log_probabilities(policy, row), log_probabilities(reference, row)
        assert row["tokens"] == len(row["answer"]) <= 12
        exact = float((ours.exp() * (ours - theirs)).sum())
        assert row["kl"] == pytest.approx(exact, abs=2e-5)
        at = torch.tensor(row["answer"])[:, None]
        by_samples.append(float((ours - theirs).gather(1, at).sum()))
        by_distribution.append(exact)
    assert statistics.fmean(by_distribution) > 0.01
    # both are unbiased: their means differ by no more than the noise of the plain one
    noise = statistics.stdev(by_samples) / math.sqrt(len(rows))
    assert abs(statistics.fmean(by_samples) - statistics.fmean(by_distribution)) < 4 * noise


def test_the_draws_repeat_and_depend_on_the_seed(trained: dict[str, Any], tmp_path: Path) -> None:
    one, same, other = (
        measured(trained, tmp_path / str(i), kl_tokens=8, seed=seed) for i, seed in enumerate((1, 1, 2))
    )
    assert one == same
    assert [row["answer"] for row in one] != [row["answer"] for row in other]


def test_a_model_that_is_its_reference_does_not_diverge(trained: dict[str, Any], tmp_path: Path) -> None:
    if trained["adapter"]:
        return
    rows = measured({**trained, "tuned": trained["base"]}, tmp_path / "out", kl_tokens=8)
    assert max(abs(row["kl"]) for row in rows) < 1e-6


def test_prompts_are_different_and_spread() -> None:
    prompts = [[i // 2] for i in range(40)]
    assert chosen(prompts, 5) == [[0], [4], [8], [12], [16]]
    assert len(chosen(prompts, 100)) == 20


def test_a_merged_model_says_what_the_adapter_says(trained: dict[str, Any], tmp_path: Path) -> None:
    if not trained["adapter"]:
        with pytest.raises(TrainerError, match="no adapter"):
            merge(Merge(str(trained["tuned"])), tmp_path, engine(), tmp_path)
        return
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = merge(Merge(str(trained["tuned"])), tmp_path, engine(), tmp_path)
    assert not made["model"]["adapter"]
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    kind: Any = AutoModelForCausalLM
    merged, adapted, base = kind.from_pretrained(tmp_path / "model"), plain(trained["tuned"]), plain(trained["base"])
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = torch.tensor([tokenizer("how do I return the lamp?")["input_ids"]])
    with torch.no_grad():
        logits = [model(input_ids=ids).logits for model in (merged.eval(), adapted, base)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits[0], logits[2], atol=1e-3)


def test_settings_of_a_measurement_have_their_ranges() -> None:
    with pytest.raises(ConfigError) as caught:
        Evaluation.parse({"model": "m", "data": "d", "kl_prompts": -1, "kl_tokens": 0})
    assert {problem.field for problem in caught.value.problems} == {"kl_prompts", "kl_tokens"}
    with pytest.raises(ConfigError, match="is required"):
        Merge.parse({})
