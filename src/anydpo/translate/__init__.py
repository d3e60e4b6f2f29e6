"""Other tools' configurations as jobs: every setting becomes a field of ours, or a remark on what became of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from anydpo.errors import AnyDPOError, Invalid, JobInvalid
from anydpo.job import PreferenceJob
from anydpo.jobfile import job_text
from anydpo.provider import CanImport
from anydpo.registry import installed, provider
from anydpo.translate.reading import Remark, Theirs, Translated

Reader: TypeAlias = "Callable[[Mapping[str, Any], Path], Translated]"

__all__ = ["Remark", "Theirs", "Translated", "from_file", "job_file"]


def from_file(path: Path) -> Translated:
    """Return the job that a file of another tool describes. Raises `Invalid` for a file of none that is known."""
    config = _parsed(path)
    for fits, reader in _readers():
        if fits(config):
            return _checked(_read(reader, config, path))
    for name in installed():
        try:
            place = provider(name)
        except AnyDPOError:
            continue
        if isinstance(place, CanImport) and (found := place.described(config)) is not None:
            remarks = tuple(Remark("lost", field, None, why) for field, why in found.lost.items())
            return _checked(Translated(f"a create body of {name}", dict(found.job), remarks, {}))
    raise Invalid(
        f"{path}: is no configuration that is known here",
        hint="TRL, LLaMA-Factory (stage: dpo), axolotl (rl: dpo), or the body of a create request",
    )


def job_file(made: Translated, source: str) -> str:
    """Return the text of the job file, with what is the user's to fill in marked."""
    yours = {remark.ours or remark.field: f"yours to fill in: {remark.message}" for remark in made.of("yours")}
    head = f"from {source}, {made.tool}; what has no equivalent was listed when this was written"
    return job_text(made.job, {**made.remarks_beside, **yours}, head)


def _readers() -> list[tuple[Callable[[Mapping[str, Any]], bool], Reader]]:
    from anydpo.translate import axolotl, llamafactory, trl

    return [(module.fits, module.read) for module in (axolotl, llamafactory, trl)]


def _read(reader: Reader, config: Mapping[str, Any], path: Path) -> Translated:
    try:
        return reader(config, path.parent)
    except (ValueError, TypeError, AttributeError) as exc:
        if isinstance(exc, AnyDPOError):
            raise
        raise Invalid(f"{path}: a setting is not of the kind that its tool takes: {exc}") from None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        found = json.loads(text) if path.suffix == ".json" else _yaml(text, path)
    except (OSError, ValueError) as exc:
        raise Invalid(f"{path}: {getattr(exc, 'strerror', None) or exc}") from None
    if path.suffix == ".toml":
        raise Invalid(f"{path}: is a job file already, or no configuration", hint=f"anydpo check {path}")
    if not isinstance(found, dict):
        raise Invalid(f"{path}: holds no settings")
    return {str(name): _number(value) for name, value in found.items()}


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise Invalid(f"{path}: reading YAML needs PyYAML", hint="pip install 'anydpo[yaml]'") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ValueError(str(exc)) from None


def _number(value: Any) -> Any:
    """Return the number that a text such as `1e-6` is, which YAML 1.1 takes for a word."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def _checked(made: Translated) -> Translated:
    """Return the translation with what our rules refuse taken out of the job and told as lost."""
    made = _named(made)
    for _ in range(len(made.job) + 10):
        try:
            PreferenceJob(**made.job)
        except JobInvalid as exc:
            refused = [problem for problem in exc.problems if _has(made.job, problem.field)]
            if not refused:
                raise
            for problem in refused:
                value = _taken_out(made.job, problem.field)
                said = problem.message + (f" ({problem.hint})" if problem.hint else "")
                made = made.with_remark(Remark("lost", problem.field, value, said))
        else:
            break
    return made


def _named(made: Translated) -> Translated:
    """Return the translation with a place for the model and the data, which not every configuration names."""
    for name, stands in (("model", "MODEL"), ("data", "prefs.jsonl")):
        if name not in made.job:
            job = {name: stands, **made.job} if name == "model" else {**made.job, name: stands}
            made = Translated(made.tool, job, made.remarks, made.remarks_beside)
            if not any(remark.ours == name for remark in made.of("yours")):
                made = made.with_remark(Remark("yours", name, None, f"the configuration names no {name}", name))
    order = [name for name in ("name", "model", "ref_model", "data", "validation") if name in made.job]
    job = {name: made.job[name] for name in (*order, *(name for name in made.job if name not in order))}
    return Translated(made.tool, job, made.remarks, made.remarks_beside)


def _has(job: Mapping[str, Any], path: str) -> bool:
    top, _, inner = path.partition(".")
    return inner in job[top] if inner and isinstance(job.get(top), Mapping) else top in job and not inner


def _taken_out(job: dict[str, Any], path: str) -> Any:
    top, _, inner = path.partition(".")
    return job[top].pop(inner) if inner else job.pop(top)
