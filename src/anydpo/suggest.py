"""Which values the next trial of a sweep has: of a small space each once, of a larger one what Optuna expects most of.

A suggestion follows from the space, the trials before it, its number and the seed alone: whoever asks again, after a
kill or on another machine, is given the same.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from anydpo.errors import ProviderMissing
from anydpo.provider import Range, Tuning
from anydpo.space import combinations

FIRST = 4  # trials that are drawn without looking at others
DRAWS = 50  # until one is new
DIGITS = 3  # of a number from a range: nobody tells 3.1623e-05 from 3.16e-05


class Tried(NamedTuple):
    """A trial as far as the next one may know of it: its value is None where it failed or still runs."""

    values: dict[str, Any]
    value: float | None


def suggest(tuning: Tuning, tried: Sequence[Tried]) -> dict[str, Any] | None:
    """Return the values of the trial after these, None where every one has been tried."""
    known = [each.values for each in tried]
    every = combinations(tuning.space)
    if every is not None and len(every) <= tuning.trials:
        order = random.Random(tuning.seed).sample(every, len(every))
        return next((values for values in order if values not in known), None)
    for draw in range(DRAWS):
        values = _drawn(tuning, tried, draw)
        if values not in known:
            return values
    return next((values for values in every or () if values not in known), None)


def _drawn(tuning: Tuning, tried: Sequence[Tried], draw: int) -> dict[str, Any]:
    try:
        import optuna
    except ImportError as exc:
        raise ProviderMissing(f"a range is searched by Optuna: {exc}", hint="pip install 'anydpo[sweep]'") from exc

    kinds = {name: _distribution(optuna, varied) for name, varied in tuning.space.items()}
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        seed = _seed(tuning.seed, len(tried), draw)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST)
        study = optuna.create_study(direction="maximize" if tuning.goal == "max" else "minimize", sampler=sampler)
        for each in tried:
            state = optuna.trial.TrialState.FAIL if each.value is None else optuna.trial.TrialState.COMPLETE
            params = {name: _coded(tuning.space[name], value) for name, value in each.values.items()}
            known = optuna.trial.create_trial(params=params, distributions=kinds, value=each.value, state=state)
            study.add_trial(known)
        asked = study.ask(kinds).params
    finally:
        optuna.logging.set_verbosity(said)
    return {name: _decoded(varied, asked[name]) for name, varied in tuning.space.items()}


def _distribution(optuna: Any, varied: tuple[Any, ...] | Range) -> Any:
    if not isinstance(varied, Range):
        return optuna.distributions.CategoricalDistribution(range(len(varied)))
    if varied.whole:
        return optuna.distributions.IntDistribution(varied.low, varied.high, log=varied.log)
    return optuna.distributions.FloatDistribution(varied.low, varied.high, log=varied.log)


def _coded(varied: tuple[Any, ...] | Range, value: Any) -> Any:
    return value if isinstance(varied, Range) else varied.index(value)


def _decoded(varied: tuple[Any, ...] | Range, value: Any) -> Any:
    if not isinstance(varied, Range):
        return varied[value]
    if varied.whole:
        return int(value)
    return min(max(float(f"{value:.{DIGITS}g}"), varied.low), varied.high)


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:4])
