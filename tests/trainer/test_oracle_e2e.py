"""Whole training runs against TRL's: tokenised pairs in, log-probabilities and losses of five steps out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from anydpo_trainer import tiny
from anydpo_trainer.batch import collate
from anydpo_trainer.config import Method
from anydpo_trainer.dpo import DpoStage
from anydpo_trainer.logprobs import TokenScores, pair_scores
from anydpo_trainer.losses import Scores
from tests.conftest import ORACLES
from tests.trainer.helpers import run, write_jsonl

pytestmark = pytest.mark.oracle

FOLDER = ORACLES / "trl_e2e"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
STEPS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FOLDER / name, folder)
    tiny.make_tokenizer().save_pretrained(folder)  # the pairs are ids already; the trainer asks for an end token
    return folder


def options_of(run: dict[str, Any], model: Path, data: Path) -> dict[str, Any]:
    given = run["options"]
    return {
        "model": str(model),
        "train_data": str(data),
        "method": {"beta": given["beta"], "loss_type": given["loss_type"]},
        "max_steps": STEPS,
        "learning_rate": given["learning_rate"],
        "lr_scheduler_type": given["lr_scheduler_type"],
        "warmup_ratio": given["warmup_steps"] / STEPS,
        "weight_decay": given["weight_decay"],
        "max_grad_norm": given["max_grad_norm"],
        "batch_size": given["per_device_train_batch_size"] * given["gradient_accumulation_steps"],
        "micro_batch_size": given["per_device_train_batch_size"],
        "optim": "sgd" if given["optim"] == "sgd" else "adamw",
        "max_length": given.get("max_length", 128),
        "shuffle": False,
        "truncation": "keep_start",
        "save_steps": 1000,
    }


@pytest.mark.parametrize("shared", [False, True], ids=["plain", "shared"])
@pytest.mark.parametrize("name", EXPECTED["runs"])
def test_run_equals_trls(name: str, shared: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = EXPECTED["runs"][name]
    data = write_jsonl(tmp_path / "pairs.jsonl", json.loads((FOLDER / "pairs.json").read_text()))
    seen: list[dict[int, tuple[float, float]]] = []
    forward = DpoStage._forward

    def spy(self: DpoStage, step: int, place: int, part: Any, **kwargs: Any) -> Any:
        tokens, scores = forward(self, step, place, part, **kwargs)
        while len(seen) <= step:
            seen.append({})
        rows = zip(part, scores.chosen.tolist(), scores.rejected.tolist(), strict=True)
        seen[step].update({pair: (chosen, rejected) for pair, chosen, rejected in rows})
        return tokens, scores

    monkeypatch.setattr(DpoStage, "_forward", spy)
    report, records = run(tmp_path / "out", **options_of(expected, model, data), prefix_sharing=shared)
    assert report.effective["passes"]["path"] == ("shared" if shared else "plain")
    assert len(records) == len(expected["steps"]) == STEPS
    for number, (record, wanted) in enumerate(zip(records, expected["steps"], strict=True)):
        pairs = sorted(seen[number])
        chosen = [seen[number][i][0] for i in pairs]
        rejected = [seen[number][i][1] for i in pairs]
        assert chosen == pytest.approx(wanted["logps_chosen"], rel=2e-5)
        assert rejected == pytest.approx(wanted["logps_rejected"], rel=2e-5)
        assert record["train/loss"] == pytest.approx(wanted["loss"], rel=1e-4)
        assert record["train/grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-4)
        assert record["train/learning_rate"] == pytest.approx(wanted["learning_rate"], rel=1e-9, abs=1e-12)
        assert record["train/num_tokens"] == wanted["logged"]["num_tokens"]
        if expected["options"]["gradient_accumulation_steps"] == 1:  # TRL averages averages over micro-batches
            for metric in ("entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy", "rewards/margins"):
                value = wanted["logged"][metric]
                assert record[f"train/{metric}"] == pytest.approx(value, rel=1e-4, abs=2e-6), metric


def test_dropping_what_does_not_fit_is_the_default(model: Path, tmp_path: Path) -> None:
    pairs = json.loads((FOLDER / "pairs.json").read_text())
    longest = [len(p["prompt_ids"]) + max(len(p["chosen_ids"]), len(p["rejected_ids"])) for p in pairs]
    fit = sum(length <= 20 for length in longest)
    assert 0 < fit < len(pairs)
    data = write_jsonl(tmp_path / "pairs.jsonl", pairs)
    report, _ = run(tmp_path / "out", model=str(model), train_data=str(data), max_length=20, max_steps=1)
    assert report.data["train_pairs"] == fit
    assert report.data["skipped"] == {"too_long": len(pairs) - fit}


def test_collation_puts_chosen_first_and_masks_prompts() -> None:
    from array import array

    from anydpo_trainer.batch import Encoded

    pairs = [Encoded(array("i", [5, 6]), array("i", [7]), array("i", [8, 9, 10]))]
    batch = collate([pair.fork for pair in pairs])
    assert batch.input_ids.tolist() == [[5, 6, 7, 0, 0], [5, 6, 8, 9, 10]]
    assert batch.completion_mask.tolist() == [[False, False, True, False, False], [False, False, True, True, True]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_ld_damping_counts_from_the_shorter_answer() -> None:
    logps = torch.tensor([[-1.0, -2.0, -4.0], [-8.0, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    scores: Scores = pair_scores(TokenScores(logps, mask), Method(ld_alpha=0.5))
    assert scores.chosen.tolist() == [-1.0 + 0.5 * -6.0]
    assert scores.rejected.tolist() == [-8.0]
    assert scores.chosen_nll.tolist() == [7.0]
