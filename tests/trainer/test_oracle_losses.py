"""Every loss against TRL's own numbers, with gradients where TRL can give them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from anydpo_trainer.config import Method
from anydpo_trainer.logprobs import TokenScores, pair_scores, sequence_sums
from anydpo_trainer.losses import Scores, pair_losses, rewards
from tests.conftest import ORACLES

pytestmark = pytest.mark.oracle

FILE: dict[str, Any] = json.loads((ORACLES / "trl_losses.json").read_text())
PAIRS, CASES = FILE["pairs"], FILE["cases"]


def method_of(options: dict[str, Any]) -> Method:
    given = dict(options)
    given["loss_type"] = tuple(given.pop("loss_types"))
    if "loss_weights" in given:
        given["loss_weights"] = tuple(given["loss_weights"])
    return Method(**given)


def tolerance_of(case: dict[str, Any]) -> float:
    """What the file's own note says TRL is good for."""
    if case["dtype"] == "float32":
        return 1e-5
    return 1e-6 if "exo_pair" in case["options"]["loss_types"] else 1e-9


def tokens(side: str, dtype: torch.dtype, pairs: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """One value a token for chosen then rejected rows, padded with zeros, and the mask."""
    rows = [pair[f"{side}_{answer}_tokens"] for answer in ("chosen", "rejected") for pair in pairs]
    values = torch.zeros(len(rows), max(map(len, rows)), dtype=dtype)
    mask = torch.zeros_like(values, dtype=torch.bool)
    for i, row in enumerate(rows):
        values[i, : len(row)] = torch.tensor(row, dtype=dtype)
        mask[i, : len(row)] = True
    return values, mask


def score(case: dict[str, Any], pairs: list[dict[str, Any]]) -> tuple[Scores, Method, Tensor]:
    """The scores of a case, and a shift of each sequence's log-probability to differentiate by."""
    dtype, method = getattr(torch, case["dtype"]), method_of(case["options"])
    policy, mask = tokens("policy", dtype, pairs)
    reference, _ = tokens("ref", dtype, pairs)
    squares, _ = tokens("logsumsq", dtype, pairs)
    shift = torch.zeros(2 * len(pairs), dtype=dtype, requires_grad=True)
    shifted = policy + (shift / mask.sum(dim=1)).unsqueeze(1) * mask
    given = sequence_sums(TokenScores(reference, mask), method).chunk(2)
    scores = pair_scores(TokenScores(shifted, mask, squares), method, (given[0], given[1]))
    return scores, method, shift


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_loss_rewards_and_gradient_are_trls(case: dict[str, Any]) -> None:
    scores, method, shift = score(case, PAIRS)
    loss, tolerance = pair_losses(scores, method).mean(), tolerance_of(case)
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(case["loss"], rel=tolerance)
    chosen, rejected = rewards(scores, method)
    found = {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "rewards/accuracies": (chosen > rejected).double().mean(),
        "logps/chosen": scores.chosen.mean(),
        "logps/rejected": scores.rejected.mean(),
    }
    for name, value in case["metrics"].items():
        assert found[name].item() == pytest.approx(value, rel=tolerance, abs=1e-12), name
    if case["grad_policy_chosen"] is not None:
        assert shift.grad is not None
        expected = case["grad_policy_chosen"] + case["grad_policy_rejected"]
        assert shift.grad.tolist() == pytest.approx(expected, rel=tolerance, abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_loss_of_each_pair_alone_is_trls(case: dict[str, Any]) -> None:
    if "per_pair_losses" not in case:
        assert set(case["options"]["loss_types"]) & {"aot", "aot_unpaired", "sft"}  # these have no loss of a pair
        return
    scores, method, _ = score(case, PAIRS)
    assert pair_losses(scores, method).tolist() == pytest.approx(case["per_pair_losses"], rel=tolerance_of(case))
