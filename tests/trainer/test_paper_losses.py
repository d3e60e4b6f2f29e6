"""Losses that TRL 1.16's DPO trainer does not have, against the papers' formulas computed here a second way.

The second way is plain Python on probabilities and odds, written from the papers without looking at our code.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from anydpo_trainer.config import Method
from anydpo_trainer.losses import Scores, pair_losses, rewards

PAIRS = 6
BETAS = (0.1, 0.5, 2.5)


def made(seed: int = 0) -> tuple[Scores, list[dict[str, Any]]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(PAIRS):
        words, others = draw.randint(2, 9), draw.randint(2, 9)
        rows.append(
            {
                "w": -draw.uniform(0.2, 3.0) * words,
                "l": -draw.uniform(0.2, 3.0) * others,
                "rw": -draw.uniform(0.2, 3.0) * words,
                "rl": -draw.uniform(0.2, 3.0) * others,
                "nw": words,
                "nl": others,
            }
        )
    column = {key: torch.tensor([float(row[key]) for row in rows], dtype=torch.float64) for key in rows[0]}
    scores = Scores(
        chosen=column["w"],
        rejected=column["l"],
        ref_chosen=column["rw"],
        ref_rejected=column["rl"],
        chosen_tokens=column["nw"],
        rejected_tokens=column["nl"],
        chosen_nll=-column["w"],
    )
    return scores, rows


def without_reference(scores: Scores) -> Scores:
    zero = torch.zeros_like(scores.chosen)
    return Scores(**{**vars(scores), "ref_chosen": zero, "ref_rejected": zero})


def win(z: float) -> float:
    """The Bradley-Terry probability of a reward difference, as the papers write it."""
    return 1 / (1 + math.exp(-z))


def close(found: torch.Tensor, expected: list[float]) -> None:
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("flip", [0.0, 0.1, 0.3])
def test_cdpo_mixes_the_two_labels(beta: float, flip: float) -> None:
    """Rafailov et al. 2305.18290 with the label noise of Mitchell's cDPO note: flip happens with probability e."""
    scores, rows = made()
    close(
        pair_losses(scores, Method(beta=beta, label_smoothing=flip)),
        [
            -(1 - flip) * math.log(win(beta * ((r["w"] - r["rw"]) - (r["l"] - r["rl"]))))
            - flip * math.log(win(-beta * ((r["w"] - r["rw"]) - (r["l"] - r["rl"]))))
            for r in rows
        ],
    )


@pytest.mark.parametrize("beta", BETAS)
def test_reference_free_takes_the_reference_as_uniform(beta: float) -> None:
    """2305.18290, the reference implementation's option: ref terms are 0."""
    scores, rows = made()
    method = Method(beta=beta, reference_free=True)
    close(
        pair_losses(without_reference(scores), method),
        [-math.log(win(beta * (r["w"] - r["l"]))) for r in rows],
    )


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.4])
def test_simpo_averages_and_asks_for_a_margin(beta: float, gamma: float) -> None:
    """2405.14734, eq. 6: -log s(b/|y_w| log pi_w - b/|y_l| log pi_l - gamma)."""
    scores, rows = made()
    method = Method(beta=beta, loss_type=("simpo",), simpo_gamma=gamma)
    found = pair_losses(without_reference(scores), method)
    close(found, [-math.log(win(beta / r["nw"] * r["w"] - beta / r["nl"] * r["l"] - gamma)) for r in rows])
    chosen, rejected = rewards(without_reference(scores), method)
    close(chosen - rejected, [beta * (r["w"] / r["nw"] - r["l"] / r["nl"]) for r in rows])


