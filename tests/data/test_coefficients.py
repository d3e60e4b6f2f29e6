"""Agreement and strength against published worked examples, to six digits, and against independent libraries."""

from __future__ import annotations

import math
from collections import Counter

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anydpo.data.coefficients import (
    LEVELS,
    cohen,
    fleiss,
    krippendorff,
    raw_agreement,
    tail,
    two_sided,
    wilson,
)
from anydpo.data.strength import bradley_terry

SIX = 5e-7


def two_by_two(both: int, first: int, second: int, neither: int) -> tuple[list[str], list[str]]:
    left = ["y"] * (both + first) + ["n"] * (second + neither)
    right = ["y"] * both + ["n"] * first + ["y"] * second + ["n"] * neither
    return left, right


@pytest.mark.parametrize(
    ("counts", "kappa"),
    [((20, 5, 10, 15), 0.40), ((45, 15, 25, 15), 0.130435), ((25, 35, 5, 35), 0.259259)],
)
def test_cohen_of_the_textbook_tables(counts: tuple[int, int, int, int], kappa: float) -> None:
    assert cohen(*two_by_two(*counts)) == pytest.approx(kappa, abs=SIX)


FLEISS = """0 0 0 0 14 / 0 2 6 4 2 / 0 0 3 5 6 / 0 3 9 2 0 / 2 2 8 1 1 / 7 7 0 0 0 / 3 2 6 3 0 / 2 5 3 2 2 / 6 5 2 1 0
/ 0 2 2 3 7"""


def test_fleiss_of_ten_subjects_and_fourteen_raters() -> None:
    units = [
        [category for category, count in enumerate(row.split()) for _ in range(int(count))] for row in FLEISS.split("/")
    ]
    assert fleiss(units) == pytest.approx(0.209931, abs=SIX)
    observed = raw_agreement(units)
    assert observed is not None
    assert (observed - 1 / 5) / (1 - 1 / 5) == pytest.approx(0.222527, abs=SIX)  # Randolph's, with chance 1/5


FOUR = """1 2 3 3 2 1 4 1 2 . . . / 1 2 3 3 2 2 4 1 2 5 . 3 / . 3 3 3 2 3 4 2 2 5 1 . / 1 2 3 3 2 4 4 1 2 5 1 ."""
THREE = """. . . . . 3 4 1 2 1 1 3 3 . 3 / 1 . 2 1 3 3 4 3 . . . . . . . / . . 2 1 3 4 4 . 2 1 1 3 3 . 4"""


def units_of(table: str) -> list[list[int]]:
    columns = zip(*(row.split() for row in table.split("/")), strict=True)
    return [[int(value) for value in column if value != "."] for column in columns]


@pytest.mark.parametrize(
    ("table", "level", "alpha"),
    [
        (FOUR, "nominal", 0.743421),
        (FOUR, "ordinal", 0.815388),
        (FOUR, "interval", 0.849107),
        (FOUR, "ratio", 0.797403),
        (THREE, "nominal", 0.691358),
        (THREE, "interval", 0.810845),
    ],
)
def test_krippendorffs_own_examples_with_missing_values(table: str, level: str, alpha: float) -> None:
    assert krippendorff(units_of(table), level) == pytest.approx(alpha, abs=SIX)  # type: ignore[arg-type]


def test_one_category_is_undefined_and_not_perfect() -> None:
    assert cohen(["a"] * 5, ["a"] * 5) is None
    assert fleiss([["a", "a", "a"]] * 5) is None
    assert all(krippendorff([[1, 1]] * 5, level) is None for level in LEVELS)
    assert cohen([], []) is None
    assert fleiss([]) is None
    assert raw_agreement([["a"], []]) is None
    assert krippendorff([[1], [2]]) is None


def test_perfect_and_opposite_agreement() -> None:
    assert cohen(["a", "b"], ["a", "b"]) == krippendorff([[1, 1], [2, 2]]) == fleiss([[1, 1], [2, 2]]) == 1
    assert cohen(["a", "b"], ["b", "a"]) == -1


def test_fleiss_refuses_unequal_numbers_of_ratings() -> None:
    with pytest.raises(ValueError, match=r"the same number of ratings.*\[2, 3\]"):
        fleiss([[1, 1], [1, 2, 2]])


def test_a_ratio_needs_a_true_zero() -> None:
    assert krippendorff([[-1, 1], [1, 1]], "ratio") is None
    assert krippendorff([[0, 0], [0, 2], [2, 2]], "ratio") is not None


