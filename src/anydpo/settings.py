"""Settings that stand outside a job: `$ANYDPO_HOME/config.toml`, then `./anydpo.toml`, then the job itself.

`[defaults]` holds fields of a job, `[options.PROVIDER]` what only that provider has (role, bucket, workspace …). What a
job says wins; paths begin at the folder of the file they stand in.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydpo.errors import JobInvalid
from anydpo.home import home
from anydpo.job import DPO, PreferenceJob, with_paths_from

TABLES = ("defaults", "options")


@dataclass(frozen=True)
class Setting:
    """One value with the file it comes from; `hidden_by` names the file that says otherwise later."""

    name: str
    value: Any
    file: str
    hidden_by: str | None = None


def files() -> tuple[Path, ...]:
    """Return the files that are looked at, the weakest first."""
    return (home() / "config.toml", Path("anydpo.toml"))


def merged(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a job with what the settings say where it says nothing. Raises `JobInvalid`."""
    made: dict[str, Any] = {}
    for layer in (*(_read(path) for path in files()), fields):
        for name, value in layer.items():
            made[name] = _over(made.get(name), value) if name in ("method", "options") else value
    return made


def applied(job: PreferenceJob) -> PreferenceJob:
    """Return the job as the settings complete it; the same job where they add nothing."""
    if not any(path.is_file() for path in files()):
        return job
    fields = {name: getattr(job, name) for name in job.model_fields_set}
    if isinstance(job.method, DPO) and "method" in fields:
        fields["method"] = {name: getattr(job.method, name) for name in job.method.model_fields_set}
    return PreferenceJob(**merged(fields))


def known() -> list[Setting]:
    """Return every setting with its file, for `doctor`."""
    found: dict[str, list[Setting]] = {}
    for path in files():
        for name, value in _flat(_read(path)):
            found.setdefault(name, []).append(Setting(name, value, str(path)))
    told = []
    for layers in found.values():
        for at, one in enumerate(layers):
            later = layers[-1].file if at < len(layers) - 1 else None
            told.append(Setting(one.name, one.value, one.file, later))
    return told


def _read(path: Path) -> dict[str, Any]:
    """Return the job fields that a settings file gives."""
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise JobInvalid(f"{path}: {exc}") from None
    for name in tables:
        if name not in TABLES:
            near = difflib.get_close_matches(name, TABLES, n=1)
            hint = f"did you mean [{near[0]}]?" if near else "fields of a job stand under [defaults]"
            raise JobInvalid(f"{path}: no such table [{name}]", hint=hint)
    fields = with_paths_from(path.parent, tables.get("defaults", {}))
    return _over(fields, {"options": tables["options"]}) if "options" in tables else fields


def _over(below: Any, above: Any) -> Any:
    """Lay one table over another, table by table; anything else replaces."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {**below, **{name: _over(below.get(name), value) for name, value in above.items()}}


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
