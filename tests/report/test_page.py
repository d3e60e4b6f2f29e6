"""The comparison page: opened in a browser, self-contained, and nothing in it but text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from anydpo.comparison import Comparison
from anydpo.data.sheet import FORMULA, NUMBER
from anydpo.report.charts import axis_of, short
from anydpo.result import Metrics
from tests.report import made
from tests.report.browser import chromium, visit


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    home = folder / "home"
    twelve = made.several(12, home)
    kinds = {
        "one": made.several(1, home),
        "five": twelve[:5],
        "twelve": twelve,
        "bare": [made.result(0).model_copy(update={"metrics": Metrics(), "samples": ()})],
        "mixed": [*twelve[:3], made.other_base(3, home)],
        "hostile": made.hostile(home),
    }
    paths = {name: folder / f"{name}.html" for name in kinds}
    for name, results in kinds.items():
        Comparison(results).save(paths[name])
    return paths


KINDS = ("one", "five", "twelve", "bare", "mixed", "hostile")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_neither_overflows_nor_complains_nor_asks_anybody(
    browser: Any, pages: dict[str, Path], kind: str, full: bool
) -> None:
    views = [(width, scheme) for width in (1400, 400) for scheme in ("light", "dark")]
    for width, scheme in views if full or kind == "five" else [views[0], views[3]]:
        seen = visit(browser, pages[kind], width, scheme)
        assert seen.console == [], (width, scheme)
        assert seen.requests == [pages[kind].resolve().as_uri()], (width, scheme)
        assert not seen.scrolls, (width, scheme)
        assert seen.overflowing == [], (width, scheme)


def test_the_views_of_the_curves_are_switched_without_a_script(browser: Any, pages: dict[str, Path]) -> None:
    tab = browser.new_page()
    tab.goto(pages["five"].resolve().as_uri())
    axes = "[...document.querySelectorAll('.view .axis')].filter(e => e.offsetParent).map(e => e.textContent)"
    assert set(tab.evaluate(axes)) == {"optimiser steps"}
    tab.get_by_text("by token", exact=True).first.click()
    assert set(tab.evaluate(axes)) == {"tokens trained"}
    tab.emulate_media(media="print")
    assert set(tab.evaluate(axes)) == {"optimiser steps", "tokens trained"}
    tab.close()


@pytest.mark.parametrize("kind", ["five", "twelve"])
def test_nothing_is_cut_off_on_paper(browser: Any, pages: dict[str, Path], kind: str) -> None:
    tab = browser.new_page(viewport={"width": 720, "height": 1000})  # A4 without its margins
    tab.goto(pages[kind].resolve().as_uri())
    tab.emulate_media(media="print")
    wide = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
    assert max(tab.evaluate(wide)) <= 1
    tab.close()


class Tags(HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_holds_no_script_no_link_and_no_picture(pages: dict[str, Path], kind: str) -> None:
    text = pages[kind].read_text("utf-8")
    found = Tags()
    found.feed(text)
    assert not found.tags & {"script", "img", "a", "link", "iframe", "object", "form", "base"}
    assert not [name for name in found.attributes if name.startswith("on") or name in ("src", "href", "action")]
    assert "url(" not in text
    assert "@import" not in text
    assert "\x1b" not in text


def test_what_would_be_run_stays_text(pages: dict[str, Path]) -> None:
    found = Tags()
    found.feed(pages["hostile"].read_text("utf-8"))
    said = "".join(found.text)
    assert said.count("<script>alert(1)</script>") > 20  # in every field, and shown as it is


def test_a_spreadsheet_and_a_terminal_run_nothing_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import csv

    comparison = Comparison(made.hostile(tmp_path))
    comparison.save(tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 3
    cells = [cell for row in rows for cell in row]
    assert any("cmd|" in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith(FORMULA) and not NUMBER.fullmatch(cell)]
    comparison.print()
    assert "\x1b" not in capsys.readouterr().out
    assert "<script" not in comparison._repr_html_()


def test_every_run_is_told_by_letter_and_dash_and_not_by_colour_alone(pages: dict[str, Path]) -> None:
    text = pages["twelve"].read_text("utf-8")
    first = text[text.index('<figure class="chart">') : text.index("</figure>")]
    letters = re.findall(r'<b class="key c\d+">(\w+)</b>', first)
    assert letters == list("ABCDEFGHIJKL")
    dashes = re.findall(r'class="c\d+ line"(?: stroke-dasharray="([^"]+)")?', first)
    assert len(set(dashes)) == 4
    tops = sorted(float(top) for top in re.findall(r'class="end" style="top:([\d.]+)px"', first))
    assert len(tops) == 12
    assert all(b - a >= 16 for a, b in pairwise(tops))  # no name on another
    assert tops[0] >= 0
    assert tops[-1] <= 240


@pytest.mark.parametrize(
    "values", [[0.0, 1.0], [0.02, 0.97], [3.0, 17.0], [5.0, 5.0], [-2e-9, 3e-9], [1e7, 1.2e7], [-1.0, -0.99]]
)
def test_scales_have_round_marks_around_the_values(values: list[float]) -> None:
    found = axis_of(values)
    assert found.low <= min(values)
    assert found.high >= max(values)
    steps = {f"{b - a:.6e}" for a, b in pairwise(found.ticks)}
    assert len(steps) == 1
    assert steps.pop()[:3] in ("1.0", "2.0", "5.0")


def test_a_run_that_explodes_does_not_flatten_the_others() -> None:
    values = [0.6 + i / 1000 for i in range(100)] + [1e30]
    assert axis_of(values).high < 2


def test_figures_of_an_axis_are_short() -> None:
    assert [short(v) for v in (0, 1234567, 12000, 0.25)] == ["0", "1.23M", "12k", "0.25"]
    assert short(0.30000000000000004, 0.1) == "0.3"
    assert short(-0.0, 0.5) == "0.0"
