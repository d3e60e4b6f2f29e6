"""The one style sheet of all pages: dark and light, narrow and wide, screen and paper."""

from __future__ import annotations

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
body.wide{max-width:88rem}.chart:only-of-type{max-width:48rem}.grid .chart{max-width:none}
.key{display:inline-block;min-width:1.5em;padding:0 .3em;border:1.5px solid var(--k,currentColor);border-radius:1em;
color:var(--k,inherit);background:var(--paper);text-align:center;font:700 .72rem/1.4 system-ui,sans-serif}
strong{color:var(--ok)}
td,th,pre,h4,.asked,.answers p,.end i,.range p{unicode-bidi:isolate}
table.pinned{min-width:100%}.pinned td{white-space:nowrap}
.pinned th:first-child,.pinned td:first-child{position:sticky;left:0;z-index:1;background:var(--paper);max-width:16rem;
overflow:hidden;text-overflow:ellipsis}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,32rem),1fr));gap:1.2rem 2rem}
.chart{margin:.4rem 0;min-width:0}
.plot{position:relative;height:240px;margin:0 9.5rem 1.6rem 3rem;font-size:.75rem;color:var(--soft);line-height:1}
.plot svg{position:absolute;inset:0;width:100%;max-width:none;height:100%;overflow:visible}
.plot span{position:absolute;white-space:nowrap}
.plot .y{right:100%;transform:translateY(-50%);margin-right:.5rem}
.plot .x{top:100%;transform:translateX(-50%);margin-top:.5rem}
.plot .end{left:100%;transform:translateY(-50%);display:flex;align-items:center;width:9.4rem}
.plot .end i{font-style:normal;color:var(--ink);margin-left:.3rem;line-height:1.35;
overflow:hidden;text-overflow:ellipsis}
.plot .end i b{font-variant-numeric:tabular-nums}
.plot .spot{transform:translate(-50%,-50%)}
.axis{margin:0 9.5rem 0 3rem;text-align:center;font-size:.75rem;color:var(--soft)}
svg path{fill:none;vector-effect:non-scaling-stroke}
.grid path.grid,.plot path.grid{stroke:var(--line);stroke-width:1}
path.line{stroke:var(--k);stroke-width:2;stroke-linejoin:round}
path.ideal{stroke:var(--soft);stroke-width:1;stroke-dasharray:1 3}
path.thread{stroke:var(--k);stroke-width:1;opacity:.45}
path.dot{stroke:var(--k);stroke-width:9;stroke-linecap:round}.plot path.dot{stroke-width:6}
path.whisker{stroke:var(--k);stroke-width:2}path.even{stroke:var(--ink);stroke-width:1;stroke-dasharray:2 2}
path.track{stroke:var(--line);stroke-width:1}
section>*+.scroll,section>*+.chart,section>.scroll+.scroll{margin-top:1.2rem}
.ranges{max-width:44rem}.ranges h3,.chart figcaption{font-weight:600;font-size:.9rem;margin:0 0 .9rem}
.range{margin:.55rem 0}.range p{margin:0;font-size:.9rem;overflow-wrap:anywhere}
.range span{color:var(--soft);font-variant-numeric:tabular-nums}
.range svg{max-width:none;height:1.1rem}
path.wait{stroke:var(--soft);stroke-width:2;stroke-dasharray:1 4}rect.work{fill:var(--k)}
.ends{display:flex;justify-content:space-between;margin:0;font-size:.75rem;color:var(--soft)}
.views>input{position:absolute;opacity:0;pointer-events:none}
.views>label{display:inline-block;padding:.2rem .8rem;margin:.2rem .3rem .8rem 0;border:1px solid var(--line);
border-radius:1rem;font-size:.85rem;color:var(--soft);cursor:pointer}
.views>input:checked+label{color:var(--ink);border-color:var(--ink);font-weight:600}
.views>input:focus-visible+label{outline:2px solid var(--info);outline-offset:2px}
.view{display:none}.view h3{display:none;font-size:.95rem}
.views>input:nth-of-type(1):checked~.view:nth-of-type(1),.views>input:nth-of-type(2):checked~.view:nth-of-type(2),
.views>input:nth-of-type(3):checked~.view:nth-of-type(3){display:block}
.sides{margin:1rem 0 1.6rem}.asked{font-weight:600;margin:0 0 .5rem;overflow-wrap:anywhere;white-space:pre-wrap}
.answers{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));gap:.8rem}
.answers>div{border:1px solid var(--line);border-radius:.4rem;padding:.6rem .8rem;min-width:0}
.answers h4{margin:0 0 .3rem;font-size:.8rem;font-weight:600;color:var(--soft)}
.answers p{margin:0;font-size:.9rem;overflow-wrap:anywhere;white-space:pre-wrap}
.c0{--k:#1f6fb2}.c1{--k:#b93a0b}.c2{--k:#15803d}.c3{--k:#7e3fb4}.c4{--k:#8f5a00}.c5{--k:#0b6e88}.c6{--k:#be185d}
.c7{--k:#4d5b6a}.c8{--k:#5b680a}.c9{--k:#b91c1c}.c10{--k:#4338ca}.c11{--k:#8c4a2f}
@media(prefers-color-scheme:dark){
.c0{--k:#6cb2f2}.c1{--k:#fb923c}.c2{--k:#5fd68b}.c3{--k:#c8a1f5}.c4{--k:#eac54f}.c5{--k:#4fd1e0}.c6{--k:#f687b3}
.c7{--k:#a9b8c6}.c8{--k:#c2d054}.c9{--k:#fc8181}.c10{--k:#a5a8ff}.c11{--k:#d9a184}}
@media(max-width:600px){body{padding:1rem .8rem 2rem;font-size:15px}th,td{padding-right:.8rem}
.plot,.axis{margin-right:2.2rem}.plot .end{width:2.2rem}.plot .end i{display:none}
.pinned th:first-child,.pinned td:first-child{max-width:8.5rem;white-space:normal;overflow-wrap:anywhere}}
@media print{body{max-width:none;padding:0}.views>input,.views>label{display:none}.view,.view h3{display:block}
.view h3{margin:.6rem 0}.scroll{overflow:visible}.pinned td,.pinned th:first-child,.n,th{white-space:normal}
table{font-size:.68rem}th{font-size:.66rem}th,td{padding-right:.5rem}.pinned th,.pinned td{overflow-wrap:anywhere}
.pinned th:first-child,.pinned td:first-child{position:static;max-width:9rem;overflow:visible}
section,.chart,.sides,.range,tr{break-inside:avoid}
section{break-inside:auto}h2{break-after:avoid}}
"""
