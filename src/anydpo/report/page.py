"""A report as one HTML file: no script, no request to anywhere, everything escaped, readable dark and light."""

from __future__ import annotations

import html
import re
from pathlib import Path

from anydpo.data.finding import Check
from anydpo.report.document import Bars, Block, Document, Findings, Section, Table, Text
from anydpo.report.terminal import numeric

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff￾￿]")
STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#5b6671;--line:#d9dee3;--paper:#fff;--tint:#f4f6f8;
--bad:#b3261e;--look:#8a5a00;--ok:#1c6b3c;--info:#1f5f99;--bar:#4a7fb5}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa5b0;--line:#333b43;--paper:#14181c;--tint:#1c2228;
--bad:#ff8a80;--look:#f2be5c;--ok:#7fd6a0;--info:#8ec4f5;--bar:#5f97cf}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1.5rem 1.25rem 3rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
.summary{color:var(--soft);margin:0;overflow-wrap:anywhere}
.verdict{font-weight:600;margin:1rem 0 0;padding:.6rem .9rem;border-left:.3rem solid;background:var(--tint)}
.ok{color:var(--ok)}.look,.warning{color:var(--look)}.bad,.error{color:var(--bad)}.info{color:var(--info)}
.note{color:var(--soft);font-size:.9rem;margin:.6rem 0 0;max-width:48rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;min-width:16rem}
th,td{padding:.3rem 1.2rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft);font-size:.85rem;white-space:nowrap}
td{overflow-wrap:break-word}
.n{text-align:right;white-space:nowrap}
.finding{border:1px solid var(--line);border-radius:.4rem;padding:.8rem 1rem;margin:.6rem 0}
.finding p{margin:.2rem 0;max-width:52rem;overflow-wrap:anywhere}
.finding b{text-transform:uppercase;font-size:.75rem;letter-spacing:.05em;margin-right:.6rem}
.finding .said{font-weight:600}
.finding code{font-size:.85rem;background:var(--tint);padding:.05rem .3rem;border-radius:.2rem}
.finding span{color:var(--soft)}
.bar{margin:.5rem 0 .1rem;font-size:.9rem}svg{width:100%;max-width:40rem;height:.8rem;display:block}
svg .track{fill:var(--line)}svg .full{fill:var(--bar)}svg .even{stroke:var(--ink)}
footer{margin-top:3rem;color:var(--soft);font-size:.85rem}
@media(max-width:600px){body{padding:1rem .8rem 2rem;font-size:15px}th,td{padding-right:.8rem}}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def save(document: Document, path: str | Path) -> None:
    """Write a report as a page, whole or not at all."""
    from anydpo.data.write import whole_file

    with whole_file(Path(path)) as file:
        file.write(page(document).encode())


def page(document: Document) -> str:
    """Return a report as one self-contained HTML page."""
    from anydpo import __version__

    title = esc(document.title)
    summary = "".join(f'<p class="summary">{esc(text)}</p>' for text in document.summary)
    body = "".join(_section(section) for section in document.sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>{summary}"
        f'<p class="verdict {esc(document.tone)}">{esc(document.verdict)}</p>{body}</main>'
        f"<footer>anydpo {esc(__version__)}</footer></body></html>\n"
    )


def esc(text: object) -> str:
    """Return text that is text, whatever stands in it."""
    return html.escape(CONTROL.sub("�", str(text)))


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
    head = "".join(f"<th {c}>{esc(column)}</th>" for c, column in zip(classes, table.columns, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td {c}>{esc(cell)}</td>' for c, cell in zip(classes, row, strict=True))}</tr>" for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(table.columns) else ""
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


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
