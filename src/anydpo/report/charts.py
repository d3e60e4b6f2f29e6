"""Charts as inline SVG with their words in HTML: drawings stretch to the width there is, letters keep their size.

Runs are told apart by a letter, a dash pattern and a colour, so that a chart can be read without any one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from anydpo.report.document import Line, Lines, Mark, Point, Points, Ranges, Spans
from anydpo.report.escape import esc

COLOURS = 12
DASHES = ("", "9 4", "2.5 3.5", "12 3 2.5 3")
HEIGHT = 240  # pixels of a chart; stands in the style sheet too
ROOM = 17  # pixels that one name at the end of a line needs
WIDTH, END = 1000, 955  # of the drawing, and where its data ends: beyond are the threads to the names
MOST_POINTS = 160  # drawn of a line; more are averaged


class Axis(NamedTuple):
    """A scale with round marks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Return where a value stands, 0 to 1; beyond the ends it is put at the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def badge(mark: Mark) -> str:
    """Return the letter of a run."""
    return f'<b class="key c{mark.key % COLOURS}">{esc(mark.letter)}</b>'


def axis_of(values: Sequence[float], *, least: float | None = None, marks: int = 4, tight: bool = False) -> Axis:
    """Return a scale for these values, reaching at least down to `least`; a tight one ends with them.

    A few values far from all others are left to its ends, so that one broken run does not flatten the rest.
    """
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if len(ordered) > 20:
        inner = ordered[len(ordered) // 50], ordered[-1 - len(ordered) // 50]
        reach = 2 * (inner[1] - inner[0]) or math.inf
        low, high = max(low, inner[0] - reach), min(high, inner[1] + reach)
    low = low if least is None else min(low, least)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = (low - 0.5, high + 0.5) if least is None else (low, low + 1)
    raw = (high - low) / marks
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(n * step for n in range(first, last + 1))
    if tight:
        return Axis(low, high, tuple(tick for tick in ticks if low - step * 1e-9 <= tick <= high + step * 1e-9))
    return Axis(ticks[0], ticks[-1], ticks)


def short(value: float, step: float | None = None) -> str:
    """Return a figure for an axis: 12k, 3.5M, 0.25."""
    for size, word in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and (step is None or step >= size / 100):
            return f"{value / size:.3g}{word}"
    if step is not None and 0 < step < 1:
        digits = min(6, max(0, -math.floor(math.log10(step) + 1e-9)))
        return f"{value + 0.0:.{digits}f}"
    return f"{value:.4g}"


def lines(chart: Lines) -> str:
    """Draw lines with their names at their ends."""
    shown = [Line(line.mark, _thinned([p for p in line.points if all(map(math.isfinite, p))])) for line in chart.lines]
    shown = [line for line in shown if line.points]
    if not shown:
        return ""
    x = axis_of([p[0] for line in shown for p in line.points], least=chart.begin, tight=True)
    y = axis_of([p[1] for line in shown for p in line.points])
    places = _names_at([(1 - y.at(line.points[-1][1])) * HEIGHT for line in shown])
    drawn, names = [_grid(y)], []
    if chart.ideal:
        ends = [(x.at(v) * END, (1 - y.at(v)) * HEIGHT) for v in (max(x.low, y.low), min(x.high, y.high))]
        drawn.append('<path class="ideal" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>'.format(*ends[0], *ends[1]))
    for line, place in zip(shown, places, strict=True):
        spots = [(x.at(a) * END, (1 - y.at(b)) * HEIGHT) for a, b in line.points]
        drawn.append(_stroke(line.mark, spots, place))
        said = f"{badge(line.mark)}<i><b>{short(line.points[-1][1])}</b> {esc(line.mark.text)}</i>"
        names.append(f'<span class="end" style="top:{place:.1f}px">{said}</span>')
    last = ", ".join(f"{line.mark}: {short(line.points[-1][1])}" for line in shown)
    return _figure(
        chart.title, f"{chart.title} over {chart.axis}; at the end {last}", drawn, [*_ticks(x, y), *names], chart.axis
    )


def points(chart: Points) -> str:
    """Draw points with their letters; those that would hide one another share a place."""
    x = axis_of([p.x for p in chart.points], least=0)
    y = axis_of([v for p in chart.points for v in (p.y, p.low, p.high) if v is not None])
    drawn, names = [_grid(y)], []
    for point in chart.points:
        if point.low is not None and point.high is not None:
            at, top, bottom = x.at(point.x) * END, (1 - y.at(point.high)) * HEIGHT, (1 - y.at(point.low)) * HEIGHT
            drawn.append(f'<path class="c{point.mark.key % COLOURS} whisker" d="M{at:.1f} {top:.1f}V{bottom:.1f}"/>')
    for group in _together(chart.points, x, y):
        left, top = x.at(group[0].x) * END / WIDTH * 100, (1 - y.at(group[0].y)) * HEIGHT
        letters = "".join(badge(p.mark) for p in group)
        names.append(f'<span class="spot" style="left:{left:.2f}%;top:{top:.1f}px">{letters}</span>')
    said = "; ".join(f"{p.mark}: {chart.x} {short(p.x)}, {chart.y} {short(p.y)}" for p in chart.points)
    return _figure(chart.title, f"{chart.title}: {said}", drawn, [*_ticks(x, y), *names], chart.x)


def ranges(chart: Ranges) -> str:
    """Draw a value and its interval for each run, on one scale."""
    values = [v for _, value, low, high, _ in chart.rows for v in (value, low, high) if v is not None]
    scale = axis_of([*values, *([chart.middle] if chart.middle is not None else [])])
    middle = ""
    if chart.middle is not None:
        at = scale.at(chart.middle) * 1000
        middle = f'<path class="even" d="M{at:.1f} 0V20"/>'
    made = []
    for mark, value, low, high, text in chart.rows:
        colour, at = f"c{mark.key % COLOURS}", scale.at(value) * 1000
        whisker = ""
        if low is not None and high is not None:
            left, right = scale.at(low) * 1000, scale.at(high) * 1000
            whisker = f'<path class="{colour} whisker" d="M{left:.1f} 10H{right:.1f}"/>'
        dot = f'<path class="{colour} dot" d="M{at:.1f} 10h0"/>'
        made.append(
            f'<div class="range"><p>{badge(mark)} {esc(mark.text)} <span>{esc(text)}</span></p>'
            f'<svg aria-hidden="true" viewBox="0 0 1000 20" preserveAspectRatio="none">'
            f'<path class="track" d="M0 10H1000"/>{middle}{whisker}{dot}</svg></div>'
        )
    ends = f'<p class="ends"><span>{short(scale.low)}</span><span>{short(scale.high)}</span></p>'
    return f'<div class="ranges"><h3>{esc(chart.title)}</h3>{"".join(made)}{ends}</div>'


def spans(chart: Spans) -> str:
    """Draw waiting and working of each run, from a common beginning."""
    whole = max((wait + work for _, wait, work, _ in chart.rows), default=0.0) or 1.0
    made = []
    for mark, wait, work, text in chart.rows:
        start, width = wait / whole * 1000, max(work / whole * 1000, 2)
        made.append(
            f'<div class="range"><p>{badge(mark)} {esc(mark.text)} <span>{esc(text)}</span></p>'
            f'<svg aria-hidden="true" viewBox="0 0 1000 20" preserveAspectRatio="none">'
            f'<rect class="track" y="4" width="1000" height="12"/><path class="wait" d="M0 10H{start:.1f}"/>'
            f'<rect class="work c{mark.key % COLOURS}" x="{start:.1f}" y="4" width="{width:.1f}" height="12"/>'
            "</svg></div>"
        )
    return f'<div class="ranges">{"".join(made)}</div>'


def _figure(title: str, words: str, drawn: Sequence[str], around: Sequence[str], axis: str) -> str:
    return (
        f'<figure class="chart"><figcaption>{esc(title)}</figcaption>'
        f'<div class="plot" role="img" aria-label="{esc(words)}">'
        f'<svg aria-hidden="true" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">{"".join(drawn)}</svg>'
        f'{"".join(around)}</div><p class="axis">{esc(axis)}</p></figure>'
    )


def _grid(y: Axis) -> str:
    d = "".join(f"M0 {(1 - y.at(tick)) * HEIGHT:.1f}H{END}" for tick in y.ticks)
    return f'<path class="grid" d="{d}"/>'


def _ticks(x: Axis, y: Axis) -> list[str]:
    across, up = _step(x), _step(y)
    made = [f'<span class="y" style="top:{(1 - y.at(t)) * HEIGHT:.1f}px">{short(t, up)}</span>' for t in y.ticks]
    places = [(x.at(t) * END / WIDTH * 100, short(t, across)) for t in x.ticks]
    return made + [f'<span class="x" style="left:{left:.2f}%">{text}</span>' for left, text in places]


def _step(axis: Axis) -> float:
    return axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else axis.high - axis.low


def _stroke(mark: Mark, spots: Sequence[tuple[float, float]], name_at: float) -> str:
    """Return the line of one run and the thread from its end to its name."""
    d = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in spots)
    colour, dash = f"c{mark.key % COLOURS}", DASHES[mark.key % len(DASHES)]
    pattern = f' stroke-dasharray="{dash}"' if dash else ""
    a, b = spots[-1]
    dot = f'<path class="{colour} dot" d="M{a:.1f} {b:.1f}h0"/>'
    thread = f'<path class="{colour} thread" d="M{a:.1f} {b:.1f}L{max(a, END):.1f} {b:.1f}L{WIDTH} {name_at:.1f}"/>'
    return f'<path class="{colour} line"{pattern} d="{d}"/>{thread}{dot}'


