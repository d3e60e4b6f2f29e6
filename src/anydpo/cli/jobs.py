"""`init`, `check`, `providers`: before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from anydpo.cli import output
from anydpo.cli.options import JSON, Place, takes_job

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
epochs = 10
learning_rate = 3e-3
"""


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(init)
    app.command()(takes_job(check))
    app.command()(providers)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where; default: here.")] = Path(),
    as_json: JSON = False,
) -> None:
    """Write a job file and 300 sample pairs."""
    from anydpo import samples
    from anydpo.data.write import json_line, whole_file
    from anydpo.errors import Invalid

    files = (folder / "job.toml", folder / "support_tone.jsonl")
    if there := [str(path) for path in files if path.exists()]:
        raise Invalid(f"{', '.join(there)}: is there already", hint="init writes into another folder: anydpo init DIR")
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(files[1]) as file:
        for row in samples.pairs(300):
            file.write(json_line(row))
    with whole_file(files[0]) as file:
        file.write(JOB_FILE.encode())
    if as_json:
        output.emit({"job": str(files[0]), "data": str(files[1]), "pairs": 300})
        return
    output.out(f"wrote {files[0]} and {files[1]} (300 pairs)")
    output.say(f"next: anydpo lint {files[1]}; anydpo run {files[0]}")


def check(
    job: Any,
    place: Place = "local",
    plan_file: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Also write the plan there.")] = None,
    as_json: JSON = False,
) -> None:
    """Say everything that can be known before sending, and show the exact requests."""
    from anydpo.plan import prepare

    prepared = prepare(job, place)
    plan = prepared.plan
    shown = plan.model_dump(mode="json")
    wanted = ("place", "route_reason", "problems", "warnings", "ignored", "requests")
    document = {"ok": plan.ok, **{key: shown[key] for key in wanted}, "quote": None}
    document |= {"job_fingerprint": prepared.fingerprint, "run": prepared.run_id, "effective": shown["effective"]}
    if plan_file is not None:
        from anydpo.data.write import whole_file

        with whole_file(plan_file) as file:
            file.write(json.dumps({"schema": 1, **document}, indent=1).encode())
    if as_json:
        output.emit(document)
    else:
        _show_plan(document, len(prepared.train), prepared.validation)
    if not plan.ok:
        raise typer.Exit(2)


def _show_plan(document: dict[str, Any], train: int, validation: Any) -> None:
    held_out = f", {len(validation):,} held out" if validation is not None else ""
    output.out(f"{document['place']}: {document['route_reason']}")
    output.out(f"data: {train:,} pairs{held_out}")
    output.out(f"chat template: {document['effective'].get('chat_template', '')}")
    for request in document["requests"]:
        output.out(f"{request['method']} {request['url']}")
        for line in json.dumps(request["body"], indent=2, ensure_ascii=False).splitlines():
            output.out(f"  {line}")
    for warning in document["warnings"]:
        output.say(f"note: {warning}")
    for name in document["ignored"]:
        output.say(f"ignored: {name}")
    for problem in document["problems"]:
        hint = f" ({problem['hint']})" if problem["hint"] else ""
        output.say(f"problem: {problem['field']}: {problem['message']}{hint}")
    output.say("ready" if document["ok"] else "not ready: see the problems above")


def providers(as_json: JSON = False) -> None:
    """Show what each installed place can do."""
    from anydpo.catalogue import providers as known

    found = known()
    if as_json:
        output.emit({"providers": {place: can.model_dump(mode="json") for place, can in found.items()}})
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
    output.say("each loss and field: anydpo providers --json")
