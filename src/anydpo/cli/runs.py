"""`run` and what follows it: `show`, `logs`, `list`, `sample`, `fetch`, `resume`, `cancel`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydpo.cli import output
from anydpo.cli.options import JSON, Place, takes_job

if TYPE_CHECKING:
    from anydpo.handle import Run
    from anydpo.result import Result

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it, or its name.")]
RunIds = Annotated[list[str], typer.Argument(metavar="RUN", help="Runs by id, its beginning, or name.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(takes_job(run))
    app.command()(show)
    app.command()(logs)
    app.command(name="list")(list_)
    app.command()(sample)
    app.command()(fetch)
    app.command()(resume)
    app.command()(cancel)


def run(
    job: Any,
    place: Place = "local",
    again: Annotated[bool, typer.Option("--again", help="A new attempt of a run that has ended.")] = False,
    allow_ignored: Annotated[str | None, typer.Option(metavar="F,…", help="Fields that a place may ignore.")] = None,
    as_json: JSON = False,
) -> None:
    """Send the job, follow it to its end, and print the result; the same job again is the same run."""
    from anydpo.handle import submit

    if allow_ignored:
        job = job.replace(allow_ignored=(*job.allow_ignored, *allow_ignored.split(",")))
    places = place.split(",")
    made = [submit(job, one, again=again) for one in places]
    results = [_follow(one) for one in made]
    if as_json:
        output.emit(results[0].to_dict() if len(results) == 1 else {"runs": [r.to_dict() for r in results]})
    else:
        for result in results:
            show_result(result)
    _leave(results)


def show(run: RunId, as_json: JSON = False) -> None:
    """Print a run's result as far as it is known."""
    from anydpo.handle import Run

    found = Run(run)
    found.refresh()
    result = found.result()
    if as_json:
        output.emit(result.to_dict())
    else:
        show_result(result)


def logs(
    run: RunId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    as_json: JSON = False,
) -> None:
    """Print what the provider's log says; with --json every event, one a line."""
    from anydpo.handle import Run

    found = Run(run)
    for event in found.watch() if follow else found.events():
        if as_json:
            output.emit_line(event.model_dump(mode="json"))
        elif event.kind == "log":
            output.out(event.text)


def list_(as_json: JSON = False) -> None:
    """Show the runs of this home folder, the newest first."""
    from anydpo.home import home
    from anydpo.journal import Journal

    rows = Journal(home()).runs()
    if as_json:
        kept = ("id", "name", "place", "created")
        output.emit({"runs": [{**{k: getattr(r, k) for k in kept}, "state": r.state.value} for r in rows]})
        return
    when = [time.strftime("%Y-%m-%d %H:%M", time.localtime(row.created)) for row in rows]
    output.table(
        ("run", "state", "place", "created", "name"),
        [(row.id, row.state, row.place, at, row.name or "") for row, at in zip(rows, when, strict=True)],
    )


def sample(
    runs: RunIds,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="May be given again.")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help='Lines of text, or JSON lines with "prompt".')
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a completion at most.")] = 256,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same luck for every model.")] = 0,
    as_json: JSON = False,
) -> None:
    """Write completions by the model before training and by the one after it, side by side."""
    from anydpo.errors import Invalid
    from anydpo.handle import Run

    texts = [*(prompt or ()), *(_prompts_in(prompts) if prompts else ())]
    if not texts:
        raise Invalid("no prompt", hint="--prompt TEXT or --prompts FILE")
    found = {name: Run(name) for name in runs}
    made = {
        run.id: run.sample(texts, max_tokens=max_tokens, temperature=temperature, seed=seed) for run in found.values()
    }
    if as_json:
        output.emit({"runs": [{"run": r, "samples": [s.model_dump() for s in rows]} for r, rows in made.items()]})
        return
    for name, rows in made.items():
        for row in rows:
            output.out(f"[{name}] {row.prompt}")
            output.out(f"  before: {row.base}")
            output.out(f"  after:  {row.tuned}")


def fetch(
    run: RunId,
    folder: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="A new folder.")],
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="The weights after this step.")] = None,
    as_json: JSON = False,
) -> None:
    """Bring a run's weights into a folder that transformers and peft load."""
    from anydpo.handle import Run

    artifacts = Run(run).fetch(folder, checkpoint)
    if as_json:
        output.emit({"artifacts": [artifact.model_dump() for artifact in artifacts]})
        return
    for artifact in artifacts:
        output.out(f"{artifact.kind}: {artifact.path}")


def resume(run: RunId, as_json: JSON = False) -> None:
    """Let an interrupted run go on from its last checkpoint, and follow it."""
    from anydpo.handle import Run

    found = Run(run)
    found.resume()
    result = _follow(found)
    if as_json:
        output.emit(result.to_dict())
    else:
        show_result(result)
    _leave([result])


def cancel(run: RunId, as_json: JSON = False) -> None:
    """Ask a run to stop; its last checkpoint stays."""
    from anydpo.handle import Run

    found = Run(run)
    found.cancel()
    state = found.refresh()
    if as_json:
        output.emit({"run": found.id, "state": state.value})
    else:
        output.out(f"{found.id}: asked to stop ({state})")


def show_result(result: Result) -> None:
    """Print a result for people."""
    name = f" {result.name}" if result.name else ""
    output.out(f"run {result.run}{name} on {result.place}: {result.state}")
    if result.error is not None:
        output.out(f"  error: {result.error.message}")
        if result.error.hint:
            output.out(f"  hint:  {result.error.hint.replace('RUN', result.run)}")
    data, usage = result.data, result.usage
    skipped = f", {sum(data.skipped.values())} rows skipped" if data.skipped else ""
    output.out(f"  data:  {data.train_pairs} pairs, {data.validation_pairs or 0} held out{skipped}")
    if usage.steps is not None:
        took = f" in {result.timing.train_seconds:.0f} s" if result.timing.train_seconds else ""
        output.out(f"  steps: {usage.steps}{took}")
    for prefix, what in (("eval", "held out"), ("train", "last step")):
        final = result.metrics.final
        shown = [
            f"{label} {output.number(value)}"
            for label, key in (("loss", "loss"), ("accuracy", "rewards/accuracies"), ("margin", "rewards/margins"))
            if (value := final.get(f"{prefix}/{key}")) is not None
        ]
        if shown:
            output.out(f"  {what}: {', '.join(shown)}")
    if result.model.tuned:
        output.out(f"  model: {result.model.tuned}")
    for warning in result.warnings:
        output.out(f"  note ({warning.code}): {warning.message}")


def _follow(run: Run) -> Result:
    from anydpo.cli.progress import follow

    try:
        follow(run)
    except KeyboardInterrupt:
        output.say(f"\nrun {run.id} goes on without this terminal.")
        output.say(f"  follow it: anydpo logs {run.id} -f    stop it: anydpo cancel {run.id}")
        raise
    return run.result()


def _leave(results: list[Result]) -> None:
    from anydpo.result import State

    if any(result.state is not State.SUCCEEDED for result in results):
        raise typer.Exit(1)


def _prompts_in(path: Path) -> list[str]:
    texts = []
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("{"):
            found = json.loads(line)["prompt"]
            texts.append(found if isinstance(found, str) else found[-1]["content"])
        elif line.strip():
            texts.append(line)
    return texts
