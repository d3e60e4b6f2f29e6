"""`init`, `check`, `providers`: before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from anydpo.cli import output
from anydpo.cli.options import JSON, Place, Places, takes_job

JOB_FILE = """name = "support-tone"
model = "tiny"                  # tiny, smollm2-135m, a folder, or a hub id such as "Qwen/Qwen3-0.6B"
data = "support_tone.jsonl"     # 300 made-up pairs: a friendly short answer against a cold long one
validation = 0.1                # held out, split by prompt
learning_rate = "auto"

[method]
loss_type = "sigmoid"           # DPO; `anydpo providers --json` lists every loss
beta = 0.1

[sft]                           # tiny begins with random weights, so it first learns to answer
data = "chosen"
epochs = 3
learning_rate = 3e-3
"""


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(init)
    app.command()(takes_job(check))
    app.command()(takes_job(quote))
    app.command()(providers)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where; default: here.")] = Path(),
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="A config of TRL, LLaMA-Factory or axolotl, or a create body."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Write a job file and 300 sample pairs, or the job that another tool's configuration describes."""
    from anydpo import samples
    from anydpo.data.write import json_line, whole_file
    from anydpo.errors import Invalid

    files = (folder / "job.toml", *(() if source else (folder / "support_tone.jsonl",)))
    if there := [str(path) for path in files if path.exists()]:
        raise Invalid(f"{', '.join(there)}: is there already", hint="init writes into another folder: anydpo init DIR")
    folder.mkdir(parents=True, exist_ok=True)
    if source is not None:
        _translated(source, files[0], as_json=as_json)
        return
    with whole_file(files[1]) as file:
        for row in samples.pairs(300):
            file.write(json_line(row))
    with whole_file(files[0]) as file:
        file.write(JOB_FILE.encode())
    if as_json:
        from anydpo.cli.documents import Initialised

        output.emit(Initialised(job=str(files[0]), data=str(files[1]), pairs=300))
        return
    output.out(f"wrote {files[0]} and {files[1]} (300 pairs)")
    output.say(f"next: anydpo lint {files[1]}; anydpo run {files[0]}")


def _translated(source: Path, to: Path, *, as_json: bool) -> None:
    from anydpo.data.write import whole_file
    from anydpo.translate import from_file, job_file

    made = from_file(source)
    with whole_file(to) as file:
        file.write(job_file(made, source.name).encode())
    if as_json:
        from anydpo.cli.documents import Initialised, Remarked

        said = tuple(
            Remarked(kind=remark.kind, field=remark.field, value=remark.value, message=remark.message)
            for remark in made.remarks
        )
        output.emit(Initialised(job=str(to), tool=made.tool, remarks=said))
        return
    output.out(f"wrote {to} from {source} ({made.tool})")
    told = [remark for remark in made.remarks if remark.kind != "elsewhere"]
    if told:
        from anydpo.cli.foreign import shown

        rows = [(remark.kind, remark.field, shown(remark.value), remark.message) for remark in told]
        output.table(("", "setting", "value", "what becomes of it"), rows)
    if others := made.of("elsewhere"):
        names = ", ".join(remark.field for remark in others)
        output.out(f"no part of what is trained, and left out: {names}")
    output.say(f"next: anydpo check {to}")