@pytest.mark.parametrize("beta", BETAS)
def test_orpo_adds_the_odds_ratio_to_likelihood(beta: float) -> None:
    """2403.07691, eq. 6 and 7: L_SFT + lambda L_OR with odds = P / (1 - P), P the geometric mean probability."""
    scores, rows = made()

    def odds(average: float) -> float:
        probability = math.exp(average)
        return probability / (1 - probability)

    token_mean = sum(-r["w"] for r in rows) / sum(r["nw"] for r in rows)
    expected = [-math.log(win(math.log(odds(r["w"] / r["nw"]) / odds(r["l"] / r["nl"])))) * beta for r in rows]
    found = pair_losses(without_reference(scores), Method(beta=beta, loss_type=("orpo",)))
    assert found.mean().item() == pytest.approx(token_mean + sum(expected) / PAIRS, rel=1e-12)
    alone = [e + -r["w"] / (sum(x["nw"] for x in rows) / PAIRS) for e, r in zip(expected, rows, strict=True)]
    close(found, alone)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("alpha", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("flip", [0.0, 0.2])
def test_cpo_is_dpo_without_reference_plus_likelihood(beta: float, alpha: float, flip: float) -> None:
    """2401.08417, eq. 7: -log s(b log pi_w - b log pi_l) + alpha NLL_w, smoothed as in TRL's experimental CPO."""
    scores, rows = made()
    token_mean = sum(-r["w"] for r in rows) / sum(r["nw"] for r in rows)
    preference = [
        -(1 - flip) * math.log(win(beta * (r["w"] - r["l"]))) - flip * math.log(win(-beta * (r["w"] - r["l"])))
        for r in rows
    ]
    method = Method(beta=beta, loss_type=("cpo",), cpo_alpha=alpha, label_smoothing=flip)
    found = pair_losses(without_reference(scores), method)
    assert found.mean().item() == pytest.approx(sum(preference) / PAIRS + alpha * token_mean, rel=1e-12)


def test_smoothed_length_normalised_dpo() -> None:
    """2411.15124's loss with the label noise of cDPO."""
    scores, rows = made()
    z = [2.0 * ((r["w"] - r["rw"]) / r["nw"] - (r["l"] - r["rl"]) / r["nl"]) for r in rows]
    method = Method(beta=2.0, loss_type=("sigmoid_norm",), label_smoothing=0.1)
    close(pair_losses(scores, method), [-0.9 * math.log(win(v)) - 0.1 * math.log(win(-v)) for v in z])


def test_a_sum_of_losses_is_their_weighted_sum() -> None:
    scores, _ = made()
    parts = [pair_losses(scores, Method(beta=0.3, loss_type=(name,))) for name in ("ipo", "apo_zero", "sft")]
    whole = pair_losses(scores, Method(beta=0.3, loss_type=("ipo", "apo_zero", "sft"), loss_weights=(0.2, 1.5, 3.0)))
    close(whole, (0.2 * parts[0] + 1.5 * parts[1] + 3.0 * parts[2]).tolist())


def test_wpo_leaves_the_likelihood_term_alone() -> None:
    scores, _ = made()
    weights = torch.linspace(0.1, 0.6, PAIRS, dtype=torch.float64)
    weighted = Scores(**{**vars(scores), "wpo_weight": weights})
    method = Method(loss_type=("hinge", "sft"), use_weighting=True)
    hinge = pair_losses(scores, Method(loss_type=("hinge",)))
    sft = pair_losses(scores, Method(loss_type=("sft",)))
    close(pair_losses(weighted, method), (weights * hinge + sft).tolist())


@pytest.mark.parametrize(
    ("name", "beta", "start"),
    [
        ("sigmoid", 0.1, 0.693147),
        ("hinge", 0.1, 1.0),
        ("ipo", 0.1, 25.0),
        ("apo_zero", 0.1, 1.0),
        ("apo_down", 0.1, 1.0),
        ("nca_pair", 0.1, 1.386294),
        ("bco_pair", 0.1, 1.386294),
        ("sppo_hard", 0.1, 50.0),
        ("discopop", 0.1, 0.846574),
        ("robust", 0.1, 0.693147),
    ],
)
def test_value_where_policy_and_reference_agree(name: str, beta: float, start: float) -> None:
    scores, _ = made()
    same = Scores(**{**vars(scores), "ref_chosen": scores.chosen, "ref_rejected": scores.rejected})
    close_to = pair_losses(same, Method(beta=beta, loss_type=(name,)))
    assert close_to.tolist() == pytest.approx([start] * PAIRS, abs=1e-6)


def test_extreme_ratios_stay_finite() -> None:
    """DiscoPOP's exponential overflows where it is multiplied by nearly 0; ORPO's odds where p is nearly 1."""
    scores, _ = made()
    far = Scores(**{**vars(scores), "chosen": torch.full((PAIRS,), -4000.0, dtype=torch.float64)})
    near = Scores(**{**vars(scores), "chosen": torch.full((PAIRS,), -1e-30, dtype=torch.float64)})
    for name in ("discopop", "sigmoid", "exo_pair", "robust"):
        smoothing = 0.1 if name in ("exo_pair", "robust") else 0.0
        loss = pair_losses(far, Method(beta=0.5, loss_type=(name,), label_smoothing=smoothing))
        assert torch.isfinite(loss).all(), name
    assert torch.isfinite(pair_losses(near, Method(loss_type=("orpo",)))).all()
