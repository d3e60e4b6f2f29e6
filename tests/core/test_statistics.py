"""Intervals and tests against textbooks and arithmetic that others did."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from anydpo.statistics import (
    Resamples,
    bins_of,
    brier,
    calibration_error,
    holm,
    log_loss,
    mcnemar,
    paired_difference,
    percentiles,
    quantile_groups,
    sigmoid,
    wilson,
)

# Efron and Tibshirani, An Introduction to the Bootstrap, tables 2.1 and 2.2: survival of mice in days
TREATED = [94.0, 197.0, 16.0, 38.0, 99.0, 141.0, 23.0]
CONTROL = [52.0, 104.0, 146.0, 10.0, 51.0, 30.0, 40.0, 27.0, 46.0]


@pytest.mark.parametrize(("values", "mean", "error"), [(TREATED, 86.86, 23.36), (CONTROL, 56.22, 13.33)])
def test_the_bootstrap_of_a_mean_has_the_standard_error_of_the_textbook(
    values: list[float], mean: float, error: float, full: bool
) -> None:
    draws = Resamples.of(len(values), seed=1, count=20_000 if full else 4_000)
    assert statistics.fmean(values) == pytest.approx(mean, abs=0.005)
    assert statistics.stdev(draws.means(values)) == pytest.approx(error, rel=0.04)


def test_the_interval_holds_the_truth_as_often_as_it_says(full: bool) -> None:
    """Coverage of a mean of 60 coin throws with p = 0.7, over many draws of the coins."""
    dice, held, rounds = random.Random(7), 0, 2_000 if full else 250
    for round_ in range(rounds):
        throws = [float(dice.random() < 0.7) for _ in range(60)]
        found = Resamples.of(60, seed=round_, count=200).interval(throws)
        held += found.low <= 0.7 <= found.high
    assert 0.90 <= held / rounds <= 0.985


def test_the_same_seed_gives_the_same_interval() -> None:
    one, same, other = (Resamples.of(7, seed).interval(TREATED) for seed in (3, 3, 4))
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("left", "right", "p"),
    [
        (1, 8, 2 * 10 / 512),  # (1 + 9) / 2**9, doubled
        (0, 5, 2 / 32),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (9, 1, 2 * 11 / 1024),
    ],
)
def test_mcnemars_exact_test_is_the_binomial_tail(left: int, right: int, p: float) -> None:
    assert mcnemar(left, right) == pytest.approx(p)
    assert mcnemar(left, right) == mcnemar(right, left)


def test_mcnemar_on_the_textbooks_approval_ratings() -> None:
    """Agresti, Categorical Data Analysis, table 10.1: 150 and 86 changed their minds, z = -4.17, so p = 3.1e-5."""
    assert mcnemar(150, 86) == pytest.approx(3.1e-5, rel=0.35)  # exact beside normal


def test_holms_adjustment_of_the_usual_example() -> None:
    """p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") in R."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_paired_difference_sees_what_two_intervals_hide() -> None:
    dice = random.Random(5)
    hard = [dice.gauss(0, 1) for _ in range(200)]  # what both find hard
    left, right = [v + dice.gauss(0.1, 0.2) for v in hard], [v + dice.gauss(0, 0.2) for v in hard]
    draws = Resamples.of(200)
    alone, other = draws.interval(left), draws.interval(right)
    assert alone.low < other.high
    found, p = paired_difference(left, right, draws)
    assert found.low > 0
    assert p < 0.01


def test_a_paired_difference_of_equals_is_no_difference() -> None:
    found, p = paired_difference(TREATED, TREATED, Resamples.of(7))
    assert tuple(found) == (0, 0, 0)
    assert p == 1


def test_the_p_value_is_fair_where_there_is_no_difference(full: bool) -> None:
    dice, rounds = random.Random(11), 1_000 if full else 200
    small = 0
    for round_ in range(rounds):
        a, b = ([dice.gauss(0, 1) for _ in range(40)] for _ in range(2))
        small += paired_difference(a, b, Resamples.of(40, round_, 200))[1] < 0.05
    assert small / rounds < 0.11


def test_brier_and_log_loss_on_the_example_of_scikit_learn() -> None:
    """brier_score_loss([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.3]) is 0.0375 in its documentation."""
    told = [0.9, 0.9, 0.8, 0.7]  # the probability of what happened
    assert statistics.fmean(map(brier, told)) == pytest.approx(0.0375)
    margins = [math.log(p / (1 - p)) for p in told]
    assert [sigmoid(m) for m in margins] == pytest.approx(told)
    assert [log_loss(m) for m in margins] == pytest.approx([-math.log(p) for p in told])


def test_logistic_functions_survive_extremes() -> None:
    assert sigmoid(1e4) == 1
    assert sigmoid(-1e4) == 0
    assert log_loss(-1e4) == pytest.approx(1e4)
    assert log_loss(1e4) == 0


def test_calibration_error_by_hand() -> None:
    """Ten pairs at 0.8, of which 6 are right, and ten at 0.6, all right: (10 * 0.2 + 10 * 0.4) / 20 = 0.3."""
    at = {p: math.log(p / (1 - p)) for p in (0.8, 0.6)}
    margins = [at[0.8]] * 6 + [-at[0.8]] * 4 + [at[0.6]] * 10
    table = bins_of(margins)
    assert [(b.pairs, round(b.confidence, 6), b.accuracy) for b in table] == [(10, 0.6, 1.0), (10, 0.8, 0.6)]
    assert calibration_error(table) == pytest.approx(0.3)


def test_a_model_that_says_what_it_knows_is_calibrated() -> None:
    dice, margins = random.Random(3), []
    for _ in range(20_000):
        sure = dice.uniform(0.5, 0.99)
        margins.append(math.log(sure / (1 - sure)) * (1 if dice.random() < sure else -1))
    assert calibration_error(bins_of(margins)) < 0.02


@pytest.mark.parametrize(
    ("right", "items", "low", "high"), [(0, 25, 0.0, 0.133), (25, 25, 0.867, 1.0), (9, 10, 0.596, 0.982)]
)
def test_wilsons_interval_on_the_textbooks_vegetarians(right: int, items: int, low: float, high: float) -> None:
    """Agresti, Categorical Data Analysis, 1.4.3: none of 25 students gives (0.0, 0.133). 9 of 10: Agresti and Coull."""
    found = wilson(right, items)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.0006)


def test_percentiles_lie_between_two_values_by_straight_line() -> None:
    found = percentiles(50.0, [float(v) for v in range(101)])
    assert (found.low, found.high) == pytest.approx((2.5, 97.5))


def test_equal_values_fall_into_the_same_group() -> None:
    assert quantile_groups([1, 1, 1, 9, 9, 9], ("short", "long")) == ["short"] * 3 + ["long"] * 3
    assert quantile_groups([1, 2, 3], ("short", "middle", "long")) == ["short", "middle", "long"]
    assert set(quantile_groups([5, 5, 5], ("short", "long"))) == {"long"}