def check(
    job: Any,
    place: Place = None,
    plan_file: Annotated[
        Path | None, typer.Option("-o", metavar="FILE", help="Write the plan there; `submit FILE` sends exactly it.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Say everything that can be known before sending, and show the exact requests."""
    from anydpo.cli.documents import Checked
    from anydpo.plan import prepare
    from anydpo.secrets import masked
    from anydpo.spend import price_of

    prepared = prepare(job, place or "local")
    plan = prepared.plan
    document = Checked.of(
        plan,
        quote=price_of(prepared) if plan.ok else None,
        job=masked(prepared.job.to_dict()),
        job_fingerprint=prepared.fingerprint,
        run=prepared.run_id,
    )
    if plan_file is not None:
        from anydpo.data.write import whole_file

        with whole_file(plan_file) as file:
            file.write(json.dumps(document.model_dump(mode="json"), indent=1).encode())
    if as_json:
        output.emit(document)
    else:
        _show_plan(document, len(prepared.train), prepared.validation)
    if not plan.ok:
        raise typer.Exit(2)


def quote(job: Any, places: Places = None, as_json: JSON = False) -> None:
    """Say what the job would cost at each place, before anything is paid."""
    from anydpo.cli.documents import Quoted
    from anydpo.spend import quote as ask

    found = ask(job, (places or "local").split(","))
    known = [price for price in found.values() if price is not None]
    total = sum(price.cost.amount for price in known) if len(known) == len(found) else None
    if as_json:
        output.emit(Quoted(quotes=found, total_usd=total))
        return
    rows = [(place, *_price(price)) for place, price in found.items()]
    output.table(("place", "price", "tokens", "time", "basis", "assumes"), rows)


def _price(price: Any) -> tuple[str, ...]:
    if price is None:
        return "unknown", "", "", "", "this place names no price before the job runs"
    cost = price.cost
    tokens = f"{price.tokens:,}" if price.tokens is not None else ""
    time = f"about {output.duration(price.seconds)}" if price.seconds is not None else ""
    return f"{cost.amount:.2f} {cost.currency}", tokens, time, cost.basis, "; ".join(price.assumptions)


def _show_plan(document: Any, train: int, validation: Any) -> None:
    held_out = f", {len(validation):,} held out" if validation is not None else ""
    output.out(f"{document.place}: {document.route_reason}")
    output.out(f"data: {train:,} pairs{held_out}")
    if template := document.effective.get("chat_template"):
        output.out(f"chat template: {template}")
    for request in document.requests:
        output.out(f"{request.method} {request.url}")
        for line in json.dumps(request.body, indent=2, ensure_ascii=False).splitlines():
            output.out(f"  {line}")
    if document.quote is not None and document.quote.cost.amount:
        output.out(f"price: about {document.quote.cost.amount:.2f} {document.quote.cost.currency}")
    for warning in document.warnings:
        output.say(f"note: {warning}")
    for name in document.ignored:
        output.say(f"ignored: {name}")
    for problem in document.problems:
        hint = f" ({problem.hint})" if problem.hint else ""
        output.say(f"problem: {problem.field}: {problem.message}{hint}")
    output.say("ready" if document.ok else "not ready: see the problems above")


def providers(
    model: Annotated[
        str | None, typer.Option("--model", metavar="X", help="Show only where this model can be trained.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Show what each installed place can do, or where a model can be trained and what it is called there."""
    from anydpo.catalogue import providers as known

    if model is not None:
        _offers(model, as_json=as_json)
        return
    found = known()
    if as_json:
        from anydpo.cli.documents import Places as Document

        output.emit(Document(providers=found))
        return
    columns = ("place", "what", "losses", "adapters", "weights", "cost", "models")
    rows = [
        (
            *(place, can.about, len(can.losses), " ".join(can.adapters)),
            "yes" if can.weights else "no",
            "free" if can.free else "billed",
            can.models,
        )
        for place, can in found.items()
    ]
    output.table(columns, rows)
    output.say("each loss and field: anydpo providers --json; where a model can be trained: anydpo providers --model X")


def _offers(model: str, *, as_json: bool) -> None:
    from anydpo.catalogue import providers as known
    from anydpo.cli.documents import Offered

    found = known(model)
    if as_json:
        output.emit(Offered(model=model, offers=found))
        return
    columns = ("place", "called", "adapters", "tokens", "until", "accept first", "says who")
    rows = [
        (
            *(place, offer.id, " ".join(offer.adapters), offer.context or ""),
            f"{offer.retires}{' (over)' if offer.ended else ''}" if offer.retires else "",
            *(offer.gate or "", offer.source + (f" ({offer.as_of})" if offer.as_of else "")),
        )
        for place, offer in found.items()
    ]
    output.table(columns, rows)
    if not found:
        output.say(f"no source that is known here says that a place has {model!r}; the place itself decides")
