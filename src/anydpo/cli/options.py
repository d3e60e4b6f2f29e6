"""The flags by which every command that takes a job is told of it: a job file, flags of the same names, or both."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from anydpo.errors import JobInvalid, Problem

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Place = Annotated[
    str | None, typer.Option("--place", "-p", metavar="PLACE", help="Where: a provider, or provider/route. [local]")
]
Places = Annotated[
    str | None,
    typer.Option("--place", "-p", metavar="PLACE,…", help="Where: providers, or provider/route. [local]"),
]


def _flags(
    job: Annotated[
        Path | None, typer.Argument(metavar="JOB", help="A job file (TOML), or a plan that `check -o` wrote.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="What to train: tiny, a folder, a hub id …")] = None,
    data: Annotated[list[str] | None, typer.Option(help="Preference data; may be given again.")] = None,
    validation: Annotated[str | None, typer.Option(help="A share such as 0.1, or a file.")] = None,
    beta: Annotated[float | None, typer.Option(help="Pull to the reference.")] = None,
    loss_type: Annotated[list[str] | None, typer.Option(help="A loss; given again, they are summed.")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    max_steps: Annotated[int | None, typer.Option()] = None,
    learning_rate: Annotated[str | None, typer.Option(help="Absolute, or auto.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per optimiser step.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a pair.")] = None,
    adapter: Annotated[str | None, typer.Option(help="lora or full.")] = None,
    lora_r: Annotated[int | None, typer.Option("--lora-r", help="Rank of the adapter.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other field, as in the job file.")
    ] = None,
) -> None:
    """Stand for the flags; only the signature is used."""


FLAGS = inspect.signature(_flags, eval_str=True).parameters


def takes_job(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the job's flags and call it with the `job` they make.

    A parameter `plan` gets the plan that was named instead of a job file; one whose type is a dataclass stands for
    that class's fields, each a flag, so that what several commands take is written once.
    """
    wanted = [p for name, p in inspect.signature(command, eval_str=True).parameters.items() if name != "job"]
    own = [p for p in wanted if p.name != "plan"]
    takes_plan = len(own) < len(wanted)
    groups = {p.name: p.annotation for p in own if _is_group(p)}

    @functools.wraps(command)
    def with_flags(**given: Any) -> Any:
        flags = {name: given.pop(name) for name in FLAGS}
        plan = _plan(flags["job"]) if flags["job"] is not None and flags["job"].suffix == ".json" else None
        if takes_plan:
            given["plan"] = plan
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
        return command(job=_job(flags, plan), **given)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*FLAGS.values(), *_each_flag(own))]
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_flags


def _is_group(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter.annotation, type) and dataclasses.is_dataclass(parameter.annotation)


def _each_flag(parameters: Iterable[inspect.Parameter]) -> Iterator[inspect.Parameter]:
    for parameter in parameters:
        if _is_group(parameter):
            yield from inspect.signature(parameter.annotation, eval_str=True).parameters.values()
        else:
            yield parameter


def _plan(path: Path) -> dict[str, Any]:
    """Return a plan that `check -o` wrote."""
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise JobInvalid(f"{path}: {exc}", hint="`anydpo check JOB -p PLACE -o plan.json` writes one") from None
    if not isinstance(found, dict) or not {"job", "place", "requests", "job_fingerprint"} <= found.keys():
        raise JobInvalid(f"{path}: is no plan", hint="`anydpo check JOB -p PLACE -o plan.json` writes one")
    return found


def _job(flags: dict[str, Any], plan: dict[str, Any] | None) -> Any:
    from anydpo.job import PreferenceJob, read_toml
    from anydpo.settings import merged

    if plan is not None:
        fields = dict(plan["job"])
    else:
        fields = merged(read_toml(flags["job"]) if flags["job"] is not None else {})
    for name in ("model", "epochs", "max_steps", "batch_size", "max_length", "seed", "name"):
        if flags[name] is not None:
            fields[name] = flags[name]
    if flags["data"]:
        fields["data"] = flags["data"][0] if len(flags["data"]) == 1 else flags["data"]
    if flags["validation"] is not None:
        fields["validation"] = number_or_text(flags["validation"])
    if flags["learning_rate"] is not None:
        fields["learning_rate"] = number_or_text(flags["learning_rate"])
    if flags["beta"] is not None:
        _put(fields, "method.beta", flags["beta"])
    if flags["loss_type"]:
        _put(fields, "method.loss_type", flags["loss_type"])
    if flags["adapter"] is not None:
        fields["adapter"] = {} if flags["adapter"] == "lora" else flags["adapter"]
    if flags["lora_r"] is not None:
        _put(fields, "adapter.r", flags["lora_r"])
    for item in flags["set_"] or ():
        key, equals, value = item.partition("=")
        if not equals:
            raise JobInvalid(f"--set {item}: expected KEY=VALUE", hint="--set method.label_smoothing=0.1")
        _put(fields, key.strip(), _toml_value(value.strip()))
    missing = [name for name in ("model", "data") if name not in fields]
    if missing:
        raise JobInvalid.of(
            [Problem(name, "missing_field", "is required", f"give a job file or --{name}") for name in missing]
        )
    return PreferenceJob(**fields)


def _put(fields: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path in nested tables."""
    *tables, last = path.split(".")
    for table in tables:
        inner = fields.get(table)
        fields[table] = inner = dict(inner) if isinstance(inner, dict) else {}
        fields = inner
    fields[last] = value


def _toml_value(text: str) -> Any:
    """Return a value as TOML reads it; a bare word is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def number_or_text(text: str) -> float | str:
    """Return the number that a text is, else the text."""
    try:
        return float(text)
    except ValueError:
        return text