@given(st.lists(st.lists(st.integers(1, 5), max_size=5), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_alpha_is_the_definition_computed_a_second_way(units: list[list[int]]) -> None:
    """Over the coincidence matrix, as Krippendorff writes it, with numpy doing the sums."""
    values = sorted({v for unit in units for v in unit if len(unit) > 1})
    if len(values) < 2:
        return
    o = numpy.zeros((len(values), len(values)))
    for unit in units:
        for i, a in enumerate(unit):
            for j, b in enumerate(unit):
                if i != j:
                    o[values.index(a), values.index(b)] += 1 / (len(unit) - 1)
    n_c = o.sum(0)
    n = n_c.sum()
    e = (numpy.outer(n_c, n_c) - numpy.diag(n_c)) / (n - 1)
    v = numpy.array(values, float)
    ordinal = numpy.zeros_like(o)
    for i in range(len(v)):
        for j in range(len(v)):
            low, high = min(i, j), max(i, j)
            ordinal[i, j] = (n_c[low : high + 1].sum() - (n_c[i] + n_c[j]) / 2) ** 2 if i != j else 0
    metrics = {
        "nominal": 1 - numpy.eye(len(v)),
        "ordinal": ordinal,
        "interval": (v[:, None] - v) ** 2,
        "ratio": ((v[:, None] - v) / (v[:, None] + v)) ** 2,
    }
    for level, d in metrics.items():
        assert krippendorff(units, level) == pytest.approx(1 - (o * d).sum() / (e * d).sum(), abs=1e-9)  # type: ignore[arg-type]


TEAMS = {"A": (0, 2, 0, 1), "B": (3, 0, 5, 0), "C": (0, 3, 0, 1), "D": (4, 0, 3, 0)}


def test_bradley_terry_of_four_teams() -> None:
    wins = {(i, j): float(n) for i, row in TEAMS.items() for j, n in zip(TEAMS, row, strict=True) if i != j}
    found = bradley_terry(wins)
    assert found is not None
    assert (found.connected, found.regularised) == (True, False)
    expected = {"A": 0.639835, "B": 1.043314, "C": 0.659810, "D": 2.270377}
    assert {name: math.exp(s) for name, s in found.strengths.items()} == pytest.approx(expected, abs=SIX)
    assert list(found.strengths) == ["D", "B", "C", "A"]
    assert math.fsum(found.strengths.values()) == pytest.approx(0, abs=1e-12)


def test_bradley_terry_of_the_citations_of_four_journals() -> None:
    names = ["Biometrika", "Comm", "JASA", "JRSSB"]
    cited = [[730, 498, 221], [33, 68, 17], [320, 813, 142], [284, 276, 325]]
    wins = {
        (name, other): float(n)
        for name, row in zip(names, cited, strict=True)
        for other, n in zip([x for x in names if x != name], row, strict=True)
    }
    found = bradley_terry(wins)
    assert found is not None
    relative = {name: found.strengths[name] - found.strengths["Biometrika"] for name in names[1:]}
    assert relative == pytest.approx({"Comm": -2.94907, "JASA": -0.47957, "JRSSB": 0.26895}, abs=5e-6)


def test_standard_errors_are_the_published_ones() -> None:
    """Of a difference to one model: the information without that model's row, inverted (here by numpy)."""
    names = ["Biometrika", "Comm", "JASA", "JRSSB"]
    cited = [[730, 498, 221], [33, 68, 17], [320, 813, 142], [284, 276, 325]]
    wins = {
        (name, other): float(n)
        for name, row in zip(names, cited, strict=True)
        for other, n in zip([x for x in names if x != name], row, strict=True)
    }
    found = bradley_terry(wins)
    assert found is not None
    assert found.standard_errors is not None
    information = numpy.zeros((4, 4))
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            if i != j:
                p = 1 / (1 + math.exp(found.strengths[b] - found.strengths[a]))
                w = (wins[(a, b)] + wins[(b, a)]) * p * (1 - p)
                information[i, i] += w
                information[i, j] -= w
    published = [0.10255, 0.06059, 0.07083]
    assert numpy.sqrt(numpy.diag(numpy.linalg.inv(information[1:, 1:]))) == pytest.approx(published, abs=1e-5)
    centred = numpy.sqrt(numpy.diag(numpy.linalg.pinv(information)))
    assert [found.standard_errors[name] for name in names] == pytest.approx(list(centred), abs=1e-9)


def test_a_model_that_never_loses_has_a_finite_strength_and_it_is_said() -> None:
    found = bradley_terry({("A", "B"): 5.0, ("B", "C"): 5.0})
    assert found is not None
    assert (found.connected, found.regularised, found.standard_errors) == (False, True, None)
    assert list(found.strengths) == ["A", "B", "C"]
    assert all(map(math.isfinite, found.strengths.values()))
    assert bradley_terry({}) is None
    apart = bradley_terry({("A", "B"): 1.0, ("B", "A"): 1.0, ("C", "D"): 1.0, ("D", "C"): 1.0})
    assert apart is not None
    assert not apart.connected


@given(st.dictionaries(st.tuples(st.sampled_from("ABCD"), st.sampled_from("ABCD")), st.integers(1, 9), min_size=1))
@settings(max_examples=40, deadline=None)
def test_strengths_solve_the_likelihood_equations(games: dict[tuple[str, str], int]) -> None:
    """At the maximum, expected wins equal wins, for every model."""
    wins = {pair: float(n) for pair, n in games.items() if pair[0] != pair[1]}
    found = bradley_terry(wins)
    if found is None or not found.connected:
        return
    s = found.strengths
    for name in s:
        won = sum(n for (winner, _), n in wins.items() if winner == name)
        expected = sum(
            n / (1 + math.exp(s[other] - s[name]))
            for (a, b), n in wins.items()
            for one, other in ((a, b), (b, a))
            if one == name
        )
        assert won == pytest.approx(expected, abs=1e-6)


def test_binomial_tails_and_intervals_of_known_cases() -> None:
    assert tail(5, 5) == pytest.approx(1 / 32)
    assert two_sided(5, 5) == pytest.approx(1 / 16)
    assert two_sided(5, 10) == 1.0
    assert two_sided(60, 100) == pytest.approx(0.0568879, abs=1e-6)  # R: binom.test(60, 100)
    assert two_sided(0, 0) == 1.0
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.490162, 0.943318), abs=1e-4)  # R: prop.test(8, 10, correct = FALSE)
    assert Counter([wilson(0, 0)]) == {(0.0, 1.0): 1}
