"""What follows a submission: `watch wait list show logs sample fetch resume cancel`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from anydpo.cli import output
from anydpo.cli.following import Track, follow_all, leave, show_results, sinks_of
from anydpo.cli.options import JSON

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it, or its name.")]
RunIds = Annotated[list[str], typer.Argument(metavar="RUN", help="Runs by id, its beginning, name, or group.")]
MaybeRunIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN", help="Runs by id, name or group; default: all live ones."),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(watch)
    app.command()(wait)
    app.command(name="list")(list_)
    app.command()(show)
    app.command()(logs)
    app.command()(sample)
    app.command()(fetch)
    app.command()(resume)
    app.command()(cancel)


def watch(runs: MaybeRunIds = None, track: Track = None, as_json: JSON = False) -> None:
    """Follow runs from their beginning to their end, and take the steps that are due; with --json one event a line."""
    from anydpo.handle import find
    from anydpo.handle import runs as all_runs

    sinks = sinks_of(track)
    found = find(runs) if runs else [one for one in all_runs() if not one.state.done]
    found = [one.track(*sinks) for one in found]
    if not found:
        output.say("no run is live; `anydpo list` shows all")
        return
    results = follow_all(found, as_lines=as_json)
    if not as_json:
        show_results(results, as_json=False)
    leave(results, found)


def wait(
    runs: RunIds,
    timeout: Annotated[float | None, typer.Option(metavar="S", help="Give up after so many seconds.")] = None,
    track: Track = None,
    as_json: JSON = False,
) -> None:
    """Wait without a word until the runs have ended, and print their results."""
    from anydpo.errors import RunFailed
    from anydpo.handle import find

    sinks = sinks_of(track)
    found = [one.track(*sinks) for one in find(runs)]
    try:
        results = [one.wait(timeout) for one in found]
    except TimeoutError as exc:
        raise RunFailed(str(exc), hint=f"anydpo wait {' '.join(runs)}") from None
    show_results(results, as_json=as_json)
    leave(results)


def show(run: RunId, as_json: JSON = False) -> None:
    """Print a run's result as far as it is known."""
    from anydpo.handle import Run

    found = Run(run)
    found.refresh()
    show_results([found.result()], as_json=as_json)


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
            from anydpo.cli.documents import EventLine

            output.emit_line(EventLine(run=found.id, **event.model_dump()))
        elif event.kind == "log":
            output.out(event.text)


def list_(as_json: JSON = False) -> None:
    """Show the runs of this home folder, the newest first."""
    from anydpo.home import home
    from anydpo.journal import journal_of

    rows = journal_of(home()).runs()
    if as_json:
        from anydpo.cli.documents import Listed, ListedRun

        kept = ("name", "place", "state", "created", "group")
        listed = (ListedRun(run=row.id, **{name: getattr(row, name) for name in kept}) for row in rows)
        output.emit(Listed(runs=tuple(listed)))
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
        from anydpo.cli.documents import Sampled, SampledRun

        output.emit(Sampled(runs=tuple(SampledRun(run=run, samples=rows) for run, rows in made.items())))
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
    merged: Annotated[bool, typer.Option("--merged", help="A whole model: the adapter put into its base.")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="The adapter alone, as it was trained.")] = False,
    as_json: JSON = False,
) -> None:
    """Bring a run's weights into a folder that transformers and peft load."""
    from anydpo.errors import Invalid
    from anydpo.handle import Run

    if merged and adapter:
        raise Invalid("--merged and --adapter are two forms of the same weights", hint="give one of them")
    artifacts = Run(run).fetch(folder, checkpoint, "merged" if merged else "adapter" if adapter else None)
    if as_json:
        from anydpo.cli.documents import Fetched

        output.emit(Fetched(artifacts=artifacts))
        return
    for artifact in artifacts:
        output.out(f"{artifact.kind}: {artifact.path}")


def resume(run: RunId, as_json: JSON = False) -> None:
    """Let an interrupted run go on from its last checkpoint, and follow it."""
    from anydpo.handle import Run

    found = Run(run)
    found.resume()
    results = follow_all([found])
    show_results(results, as_json=as_json)
    leave(results)


def cancel(run: RunId, as_json: JSON = False) -> None:
    """Ask a run to stop; its last checkpoint stays."""
    from anydpo.handle import Run

    found = Run(run)
    found.cancel()
    state = found.refresh()
    if as_json:
        from anydpo.cli.documents import Cancelled

        output.emit(Cancelled(run=found.id, state=state))
    else:
        output.out(f"{found.id}: asked to stop ({state})")


def _prompts_in(path: Path) -> list[str]:
    texts = []
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("{"):
            found = json.loads(line)["prompt"]
            texts.append(found if isinstance(found, str) else found[-1]["content"])
        elif line.strip():
            texts.append(line)
    return texts
