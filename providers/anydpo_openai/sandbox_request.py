"""What the emulator takes as a create body: `CreateFineTuningJobRequest` of the specification of 2026-08-21."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anydpo.sandbox.training import Task
from anydpo.sandbox.wire import Refusal

FIELDS = frozenset(
    "model training_file validation_file suffix seed metadata integrations method hyperparameters".split()
)
METHODS = {
    "dpo": frozenset({"beta", "batch_size", "learning_rate_multiplier", "n_epochs"}),
    "supervised": frozenset({"batch_size", "learning_rate_multiplier", "n_epochs"}),
}


def checked(given: dict[str, Any], more: frozenset[str]) -> dict[str, Any]:
    """Return a create body that the specification allows; raises a 400 `Refusal` with the parameter's name."""
    for name in ("model", "training_file"):
        if not isinstance(given.get(name), str) or not given[name]:
            raise Refusal(400, f"Missing required parameter: '{name}'.", "missing_required_parameter", name)
    if unknown := sorted(set(given) - FIELDS - more):
        raise Refusal(400, f"Unknown parameter: '{unknown[0]}'.", "unknown_parameter", unknown[0])
    suffix, seed = given.get("suffix"), given.get("seed")
    if suffix is not None and (not isinstance(suffix, str) or not 1 <= len(suffix) <= 64):
        raise _invalid("suffix", "expected 1 to 64 characters")
    if seed is not None and (not isinstance(seed, int) or not 0 <= seed <= 2_147_483_647):
        raise _invalid("seed", "expected an integer between 0 and 2147483647")
    metadata = given.get("metadata")
    if metadata is not None:
        _check_metadata(metadata)
    for item in given.get("integrations") or []:
        if item.get("type") != "wandb" or not (item.get("wandb") or {}).get("project"):
            raise _invalid("integrations", "expected type wandb with a project")
    _check_method(given)
    return given


def hyperparameters(given: Mapping[str, Any], resolved: Task | None = None) -> tuple[str, dict[str, Any]]:
    """Return (the method, its hyperparameters), `auto` where unset; the numbers taken once there is a task."""
    method: Any = given.get("method") or {"type": "supervised"}
    kind = method["type"]
    asked = (method.get(kind) or {}).get("hyperparameters") or given.get("hyperparameters") or {}
    made = {name: asked.get(name, "auto") for name in sorted(METHODS[kind])}
    if resolved is not None:
        taken: dict[str, Any] = {"batch_size": resolved.batch_size, "n_epochs": resolved.epochs}
        taken |= {"learning_rate_multiplier": resolved.rate, "beta": resolved.method.get("beta")}
        made = {name: taken[name] if value == "auto" else value for name, value in made.items()}
    return kind, made


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or len(metadata) > 16:
        raise _invalid("metadata", "expected at most 16 pairs")
    for key, value in metadata.items():
        if len(key) > 64 or not isinstance(value, str) or len(value) > 512:
            raise _invalid("metadata", "expected keys of at most 64 and texts of at most 512 characters")


def _check_method(given: Mapping[str, Any]) -> None:
    method: Any = given.get("method") or {"type": "supervised"}
    kind = method.get("type")
    if kind not in METHODS:
        raise _invalid("method.type", "the sandbox knows 'dpo' and 'supervised'")
    asked = (method.get(kind) or {}).get("hyperparameters") or {}
    where = f"method.{kind}.hyperparameters"
    if unknown := sorted(set(asked) - METHODS[kind]):
        raise Refusal(400, f"Unknown parameter: '{where}.{unknown[0]}'.", "unknown_parameter", f"{where}.{unknown[0]}")
    limits: dict[str, tuple[float, float, type]] = {
        "beta": (0, 2, float),
        "batch_size": (1, 256, int),
        "n_epochs": (1, 50, int),
    }
    limits |= {"learning_rate_multiplier": (0, float("inf"), float)}
    for name, value in asked.items():
        low, high, kind_of = limits[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        number = whole or (kind_of is float and isinstance(value, float))
        if value != "auto" and not (number and (low < value if kind_of is float else low <= value) and value <= high):
            above = "above" if kind_of is float else "at least"
            raise _invalid(f"{where}.{name}", f"expected 'auto' or a number {above} {low} and at most {high}")


def _invalid(name: str, said: str) -> Refusal:
    return Refusal(400, f"Invalid '{name}': {said}.", "invalid_value", name)
