"""`evaluate` and `compare`: runs measured the same way, and put side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from anydpo.cli import output
from anydpo.cli.options import JSON
from anydpo.cli.runs import RunIds
from anydpo.cli.sending import AnyPrice, Cap, Yes
from anydpo.errors import Invalid

if TYPE_CHECKING:
    from anydpo.data.dataset import PreferenceDataset
    from anydpo.handle import Run
    from anydpo.judge import Judge

Page = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write report.html, .json or .csv.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(compare)
    app.command()(evaluate)


def compare(runs: RunIds, page: Page = None, as_json: JSON = False) -> None:
    """Put runs side by side: one table, one page."""
    from anydpo.comparison import compare as compared
    from anydpo.comparison import kind_of
    from anydpo.handle import find

    kind_of(page)
    found = compared(find(runs))
    if page is not None:
        found.save(page)
    if as_json:
        output.emit(found.document())
    else:
        found.print()
    if page is not None:
        output.say(f"{page}: written")


def evaluate(
    runs: RunIds,
    data: Annotated[list[str], typer.Option("--data", metavar="FILE", help="Held-out pairs; may be given again.")],
    format: Annotated[str | None, typer.Option("--format", metavar="F", help="Their dialect.")] = None,  # noqa: A002
    by: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Also by these annotation data of the pairs.")
    ] = None,
    ref_model: Annotated[str | None, typer.Option(metavar="MODEL", help="Instead of each run's own reference.")] = None,
    max_length: Annotated[int | None, typer.Option(metavar="N", help="Leave out pairs of more tokens.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float64; auto: what the device has.")] = "auto",
    kl_prompts: Annotated[int, typer.Option(metavar="N", help="Prompts over which the divergence is drawn.")] = 64,
    judge: Annotated[str | None, typer.Option(metavar="MODEL", help="Also let this model judge completions.")] = None,
    judge_url: Annotated[str | None, typer.Option(metavar="URL", help="Where; default: OPENAI_BASE_URL.")] = None,
    judge_price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="US dollars for a million tokens read, and written.")
    ] = None,
    judge_prompts: Annotated[int, typer.Option(metavar="N", help="How many completions are judged.")] = 100,
    against: Annotated[str, typer.Option(help="chosen: the pairs' answers. base: the model's own before.")] = "chosen",
    writer: Annotated[str | None, typer.Option(metavar="URL", help="An endpoint that serves the run's model.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was measured before.")] = False,
    yes: Yes = False,
    max_cost_usd: Cap = None,
    allow_unknown_price: AnyPrice = False,
    page: Page = None,
    as_json: JSON = False,
) -> None:
    """Measure runs on the same held-out pairs in the same way, and keep what was found with each run."""
    from anydpo.comparison import kind_of
    from anydpo.data.read import load
    from anydpo.evaluation import evaluate as evaluated
    from anydpo.handle import Run

    kind_of(page)
    pairs = load(data, format)
    found = [Run(name) for name in runs]
    asked = _judge(judge, judge_url, judge_price, judge_prompts, against, writer)
    if asked is not None:
        _consent(asked, pairs, found, yes=yes, cap=max_cost_usd)
    made = evaluated(
        found,
        pairs,
        judge=asked,
        max_cost_usd=max_cost_usd,
        allow_unknown_price=allow_unknown_price,
        again=again,
        say=output.say,
        ref_model=ref_model,
        max_length=max_length,
        dtype=dtype,
        kl_prompts=kl_prompts,
        by=tuple(filter(None, (by or "").split(","))),
    )
    comparison = made.comparison
    if page is not None:
        comparison.save(page)
    if as_json:
        output.emit(made.document())
    else:
        comparison.print()
    for run, why in made.not_measured.items():
        output.say(f"not measured: {run}: {why}")
    if page is not None:
        output.say(f"{page}: written")


def _judge(
    model: str | None, url: str | None, price: str | None, prompts: int, against: str, writer: str | None
) -> Judge | None:
    if model is None:
        if url or price or writer:
            raise Invalid("there is no judge that this could be about", hint="--judge MODEL")
        return None
    from anydpo.judge import Judge

    if against not in ("chosen", "base"):
        raise Invalid(f"--against is {against!r}", hint="chosen or base")
    if prompts < 1:
        raise Invalid(f"--judge-prompts is {prompts}", hint="1 or more")
    side = cast("Literal['chosen', 'base']", against)
    return Judge(model, url, writer, side, prompts, price=_price(price) if price else None)


def _price(text: str) -> tuple[float, float]:
    try:
        read, written = (float(part) for part in text.split(","))
    except ValueError:
        raise Invalid(f"--judge-price is {text!r}", hint="two numbers, such as 0.4,1.6") from None
    return read, written


def _consent(judge: Judge, pairs: PreferenceDataset, runs: list[Run], *, yes: bool, cap: float | None) -> None:
    """Ask on a terminal before a judge is paid; elsewhere `--yes` or a cap must have said so."""
    if yes or cap is not None or judge.is_free([one.result() for one in runs]):
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Invalid(
            f"{judge.model} at {judge.endpoint.origin} is paid for, and there is no terminal to ask on",
            hint="--yes, or --max-cost-usd X",
        )
    cost = judge.cost(pairs, len(runs))
    about = "unknown" if cost is None else f"at most about {cost:.2f} USD"
    output.say(f"{len(pairs):,} prompts and answers go to {judge.endpoint.origin}; the price is {about}")
    typer.confirm("ask it?", abort=True, err=True)
