"""What botocore's own model of SageMaker says of a request and botocore does not check: enums, patterns, maxima."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from anydpo.adapter import PLACEHOLDER
from anydpo.errors import Problem
from anydpo_sagemaker.wire import loader

JAVA = {r"\p{Alnum}": "a-zA-Z0-9", r"\p{L}": r"\w", r"\p{N}": r"\w", r"\p{Z}": r"\s"}  # classes of Java's patterns
SHOWN = 5  # choices named in a problem


def problems(operation: str, body: Mapping[str, Any]) -> list[Problem]:
    """Return everything in a request that the service would refuse; a placeholder fits everywhere."""
    return list(_wrong(_shape(operation), body, operation))


@cache
def _shape(operation: str) -> Any:
    from botocore.model import ServiceModel

    model = ServiceModel(loader().load_service_model("sagemaker", "service-2"), "sagemaker")
    return model.operation_model(operation).input_shape


def _wrong(shape: Any, value: Any, path: str) -> Iterator[Problem]:
    kind = shape.type_name
    if isinstance(value, str) and PLACEHOLDER.fullmatch(value):
        return
    if kind == "structure" and isinstance(value, Mapping):
        for name in sorted(set(shape.required_members) - set(value)):
            yield Problem(f"{path}.{name}", "missing_field", "is required by the service")
        for name, item in value.items():
            if name in shape.members:
                yield from _wrong(shape.members[name], item, f"{path}.{name}")
            else:
                hint = "pip install --upgrade boto3"
                yield Problem(f"{path}.{name}", "unknown_field", "is not known to the installed botocore", hint)
    elif kind == "list" and isinstance(value, list):
        yield from _too_many(shape, len(value), path, "entries")
        for at, item in enumerate(value):
            yield from _wrong(shape.member, item, f"{path}[{at}]")
    elif kind == "map" and isinstance(value, Mapping):
        yield from _too_many(shape, len(value), path, "entries")
        for name, item in value.items():
            yield from _wrong(shape.key, name, f"{path}.{name}")
            yield from _wrong(shape.value, item, f"{path}.{name}")
    elif kind == "string" and isinstance(value, str):
        yield from _text(shape, value, path)
    elif kind in ("integer", "long") and isinstance(value, int) and not isinstance(value, bool):
        low, high = shape.metadata.get("min"), shape.metadata.get("max")
        if (low is not None and value < low) or (high is not None and value > high):
            yield Problem(path, "out_of_range", f"is {value}, the service takes {low} to {high}")
    elif kind != "boolean" or not isinstance(value, bool):
        yield Problem(path, "wrong_type", f"is {value!r:.80}, the service takes a {kind}")


def _text(shape: Any, value: str, path: str) -> Iterator[Problem]:
    yield from _too_many(shape, len(value), path, "characters")
    choices, pattern = shape.enum, shape.metadata.get("pattern")
    if choices and value not in choices:
        import difflib

        near = difflib.get_close_matches(value, choices, n=1)
        told = f"one of {', '.join(choices[:SHOWN])}{' …' if len(choices) > SHOWN else ''}"
        hint = f"did you mean {near[0]}?" if near else None
        yield Problem(path, "not_a_choice", f"is {value!r:.80}, the service takes {told}", hint)
    elif pattern and not re.fullmatch(_python(pattern), value):
        yield Problem(path, "wrong_value", f"is {value!r:.80}, the service takes {pattern}")


def _too_many(shape: Any, size: int, path: str, what: str) -> Iterator[Problem]:
    low, high = shape.metadata.get("min", 0), shape.metadata.get("max")
    if size < low or (high is not None and size > high):
        yield Problem(path, "out_of_range", f"has {size} {what}, the service takes {low} to {high}")


def _python(pattern: str) -> str:
    for java, ours in JAVA.items():
        pattern = pattern.replace(java, ours)
    return pattern
