"""Runs side by side: the table, its groups, the best one, and what is written of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest

from anydpo import cli
from anydpo.cli.following import show_result
from anydpo.comparison import Comparison, NotComparable, compare
from anydpo.errors import Invalid
from anydpo.result import Metrics, Model, State
from tests.report import made

SCHEMA = json.loads((Path(__file__).parents[2] / "src" / "anydpo" / "schemas" / "compare.schema.json").read_text())
ACCURACY = "measured/rewards/accuracies"


def test_five_runs_stand_in_one_table_whoever_trained_them(tmp_path: Path) -> None:
    comparison = compare(made.several(5, tmp_path))
    assert [row.place for row in comparison.rows] == list(made.PLACES[:5])
    assert comparison.comparable
    (group,) = comparison.groups
    assert (group.base, group.evaluated_on, len(group.runs)) == (made.QWEN, made.HELD_OUT, 5)
    assert len({tuple(sorted(row.metrics)) for row in comparison.rows}) == 1
    dicts = comparison.to_dicts()
    assert dicts[0][f"{ACCURACY}/low"] < dicts[0][ACCURACY] < dicts[0][f"{ACCURACY}/high"]
    jsonschema.Draft202012Validator(SCHEMA).validate(comparison.document().model_dump(mode="json"))


def test_the_best_run_is_best_by_what_the_figure_means(tmp_path: Path) -> None:
    comparison = compare(made.several(5, tmp_path))
    values = comparison.metric(ACCURACY)
    assert comparison.best().run == max(values, key=lambda run: values[run] or 0)
    losses = comparison.metric("eval/loss")
    assert comparison.best("eval/loss").run == min(losses, key=lambda run: losses[run] or math.inf)
    assert comparison.best("eval/loss", "max").run == max(losses, key=lambda run: losses[run] or 0)
    with pytest.raises(Invalid, match="goal"):
        comparison.best("eval/loss", "upwards")
    with pytest.raises(Invalid, match="no run has the metric"):
        comparison.best("eval/nothing")


def test_other_bases_and_other_pairs_are_groups_of_their_own_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compare([*made.several(2, tmp_path), made.other_base(3, tmp_path)])
    assert [group.runs for group in comparison.groups] == [tuple(r.run for r in comparison.results[:2]), ("other3",)]
    assert [row.group for row in comparison.rows] == [1, 1, 2]
    with pytest.warns(NotComparable, match="means nothing"):
        comparison.best("eval/loss")
    comparison.print()
    assert "NOT COMPARABLE with one another: A B | C" in capsys.readouterr().out
    comparison.save(tmp_path / "page.html")
    assert "NOT COMPARABLE" in (tmp_path / "page.html").read_text("utf-8")
    assert "NOT COMPARABLE" in comparison._repr_html_()


def test_one_base_under_two_names_is_one_group() -> None:
    """Together's `-Reference` copies hold the weights of the hub's model, as its own list of models says."""
    llama = "meta-llama/Llama-3.3-70B-Instruct"
    runs = [made.result(i, model=Model(requested=name)) for i, name in enumerate((llama, f"{llama}-Reference"))]
    (group,) = compare(runs).groups
    assert (group.base, group.runs) == (llama, tuple(one.run for one in runs))
    assert [row.base for row in compare(runs).rows] == [llama, f"{llama}-Reference"]


def test_what_was_measured_here_is_shown_with_its_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = made.measured(tmp_path, made.result(0), 0.9, seed=0)
    show_result(one)
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "measured:" in text]
    figure = one.evaluations[0].metrics[ACCURACY]
    assert figure.low is not None
    assert figure.high is not None
    assert f"measured: 60 pairs, by {one.evaluations[0].by}: accuracy {figure.value:.4g} [" in line
    assert f"[{figure.low:.4g}, {figure.high:.4g}]" in line


def test_a_metric_that_is_missing_is_a_dash_and_never_a_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = made.result(1, metrics=Metrics(final={"train/loss": 0.4, "train/grad_norm": None}))
    comparison = compare([made.result(0), bare])
    assert comparison.metric("eval/loss")[bare.run] is None
    assert comparison.metric("train/grad_norm")[bare.run] is None
    assert "eval/loss" not in comparison.to_dicts()[1]
    comparison.print()
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.strip().startswith("eval/loss")]
    assert line.rstrip().endswith("–")  # noqa: RUF001
    comparison.save(tmp_path / "table.csv")
    header, _, second = (tmp_path / "table.csv").read_text("utf-8").splitlines()
    assert second.split(",")[header.split(",").index("eval/loss")] == ""


def test_the_best_is_tested_against_each_other_on_the_same_pairs(tmp_path: Path) -> None:
    runs = [
        made.measured(tmp_path, made.result(i), right, seed=i, pairs=240) for i, right in enumerate((0.95, 0.7, 0.93))
    ]
    found = [one for one in compare(runs).differences if one.metric == ACCURACY]
    assert {(one.run, one.other) for one in found} == {(runs[0].run, runs[1].run), (runs[0].run, runs[2].run)}
    clear, unclear = (next(one for one in found if one.other == other.run) for other in runs[1:])
    assert clear.significant
    assert not unclear.significant
    assert clear.p <= clear.p_adjusted
    assert clear.difference.value == pytest.approx(
        runs[0].evaluations[0].metrics[ACCURACY].value - runs[1].evaluations[0].metrics[ACCURACY].value
    )
    Comparison(runs).save(tmp_path / "page.html")
    assert "may differ by chance alone" in (tmp_path / "page.html").read_text("utf-8")


def test_where_two_are_best_the_others_are_still_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [made.measured(tmp_path, made.result(i), right, seed=i) for i, right in enumerate((1.0, 1.0, 0.97))]
    compare(runs).print()
    said = capsys.readouterr().out
    assert "Best: A local and B together with rewards/accuracies 1, measured here; from C it may differ" in said


def test_runs_that_are_equal_are_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = made.result(0), made.result(0, run="twin", place="together")
    compare([one, other]).print()
    assert "All equal" in capsys.readouterr().out


def test_one_run_and_a_failed_one_are_comparisons_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = made.result(1, state=State.FAILED, metrics=Metrics())
    compare(made.result(0)).save(tmp_path / "one.html")
    compare([failed]).save(tmp_path / "failed.html")
    compare([failed]).print()
    said = capsys.readouterr().out
    assert "A together is failed" in said
    assert "No run has a figure of quality yet" in said
    with pytest.raises(Invalid, match="no run to compare"):
        compare([])


def test_pandas_gets_the_same_columns(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    comparison = compare(made.several(2, tmp_path))
    frame = comparison.to_pandas()
    assert list(frame["place"]) == ["local", "together"]
    assert frame[ACCURACY].tolist() == list(comparison.metric(ACCURACY).values())


def test_the_name_of_the_file_says_what_is_written(tmp_path: Path) -> None:
    comparison = compare(made.several(2, tmp_path))
    comparison.save(tmp_path / "all.json")
    document = json.loads((tmp_path / "all.json").read_text("utf-8"))
    assert document["schema"] == 1
    assert [run["run"] for run in document["runs"]] == [one.run for one in comparison.results]
    with pytest.raises(Invalid, match="no such kind of report"):
        comparison.save(tmp_path / "report.pdf")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["compare", "nothing"], 2, "no run 'nothing'"),
        (["compare", "x", "-o", "report.pdf"], 2, "no such kind of report"),
        (["evaluate", "nothing", "--data", "none.jsonl"], 2, "none.jsonl"),
        (["fetch", "x", "-o", "d", "--merged", "--adapter"], 2, "two forms"),
    ],
)
def test_wrong_input_is_answered_with_a_sentence(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == code
    assert said in capsys.readouterr().err
