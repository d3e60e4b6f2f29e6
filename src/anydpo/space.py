"""What a sweep varies: choices or a range for each field of a job, and the job with one set of values in its place."""

from __future__ import annotations

import difflib
import itertools
import json
import tomllib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from anydpo.errors import JobInvalid, Problem
from anydpo.job import ELSEWHERE, IN_ADAPTER, IN_METHOD, SFT, PreferenceJob
from anydpo.provider import Range, Space

NOT_VARIED = {
    "data": "runs on other pairs cannot be compared",
    "validation": "runs measured on other pairs cannot be compared",
    "name": "it changes nothing that is trained",
    "tags": "they change nothing that is trained",
    "allow_ignored": "it changes nothing that is trained",
}
MOST_COMBINATIONS, MOST_CHECKED = 10_000, 500


def parse(given: Mapping[str, Any]) -> Space:
    """Return field → choices or range. Raises `JobInvalid` naming every entry that is none.

    An entry is a list of choices, a `Range`, or the command line's text: `0.05,0.1,0.5`, `1e-6..1e-4:log`.
    """
    problems: list[Problem] = []
    made: Space = {}
    for name, value in given.items():
        try:
            made[field_of(name)] = _varied(value)
        except JobInvalid as exc:
            problems += exc.problems or (Problem(f"space.{name}", "wrong_value", exc.message, exc.hint),)
    if not given:
        problems.append(Problem("space", "missing_field", "nothing varies", "--space beta=0.05,0.1,0.5"))
    if problems:
        raise JobInvalid.of(problems)
    return made


def field_of(name: str) -> str:
    """Return the dotted path of a job's field by its usual name; raises `JobInvalid` with the nearest one."""
    if name.count(".") == 2 and name.startswith("options."):
        return name
    wanted = ELSEWHERE.get(name, name)
    table, _, inner = wanted.rpartition(".")
    inside = {"method": IN_METHOD, "adapter": IN_ADAPTER, "sft": frozenset(SFT.model_fields)}
    if table and inner in inside.get(table, ()):
        return wanted
    if not table and inner in IN_METHOD:
        return f"method.{inner}"
    if not table and inner in IN_ADAPTER:
        return f"adapter.{inner}"
    if inner in NOT_VARIED and not table:
        raise JobInvalid.of([Problem(f"space.{name}", "not_varied", f"{inner} cannot vary: {NOT_VARIED[inner]}")])
    if not table and inner in PreferenceJob.model_fields:
        return inner
    near = difflib.get_close_matches(inner, [*PreferenceJob.model_fields, *IN_METHOD, *IN_ADAPTER], n=1)
    raise JobInvalid.of(
        [Problem(f"space.{name}", "unknown_field", "no such field", f"did you mean {near[0]}?" if near else None)]
    )


def combinations(space: Space) -> list[dict[str, Any]] | None:
    """Return every set of values of a space that has only so many, None of one that is larger."""
    lists = []
    for varied in space.values():
        if isinstance(varied, Range):
            if not varied.whole:
                return None
            lists.append(tuple(range(int(varied.low), int(varied.high) + 1)))
        else:
            lists.append(varied)
    count = 1
    for values in lists:
        count *= len(values)
        if count > MOST_COMBINATIONS:
            return None
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def extremes(space: Space) -> list[dict[str, Any]]:
    """Return the sets of values at the ends of a space: where a job is refused or costs most, it is there."""
    ends = {name: (varied.low, varied.high) if isinstance(varied, Range) else varied for name, varied in space.items()}
    one_at_a_time = [{name: value} for name, values in ends.items() for value in values]
    return [*one_at_a_time, {name: values[-1] for name, values in ends.items()}]


def check(job: PreferenceJob, space: Space) -> None:
    """Raise `JobInvalid` for a value that the job refuses whatever the other fields are."""
    every = (combinations(space) or [])[:MOST_CHECKED]
    for values in extremes(space):
        try:
            with_values(job, values)
        except JobInvalid:
            with_it = [each for each in every if all(each[name] == value for name, value in values.items())]
            if not any(_is_valid(job, each) for each in with_it) and len(values) == 1:
                raise


def _is_valid(job: PreferenceJob, values: Mapping[str, Any]) -> bool:
    try:
        with_values(job, values)
    except JobInvalid:
        return False
    return True


def with_values(job: PreferenceJob, values: Mapping[str, Any]) -> PreferenceJob:
    """Return the job with these values in place, checked like a new one."""
    fields = {name: getattr(job, name) for name in job.model_fields_set}
    for path, value in values.items():
        top, _, inner = path.partition(".")
        if not inner:
            fields[top] = value
        elif top == "options":
            place, _, option = inner.partition(".")
            tables = dict(fields.get("options", {}))
            fields["options"] = {**tables, place: {**tables.get(place, {}), option: value}}
        elif fields.get(top) == "full":
            raise JobInvalid.of(
                [Problem(f"space.{path}", "no_adapter", 'varies an adapter, and adapter is "full"', "--adapter lora")]
            )
        else:
            fields[top] = {**_given(fields.get(top)), inner: value}
    return PreferenceJob(**fields)


def told(values: Mapping[str, Any]) -> str:
    """Return a set of values as people read it."""
    return ", ".join(f"{name.rpartition('.')[2]} {_short(value)}" for name, value in values.items())


def plain(space: Space) -> dict[str, Any]:
    """Return a space as JSON holds it."""
    return {name: varied.model_dump() if isinstance(varied, Range) else list(varied) for name, varied in space.items()}


def _varied(value: Any) -> tuple[Any, ...] | Range:
    if isinstance(value, Range):
        made: tuple[Any, ...] | Range = value
    elif isinstance(value, str):
        made = _of_text(value)
    elif isinstance(value, Mapping) and {"low", "high"} <= value.keys():
        made = Range(**value)
    elif isinstance(value, (list, tuple)):
        made = tuple(list(choice) if isinstance(choice, tuple) else choice for choice in value)  # as JSON keeps them
    else:
        raise JobInvalid(f"is {value!r:.100}", hint="a list of choices, or Range(low, high)")
    if isinstance(made, Range):
        if not made.low < made.high or (made.log and made.low <= 0):
            raise JobInvalid(f"is no range: {made.low} to {made.high}", hint="LOW..HIGH, above 0 with :log")
    elif not made or len({json.dumps(choice, default=str) for choice in made}) < len(made):
        raise JobInvalid("names no choice, or one twice", hint="V1,V2")
    return made


def _of_text(text: str) -> tuple[Any, ...] | Range:
    ends, colon, how = text.partition(":")
    low, dots, high = ends.partition("..")
    if not dots:
        return tuple(_value(part.strip()) for part in text.split(",") if part.strip())
    numbers = [_value(low.strip()), _value(high.strip())]
    if (colon and how != "log") or not all(isinstance(n, (int, float)) and n is not True for n in numbers):
        raise JobInvalid(f"is no range: {text!r}", hint="LOW..HIGH or LOW..HIGH:log, such as 1e-6..1e-4:log")
    return Range(low=numbers[0], high=numbers[1], log=bool(colon))


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _given(part: Any) -> dict[str, Any]:
    if isinstance(part, BaseModel):
        return {name: getattr(part, name) for name in part.model_fields_set}
    return dict(part) if isinstance(part, Mapping) else {}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
