"""From what a job says about its data to the two data sets it trains and measures on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anydpo.data.dataset import PreferenceDataset
from anydpo.data.read import load, read
from anydpo.errors import DataInvalid


def resolve(data: Any, validation: Any, seed: int) -> tuple[PreferenceDataset, PreferenceDataset | None]:
    """Return (train, validation) of a job's `data` and `validation` fields."""
    pairs = _dataset(data)
    if validation is None:
        return pairs, None
    if not isinstance(validation, float):
        return pairs, _dataset(validation)
    train, held_out = pairs.split(validation, seed)
    for side, what in ((train, "training"), (held_out, "validation")):
        if not side:
            raise DataInvalid(
                f"a validation share of {validation:g} of {len(pairs):,} pairs leaves none for {what}",
                hint="use more pairs, another share, or a validation file",
            )
    return train, held_out


def _dataset(source: Any) -> PreferenceDataset:
    if isinstance(source, PreferenceDataset):
        return source
    if isinstance(source, tuple):
        return PreferenceDataset.chain([_dataset(item) for item in source])
    if isinstance(source, (str, Path)):
        return load(source)
    found = read(source.path, source.format, source.mapping, source.policy, source.split, source.on_bad)
    if source.max_pairs is not None:
        found = found.take(source.max_pairs)
    if source.weight != 1.0:
        found = found.weighted(source.weight)
    if not found:
        raise DataInvalid(f"{source.path}: no pair")
    return found