def _names_at(wanted: Sequence[float]) -> list[float]:
    """Return places for names near where they are wanted, none on another, all within the chart if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    room = min(ROOM, HEIGHT / max(1, len(wanted) - 1)) if len(wanted) > 1 else ROOM
    places = [0.0] * len(wanted)
    floor = 0.0
    for at in order:
        places[at] = floor = max(wanted[at], floor)
        floor += room
    ceiling = float(HEIGHT)
    for at in reversed(order):
        places[at] = ceiling = min(places[at], ceiling)
        ceiling -= room
    return places


def _thinned(spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most so many points, each the mean of its neighbours; the last one stands as it is."""
    if len(spots) <= MOST_POINTS:
        return list(spots)
    each = math.ceil(len(spots) / MOST_POINTS)
    parts = [spots[at : at + each] for at in range(0, len(spots), each)]
    return [(sum(a for a, _ in p) / len(p), sum(b for _, b in p) / len(p)) for p in parts] + [spots[-1]]


def _together(spots: Sequence[Point], x: Axis, y: Axis) -> list[list[Point]]:
    """Return the points in groups: those so near that their letters would hide one another are one."""
    groups: list[list[Point]] = []
    for point in sorted(spots, key=lambda p: (p.x, p.y)):
        for group in groups:
            near_x = abs(x.at(group[0].x) - x.at(point.x)) < 0.05
            if near_x and abs(y.at(group[0].y) - y.at(point.y)) * HEIGHT < 20:
                group.append(point)
                break
        else:
            groups.append([point])
    return groups
