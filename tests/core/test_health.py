"""Warnings about numbers: each on a history made to show it, none on a healthy one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from anydpo.health import diagnose


def history(**columns: list[float | None]) -> list[dict[str, Any]]:
    names = {"loss": "train/loss", "chosen": "train/rewards/chosen", "rejected": "train/rewards/rejected",
             "accuracy": "train/rewards/accuracies", "held_out": "eval/rewards/accuracies"}  # fmt: skip
    length = len(next(iter(columns.values())))
    return [{"step": i + 1, **{names[c]: v[i] for c, v in columns.items()}} for i in range(length)]


def codes(records: list[dict[str, Any]], **method: Any) -> set[str]:
    return {notice.code for notice in diagnose(records, method)}


LN2 = math.log(2)


def test_a_healthy_run_has_nothing_to_say() -> None:
    good = history(
        loss=[LN2, 0.6, 0.5, 0.45, 0.4, 0.38],
        chosen=[0.0, 0.1, 0.2, 0.25, 0.3, 0.3],
        rejected=[0.0, -0.1, -0.3, -0.4, -0.5, -0.6],
        accuracy=[0.0, 0.6, 0.7, 0.8, 0.8, 0.9],
    )
    assert codes(good) == set()
    assert codes([]) == set()


@pytest.mark.parametrize(
    ("value", "method"),
    [
        (LN2, {}),
        (1.0, {"loss_type": ["hinge"]}),
        (2 * LN2, {"loss_type": "bco_pair"}),
        (1.0, {"loss_type": "apo_zero"}),
    ],
)
def test_a_loss_that_stays_where_it_began(value: float, method: dict[str, Any]) -> None:
    (notice,) = diagnose(history(loss=[value + 1e-6 * i for i in range(8)]), method)
    assert notice.code == "loss_stuck"
    assert "learning_rate" in notice.message
    if not method:
        assert "ln 2" in notice.message


def test_three_steps_are_no_trend() -> None:
    assert codes(history(loss=[LN2] * 3)) == set()


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_loss_that_is_no_number(bad: float | None) -> None:
    (notice,) = diagnose(history(loss=[0.7, 0.6, bad]))
    assert notice.code == "loss_not_finite"
    assert "step 3" in notice.message


def test_both_log_probabilities_falling_is_explained() -> None:
    falling = history(
        loss=[LN2, 0.6, 0.5, 0.4, 0.3, 0.2],
        chosen=[0.0, -0.1, -0.4, -0.8, -1.2, -1.5],
        rejected=[0.0, -0.3, -0.9, -1.8, -2.9, -4.0],
    )
    (notice,) = diagnose(falling, {"beta": 0.1, "loss_type": "sigmoid"})
    assert notice.code == "both_falling"
    for word in ("usual", '"sft"', "raise beta", "apo_zero", "8.0", "19.8"):
        assert word in notice.message, word
    assert "raise its weight" in diagnose(falling, {"loss_type": ["sigmoid", "sft"]})[0].message


def test_a_little_down_is_no_alarm() -> None:
    little = history(
        loss=[0.6] * 6, chosen=[0.0, -0.01, -0.02, -0.02, -0.03, -0.04], rejected=[-0.1 * i for i in range(6)]
    )
    assert "both_falling" not in codes(little)


def test_memorised_training_pairs() -> None:
    learned = history(loss=[0.7, 0.1, 0.001, 0.0005, 0.0001, 0.0001, 0.0001], accuracy=[0.5, 1, 1, 1, 1, 1, 1])
    assert codes(learned) == {"memorised"}
    held_out = [*learned, {"step": 7, "eval/rewards/accuracies": 0.55}]
    assert "0.55" in diagnose(held_out)[0].message
