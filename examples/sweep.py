"""Vary beta and learning rate over a few runs, and take the one that tells held-out pairs apart best.

Needs no account and no GPU: each run is a few steps of a model of a million weights. The same
sweep again trains nothing.
"""

from __future__ import annotations

import anydpo
from anydpo import Range, samples

job = anydpo.PreferenceJob(
    name="sweep",
    model="tiny",
    data=anydpo.load(samples.pairs(60)),
    validation=0.25,
    max_steps=3,
    batch_size=8,
)
space = {"beta": [0.05, 0.1, 0.5], "learning_rate": Range(low=1e-4, high=1e-2, log=True)}
found = anydpo.sweep(job, "local", space=space, trials=2)
print("\t".join(found.columns))
for row in found.rows():
    print("\t".join("" if cell is None else str(cell) for cell in row))
assert found.best is not None
print(f"best: trial {found.best_trial}, run {found.best.run}; as good: {found.tied or 'none'}")

again = anydpo.sweep(job, "local", space=space, trials=2)
assert not any(trial.created for trial in again.trials)
assert again.best_trial == found.best_trial
print("the same sweep again: the same runs, nothing trained")
