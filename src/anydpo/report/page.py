"""A report as one HTML file: no script, no request to anywhere, everything escaped, readable dark and light."""

from __future__ import annotations

from pathlib import Path

from anydpo.data.finding import Check
from anydpo.report import charts
from anydpo.report.document import (
    Bars,
    Block,
    Document,
    Findings,
    Lines,
    Mark,
    Points,
    Ranges,
    Section,
    Sides,
    Spans,
    Strong,
    Table,
    Text,
    Views,
)
from anydpo.report.escape import esc
from anydpo.report.style import STYLE
from anydpo.report.terminal import numeric

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def save(document: Document, path: str | Path) -> None:
    """Write a report as a page, whole or not at all."""
    from anydpo.data.write import whole_file

    with whole_file(Path(path)) as file:
        file.write(page(document).encode())


def page(document: Document) -> str:
    """Return a report as one self-contained HTML page."""
    from anydpo import __version__

    title, wide = esc(document.title), ' class="wide"' if document.wide else ""
    summary = "".join(f'<p class="summary">{esc(text)}</p>' for text in document.summary)
    body = "".join(_section(section) for section in document.sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{STYLE}</style></head><body{wide}><main><h1>{title}</h1>{summary}"
        f'<p class="verdict {esc(document.tone)}">{esc(document.verdict)}</p>{body}</main>'
        f"<footer>anydpo {esc(__version__)}</footer></body></html>\n"
    )


def fragment(document: Document) -> str:
    """Return a report as a piece of a page that brings its own style, such as a notebook."""
    body = "".join(_section(section) for section in document.sections)
    return f"<div><p><b>{esc(document.title)}</b><br>{esc(document.verdict)}</p>{body}</div>"


def _section(section: Section) -> str:
    heading = f"<h2>{esc(section.title)}</h2>" if section.title else ""
    note = f'<p class="note">{esc(section.note)}</p>' if section.note else ""
    return f"<section>{heading}{''.join(map(_block, section.blocks))}{note}</section>"


def _block(block: Block) -> str:
    match block:
        case Text():
            return f"<p>{esc(block.text)}</p>"
        case Table():
            return _table(block)
        case Bars():
            return _bars(block)
        case Findings():
            return "".join(map(_finding, block.checks))
        case Lines():
            return charts.lines(block)
        case Points():
            return charts.points(block)
        case Ranges():
            return charts.ranges(block)
        case Spans():
            return charts.spans(block)
        case Sides():
            return _sides(block)
        case Views():
            return _views(block)


def _finding(check: Check) -> str:
    parts = [f'<p class="said"><b class="{check.severity}">{check.severity}</b>{esc(check.message)}</p>']
    if check.why:
        parts.append(f"<p><span>Why it matters:</span> {esc(check.why)}</p>")
    if check.advice:
        parts.append(f"<p><span>What to do:</span> {esc(check.advice)}</p>")
    if check.examples:
        places = " ".join(f"<code>{esc(example)}</code>" for example in check.examples)
        parts.append(f"<p><span>Where:</span> {places}</p>")
    return f'<div class="finding" id="{esc(check.code)}">{"".join(parts)}</div>'


def _table(table: Table) -> str:
    rows = [[str(cell) for cell in row] for row in table.rows]
    right = [bool(rows) and all(numeric(row[i]) for row in rows) for i in range(len(table.columns))]
    classes = ['class="n"' if to_right else "" for to_right in right]
    head = "".join(f"<th {c}>{_cell(column)}</th>" for c, column in zip(classes, table.columns, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td {c}>{_cell(cell)}</td>' for c, cell in zip(classes, row, strict=True))}</tr>"
        for row in table.rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(map(str, table.columns)) else ""
    pinned = ' class="pinned"' if table.pinned else ""
    return f'<div class="scroll" tabindex="0"><table{pinned}>{head}<tbody>{body}</tbody></table></div>'


def _cell(cell: object) -> str:
    match cell:
        case Mark():
            return f"{charts.badge(cell)} {esc(cell.text)}".rstrip()
        case Strong():
            return f"<strong>{esc(cell.text)}</strong>"
        case _:
            return esc(cell)


def _sides(sides: Sides) -> str:
    answers = "".join(f"<div><h4>{_cell(head)}</h4><p>{esc(text)}</p></div>" for head, text in sides.answers)
    return f'<div class="sides"><p class="asked">{esc(sides.question)}</p><div class="answers">{answers}</div></div>'


def _views(views: Views) -> str:
    """Return switches that need no script: each is a radio button, and the sheet shows the view of the checked one."""
    switches, shown = "", ""
    for at, (name, blocks) in enumerate(views.views):
        one, checked = f"{esc(views.name)}-{at}", " checked" if at == 0 else ""
        switches += (
            f'<input type="radio" name="{esc(views.name)}" id="{one}"{checked}><label for="{one}">{esc(name)}</label>'
        )
        shown += f'<div class="view"><h3>{esc(name)}</h3><div class="grid">{"".join(map(_block, blocks))}</div></div>'
    return f'<div class="views">{switches}{shown}</div>'


def _bars(bars: Bars) -> str:
    """Draw shares as bars with the label above each; the drawing stretches, the text does not shrink."""
    mark = ""
    if bars.middle is not None:
        x = bars.middle * 100
        mark = f'<line class="even" x1="{x}" x2="{x}" y1="0" y2="12" vector-effect="non-scaling-stroke"/>'
    return "".join(
        f'<p class="bar">{esc(label)}: {esc(text)}</p>'
        '<svg aria-hidden="true" viewBox="0 0 100 12" preserveAspectRatio="none">'
        '<rect class="track" y="2" width="100" height="8"/>'
        f'<rect class="full" y="2" width="{max(0.0, min(1.0, value)) * 100:.2f}" height="8"/>{mark}</svg>'
        for label, value, text in bars.rows
    )
