"""`doctor` and `provider new`: whether all is well here, and how to add a place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anydpo.cli import output
from anydpo.cli.options import JSON

if TYPE_CHECKING:
    from anydpo.cli.documents import JournalHealth, ProviderHealth
    from anydpo.retirement import Retirement

new = typer.Typer(no_args_is_help=True, help="Write a provider of your own.")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(doctor)
    app.add_typer(new, name="provider")
    new.command(name="new")(provider_new)


def doctor(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Put a damaged journal aside, keep what can be read, find the rest again.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Say whether journal, providers and credentials are in order, and where each setting comes from."""
    from anydpo import __version__, settings
    from anydpo.cli.documents import Diagnosed, SettingShown
    from anydpo.home import home
    from anydpo.secrets import masked

    rebuilt = _rebuild() if rebuild else None
    journal, providers = _journal(), _providers()
    known = tuple(
        SettingShown(name=one.name, value=masked(one.value, one.name), file=one.file, hidden_by=one.hidden_by)
        for one in settings.known()
    )
    document = Diagnosed(
        ok=journal.ok and all(health.ok for health in providers.values()),
        home=str(home()),
        versions=_versions(__version__),
        journal=journal,
        providers=providers,
        settings=known,
        retiring=_retiring() if journal.ok else (),
        rebuilt=rebuilt,
    )
    if as_json:
        output.emit(document)
    else:
        _show(document)
    if not journal.ok:
        raise typer.Exit(6)


def provider_new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the place is called, such as acme.")],
    folder: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="[anydpo-NAME]")] = None,
    as_json: JSON = False,
) -> None:
    """Write a provider package that passes the conformance suite, to be filled with your API's calls."""
    from anydpo.testing.template import write_provider

    files = write_provider(name, folder or Path(f"anydpo-{name}"))
    if as_json:
        from anydpo.cli.documents import WrittenProvider

        output.emit(WrittenProvider(files=tuple(str(path) for path in files)))
        return
    for path in files:
        output.out(str(path))
    where = folder or f"anydpo-{name}"
    output.say(f"next: pip install -e {where} pytest; pytest {where}; then put your API into client.py")


def _journal() -> JournalHealth:
    from anydpo.cli.documents import JournalHealth
    from anydpo.errors import JournalError
    from anydpo.home import home
    from anydpo.journal import Journal

    path = home() / "journal.db"
    if not home().exists():
        return JournalHealth(path=str(path), ok=True, runs=0, detail="nothing was recorded here yet")
    try:
        journal = Journal(home())
        runs = journal.runs()
        for row in runs:
            journal.attempts(row.id)
    except JournalError as exc:
        return JournalHealth(path=str(path), ok=False, runs=None, detail=f"{exc.message} ({exc.hint})")
    live = sum(not row.state.done for row in runs)
    return JournalHealth(path=str(path), ok=True, runs=len(runs), detail=f"{len(runs)} runs, {live} live")


def _retiring() -> tuple[Retirement, ...]:
    from anydpo.home import home
    from anydpo.journal import journal_of
    from anydpo.retirement import retiring

    return retiring(journal_of(home())) if home().exists() else ()


def _providers() -> dict[str, ProviderHealth]:
    from anydpo.cli.documents import ProviderHealth
    from anydpo.errors import AnyDPOError
    from anydpo.provider import CanDiagnose
    from anydpo.registry import installed, provider

    found: dict[str, ProviderHealth] = {}
    for name in installed():
        try:
            one = provider(name)
        except AnyDPOError as exc:
            found[name] = ProviderHealth(ok=False, detail=f"{exc.message} ({exc.hint})")
            continue
        checks = one.diagnose() if isinstance(one, CanDiagnose) else ()
        wrong = [check.what for check in checks if check.ok is False]
        found[name] = ProviderHealth(
            ok=not wrong, detail=f"not in order: {', '.join(wrong)}" if wrong else "in order", checks=checks
        )
    return found


def _rebuild() -> dict[str, Any]:
    from anydpo.home import home
    from anydpo.rebuild import rebuild

    return rebuild(home())


def _versions(ours: str) -> dict[str, str]:
    import platform

    return {"anydpo": ours, "python": platform.python_version(), "system": platform.platform(terse=True)}


def _show(document: Any) -> None:
    def mark(ok: bool | None) -> str:
        return "ok" if ok else "unknown" if ok is None else "WRONG"

    output.out(" ".join(f"{name} {version}" for name, version in document.versions.items()))
    output.out(f"home: {document.home}")
    if document.rebuilt:
        output.out("rebuilt: " + ", ".join(f"{name} {value}" for name, value in document.rebuilt.items()))
    output.out(f"journal: {mark(document.journal.ok)}: {document.journal.detail}")
    for name, health in document.providers.items():
        output.out(f"{name}: {mark(health.ok)}: {health.detail}")
        for check in health.checks:
            output.out(f"  {check.what}: {mark(check.ok)}: {check.detail}")
    if document.retiring:
        output.out("runs whose model or service ends within 90 days:")
        columns = ("run", "place", "model", "what ends", "last day", "days", "what to do")
        shown = ("run", "place", "model", "what", "date", "days_left", "advice")
        output.table(columns, [[getattr(one, name) for name in shown] for one in document.retiring])
    for one in document.settings:
        later = f" (not in force: {one.hidden_by} says otherwise)" if one.hidden_by else ""
        output.out(f"setting {one.name} = {one.value!r} from {one.file}{later}")
